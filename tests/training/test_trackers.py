"""TensorBoard, trackio and wandb get the rows of the log, the sound and the pictures, and change nothing."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eisbach.audio import read_audio
from eisbach.config import build_config, read_yaml
from eisbach.errors import ConfigError, UserError
from eisbach.training import train
from eisbach.training.config import TrainConfig
from eisbach.training.logging import MetricsFile
from eisbach.training.run_folder import RunFolder, check_settings, recipe_hash
from eisbach.training.trackers import Trackers, heard
from eisbach.training.trainer import Trainer

# trackio reads this once, when it is imported.
os.environ.setdefault("TRACKIO_DIR", tempfile.mkdtemp(prefix="trackio-"))

DEMOS = {"every": 3, "prompts": ["a calm cello"], "duration": 2, "num_inference_steps": 2}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing asks the network."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "TRACKIO_PROJECT", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)


def needed(*packages: str) -> None:
    for package in (*packages, "PIL"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'eisbach[trackers]'")


def scalars(run: Path) -> dict[str, dict[int, float]]:
    """What the log says, by flat name and step."""
    values: dict[str, dict[int, float]] = {}
    for row in MetricsFile(run / "metrics.jsonl").rows():
        for key, value in row.items():
            for name, number in value.items() if isinstance(value, dict) else [("", value)]:
                if key != "step" and number is not None:
                    values.setdefault(f"{key}/{name}" if name else key, {})[row["step"]] = float(number)
    return values


def test_tensorboard_holds_the_numbers_the_sound_and_the_pictures(configure: Any) -> None:
    needed("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(configure(trackers=["tensorboard"], demos=DEMOS), quiet=True)
    board = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "audio": 0, "tensors": 0}).Reload()
    expected = scalars(run)
    assert set(board.Tags()["scalars"]) == set(expected)
    for name, values in expected.items():
        assert {event.step: event.value for event in board.Scalars(name)} == pytest.approx(values, rel=1e-5)
    sounds = board.Audio("demos/prompt-1_seed-0")
    assert [event.step for event in sounds] == [0, 3, 6]
    audio = read_audio(run / "samples" / "step-6" / "prompt-1_seed-0.flac")
    assert sounds[-1].sample_rate == audio.sample_rate
    assert sounds[-1].length_frames == audio.samples.shape[1]
    pictures = board.Images("demos/prompt-1_seed-0")
    assert [event.step for event in pictures] == [0, 3, 6]
    assert len({event.encoded_image_string for event in pictures}) == 3


def test_trackio_keeps_them_on_this_computer_and_a_continued_run_is_the_same_one(
    configure: Any, offline: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needed("trackio")
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    config = configure(trackers=["trackio"], demos=DEMOS)
    take_step = Trainer.take_step

    def dying(self: Trainer) -> None:
        if self.step == 4:
            raise RuntimeError("the machine went away")
        take_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "take_step", dying)
        with pytest.raises(RuntimeError, match="went away"):
            train(config, quiet=True)
    run = train(config)
    assert capsys.readouterr().out == ""  # standard output is for results
    assert trackio.context_vars.current_run.get() is None  # nor is it written to as the process ends
    name = json.loads((run / "trackers.json").read_text())["trackio"]
    assert name in SQLiteStorage.get_runs("eisbach")
    logged: dict[str, dict[int, Any]] = {}
    for row in SQLiteStorage.get_logs("eisbach", name):
        for key, value in row.items():
            logged.setdefault(key, {})[row["step"]] = value
    for key, values in scalars(run).items():
        if key != "steps_per_second":  # the repeated step was as fast as it was
            assert {step: logged[key][step] for step in values} == pytest.approx(values), key
    assert logged["demos/prompt-1_seed-0"][6]["_type"] == "trackio.audio"
    assert logged["demos/prompt-1_seed-0"][6]["caption"] == "a calm cello"
    assert logged["demos/prompt-1_seed-0/spectrogram"][6]["_type"] == "trackio.image"


@pytest.mark.whole
def test_wandb_offline_keeps_them_in_the_run_folder(configure: Any, offline: None) -> None:
    needed("wandb")
    run = train(configure(trackers=["wandb"], demos=DEMOS), quiet=True)
    (place,) = (run / "wandb").glob("offline-run-*")
    sounds = list((place / "files" / "media" / "audio").rglob("*.wav"))
    pictures = list((place / "files" / "media" / "images").rglob("*.png"))
    assert (len(sounds), len(pictures)) == (3, 3)
    (log,) = place.glob("run-*.wandb")
    words = [key.rpartition("/")[2].encode() for key in (*scalars(run), "a calm cello")]
    end = time.monotonic() + 60  # wandb's own process writes on, for a moment, after the run has said that it is done
    while not all(word in log.read_bytes() for word in words) and time.monotonic() < end:
        time.sleep(0.05)
    assert [word for word in words if word not in log.read_bytes()] == []


@pytest.mark.whole
def test_a_run_with_trackers_equals_one_without(configure: Any, offline: None) -> None:
    needed("tensorboard", "trackio", "wandb")
    changes = {"adapter": {"type": "lora", "rank": 2, "dropout": 0.3}}
    runs = [
        train(configure(name, trackers=trackers, **changes), quiet=True)
        for name, trackers in (("without", []), ("with", ["tensorboard", "trackio", "wandb"]))
    ]
    for file in ("adapter/adapter_model.safetensors", "checkpoints/step-000006/optimizer.safetensors"):
        assert (runs[0] / file).read_bytes() == (runs[1] / file).read_bytes()
    first, second = (
        [{**row, "steps_per_second": 0} for row in MetricsFile(run / "metrics.jsonl").rows()] for run in runs
    )
    assert first == second


class _Broken:
    """A tracker whose server went away."""

    def start(self) -> None:
        pass

    def log(self, values: dict[str, float], step: int) -> None:
        raise OSError("connection reset")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        pass


def test_a_tracker_that_fails_later_is_let_go(
    configure: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from eisbach.training import trackers

    monkeypatch.setitem(trackers._START, "trackio", lambda *_: _Broken())
    run = train(configure(trackers=["trackio"], demos=DEMOS))
    said = capsys.readouterr().err
    assert said.count("the tracker trackio failed (connection reset); metrics.jsonl goes on without it") == 1
    assert (run / "result.json").is_file()


def test_a_tracker_that_cannot_start_or_is_missing_is_one_sentence(
    configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eisbach.training import trackers

    def refuse(*_: Any) -> Any:
        raise ValueError("No API key configured.\nUse `wandb login`")

    monkeypatch.setitem(trackers._START, "wandb", refuse)
    with pytest.raises(UserError, match=r"tracker wandb could not start \(No API key .*WANDB_MODE=offline"):
        train(configure(trackers=["wandb"]), quiet=True)
    monkeypatch.setitem(sys.modules, "trackio", None)
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"trackers need trackio and pillow, which are not .*eisbach\[trackers\]"):
        train(configure(trackers=["trackio"]), quiet=True)
    with pytest.raises(ConfigError, match=r"tensorboard.*trackio.*wandb"):
        configure(trackers=["comet"])


def test_the_key_tensorboard_of_earlier_recipes_is_understood(configure: Any, tmp_path: Path) -> None:
    values = {"data": {"manifest": "clips"}}
    assert build_config(TrainConfig, {**values, "tensorboard": True}).trackers == ["tensorboard"]
    assert build_config(TrainConfig, {**values, "tensorboard": False}).trackers == []
    assert build_config(TrainConfig, {**values, "tensorboard": True, "trackers": ["wandb"]}).trackers == ["wandb"]
    with pytest.raises(ConfigError, match="tensorboard"):
        build_config(TrainConfig, {**values, "tensorboard": "often"})
    hashes = {recipe_hash(build_config(TrainConfig, {**values, **more})) for more in (
        {}, {"tensorboard": True}, {"tensorboard": False}, {"trackers": ["trackio", "wandb"]})}  # fmt: skip
    assert len(hashes) == 1
    run = train(configure(steps=2), quiet=True)  # a run folder of before is continued
    old = {key: value for key, value in read_yaml(run / "config.yaml").items() if key != "trackers"}
    (run / "config.yaml").write_text(json.dumps({**old, "tensorboard": True}))
    config = configure(steps=4, trackers=["trackio"])
    check_settings(RunFolder(run), config)


def test_a_picture_is_low_below_and_loud_is_bright(configure: Any) -> None:
    from eisbach.training.trackers import spectrogram_picture
    from eisbach.types import Waveform

    time = np.arange(3 * 22050) / 22050
    tone = np.sin(2 * np.pi * np.where(time < 1.5, 150, 4000) * time).astype(np.float32)
    picture = spectrogram_picture(Waveform(tone[None], 22050)).astype(float).sum(axis=2)
    height, width = picture.shape
    left, right = picture[:, width // 4].argmax(), picture[:, 3 * width // 4].argmax()
    assert left > 0.8 * height
    assert right < 0.5 * height


def test_nothing_is_sent_where_nothing_is_asked(tmp_path: Path) -> None:
    trackers = Trackers(None, 0, quiet=True)
    trackers.add({"step": 1, "loss": 1.0})
    trackers.add_demos(1, tmp_path)
    trackers.close()
    with pytest.raises(UserError):
        heard(tmp_path / "nowhere")
