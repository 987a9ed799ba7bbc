"""The spectral front end of the embedded codec, and the way back from magnitudes to sound.

Bands are a semitone apart where the transform resolves a semitone and evenly spaced below: a mel scale of the
same size spends its bands on the highest octave and blurs neighbouring notes below 1 kHz.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from eisbach.errors import UserError


@dataclass(frozen=True)
class SpectrumConfig:
    """Analysis settings.

    Attributes
    ----------
    sample_rate, n_fft, hop : int
        Hz, samples, samples.
    n_bands : int
    low_hz, high_hz : float
        Centres of the outermost bands.
    floor_db : float
        Levels below this (dB relative to a full-scale sine) are raised to it.
    """

    sample_rate: int = 22050
    n_fft: int = 3072
    hop: int = 512
    n_bands: int = 84
    low_hz: float = 40.0
    high_hz: float = 10000.0
    floor_db: float = -80.0


def band_centres(config: SpectrumConfig) -> torch.Tensor:
    """Band centres in Hz [shape=(n_bands,), float64]: linear, then logarithmic, joined with equal slope."""
    low, high, n = config.low_hz, config.high_hz, config.n_bands
    # Below the corner f_c the spacing is constant (f_c * r); above it is a constant ratio. Solve for the ratio
    # so that exactly n bands fit between low and high, with the corner where a semitone equals 22 Hz.
    corner = 370.0

    def count(ratio: float) -> float:
        return (corner - low) / (corner * ratio) + math.log(high / corner) / math.log1p(ratio)

    lower, upper = 1e-3, 1.0
    for _ in range(80):
        middle = math.sqrt(lower * upper)
        lower, upper = (middle, upper) if count(middle) > n - 1 else (lower, middle)
    ratio = math.sqrt(lower * upper)
    steps = (corner - low) / (corner * ratio)
    index = torch.arange(n, dtype=torch.float64)
    linear = low + index * corner * ratio
    logarithmic = corner * torch.exp((index - steps) * math.log1p(ratio))
    return torch.where(index < steps, linear, logarithmic)


def band_filters(config: SpectrumConfig) -> torch.Tensor:
    """Triangular filters on power [shape=(n_bands, n_fft // 2 + 1), float32], each of unit sum.

    Raises
    ------
    UserError
        Bands so narrow that one of them holds no bin of the transform.
    """
    centres = band_centres(config)
    step_low, step_high = centres[1] - centres[0], centres[-1] ** 2 / centres[-2]
    edges = torch.cat([centres[:1] - step_low, centres, step_high[None]])
    return triangles(edges, config)


def triangles(edges: torch.Tensor, config: SpectrumConfig) -> torch.Tensor:
    """Triangular filters of unit sum [shape=(n - 2, n_fft // 2 + 1), float32] over edges in Hz [shape=(n,), float64].

    Raises
    ------
    UserError
        Edges so close that a filter holds no bin of the transform.
    """
    bins = torch.arange(config.n_fft // 2 + 1, dtype=torch.float64) * config.sample_rate / config.n_fft
    rise = (bins[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins[None]) / (edges[2:] - edges[1:-1])[:, None]
    filters = torch.minimum(rise, fall).clamp_min(0.0)
    empty = int((filters.sum(-1) == 0).sum())
    if empty:
        raise UserError(
            f"{empty} of {len(filters)} bands between {float(edges[1]):g} and {float(edges[-2]):g} Hz hold no bin of a "
            f"transform of {config.n_fft} samples at {config.sample_rate} Hz; use fewer bands or a longer transform."
        )
    return (filters / filters.sum(-1, keepdim=True)).float()


def _transform(samples: torch.Tensor, config: SpectrumConfig, window: torch.Tensor) -> torch.Tensor:
    """Complex STFT [shape=(..., n_fft // 2 + 1, n // hop + 1)], centred, silence beyond the ends."""
    return torch.stft(
        samples, config.n_fft, config.hop, window=window, center=True, pad_mode="constant", return_complex=True
    )


def magnitudes(samples: torch.Tensor, config: SpectrumConfig) -> torch.Tensor:
    """STFT magnitudes [shape=(..., n_fft // 2 + 1, n // hop)]; a full-scale sine on a bin gives 1."""
    window = torch.hann_window(config.n_fft)
    spectrum = _transform(samples, config, window)
    return spectrum.abs()[..., : samples.shape[-1] // config.hop] * (2.0 / float(window.sum()))


def band_levels(samples: torch.Tensor, config: SpectrumConfig, filters: torch.Tensor) -> torch.Tensor:
    """Band levels in dB [shape=(..., n_bands, frames)], floored at `config.floor_db`."""
    power = filters @ magnitudes(samples, config).square()
    return (10.0 * torch.log10(power.clamp_min(1e-12))).clamp_min(config.floor_db)


def _peak_phases(magnitude: torch.Tensor, config: SpectrumConfig) -> torch.Tensor:
    """Starting phases [shape=(B, bins, frames)] that let each spectral peak turn at its own frequency (single-pass
    spectrogram inversion, Beauregard et al. 2015): the peak's frequency by parabolic interpolation, its region in
    phase with it.
    """
    spectrum = magnitude.transpose(1, 2).contiguous()  # frames before bins: every scan below runs over memory in order
    batch, frames, bins = spectrum.shape
    left, right = spectrum.roll(1, dims=2), spectrum.roll(-1, dims=2)
    is_peak = (spectrum > left) & (spectrum >= right)
    is_peak[..., 0] = is_peak[..., -1] = False
    curvature = (left - 2 * spectrum + right).clamp_max(-1e-12)
    offset = torch.where(is_peak, 0.5 * (left - right) / curvature, 0.0).clamp(-0.5, 0.5)
    index = torch.arange(bins, device=magnitude.device)
    below = torch.where(is_peak, index, -1).cummax(dim=2).values
    above = torch.where(is_peak, index, 2 * bins).flip(2).cummin(dim=2).values.flip(2)
    nearest = torch.where((index - below <= above - index) & (below >= 0), below, above)
    nearest = torch.where(nearest >= bins, index, nearest)
    turn = (2 * math.pi * config.hop / config.n_fft * (index + offset)).gather(2, nearest)
    phases = torch.empty_like(spectrum)
    phase = spectrum.new_zeros(batch, bins)
    for frame in range(frames):
        phase = torch.remainder(phase.gather(1, nearest[:, frame]) + turn[:, frame], 2 * math.pi)
        phases[:, frame] = phase
    # Within a region the main lobe of a centred Hann window alternates in sign from bin to bin.
    phases += math.pi * ((index - nearest).abs() % 2)
    return phases.transpose(1, 2)


def invert(
    magnitude: torch.Tensor, config: SpectrumConfig, *, iterations: int = 8, momentum: float = 0.99
) -> torch.Tensor:
    """Samples [shape=(B, frames * hop)] whose STFT magnitudes come near `magnitude` [shape=(B, bins, frames)].

    Phases start from the peaks' own rotation and are refined by fast Griffin-Lim (Perraudin et al. 2013).
    Deterministic.
    """
    window = torch.hann_window(config.n_fft)
    frames = magnitude.shape[-1]
    length = frames * config.hop
    # One more frame at the end, so that the inverse covers `length` samples.
    target = torch.cat([magnitude, magnitude[..., -1:]], dim=-1) / (2.0 / float(window.sum()))

    def synthesise(spectrum: torch.Tensor) -> torch.Tensor:
        return torch.istft(spectrum, config.n_fft, config.hop, window=window, center=True, length=length)

    phases = torch.polar(torch.ones_like(target), _peak_phases(target, config))
    previous = torch.zeros_like(phases)
    for _ in range(iterations):
        rebuilt = _transform(synthesise(target * phases), config, window)
        step = rebuilt + momentum * (rebuilt - previous)
        phases = torch.sgn(step)
        previous = rebuilt
    return synthesise(target * phases)
