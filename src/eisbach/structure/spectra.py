"""Short-time spectra: the numerical ground under `features`.

Conventions: frames are centred (frame k sits at k * hop samples, the ends are padded with zeros), Hann window,
power spectra, float32. The mel scale and the area normalisation are Slaney's (Auditory Toolbox, 1998), so the
filterbank equals ``librosa.filters.mel(sr=22050, n_fft=1024, n_mels=64, fmin=30, fmax=10000)``.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

_LINEAR_HZ_PER_MEL = 200.0 / 3.0
_LOG_START_HZ = 1000.0
_LOG_START_MEL = _LOG_START_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0

OCTAVES_HZ = (30.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 6400.0, 10_000.0)
"""Edges of the bands of the spectral contrast; the last one stays clear of the resampler's roll-off."""
_QUANTILE = 0.02  # share of a band's bins that make its peak and its valley


def hz_to_mel(hz: np.ndarray | float) -> np.ndarray:
    """Slaney's mel scale: linear below 1 kHz, logarithmic above."""
    hz = np.asarray(hz, dtype=np.float64)
    log_part = _LOG_START_MEL + np.log(np.maximum(hz, _LOG_START_HZ) / _LOG_START_HZ) / _LOG_STEP
    return np.where(hz < _LOG_START_HZ, hz / _LINEAR_HZ_PER_MEL, log_part)


def mel_to_hz(mel: np.ndarray | float) -> np.ndarray:
    """The inverse of `hz_to_mel`."""
    mel = np.asarray(mel, dtype=np.float64)
    log_part = _LOG_START_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _LOG_START_MEL) - _LOG_START_MEL))
    return np.where(mel < _LOG_START_MEL, mel * _LINEAR_HZ_PER_MEL, log_part)


@lru_cache(maxsize=8)
def mel_filterbank(sample_rate: int, n_fft: int, n_mels: int, low_hz: float, high_hz: float) -> np.ndarray:
    """Triangular filters of equal area, [shape=(n_mels, n_fft // 2 + 1), float32]."""
    edges = mel_to_hz(np.linspace(hz_to_mel(low_hz), hz_to_mel(high_hz), n_mels + 2))
    bins = np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
    rising = (bins[None, :] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins[None, :]) / (edges[2:] - edges[1:-1])[:, None]
    weights = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return weights.astype(np.float32)


@lru_cache(maxsize=8)
def chroma_filterbank(sample_rate: int, n_fft: int, low_hz: float, high_hz: float) -> np.ndarray:
    """Pitch-class weights of FFT bins (equal temperament, A4 = 440 Hz), [shape=(12, n_fft // 2 + 1), float32].

    Class 0 is C. A bin spreads over its neighbouring classes with a Gaussian of half a semitone, and bins outside
    [low_hz, high_hz] weigh nothing.
    """
    bins = np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
    inside = (bins >= low_hz) & (bins <= high_hz)
    pitch = 69.0 + 12.0 * np.log2(np.where(inside, bins, 440.0) / 440.0)
    distance = (pitch[None, :] - np.arange(12)[:, None] + 6.0) % 12.0 - 6.0
    weights = np.exp(-0.5 * (distance / 0.5) ** 2)
    weights /= weights.sum(axis=0, keepdims=True)
    return np.where(inside[None, :], weights, 0.0).astype(np.float32)


def hann(n_fft: int) -> np.ndarray:
    """The periodic Hann window, [shape=(n_fft,), float32]."""
    return np.hanning(n_fft + 1)[:-1].astype(np.float32)


def octave_edges(sample_rate: int, n_fft: int) -> np.ndarray:
    """First FFT bins of the bands of the spectral contrast, and the end of the last, [shape=(8,), int]."""
    edges = np.array(OCTAVES_HZ) * (n_fft / sample_rate)
    return np.minimum(np.round(edges).astype(np.int64), n_fft // 2 + 1)


def octave_contrast(power: Any, sample_rate: int, n_fft: int) -> Any:
    """Peak and valley of every octave band (Jiang et al. 2002): means of the strongest and of the weakest 2% of its bins.

    Parameters
    ----------
    power : np.ndarray or torch.Tensor [shape=(frames, n_fft // 2 + 1)]

    Returns
    -------
    np.ndarray or torch.Tensor [shape=(frames, 14)]
        Seven peaks, then seven valleys, as power.
    """
    edges = octave_edges(sample_rate, n_fft)
    peaks, valleys = [], []
    for first, last in pairwise(edges.tolist()):
        band = power[:, first:last]
        count = max(1, round(_QUANTILE * (last - first)))
        if isinstance(power, np.ndarray):
            ordered = np.partition(band, (count - 1, band.shape[1] - count), axis=1)
            valleys.append(ordered[:, :count].mean(axis=1))
            peaks.append(ordered[:, -count:].mean(axis=1))
        else:
            valleys.append(band.topk(count, dim=1, largest=False).values.mean(dim=1))
            peaks.append(band.topk(count, dim=1).values.mean(dim=1))
    if isinstance(power, np.ndarray):
        return np.stack(peaks + valleys, axis=1)
    import torch

    return torch.stack(peaks + valleys, dim=1)


def power_to_db(power: np.ndarray, floor_db: float) -> np.ndarray:
    """10 log10(power) relative to the array's maximum, floored: values in [-floor_db, 0]."""
    top = float(power.max(initial=0.0))
    if top <= 0.0:
        return np.full(power.shape, -floor_db, dtype=np.float32)
    relative = np.maximum(power / top, 10.0 ** (-floor_db / 10.0))
    return np.maximum(10.0 * np.log10(relative), -floor_db).astype(np.float32)
