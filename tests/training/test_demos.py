"""Demos while training: they hear the training and leave no trace in it."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eisbach.audio import read_audio
from eisbach.config import build_config
from eisbach.data.manifest import load_manifest
from eisbach.errors import ConfigError, InterruptedRun, UserError
from eisbach.generation import GenerateConfig, generate
from eisbach.report.run.state import read_run
from eisbach.structure.record_files import measured_clips
from eisbach.training import demos as demos_module
from eisbach.training import train
from eisbach.training.assembly import content_of
from eisbach.training.config import TrainConfig
from eisbach.training.run_folder import recipe_hash

PROMPTS = [{"id": "low", "text": "a calm cello"}, {"id": "high", "text": "fast high piano"}]
DEMOS: dict[str, Any] = {
    "every": 3, "prompts": PROMPTS, "seeds": [0, 1], "duration": 2, "num_inference_steps": 2, "batch_size": 3,
}  # fmt: skip


class Killed(BaseException):
    """Stands for a death of the process."""


def rows(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "steps_per_second"} for row in found]


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(pattern))}


def audio(folder: Path) -> dict[str, bytes]:
    return files(folder, "samples/*/*.flac")


def on_call(monkeypatch: pytest.MonkeyPatch, number: int, act: Any) -> None:
    """Acts before the take of this number, counted from 1, is written."""
    write_take, calls = demos_module.write_take, []

    def acting(*arguments: Any) -> float:
        calls.append(arguments)
        if len(calls) == number:
            act()
        return write_take(*arguments)

    monkeypatch.setattr(demos_module, "write_take", acting)


VARIANTS: dict[str, dict[str, Any]] = {
    "lora with dropout": {"adapter": {"type": "lora", "rank": 2, "dropout": 0.3}},
    "dora, average, recurrence": {
        "adapter": {"type": "dora", "rank": 2},
        "ema_decay": 0.5,
        "weighting": {"sample": "recurrence_barrier", "normalisation": "mean1"},
    },
    "every parameter": {"adapter": {"type": "none"}, "optimiser": {"lr": 1e-3}},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_with_demos_equals_one_without(name: str, configure: Any) -> None:
    without = train(configure("without", **VARIANTS[name]), quiet=True)
    heard = train(configure("with", demos=DEMOS, **VARIANTS[name]), quiet=True)
    for pattern in ("adapter/*.safetensors", "model/*.safetensors", "checkpoints/*/*.safetensors"):
        assert files(without, pattern) == files(heard, pattern)
    assert rows(without) == [row for row in rows(heard) if "demos" not in row]
    assert [row["step"] for row in rows(heard) if "demos" in row] == [0, 3, 6]
    assert len(audio(heard)) == 12
    assert len(set(audio(heard).values())) == 12  # what is played changes with the weights


def test_a_demo_is_what_generate_plays_and_watch_hears_it(configure: Any, tiny_model: Path, tmp_path: Path) -> None:
    run = train(configure(demos=DEMOS, adapter={"type": "none"}), quiet=True)
    play = {key: value for key, value in DEMOS.items() if key != "every"}
    for step, model in ((0, tiny_model), (6, run / "model")):
        made = tmp_path / str(step)
        generate(GenerateConfig(**play, model=str(model), out=str(made), arm=f"step-{step}"), quiet=True)
        place = run / "samples" / f"step-{step}"
        same, other = (load_manifest(folder).rows for folder in (place, made))
        assert [replace(row, audio_hash="") for row in same] == [replace(row, audio_hash="") for row in other]
        if step == 0:
            assert (place / "manifest.jsonl").read_bytes() == (made / "manifest.jsonl").read_bytes()
        for row in same:  # the model was saved in half precision
            demo, generated = (read_audio(folder / row.path).samples[0] for folder in (place, made))
            assert np.corrcoef(demo, generated)[0, 1] > 0.99
    state = read_run("run", run)
    assert list(state.demos) == [0, 3, 6]
    assert [clip.key for clip in state.demos[6]] == ["low-0", "low-1", "high-0", "high-1"]
    assert {clip.caption for clip in state.demos[6]} == {"a calm cello", "fast high piano"}
    assert state.curve("demos/clips") == ([0, 3, 6], [4, 4, 4])
    assert len(state.curve("held_out_loss_by_noise_level/0.2")[1]) == 3


def test_what_is_measured_lies_beside_the_demos_under_their_names(configure: Any) -> None:
    run = train(configure(demos={**DEMOS, "duration": 9}), quiet=True)  # what lasts less cannot be judged
    place = run / "samples" / "step-3"
    records = [json.loads(line) for line in (place / "records.jsonl").read_text().splitlines()]
    assert [(row["arm"], row["step"], row["prompt_id"], row["seed"]) for row in records] == [
        ("step-3", 3, prompt, seed) for prompt in ("low", "high") for seed in (0, 1)
    ]
    paths = [str(place / f"{prompt}_seed-{seed}.flac") for prompt in ("low", "high") for seed in (0, 1)]
    assert [row["path"] for row in records] == paths
    kept = measured_clips(place, paths, list(records[0]), records[0]["analysis_version"])
    assert list(kept) == paths  # an analysis takes them up
    logged = next(row["demos"] for row in rows(run) if "demos" in row and row["step"] == 3)
    assert logged["clips"] == 4
    assert logged["level_range"] == pytest.approx(sum(row["level_range"] for row in records) / 4)
    assert logged["flat_probability"] == pytest.approx(sum(row["flat_probability"] for row in records) / 4)
    assert logged["is_flat"] == sum(row["is_flat"] for row in records) / 4
    assert not list((run / "samples").glob(".*"))


def test_a_demo_that_was_killed_half_way_is_played_by_the_continued_run(
    configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"adapter": {"type": "lora", "rank": 2, "dropout": 0.3}, "demos": DEMOS}
    straight = train(configure("straight", **changes), quiet=True)
    config = configure("killed", **changes)
    with monkeypatch.context() as patch:
        on_call(patch, 6, lambda: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            train(config, quiet=True)
    place = Path(config.out) / "samples"
    assert [path.name for path in place.iterdir()] == ["step-0"]
    (place / ".step-3.partial").mkdir()  # as a process that is killed outright leaves it
    (place / ".step-3.partial" / "low_seed-0.flac").touch()
    resumed = train(config, quiet=True)
    assert audio(resumed) == audio(straight)
    assert rows(resumed) == rows(straight)
    assert files(resumed, "adapter/*.safetensors") == files(straight, "adapter/*.safetensors")
    assert not list(place.glob(".*"))


@pytest.mark.whole
def test_a_signal_in_a_demo_stops_at_its_step_and_nothing_is_lost(
    configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = train(configure("straight", demos=DEMOS), quiet=True)
    for name, take, step in (("middle", 5, 3), ("last", 9, 6)):
        config = configure(name, demos=DEMOS, checkpoint={"every": 5})
        with monkeypatch.context() as patch:
            on_call(patch, take, lambda: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(InterruptedRun, match=f"saved at step {step} of 6"):
                train(config, quiet=True)
        assert not (Path(config.out) / "samples" / f"step-{step}").exists()
        resumed = train(config, quiet=True)
        assert audio(resumed) == audio(straight)
        assert rows(resumed) == rows(straight)


def test_a_demo_that_fails_is_said_and_logged_and_the_training_goes_on(
    configure: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without = train(configure("without"), quiet=True)
    with monkeypatch.context() as patch:
        on_call(patch, 6, lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        run = train(configure("with", demos=DEMOS))
    said = capsys.readouterr().err
    assert "the demos of step 3 could not be made" in said
    assert "No space left on device" in said
    assert files(without, "adapter/*.safetensors") == files(run, "adapter/*.safetensors")
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["step-0", "step-6"]
    errors = [row["step"] for row in rows(run) if "error" in row.get("demos", {})]
    assert errors == [3]
    log = run / "metrics.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(True) if json.loads(line)["step"] < 6))
    assert read_run("run", run).troubles[-1].startswith("The demos of step 3 could not be made")


def test_demos_of_another_recipe_go_and_what_no_demo_wrote_stays(
    configure: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = configure(demos={**DEMOS, "every": 2}, seed=5, checkpoint={"every": 6})
    with monkeypatch.context() as patch:
        on_call(patch, 11, lambda: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            train(first, quiet=True)  # nothing was saved, so that the folder takes another recipe
    mine = Path(first.out) / "samples" / "step-6"
    mine.mkdir()
    (mine / "mine.flac").write_text("mine")
    run = train(configure(demos=DEMOS))
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["step-0", "step-3", "step-6"]
    assert [path.name for path in mine.iterdir()] == ["mine.flac"]
    assert "step-6 holds something that no demo wrote" in capsys.readouterr().err


def test_prompts_may_change_when_a_run_is_continued(configure: Any) -> None:
    train(configure(demos=DEMOS), quiet=True)
    run = train(configure(demos={**DEMOS, "prompts": ["a bright celesta"]}, steps=9), quiet=True)
    assert len(list((run / "samples" / "step-6").glob("*.flac"))) == 4
    assert [path.name for path in sorted((run / "samples" / "step-9").glob("*.flac"))] == [
        "prompt-1_seed-0.flac", "prompt-1_seed-1.flac",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("demos", "message"),
    [
        ({"prompts": "nowhere.yaml"}, "nowhere.yaml"),
        ({"prompts": []}, "at least one prompt is needed"),
        ({"duration": 1e6}, "plays up to"),
        ({"schedule": "nothing"}, "nothing"),
        ({"device": "cpu"}, "device of demos cannot be set"),
        ({"every": 0}, "every"),
        ({"evry": 10}, "evry"),
    ],
)
def test_demos_that_cannot_be_played_are_refused_before_the_first_step(
    configure: Any, demos: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(configure(demos=demos), quiet=True)


def test_images_have_no_demos() -> None:
    with pytest.raises(ConfigError, match=r"'demos': are about audio"):
        build_config(TrainConfig, {"data": {"images": {"folder": "x"}}, "demos": True})


def test_what_a_store_shares_by_is_as_before_without_demos_and_another_with_them(configure: Any) -> None:
    plain = content_of(configure())
    assert set(plain) == {"recipe", "steps", "checkpoints", "log_samples", "set", "model"}
    assert set(plain["checkpoints"]) == {"every", "keep", "steps"}
    assert content_of(configure(trackers=["tensorboard"])) == plain
    heard, others = (content_of(configure(demos={**DEMOS, "seeds": seeds})) for seeds in ([0, 1], [2, 3]))
    assert {**heard, "demos": None} == {**plain, "demos": None}
    assert heard != others


def test_a_new_key_leaves_the_hashes_of_recipes_as_they_were() -> None:
    """Trainings of a study lie in its store under a hash of their recipe: with a new key in it, hours would be trained
    twice. These are the hashes of the version before there were demos, trackers and a rule to stop."""
    recipe = {
        "model": "embedded", "data": {"manifest": "clips", "crop_seconds": 30},
        "adapter": {"type": "dora", "rank": 16, "alpha": 16}, "optimiser": {"lr": 1e-2}, "steps": 160, "batch_size": 16,
        "warmup_steps": 10, "condition_dropout": 0.1, "held_out": {"every": 0}, "checkpoint": {"every": 80, "keep": 1},
        "seed": 100,
    }  # fmt: skip
    weighted = {"sample": "recurrence_barrier", "reduction": "sample", "normalisation": "mean1", "strength": 1.0}
    added = {"demos": {**DEMOS, "duration": 9, "seeds": [0, 1, 2, 3]}, "stop": True, "trackers": ["wandb"]}
    for more, before in (({}, "23a15fb17ae6e483"), ({"weighting": weighted}, "516c9c7c55c3250a")):
        for keys in ({}, {"tensorboard": False}, added):
            assert recipe_hash(build_config(TrainConfig, {**recipe, **more, **keys}))[:16] == before
