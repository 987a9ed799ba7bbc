from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eisbach.audio import audio_hash, write_audio
from eisbach.config import build_config
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.errors import ConfigError, InterruptedRun, UserError
from eisbach.experiments import run as module
from eisbach.experiments.run import ExperimentResult, run_experiment
from eisbach.experiments.spec import ExperimentSpec
from eisbach.output_folder import exclusive
from eisbach.report.experiment.page import write_summary
from eisbach.statistics.records import load_records
from eisbach.types import Waveform

ARMS: dict[str, Any] = {
    "plain": {"label": "plain"},
    "recurrence": {
        "label": "recurrence",
        "overrides": {
            "weighting": {
                "sample": "recurrence_barrier",
                "normalisation": "mean1",
                "strength": 1.0,
                "options": {"window_frames": 8},
            }
        },
    },
    "oracle": {"label": "oracle", "overrides": {"data": {"select": {"flat": "false"}}}},
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six short clips: three drones, three scales; one of each held out would leave too few, so all train."""
    root = tmp_path_factory.mktemp("material")
    rate = 8000
    time = np.arange(31 * rate) / rate
    rows = []
    for index in range(6):
        flat = index % 2 == 0
        pitch = 220.0 + 20 * index
        phase = pitch * time if flat else np.cumsum(pitch * 2 ** ((time // 2 % 12) / 12)) / rate
        path = root / f"{index}.flac"
        write_audio(path, Waveform(0.3 * np.sin(2 * np.pi * phase).astype(np.float32)[None], rate))
        labels = {"kind": "drone" if flat else "developing", "flat": str(flat).lower()}
        caption = "slow low cello" if flat else "fast high celesta"
        rows.append(ManifestRow(str(index), path.name, caption, 31.0, labels, audio_hash(path), "train"))
    save_manifest(Manifest(rows, root))
    return root / "manifest.jsonl"


def spec_of(model: Path, material: Path, out: Path, **changes: Any) -> ExperimentSpec:
    values: dict[str, Any] = {
        "title": "test",
        "out": str(out),
        "training": {
            "model": str(model),
            "data": {"manifest": str(material), "cache": str(material.parent / "latents")},
            "adapter": {"type": "lora", "rank": 2, "alpha": 2},
            "optimiser": {"lr": 1e-3},
            "steps": 3,
            "batch_size": 2,
            "held_out": {"every": 0},
            "checkpoint": {"every": 1},
            "tensorboard": False,
            "log_every": 1,
        },
        "arms": ARMS,
        "oracle": "oracle",
        "generation": {
            "prompts": [{"id": "a", "text": "slow low cello"}, {"id": "b", "text": "fast high celesta"}],
            "seeds": [0],
            "num_inference_steps": 2,
        },
        "primary_metrics": {"is_flat": "lower", "level_range": "higher"},
    }
    return build_config(ExperimentSpec, values | changes)


def tree(root: Path) -> dict[str, Any]:
    """Audio by its bytes and adapters by their tensors (the order of a safetensors header is not fixed)."""
    from safetensors.numpy import load_file

    found: dict[str, Any] = {path.relative_to(root).as_posix(): audio_hash(path) for path in root.rglob("*.flac")}
    for path in root.rglob("adapter/adapter_model.safetensors"):
        tensors = load_file(path)
        found[path.relative_to(root).as_posix()] = {name: tensors[name].tobytes() for name in sorted(tensors)}
    return found


@pytest.fixture(scope="module")
def done(tiny_model: Path, material: Path, tmp_path_factory: pytest.TempPathFactory) -> ExperimentResult:
    spec = spec_of(tiny_model, material, tmp_path_factory.mktemp("done"))
    return run_experiment(spec, finish=write_summary, quiet=True)


@pytest.mark.whole
def test_the_folder_holds_what_the_documentation_says(done: ExperimentResult) -> None:
    for name in ("experiment.yaml", "records.parquet", "records.jsonl", "summary.json", "speeds.json"):
        assert (done.folder / name).is_file()
    rows = load_records(done.folder)
    assert {(row["arm"], row["train_seed"], row["prompt_id"], row["seed"]) for row in rows} == {
        (arm, 0, prompt, 0) for arm in ARMS for prompt in ("a", "b")
    }
    assert all((done.folder / str(row["path"])).is_file() for row in rows)
    assert all("textural_vendi" in row and "is_flat" in row for row in rows)


@pytest.mark.whole
def test_the_summary_compares_every_arm_with_the_baseline(done: ExperimentResult) -> None:
    found = json.loads((done.folder / "summary.json").read_text())
    assert set(found["arms"]) == set(ARMS)
    for name, row in found["arms"].items():
        flags = [row["is_flat"] for row in done.records if row["arm"] == name]
        assert row["share_flat"] == pytest.approx(sum(map(bool, flags)) / len(flags))
    compared = {(one["arm"], one["metric"]) for one in found["results"]["comparisons"]}
    assert {("recurrence", "is_flat"), ("oracle", "is_flat"), ("oracle", "level_range")} <= compared
    assert {(one["arm"], one["metric"]) for one in found["recovered"]} == {
        ("recurrence", "is_flat"),
        ("recurrence", "level_range"),
    }
    assert found["verdict"]


def test_arms_differ_only_through_training(done: ExperimentResult) -> None:
    sounds = {
        arm: [audio_hash(done.folder / str(row["path"])) for row in done.records if row["arm"] == arm] for arm in ARMS
    }
    assert len({hash_ for hashes in sounds.values() for hash_ in hashes}) == 6


def test_the_same_call_redoes_nothing(done: ExperimentResult, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.folder.rglob("*.flac")}
    before |= {path: path.stat().st_mtime_ns for path in done.folder.rglob("*.safetensors")}
    monkeypatch.setattr("eisbach.structure.batch.measure_file", None)  # nothing is left to measure
    again = run_experiment(done.spec, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again.records == done.records


@pytest.mark.parametrize("where", ["train", "generate", "analyse"])
@pytest.mark.whole
def test_stopped_and_continued_equals_uninterrupted(
    tiny_model: Path,
    material: Path,
    tmp_path: Path,
    done: ExperimentResult,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    from eisbach.progress import Progress

    advance = Progress.advance
    count = 0

    def stop_soon(bar: Progress, *args: Any, **kwargs: Any) -> None:
        nonlocal count
        advance(bar, *args, **kwargs)
        if bar.description.startswith(where):
            count += 1
            if count == 4:  # inside the second arm
                raise InterruptedRun("stopped here")

    monkeypatch.setattr(Progress, "advance", stop_soon)
    spec = spec_of(tiny_model, material, tmp_path)
    with pytest.raises(InterruptedRun):
        run_experiment(spec, quiet=True)
    monkeypatch.undo()
    result = run_experiment(spec, quiet=True)
    assert tree(tmp_path) == tree(done.folder)
    assert result.records == done.records


@pytest.mark.whole
def test_arms_and_seeds_may_join_and_what_exists_stays(
    tiny_model: Path, material: Path, tmp_path: Path, done: ExperimentResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eisbach.executors.available_cpus", lambda: 2)  # one thread a process, as in this one
    two = {name: arm for name, arm in ARMS.items() if name != "recurrence"}
    run_experiment(spec_of(tiny_model, material, tmp_path, arms=two), quiet=True)
    result = run_experiment(spec_of(tiny_model, material, tmp_path), quiet=True)
    assert tree(tmp_path) == tree(done.folder)
    assert result.records == done.records


def test_other_settings_need_another_folder(done: ExperimentResult, tiny_model: Path, material: Path) -> None:
    training = dict(done.spec.training) | {"optimiser": {"lr": 2e-3}}
    with pytest.raises(UserError, match=r"other settings: training\.optimiser\.lr was .* and is now 0\.002;"):
        run_experiment(spec_of(tiny_model, material, done.folder, training=training), quiet=True)
    arms = ARMS | {"recurrence": {"label": "recurrence", "overrides": {"weighting": {"sample": "entropy_barrier"}}}}
    with pytest.raises(UserError, match=r"arms\.recurrence\.weighting\.sample was .* and is now .entropy_barrier."):
        run_experiment(spec_of(tiny_model, material, done.folder, arms=arms), quiet=True)


def test_two_processes_do_not_share_a_folder(done: ExperimentResult) -> None:
    with exclusive(done.folder), pytest.raises(ConfigError, match="another process is at work in"):
        run_experiment(done.spec, quiet=True)


def test_the_page_is_the_last_stage(done: ExperimentResult) -> None:
    pages: list[ExperimentResult] = []
    run_experiment(done.spec, finish=pages.append, quiet=True)
    assert [page.records for page in pages] == [done.records]


@pytest.mark.slow
def test_processes_give_the_same_result(
    tiny_model: Path, material: Path, tmp_path: Path, done: ExperimentResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eisbach.executors.available_cpus", lambda: 2)  # one thread a process, as in this one
    two = {name: ARMS[name] for name in ("plain", "oracle")}
    result = run_experiment(spec_of(tiny_model, material, tmp_path, arms=two, jobs=2), quiet=True)
    expected = {name: value for name, value in tree(done.folder).items() if "recurrence" not in name}
    assert tree(tmp_path) == expected
    assert [row["path"] for row in result.records] == [
        row["path"] for row in done.records if row["arm"] != "recurrence"
    ]


def test_an_unreadable_clip_is_named_and_nothing_is_dropped(
    done: ExperimentResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eisbach.structure import Clip

    with pytest.raises(UserError, match="cannot be measured"):
        module.measure([Clip(done.folder / "experiment.yaml", {"arm": "plain"})], done.folder)
