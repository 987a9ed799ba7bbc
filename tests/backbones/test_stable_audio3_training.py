"""`eisbach train` and `generate` on the tiny native checkpoint, through the parts that every model uses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from small_runs import attached_and_detached, run_of, same_on_a_second_device, write_clips

from eisbach.errors import UserError
from eisbach.training import train
from eisbach.training.config import TrainConfig

NATIVE = Path(__file__).parent.parent / "fixtures" / "sa3_native_tiny"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Four stereo clips of half a second."""
    return write_clips(tmp_path / "clips", 0.5, 44100)


def configuration(manifest: Path, out: Path, model: Path = NATIVE, **changes: Any) -> TrainConfig:
    data = {"manifest": str(manifest), "crop_seconds": 0.25}
    return run_of(model, manifest, out, data=data, checkpoint={"every": 1}, **changes)


def test_training_two_steps_and_resuming_give_the_same_adapter(manifest: Path, tmp_path: Path) -> None:
    whole = train(configuration(manifest, tmp_path / "whole"))
    train(configuration(manifest, tmp_path / "resumed", steps=1))
    resumed = train(configuration(manifest, tmp_path / "resumed"))
    first, second = (load_file(Path(run) / "adapter" / "adapter_model.safetensors") for run in (whole, resumed))
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)
    assert any("duration_embedder" in name for name in first)

    attached_and_detached(NATIVE, Path(whole) / "adapter")


def test_a_distilled_model_is_not_trained(manifest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "distilled"
    shutil.copytree(NATIVE, folder)
    text = (folder / "model_config.json").read_text()
    (folder / "model_config.json").write_text(text.replace('"rectified_flow"', '"rf_denoiser"'))
    with pytest.raises(UserError, match=r"is distilled.*train the base model"):
        train(configuration(manifest, tmp_path / "run", model=folder))


@pytest.mark.whole
def test_computes_on_a_second_device() -> None:
    same_on_a_second_device(NATIVE)
