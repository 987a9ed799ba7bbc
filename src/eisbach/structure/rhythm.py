"""Where the rhythm changes: other onsets, another pulse, or a pulse that breaks off and starts anew.

Conventions: onset strength is the rise of the mel-spectrogram in four ranges of pitch (dB a frame of 20 ms, smoothed over three frames). The
rhythm of a stretch is its autocorrelation at 24 lags of 0.1 to 3 s (Jensen 2007 segments music by such rhythmograms), and a *step* of width w
the RMS difference between the w seconds before a moment and the w seconds after it. Level and timbre cancel out. A still sound has the chance rhythm of
noise, whose steps stay under those of a change of pulse once both sides are whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import uniform_filter1d

_RANGES = 4
_LONGEST_RISE = 20.0  # dB a frame: an onset after silence counts no more
_SHORTEST, _LONGEST, _LAGS = 0.1, 3.0, 24  # seconds, seconds, at most
_FLOOR = 0.02  # dB^2: variance of the onset strength of a sound without onsets


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
