from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eisbach.codecs.bands import SpectrumConfig, band_centres, band_filters, band_levels, invert, magnitudes
from eisbach.errors import UserError

SMALL = SpectrumConfig(sample_rate=8000, n_fft=512, hop=128, n_bands=16, low_hz=80.0, high_hz=3600.0)
CONFIGS = pytest.mark.parametrize("config", [SpectrumConfig(), SMALL, SpectrumConfig(n_bands=40, low_hz=60.0)])


def sine(frequency: float, config: SpectrumConfig, level: float = 1.0, frames: int = 40) -> torch.Tensor:
    time = torch.arange(frames * config.hop, dtype=torch.float64) / config.sample_rate
    return (level * torch.sin(2 * torch.pi * frequency * time)).float()


@CONFIGS
def test_centres_run_from_low_to_high_linear_then_logarithmic(config: SpectrumConfig) -> None:
    centres = band_centres(config)
    assert centres.shape == (config.n_bands,)
    assert float(centres[0]) == config.low_hz
    assert float(centres[-1]) == pytest.approx(config.high_hz, rel=1e-6)
    steps, ratios = centres.diff(), centres[1:] / centres[:-1]
    assert bool((steps > 0).all())
    low, high = centres[1:] < 370.0, centres[:-1] > 370.0
    assert float(steps[low].std() / steps[low].mean()) < 1e-9
    assert float(ratios[high].std()) < 1e-9
    # they join with equal slope: the linear step is the logarithmic step at the corner
    assert float(steps[0]) == pytest.approx(370.0 * (float(ratios[-1]) - 1.0), rel=1e-6)


@CONFIGS
def test_filters_have_unit_sum_and_leave_no_gap(config: SpectrumConfig) -> None:
    filters = band_filters(config)
    assert filters.shape == (config.n_bands, config.n_fft // 2 + 1)
    assert bool((filters >= 0).all())
    torch.testing.assert_close(filters.sum(1), torch.ones(config.n_bands))
    bins = torch.arange(filters.shape[1]) * config.sample_rate / config.n_fft
    inside = (bins >= config.low_hz) & (bins <= config.high_hz)
    assert bool((filters[:, inside].sum(0) > 0).all())
    peaks = bins[filters.argmax(dim=1)].double()
    assert float((peaks - band_centres(config)).abs().max()) <= config.sample_rate / config.n_fft


def test_bands_that_no_bin_falls_into_are_refused() -> None:
    with pytest.raises(UserError, match=r"hold no bin .*; use fewer bands"):
        band_filters(replace(SMALL, n_fft=64, n_bands=40))


def test_a_full_scale_sine_on_a_bin_has_magnitude_one() -> None:
    config = SMALL
    spectrum = magnitudes(sine(32 * config.sample_rate / config.n_fft, config), config)
    assert spectrum.shape == (config.n_fft // 2 + 1, 40)
    torch.testing.assert_close(spectrum[32, 5:-5], torch.ones(30), atol=1e-4, rtol=0)
    assert float(spectrum[40:, 5:-5].max()) < 1e-4


def test_levels_are_decibels_with_a_floor() -> None:
    filters = band_filters(SMALL)
    band = 10
    centre = float(band_centres(SMALL)[band])
    loud, soft = (band_levels(sine(centre, SMALL, level), SMALL, filters) for level in (0.5, 0.05))
    assert int(loud[:, 20].argmax()) == band
    torch.testing.assert_close(loud[band] - soft[band], torch.full((40,), 20.0), atol=1e-3, rtol=0)
    silence = band_levels(torch.zeros(SMALL.hop * 4), SMALL, filters)
    assert bool((silence == SMALL.floor_db).all())


def test_levels_agree_with_an_independent_transform() -> None:
    """numpy's FFT of one centred frame, in float64."""
    samples = torch.from_numpy(np.random.default_rng(1).standard_normal(SMALL.hop * 20).astype(np.float32))
    filters = band_filters(SMALL)
    frame = 9
    piece = samples.double().numpy()[frame * SMALL.hop - 256 : frame * SMALL.hop + 256]
    window = np.hanning(513)[:512]  # periodic
    power = np.square(np.abs(np.fft.rfft(piece * window)) * 2.0 / window.sum())
    expected = 10 * np.log10(filters.double().numpy() @ power)
    np.testing.assert_allclose(band_levels(samples, SMALL, filters)[:, frame].numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("frequency", [437.5, 700.0, 1503.0])
def test_inversion_of_a_sine_is_that_sine(frequency: float) -> None:
    samples = sine(frequency, SMALL, 0.3, frames=48)
    magnitude = magnitudes(samples, SMALL)[None]
    first, second = (invert(magnitude, SMALL, iterations=8) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (1, 48 * SMALL.hop)
    middle = first[0, 1024:5120].numpy()
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(4096), 16384))
    assert spectrum.argmax() * 8000 / 16384 == pytest.approx(frequency, rel=0.005)
    assert 20 * np.log10(np.sqrt(2 * np.square(middle).mean()) / 0.3) == pytest.approx(0.0, abs=1.0)


def test_inversion_is_near_the_magnitudes_it_was_given() -> None:
    samples = sum(sine(f, SMALL, 0.1, frames=48) for f in (220.0, 441.0, 987.0))
    magnitude = magnitudes(samples, SMALL)[None]
    rebuilt = magnitudes(invert(magnitude, SMALL, iterations=16), SMALL)
    error = (rebuilt - magnitude)[..., 4:-4].norm() / magnitude[..., 4:-4].norm()
    assert float(error) < 0.15


def test_silence_inverts_to_silence() -> None:
    assert float(invert(torch.zeros(2, SMALL.n_fft // 2 + 1, 6), SMALL, iterations=2).abs().max()) == 0.0
