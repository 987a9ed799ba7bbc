"""Short-time spectra: the numerical ground under `features`.

Conventions: frames are centred (frame k sits at k * hop samples, the ends are padded with zeros), Hann window,
power spectra, float32. The mel scale and the area normalisation are Slaney's (Auditory Toolbox, 1998), so the
filterbank equals ``librosa.filters.mel(sr=22050, n_fft=1024, n_mels=64, fmin=30, fmax=10000)``.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy.fft

_LINEAR_HZ_PER_MEL = 200.0 / 3.0
_LOG_START_HZ = 1000.0
_LOG_START_MEL = _LOG_START_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0
_BLOCK_FRAMES = 2048  # frames transformed at once: bounds memory on long audio


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


def power_bands(samples: np.ndarray, n_fft: int, hop: float, filterbank: np.ndarray) -> np.ndarray:
    """Filterbank outputs of the power spectrogram, without ever holding the whole spectrogram.

    Parameters
    ----------
    samples : np.ndarray [shape=(n,), float32]
    n_fft : int
        Window and transform length.
    hop : float
        Samples between frame centres.
    filterbank : np.ndarray [shape=(bands, n_fft // 2 + 1)]

    Returns
    -------
    np.ndarray [shape=(frames, bands), float32]
        `frames` is 1 + floor((n - 1) / hop). Full-scale sine = order 1 (the window is normalised to sum 2).
    """
    count = 1 + int((len(samples) - 1) // hop)
    window = np.hanning(n_fft + 1)[:-1].astype(np.float32)
    window *= 2.0 / window.sum()
    out = np.empty((count, filterbank.shape[0]), dtype=np.float32)
    padded = np.pad(np.asarray(samples, dtype=np.float32), (n_fft // 2, n_fft))
    view = np.lib.stride_tricks.sliding_window_view(padded, n_fft)
    starts = np.round(np.arange(count) * hop).astype(np.int64)
    for first in range(0, count, _BLOCK_FRAMES):
        chunk = starts[first : first + _BLOCK_FRAMES]
        spectrum = scipy.fft.rfft(view[chunk] * window, axis=1)
        power = spectrum.real**2 + spectrum.imag**2
        out[first : first + len(chunk)] = power @ filterbank.T
    return out


def long_term_spectrum(samples: np.ndarray, n_fft: int = 4096) -> np.ndarray:
    """Mean power of each FFT bin over non-overlapping Hann windows, [shape=(n_fft // 2 + 1,), float64]."""
    window = np.hanning(n_fft + 1)[:-1].astype(np.float32)
    count = max(1, len(samples) // n_fft)
    padded = np.pad(np.asarray(samples, dtype=np.float32), (0, max(0, n_fft - len(samples))))[: count * n_fft]
    total = np.zeros(n_fft // 2 + 1)
    blocks = padded.reshape(count, n_fft)
    for first in range(0, count, _BLOCK_FRAMES):
        spectrum = scipy.fft.rfft(blocks[first : first + _BLOCK_FRAMES] * window, axis=1)
        total += (spectrum.real.astype(np.float64) ** 2 + spectrum.imag.astype(np.float64) ** 2).sum(axis=0)
    return total / count


def power_to_db(power: np.ndarray, floor_db: float) -> np.ndarray:
    """10 log10(power) relative to the array's maximum, floored: values in [-floor_db, 0]."""
    top = float(power.max(initial=0.0))
    if top <= 0.0:
        return np.full(power.shape, -floor_db, dtype=np.float32)
    relative = np.maximum(power / top, 10.0 ** (-floor_db / 10.0))
    return np.maximum(10.0 * np.log10(relative), -floor_db).astype(np.float32)
