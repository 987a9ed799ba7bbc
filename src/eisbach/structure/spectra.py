"""Short-time spectra of a signal that arrives in chunks: the numerical ground under `features`.

Conventions: frames are centred (frame k sits at k * hop samples, the ends are padded with zeros), Hann window, power
spectra, float32. The mel scale and the area normalisation are Slaney's (Auditory Toolbox, 1998), so the filterbank
equals ``librosa.filters.mel(sr=22050, n_fft=1024, n_mels=64, fmin=30, fmax=10000)``.

A `FrameStream` cuts centred frames out of the chunks and gives the same numbers as for the whole signal, without ever
holding it; a *reducer* turns a block of power spectra into the few numbers that are kept. On a GPU (`device`)
transforms and reducers run in torch, on the CPU in numpy and scipy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import scipy.fft

_LINEAR_HZ_PER_MEL = 200.0 / 3.0
_LOG_START_HZ = 1000.0
_LOG_START_MEL = _LOG_START_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0

_OCTAVES_HZ = (30.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 6400.0, 10_000.0)
"""Edges of the bands of the spectral contrast; the last one stays clear of the resampler's roll-off."""
_QUANTILE = 0.02  # share of a band's bins that make its peak and its valley
_BLOCK_FRAMES = 1024  # frames transformed at once: bounds memory


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


@lru_cache(maxsize=8)
def pitch_filterbank(sample_rate: int, n_fft: int, lowest: int, highest: int) -> np.ndarray:
    """Triangular filters a third of a semitone apart, [shape=(3 * (highest - lowest) + 3, n_fft // 2 + 1), float32].

    Filters 3k, 3k + 1 and 3k + 2 lie a third of a semitone below, on and above MIDI pitch `lowest` + k of equal
    temperament (A4 = 440 Hz): whoever knows how a piece is tuned takes those that fit. A filter is never narrower than
    a bin.
    """
    bins = np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
    pitch = lowest + (np.arange(3 * (highest - lowest) + 3) - 1.0) / 3.0
    centre = 440.0 * 2.0 ** ((pitch - 69.0) / 12.0)
    width = np.maximum(centre * (2.0 ** (1.0 / 36.0) - 1.0), sample_rate / n_fft)
    weights = np.maximum(0.0, 1.0 - np.abs(bins[None, :] - centre[:, None]) / width[:, None])
    return weights.astype(np.float32)


def hann(n_fft: int) -> np.ndarray:
    """The periodic Hann window, [shape=(n_fft,), float32]."""
    return np.hanning(n_fft + 1)[:-1].astype(np.float32)


def octave_edges(sample_rate: int, n_fft: int) -> np.ndarray:
    """First FFT bins of the bands of the spectral contrast, and the end of the last, [shape=(8,), int]."""
    edges = np.array(_OCTAVES_HZ) * (n_fft / sample_rate)
    return np.minimum(np.round(edges).astype(np.int64), n_fft // 2 + 1)


def octave_contrast(power: Any, sample_rate: int, n_fft: int) -> Any:
    """Peak and valley of every octave band (Jiang et al. 2002): means of the strongest and of the weakest 2% of its
    bins.

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
            # one place at a time: numpy's fast selection knows no two, and takes four times as long for both
            valleys.append(np.partition(band, count - 1, axis=1)[:, :count].mean(axis=1))
            peaks.append(np.partition(band, band.shape[1] - count, axis=1)[:, -count:].mean(axis=1))
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
    level = np.asarray(power / top)  # one copy, worked on in place: an hour's frames are 46 MB
    np.maximum(level, 10.0 ** (-floor_db / 10.0), out=level)
    np.log10(level, out=level)
    level *= 10.0
    return np.maximum(level, -floor_db, out=level).astype(np.float32, copy=False)


class Reducer(Protocol):
    """Turns power spectra [shape=(frames, bins)] into columns [shape=(frames, k)]; numpy in, numpy out, and torch
    likewise."""

    def __call__(self, power: Any) -> Any:
        """The columns."""


class Bands:
    """A filterbank, [shape=(bands, bins)]; with `trimmed`, bins above the highest that weighs anything are not read."""

    def __init__(self, filterbank: np.ndarray, *, trimmed: bool = False) -> None:
        self._read = int(np.flatnonzero(filterbank.any(axis=0))[-1]) + 1 if trimmed else filterbank.shape[1]
        self._matrix = np.ascontiguousarray(filterbank.T[: self._read], dtype=np.float32)
        self._moved: Any = None

    def __call__(self, power: Any) -> Any:
        """Energy in every band."""
        power = power[:, : self._read]
        if isinstance(power, np.ndarray):
            return power @ self._matrix
        if self._moved is None:
            import torch

            self._moved = torch.from_numpy(self._matrix).to(power.device)
        return power @ self._moved


class Contrast:
    """Peaks and valleys of octave bands, [shape=(frames, 2 * bands)]: see `spectra.octave_contrast`."""

    def __init__(self, sample_rate: int, n_fft: int) -> None:
        self._sample_rate, self._n_fft = sample_rate, n_fft

    def __call__(self, power: Any) -> Any:
        """Peaks of every band, then valleys."""
        return octave_contrast(power, self._sample_rate, self._n_fft)


class FrameStream:
    """Reduced power spectra of centred Hann frames of a signal pushed in chunks.

    Parameters
    ----------
    n_fft : int
        Window and transform length; the window is normalised to sum 2, so a full-scale sine has order 1.
    hop : float
        Samples between frame centres; frame k is centred on sample round(k * hop).
    reducers : sequence of Reducer
        Their columns are set side by side.
    device : str or None
        A torch device; None computes with numpy.
    """

    def __init__(self, n_fft: int, hop: float, reducers: Sequence[Reducer], device: str | None = None) -> None:
        self._n_fft, self._hop, self._reducers, self._device = n_fft, hop, reducers, device
        window = hann(n_fft)
        self._window = window * np.float32(2.0 / window.sum())
        self._held = np.zeros(n_fft // 2, np.float32)  # starts with the padding of frame 0
        self._held_from = 0  # position of _held[0] in the padded signal
        self._frames, self._seen = 0, 0
        self._out: list[np.ndarray] = []

    def push(self, samples: np.ndarray) -> None:
        """Takes the next samples, [shape=(n,), float32]."""
        self._seen += len(samples)
        self._held = np.concatenate([self._held, samples])
        end = self._held_from + len(self._held)
        ready = int((end - self._n_fft) // self._hop) + 2
        starts = np.round(np.arange(self._frames, max(ready, self._frames)) * self._hop).astype(np.int64)
        self._compute(starts[starts + self._n_fft <= end])
        keep = min(round(self._frames * self._hop) - self._held_from, len(self._held))
        if keep > 0:
            self._held, self._held_from = self._held[keep:], self._held_from + keep

    def finish(self) -> np.ndarray:
        """All columns, [shape=(1 + floor((n - 1) / hop), k), float32]; call it once, after at least one sample."""
        count = 1 + int((self._seen - 1) // self._hop)
        self._held = np.concatenate([self._held, np.zeros(self._n_fft, np.float32)])
        self._compute(np.round(np.arange(self._frames, count) * self._hop).astype(np.int64))
        return np.concatenate(self._out)

    def _compute(self, starts: np.ndarray) -> None:
        self._frames += len(starts)
        for first in range(0, len(starts), _BLOCK_FRAMES):
            local = starts[first : first + _BLOCK_FRAMES] - self._held_from
            self._out.append(self._numpy(local) if self._device is None else self._torch(local))

    def _numpy(self, starts: np.ndarray) -> np.ndarray:
        view = np.lib.stride_tricks.sliding_window_view(self._held, self._n_fft)
        spectrum = scipy.fft.rfft(view[starts] * self._window, axis=1)
        power = spectrum.real**2
        power += spectrum.imag**2
        columns = [reducer(power) for reducer in self._reducers]
        return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)

    def _torch(self, starts: np.ndarray) -> np.ndarray:
        import torch

        # only the samples of these frames travel
        first, last = int(starts[0]), int(starts[-1]) + self._n_fft
        samples = torch.from_numpy(self._held[first:last]).to(self._device)
        window = torch.from_numpy(self._window).to(self._device)
        rows = samples.unfold(0, self._n_fft, 1)[torch.from_numpy(starts - first).to(self._device)]
        spectrum = torch.fft.rfft(rows * window, dim=1)
        power = spectrum.real.square() + spectrum.imag.square()
        columns = torch.cat([reducer(power) for reducer in self._reducers], dim=1)
        return np.asarray(columns.cpu().numpy())


class SpectrumStream:
    """The long-term spectrum of a signal pushed in chunks: mean power over non-overlapping Hann windows."""

    def __init__(self, n_fft: int = 4096) -> None:
        self._n_fft, self._window = n_fft, hann(n_fft)
        self._held = np.zeros(0, np.float32)
        self._total, self._count = np.zeros(n_fft // 2 + 1), 0

    def push(self, samples: np.ndarray) -> None:
        """Takes the next samples, [shape=(n,), float32]."""
        joined = np.concatenate([self._held, samples]) if len(self._held) else samples
        count = len(joined) // self._n_fft
        blocks = joined[: count * self._n_fft].reshape(count, self._n_fft)
        for first in range(0, count, _BLOCK_FRAMES):
            self._add(blocks[first : first + _BLOCK_FRAMES])
        self._held = joined[count * self._n_fft :]

    def _add(self, blocks: np.ndarray) -> None:
        spectrum = scipy.fft.rfft(blocks * self._window, axis=1)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        self._total += power.sum(axis=0, dtype=np.float64)
        self._count += len(blocks)

    def finish(self) -> np.ndarray:
        """Mean power of each bin, [shape=(n_fft // 2 + 1,), float64]; a signal shorter than a window is padded to
        one."""
        if self._count == 0:
            self._add(np.pad(self._held, (0, self._n_fft - len(self._held)))[None])
        return self._total / self._count


def long_term_spectrum(samples: np.ndarray, n_fft: int = 4096) -> np.ndarray:
    """Mean power of each FFT bin over non-overlapping Hann windows, [shape=(n_fft // 2 + 1,), float64]."""
    stream = SpectrumStream(n_fft)
    stream.push(np.asarray(samples, dtype=np.float32))
    return stream.finish()


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
    stream = FrameStream(n_fft, hop, [Bands(filterbank)])
    stream.push(np.asarray(samples, dtype=np.float32))
    return stream.finish()
