"""A folder of tiny clips and the configuration of a run that takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eisbach.audio import audio_hash, write_audio
from eisbach.config import build_config
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.training.config import TrainConfig
from eisbach.types import Waveform

CAPTIONS = ("a calm cello", "a bright celesta", "slow dark string music", "fast high piano")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten clips of 6 s: eight train (half of them labelled flat), two are held out."""
    root = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    time = np.arange(6 * 22050) / 22050
    rows = []
    for index in range(10):
        tone = np.sin(2 * np.pi * 110 * (index + 2) * time) * np.interp(time, [0, 1, 3, 6], rng.uniform(0.05, 0.5, 4))
        samples = (tone + 0.01 * rng.standard_normal(time.size)).astype(np.float32)
        name = f"clip{index}.wav"
        write_audio(root / name, Waveform(samples[None], 22050))
        rows.append(
            ManifestRow(
                id=f"clip{index}",
                path=name,
                caption=CAPTIONS[index % len(CAPTIONS)],
                duration=6.0,
                labels={"flat": "true" if index % 2 else "false"},
                audio_hash=audio_hash(root / name),
                split="held_out" if index >= 8 else "train",
            )
        )
    save_manifest(Manifest(rows, root))
    return root


Configure = Callable[..., TrainConfig]


@pytest.fixture
def configure(clips: Path, tiny_model: Path, tmp_path: Path) -> Configure:
    """Builds a configuration of six steps; keyword arguments replace whole keys."""

    def build(out: str = "run", **changes: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "model": str(tiny_model),
            "data": {"manifest": str(clips), "crop_seconds": 4},
            "adapter": {"type": "lora", "rank": 2},
            "optimiser": {"lr": 1e-2},
            "steps": 6,
            "batch_size": 2,
            "log_every": 2,
            "held_out": {"every": 3, "noise_levels": [0.2, 0.8], "batches": 1},
            "checkpoint": {"every": 3},
            "tensorboard": False,
            "out": str(tmp_path / out),
        }
        return build_config(TrainConfig, {**values, **changes})

    return build
