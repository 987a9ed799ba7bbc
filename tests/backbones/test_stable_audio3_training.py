"""`eisbach train` and `generate` on the tiny native checkpoint, through the parts that every model uses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from eisbach.adapters.attach import attach, detach
from eisbach.audio import audio_hash, write_audio
from eisbach.backbones import load_backbone
from eisbach.config import build_config
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.errors import UserError
from eisbach.training import train
from eisbach.training.config import TrainConfig
from eisbach.types import Waveform

NATIVE = Path(__file__).parent.parent / "fixtures" / "sa3_native_tiny"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Four stereo clips of half a second."""
    root, rng, rows = tmp_path / "clips", np.random.default_rng(0), []
    for index in range(4):
        samples = (0.1 * rng.standard_normal((2, 22050))).astype(np.float32)
        write_audio(root / f"{index}.wav", Waveform(samples, 44100))
        rows.append(
            ManifestRow(
                id=str(index),
                path=f"{index}.wav",
                caption=["slow strings and bassoon", "celesta"][index % 2],
                duration=0.5,
                labels={},
                audio_hash=audio_hash(root / f"{index}.wav"),
                split="train",
            )
        )
    save_manifest(Manifest(rows, root))
    return root


def configuration(manifest: Path, out: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "model": str(NATIVE),
        "data": {"manifest": str(manifest), "crop_seconds": 0.25},
        "adapter": {"type": "dora", "rank": 2},
        "optimiser": {"lr": 1e-2},
        "weighting": {"sample": "entropy_barrier"},
        "batch_size": 2,
        "steps": 2,
        "condition_dropout": 0.5,
        "checkpoint": {"every": 1},
        "held_out": {"every": 0},
        "tensorboard": False,
        "out": str(out),
        **changes,
    }
    return build_config(TrainConfig, values, "test")


def test_training_two_steps_and_resuming_give_the_same_adapter(manifest: Path, tmp_path: Path) -> None:
    whole = train(configuration(manifest, tmp_path / "whole"))
    train(configuration(manifest, tmp_path / "resumed", steps=1))
    resumed = train(configuration(manifest, tmp_path / "resumed"))
    first, second = (load_file(Path(run) / "adapter" / "adapter_model.safetensors") for run in (whole, resumed))
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)
    assert any("duration_embedder" in name for name in first)

    backbone = load_backbone(NATIVE)
    before = backbone.identity()
    assert attach(backbone, Path(whole) / "adapter") == len({name.rpartition(".lora_")[0] for name in first})
    assert backbone.identity() != before  # something was folded into the weights
    detach(backbone)
    assert backbone.identity() == before


def test_a_distilled_model_is_not_trained(manifest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "distilled"
    shutil.copytree(NATIVE, folder)
    text = (folder / "model_config.json").read_text()
    (folder / "model_config.json").write_text(text.replace('"rectified_flow"', '"rf_denoiser"'))
    with pytest.raises(UserError, match=r"is distilled.*train the base model"):
        train(configuration(manifest, tmp_path / "run", model=str(folder)))
