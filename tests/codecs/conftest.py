"""Codecs small enough to build in a moment, and the packaged one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from eisbach.codecs import load_codec
from eisbach.codecs.bands import BandCodec, SpectrumConfig, band_filters
from eisbach.types import Waveform

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))  # codec_fit

SMALL = SpectrumConfig(sample_rate=8000, n_fft=512, hop=128, n_bands=16, low_hz=80.0, high_hz=3600.0)


@pytest.fixture(scope="session")
def whole_codec() -> BandCodec:
    """A codec whose basis is complete, so that nothing but the bands themselves is lost."""
    filters = band_filters(SMALL)
    width = 4 * SMALL.n_bands
    return BandCodec(
        torch.full((width,), -40.0),
        torch.eye(width),
        torch.full((width,), 10.0),
        filters.T / filters.T.amax(dim=0, keepdim=True),
        stack=4,
        config=SMALL,
        iterations=2,
    )


@pytest.fixture(scope="session")
def packaged() -> BandCodec:
    codec = load_codec("bands")
    assert isinstance(codec, BandCodec)
    return codec


@pytest.fixture(scope="session")
def noise() -> Callable[..., Waveform]:
    """Steady noise, loud enough that no band comes near the floor."""

    def make(seconds: float = 1.0, rate: int = 8000, channels: int = 1, seed: int = 0, level: float = 0.1) -> Waveform:
        samples = np.random.default_rng(seed).standard_normal((channels, round(seconds * rate))).astype(np.float32)
        return Waveform(level * samples, rate)

    return make


@pytest.fixture
def saved(whole_codec: BandCodec, tmp_path: Path) -> Path:
    path = tmp_path / "codec.safetensors"
    whole_codec.save(path)
    return path
