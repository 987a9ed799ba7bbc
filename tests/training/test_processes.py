"""Real processes: killed at random moments, and several at once. They are forked from one server that has the
imports."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import own_process
import pytest
from safetensors.torch import load_file

from eisbach.data.manifest import load_manifest
from eisbach.training import train
from eisbach.training.checkpoint import list_checkpoints, open_checkpoint
from eisbach.training.config import TrainConfig
from eisbach.training.logging import MetricsFile

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")


def run(config: TrainConfig, environment: dict[str, str]) -> None:
    os.environ.update({"OMP_NUM_THREADS": "1", **environment})
    import torch

    torch.set_num_threads(1)
    train(config, quiet=True)


def start(config: TrainConfig, **environment: str) -> ForkServerProcess:
    process = own_process.server().Process(target=run, args=(config, environment))
    process.start()
    return process


def weights(folder: str) -> dict[str, Any]:
    return load_file(Path(folder) / "adapter" / "adapter_model.safetensors")


def test_a_run_killed_at_random_moments_never_leaves_a_broken_checkpoint_and_ends_the_same(configure: Any) -> None:
    changes = {"steps": 24, "checkpoint": {"every": 1}, "log_every": 1, "held_out": {"every": 0}}
    straight, config = configure("straight", **changes), configure("killed", **changes)
    reference = start(straight)
    checkpoints, metrics = Path(config.out) / "checkpoints", Path(config.out) / "metrics.jsonl"
    draw, reached, kills = random.Random(5), 0, 0
    while kills < 3:
        process = start(config)
        wait_for_progress(process, checkpoints, beyond=reached)
        time.sleep(draw.uniform(0.0, 0.15))
        process.kill()
        process.join()
        kills += 1
        for folder in list_checkpoints(checkpoints):
            open_checkpoint(folder)  # raises when damaged
        assert newest_step(checkpoints) >= reached
        reached = newest_step(checkpoints)
    last = start(config)
    last.join(240)
    reference.join(240)
    assert (last.exitcode, reference.exitcode) == (0, 0)
    ended, expected = weights(config.out), weights(straight.out)
    assert all(ended[key].equal(expected[key]) for key in expected)
    steps = [row["step"] for row in MetricsFile(metrics).rows()]
    assert steps == list(range(1, 25))
    assert not [path for path in checkpoints.iterdir() if path.name.startswith(".")]


SMALL_CARD = {"precision": "bf16", "frozen": "int8", "adapter": {"type": "dora", "rank": 2}}


@pytest.mark.parametrize(
    ("options", "storage"),
    [({}, {}), ({"memory": {"below": 0.7}, "act_above": 0.3}, {}), ({}, SMALL_CARD)],
    ids=["itself", "remembered", "bf16 over int8"],
)
@pytest.mark.whole
def test_two_processes_equal_one_with_twice_the_accumulation(
    configure: Any,
    free_port: Callable[[], int],
    options: dict[str, Any],
    storage: dict[str, Any],
) -> None:
    changes = {
        **storage,
        "steps": 3,
        "held_out": {"every": 3, "batches": 1},
        "weighting": {"sample": "entropy_barrier", "normalisation": "mean1", **options},
        "log_samples": True,
    }
    alone = train(configure("alone", accumulation=2, **changes), quiet=True)
    config = configure("together", **changes)
    port = str(free_port())
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    processes = [start(config, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)]
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0, 0]
    mine, theirs = weights(str(alone)), weights(config.out)
    moved = 0.0
    for key, value in mine.items():
        assert theirs[key].allclose(value, rtol=1e-3, atol=1e-5), key
        moved += float(value.abs().sum()) if "lora_B" in key else 0.0
    assert moved > 0
    one, two = (list(MetricsFile(Path(folder) / "metrics.jsonl").rows())[-1] for folder in (alone, config.out))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
    for key in ("weight_mean", "weight_cv", "effective_sample_share"):
        assert two[key] == pytest.approx(one[key], rel=1e-3)
    samples = [MetricsFile(Path(folder) / "sample_log.jsonl").rows() for folder in (alone, config.out)]
    for row, other in zip(*samples, strict=True):
        assert (other["step"], other["id"]) == (row["step"], row["id"])
        numbers = {key for key, value in row.items() if key not in ("step", "id") and value is not None}
        assert numbers == {key for key, value in other.items() if key not in ("step", "id") and value is not None}
        assert {key: other[key] for key in numbers} == pytest.approx({key: row[key] for key in numbers}, rel=1e-3)
    if options:
        first, second = (
            load_file(Path(folder) / "checkpoints" / "step-000003" / "weighting.safetensors")
            for folder in (alone, config.out)
        )
        assert first["memory.ids"].equal(second["memory.ids"])
        assert first["memory.belief_sums"].allclose(second["memory.belief_sums"], rtol=1e-4)
    assert one["weight_cv"] > 0
    assert two["held_out_loss"] == pytest.approx(one["held_out_loss"], rel=1e-4)


def test_the_main_process_of_two_plays_the_demos_of_one(configure: Any, free_port: Callable[[], int]) -> None:
    demos = {"every": 2, "prompts": ["a calm cello"], "duration": 2, "num_inference_steps": 2}
    changes = {"steps": 2, "held_out": {"every": 0}}
    config, port = configure("together", demos=demos, **changes), str(free_port())
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    processes = [start(config, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)]
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0, 0]
    alone = train(configure("alone", accumulation=2, demos=demos, **changes), quiet=True)
    for step in (0, 2):
        manifests = [Path(folder) / "samples" / f"step-{step}" / "manifest.jsonl" for folder in (config.out, alone)]
        rows, others = (load_manifest(manifest).rows for manifest in manifests)
        assert [row.id for row in rows] == [row.id for row in others] == ["prompt-1_seed-0"]
        if step == 0:  # afterwards the weights differ by rounding
            assert manifests[0].read_bytes() == manifests[1].read_bytes()
    assert [row["step"] for row in MetricsFile(Path(config.out) / "metrics.jsonl").rows() if "demos" in row] == [0, 2]


def newest_step(root: Path) -> int:
    folders = list_checkpoints(root)
    return int(folders[-1].name.removeprefix("step-")) if folders else 0


def wait_for_progress(process: ForkServerProcess, checkpoints: Path, beyond: int) -> None:
    """Returns once a newer checkpoint is there or the process has ended."""
    deadline = time.monotonic() + 240
    while newest_step(checkpoints) <= beyond and process.exitcode is None:
        assert time.monotonic() < deadline, "the run made no progress"
        time.sleep(0.005)
