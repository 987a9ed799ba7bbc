"""Loudness after ITU-R BS.1770-4 and EBU Tech 3341/3342, from a stream: K-weighted power, its gates, loudness and its
range.

Conventions: K-weighting per channel (a high shelf of +4 dB from 1.5 kHz and a high-pass at 38 Hz, the filters of
BS.1770 redesigned for any sample rate), mean squares of 100 ms, summed over channels with weight 1 (surround channels
of 5.1: 1.41; its low-frequency channel: 0). Integrated loudness uses blocks of 400 ms and two gates (-70 LUFS, then 10
LU below the mean), loudness range windows of 3 s, ten a second, and gates at -70 LUFS (lower for soft recordings) and
20 LU below the mean; it is the distance of the 10th and the 95th percentile.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy.signal
from scipy.ndimage import uniform_filter1d
from scipy.optimize import isotonic_regression

BLOCKS_PER_SECOND = 10
_LOWEST_RATE = 8000.0  # the shelf lies at 1.7 kHz: under this rate its design has no room
_ABSOLUTE_GATE = -70.0
_SOFTEST = 50.0  # LU
_OFFSET = -0.691  # makes a 997 Hz sine at 0 dBFS in one channel read -3.01 LUFS
_SURROUND = {5: (1.0, 1.0, 1.0, 1.41, 1.41), 6: (1.0, 1.0, 1.0, 0.0, 1.41, 1.41)}


@lru_cache(maxsize=8)
def k_weighting(sample_rate: float) -> np.ndarray:
    """Second-order sections of the K-weighting at any rate from 8 kHz, [shape=(2, 6)].

    At 48 kHz they equal the coefficients that BS.1770-4 prints (tables 1 and 2) to six digits.
    """
    gain, quality, centre = 3.999843853973347, 0.7071752369554196, 1681.974450955533
    k = np.tan(np.pi * centre / sample_rate)
    high, band = 10.0 ** (gain / 20.0), 10.0 ** (gain / 20.0 * 0.4996667741545416)
    norm = 1.0 + k / quality + k * k
    shelf = [(high + band * k / quality + k * k) / norm, 2.0 * (k * k - high) / norm,
             (high - band * k / quality + k * k) / norm, 1.0, 2.0 * (k * k - 1.0) / norm,
             (1.0 - k / quality + k * k) / norm]  # fmt: skip
    quality, centre = 0.5003270373238773, 38.13547087602444
    k = np.tan(np.pi * centre / sample_rate)
    norm = 1.0 + k / quality + k * k
    return np.array([shelf, [1.0, -2.0, 1.0, 1.0, 2.0 * (k * k - 1.0) / norm, (1.0 - k / quality + k * k) / norm]])


class LoudnessMeter:
    """Collects the K-weighted power of 100 ms blocks from a stream.

    Parameters
    ----------
    sample_rate : float
        Hz; under 8 kHz the K-weighting is undefined and nothing is collected.
    channels : int
    """

    def __init__(self, sample_rate: float, channels: int) -> None:
        self._rate = sample_rate
        self._usable = sample_rate >= _LOWEST_RATE
        self._sections = k_weighting(sample_rate) if self._usable else np.zeros((2, 6))
        # two channels are filtered as one complex signal: each of its parts as it would be alone, in fewer steps
        self._paired = channels == 2
        self._state = np.zeros((2, 2), np.complex128) if self._paired else np.zeros((2, channels, 2))
        self._weights = np.array(_SURROUND.get(channels, (1.0,) * channels))
        self._seen = 0
        self._open = 0.0  # energy of the block that is not complete yet
        self._blocks: list[np.ndarray] = []

    def push(self, samples: np.ndarray) -> None:
        """Takes the next samples, [shape=(channels, n)]."""
        count = samples.shape[1]
        if not self._usable or count == 0:
            return
        energy = self._energy(samples)
        first = int(self._seen * BLOCKS_PER_SECOND // self._rate)  # number of the block that is open
        self._seen += count
        ends = np.arange(first + 1, int(self._seen * BLOCKS_PER_SECOND // self._rate) + 2)
        edges = np.ceil(ends * self._rate / BLOCKS_PER_SECOND).astype(np.int64) - (self._seen - count)
        edges = edges[edges <= count]
        if len(edges) == 0:
            self._open += float(energy.sum())
            return
        sums = np.add.reduceat(energy, np.concatenate([[0], edges[:-1]]))
        sums[-1] = energy[(edges[-2] if len(edges) > 1 else 0) : edges[-1]].sum()  # reduceat runs on to the end
        sums[0] += self._open
        self._open = float(energy[edges[-1] :].sum())
        self._blocks.append(sums / (self._rate / BLOCKS_PER_SECOND))

    def _energy(self, samples: np.ndarray) -> np.ndarray:
        """K-weighted energy of every sample, summed over channels [shape=(n,)]."""
        if not self._paired:
            weighted, self._state = scipy.signal.sosfilt(self._sections, samples.astype(np.float64), zi=self._state)
            total: np.ndarray = self._weights @ np.square(weighted, out=weighted)
            return total
        pair = np.empty(samples.shape[1], np.complex128)
        pair.real, pair.imag = samples
        weighted, self._state = scipy.signal.sosfilt(self._sections, pair, zi=self._state)
        squares = weighted.view(np.float64)
        np.square(squares, out=squares)
        return np.asarray(squares[::2] + squares[1::2])

    def finish(self) -> np.ndarray:
        """K-weighted mean squares of the whole 100 ms blocks, [shape=(blocks,), float64]."""
        return np.concatenate(self._blocks) if self._blocks else np.zeros(0)


def _to_lufs(power: np.ndarray | float) -> np.ndarray:
    """Loudness of a K-weighted mean square, LUFS; -inf for 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(_OFFSET + 10.0 * np.log10(power))


def integrated_loudness(blocks: np.ndarray) -> float:
    """Gated loudness of 100 ms blocks, LUFS; NaN when nothing passes the gate (BS.1770-4, equations 5 to 7)."""
    power = _windows(blocks, 4)
    power = power[_to_lufs(power) > _ABSOLUTE_GATE]
    if len(power) == 0:
        return float("nan")
    return float(_to_lufs(power[_to_lufs(power) > _to_lufs(power.mean()) - 10.0].mean()))


def loudness_range_of(blocks: np.ndarray) -> float:
    """Loudness range of 100 ms blocks, LU; NaN when nothing sounds (EBU Tech 3342).

    The absolute gate lies 50 LU below the loudest 3 s where that is lower than -70 LUFS: it is there to leave silence
    out, and a recording that is merely soft reads what it would read turned up.
    """
    power = _windows(blocks, 3 * BLOCKS_PER_SECOND)
    power = power[power > 0.0]
    if len(power) == 0:
        return float("nan")
    loudness = _to_lufs(power)
    heard = loudness >= min(_ABSOLUTE_GATE, loudness.max() - _SOFTEST)
    gate = _to_lufs(power[heard].mean()) - 20.0
    low, high = np.percentile(loudness[heard & (loudness >= gate)], [10.0, 95.0])
    return float(high - low)


def _windows(blocks: np.ndarray, length: int) -> np.ndarray:
    """Means of `length` neighbouring blocks, hop one block."""
    if len(blocks) < length:
        return np.zeros(0)
    return np.lib.stride_tricks.sliding_window_view(blocks, length).mean(axis=1)


# --- fades at the ends of a clip


_USUAL = 60.0  # percentile of the level
_BODY_DB, _DEPTH_DB, _RIPPLE_DB, _LIFT_DB = 3.0, 20.0, 3.0, 50.0
_SHORTEST_CLIP, _SHORTEST, _SMOOTH = 8.0, 1.2, 1.0  # seconds


def fade_lift(power: np.ndarray, frame_rate: float) -> np.ndarray | None:
    """Decibels by which each frame was turned down by a fade in or out, in [0, 50], [shape=(frames,)]; None where there
    is no fade.

    Parameters
    ----------
    power : np.ndarray [shape=(frames,)]
        Non-negative.
    frame_rate : float
        Frames a second.
    """
    if len(power) < _SHORTEST_CLIP * frame_rate or not power.any():
        return None
    size = 2 * round(_SMOOTH * frame_rate / 2) + 1
    smooth = uniform_filter1d(power.astype(np.float64), size, mode="nearest")
    level = 10.0 * np.log10(np.maximum(smooth, float(power.max()) * 1e-10))
    usual = float(np.percentile(level, _USUAL))
    lift = np.zeros(len(level))
    for turn in (slice(None), slice(None, None, -1)):
        _undo(level[turn] - usual, lift[turn], round(_SHORTEST * frame_rate))
    return np.minimum(lift, _LIFT_DB) if lift.any() else None


def _undo(level: np.ndarray, lift: np.ndarray, shortest: int) -> None:
    """Writes into `lift` what a fade out at the end of `level` (dB about the usual one) took."""
    start = int(np.flatnonzero(level >= -_BODY_DB)[-1])
    curve = isotonic_regression(level[start:], increasing=False).x
    deep = np.flatnonzero(curve < -_DEPTH_DB)
    if not len(deep) or deep[0] < shortest:
        return
    audible = curve > -_LIFT_DB
    if np.sqrt(np.mean(np.square(level[start:] - curve)[audible])) < _RIPPLE_DB:
        lift[start:] = np.maximum(-_BODY_DB - curve, 0.0)
