"""Clips, recipes and subjects for probes that take a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eisbach.audio import audio_hash, write_audio
from eisbach.config import build_config
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.diagnostics.probe.result import ProbeConfig
from eisbach.diagnostics.probe.subject import Subject, load_subject
from eisbach.types import Waveform

RATE = 8000
CAPTIONS = ("a calm cello", "a bright celesta", "slow dark string music", "fast high piano")


def write_clips(root: Path, count: int = 10, seconds: float = 9.0, held_out: int = 2, labels: bool = True) -> Path:
    """Tones whose level moves; each clip has its own loudness, and every third is shorter than a crop of 6 s."""
    rng = np.random.default_rng(0)
    rows = []
    root.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        length = 4.0 if index % 3 == 2 else seconds
        time = np.arange(int(length * RATE)) / RATE
        level = np.interp(time, np.linspace(0, length, 5), rng.uniform(0.05, 0.9, 5)) * 10 ** (-index / 20)
        samples = level * np.sin(2 * np.pi * 110 * (index + 2) * time) + 0.003 * rng.standard_normal(time.size)
        name = f"clip{index}.wav"
        write_audio(root / name, Waveform(samples[None].astype(np.float32), RATE))
        rows.append(
            ManifestRow(
                id=f"clip{index}",
                path=name,
                caption=CAPTIONS[index % len(CAPTIONS)],
                duration=length,
                labels={"flat": "true" if index % 2 else "false"} if labels else {},
                audio_hash=audio_hash(root / name),
                split="held_out" if index >= count - held_out else "train",
            )
        )
    save_manifest(Manifest(rows, root))
    return root


@pytest.fixture(scope="session")
def probe_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips that train and two that are held out."""
    return write_clips(tmp_path_factory.mktemp("probe-clips"))


Configure = Callable[..., ProbeConfig]


@pytest.fixture(scope="session")
def configure(probe_clips: Path, tiny_model: Path) -> Configure:
    """A small probe; keyword arguments replace keys of the recipe, `probe` those of the probe."""

    def build(probe: dict[str, Any] | None = None, **recipe: Any) -> ProbeConfig:
        train: dict[str, Any] = {
            "model": str(tiny_model),
            "data": {"manifest": str(probe_clips), "crop_seconds": 6},
            "adapter": {"type": "lora", "rank": 2},
            "weighting": {"sample": "entropy_barrier", "strength": 1.0},
            "optimiser": {"lr": 1e-2},
            "batch_size": 3,
            "held_out": {"every": 0},
            "tensorboard": False,
        }
        small = {"clips": 5, "levels": [0.1, 0.5, 0.9], "gradient_batches": 3, "structure": False}
        return build_config(ProbeConfig, {**small, **(probe or {}), "train": {**train, **recipe}})

    return build


@pytest.fixture(scope="session")
def load(configure: Configure) -> Callable[..., Subject]:
    """The subject of `configure(...)`."""

    def build(probe: dict[str, Any] | None = None, **recipe: Any) -> Subject:
        return load_subject(configure(probe, **recipe), quiet=True)

    return build
