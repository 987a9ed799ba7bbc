"""Onsets and rhythm: the flux of a spectrum, the moments at which something enters, and where the pulse changes.

*Flux*: SuperFlux (Boeck & Widmer 2013), the positive difference of square-root mel power to the maximum over
neighbouring bands 40 ms earlier, so that vibrato does not count as onsets.

*Rhythm*: onset strength is the rise of the mel-spectrogram in four ranges of pitch (dB a frame of 20 ms, smoothed over
three frames). The rhythm of a stretch is its autocorrelation at 24 lags of 0.1 to 3 s (Jensen 2007 segments music by
such rhythmograms), and a *step* of width w the RMS difference between the w seconds before a moment and the w seconds
after it. Level and timbre cancel out. A still sound has the chance rhythm of noise, whose steps stay under those of a
change of pulse once both sides are whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from eisbach.structure.features import FRAME_RATE, Features

_LAG = 2  # frames of 20 ms: windows of 46 ms that hardly overlap
_BLOCK = 20_000  # frames
_NEAR, _AROUND = 3, 12  # frames: 60 ms and a quarter of a second on either side
_RELATIVE, _ABSOLUTE = 0.1, 0.06  # the beating of a held chord stays under the second
_RANGES = 4
_LONGEST_RISE = 20.0  # dB a frame: an onset after silence counts no more
_SHORTEST, _LONGEST, _LAGS = 0.1, 3.0, 24  # seconds, seconds, at most
_FLOOR = 0.02  # dB^2: variance of the onset strength of a sound without onsets


def spectral_flux(mel_db: np.ndarray) -> np.ndarray:
    """SuperFlux of sqrt(mel power), relative to the loudest frame, [shape=(frames - 2,)]."""
    parts, loudest = [], 0.0
    for first in range(0, len(mel_db) - _LAG, _BLOCK):  # an hour of frames at once would be held four times over
        root = np.exp(mel_db[first : first + _BLOCK + _LAG] * np.float32(np.log(10.0) / 20.0))
        padded = np.pad(root[:-_LAG], ((0, 0), (1, 1)), mode="edge")
        reference = np.maximum(np.maximum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
        parts.append(np.maximum(root[_LAG:] - reference, 0.0).sum(axis=1))
        loudest = max(loudest, float(root.sum(axis=1).max()))
    return np.concatenate(parts) / np.float32(loudest)


def onset_times(features: Features) -> np.ndarray:
    """Onsets, seconds from the start of the file, [shape=(onsets,), float64], by peak picking on the flux.

    A frame is an onset when its flux is the largest within 60 ms, exceeds the mean of the surrounding half second
    by a tenth of the clip's 99th percentile and by 0.06 of its loudest frame (Boeck, Krebs & Schedl 2012), and lies
    more than 60 ms after the onset before.
    """
    if len(features.mel_db) <= _LAG:
        return np.zeros(0)
    flux = spectral_flux(features.mel_db)
    threshold = max(_RELATIVE * float(np.percentile(flux, 99.0)), _ABSOLUTE)
    largest = maximum_filter1d(flux, 2 * _NEAR + 1, mode="constant")
    around = uniform_filter1d(flux, 2 * _AROUND + 1, mode="nearest")
    picked = np.flatnonzero((flux >= largest) & (flux >= around + threshold))
    onsets: list[int] = []
    for frame in picked:
        if not onsets or frame - onsets[-1] > _NEAR:
            onsets.append(int(frame))
    # the flux of frame k compares it with the frame 40 ms before: the change lies half-way
    return features.trimmed_start + (np.array(onsets, dtype=np.float64) + _LAG / 2) / FRAME_RATE


def onset_strength(mel_db: np.ndarray) -> np.ndarray:
    """Rise of four ranges of mels, dB a frame, in [0, 20], [shape=(frames, 4)]."""
    ranges = mel_db.reshape(len(mel_db), _RANGES, -1).mean(axis=2)
    rise = np.clip(np.diff(ranges, axis=0, prepend=ranges[:1]), 0.0, _LONGEST_RISE)
    return np.asarray(uniform_filter1d(rise, 3, axis=0), dtype=np.float64)


def rhythm_steps(mel_db: np.ndarray, frame_rate: float, times: np.ndarray, widths: Sequence[float]) -> list[np.ndarray]:
    """The steps of each width, [shape=(times,)] each.

    Parameters
    ----------
    mel_db : np.ndarray [shape=(frames, mels)]
        dB; a multiple of four mels.
    frame_rate : float
        Frames a second.
    times : np.ndarray
        Seconds, ascending.
    widths : sequence of float
        Seconds.
    """
    if not len(mel_db) or not len(times):
        return [np.zeros(len(times)) for _ in widths]
    strength = onset_strength(mel_db)
    lags = np.unique(np.round(np.geomspace(_SHORTEST, _LONGEST, _LAGS) * frame_rate).astype(int))
    # running sums of the strength, its square and its product with what was heard a lag ago, kept at the moments alone
    frames = np.round(times * frame_rate).astype(int).clip(0, len(strength))

    def running(columns: np.ndarray) -> np.ndarray:
        sums = np.concatenate([np.zeros((1, _RANGES)), np.cumsum(columns, axis=0)])
        return np.asarray(sums[frames])

    def lagged(lag: int) -> np.ndarray:
        product = np.zeros_like(strength)
        product[lag:] = strength[lag:] * strength[:-lag]
        return running(product)

    sums = np.stack([running(strength), running(strength**2), *map(lagged, lags)], axis=1)

    def rhythm(first: np.ndarray, last: np.ndarray) -> np.ndarray:
        size = np.maximum(frames[last] - frames[first], 1)[:, None, None]
        mean = (sums[last] - sums[first]) / size
        square = mean[:, :1] ** 2
        return np.asarray((mean[:, 2:] - square) / (mean[:, 1:2] - square + _FLOOR))

    places = np.arange(len(times))
    steps = []
    for width in widths:
        before = rhythm(np.searchsorted(times, times - width - 1e-9), places)
        after = rhythm(places, np.minimum(np.searchsorted(times, times + width - 1e-9), len(times) - 1))
        steps.append(np.sqrt(np.mean((before - after) ** 2, axis=(1, 2))))
    return steps
