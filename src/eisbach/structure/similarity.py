"""Where a piece resembles itself: texture on an absolute dB scale, and chroma windows over transpositions.

*Texture*: ``S_ij = exp(-d_ij^2 / 2 tau^2)`` with d^2 the mean squared dB difference and tau = 6 dB for every clip. The
scale is fixed on purpose: a similarity normalised by each clip's own spread gives a drone the novelty of music.

*Chroma*: frames have their mean over the 12 classes removed, so the cosine of two windows compares shapes and not the
fact that energy is positive. Cell (i, j) is the highest cosine of the windows that begin at frames i and j, over 12
transpositions. *Movement gate*: a window in which the harmony stands still carries no tune; such windows are marked,
and no metric takes them for evidence (without the gate a drone would repeat itself everywhere). Long pieces are pooled
to at most `MAX_FRAMES` frames, so the matrix is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d

from eisbach.structure.features import CHROMA_RATE, TUNE_RATE, Features, once_per_clip

TAU_DB = 6.0
"""Scale of the similarity kernel, dB."""
MAX_FRAMES = 1200
"""Rows and columns of the matrix at most: 4 frames a second up to five minutes, fewer in longer pieces."""
WINDOW_SECONDS = 2.0
_MIN_FRAMES = 8  # a window never has fewer frames than this, whatever the pooling
MIN_MOVEMENT = 0.15
"""Share of a window's (centred, level-free) chroma energy that must change within the window."""
_MIN_TONALITY = 0.65
"""Length of a frame's centred chroma over its mean, averaged over a window. Tunes read 0.7 to 6, noise under 0.56."""
_STATIC_WEIGHT = 0.5
"""What a window's mean chroma counts for beside its changes: two passages over the same held chord are no repeat of
each other."""
MIN_COSINE = 0.88
"""A window recurs from here on. Repeats off the frame grid read 0.89 to 0.97, chance matches of other tunes under 0.86
(99%)."""
_TUNE_SECONDS = 8.0
"""Window of `tune_recurrence`."""
_TEMPO = 0.06
_GROUND_SECONDS = 4.0  # what stays longer than this is the ground under a tune
_SILENT = 1e-3  # chroma frames weaker than this share of the clip's maximum carry no pitch


def squared_distances(frames: np.ndarray) -> np.ndarray:
    """Mean squared difference of every pair of rows, by one matrix product, [shape=(n, n), dB^2].

    Parameters
    ----------
    frames : np.ndarray [shape=(n, d)]
        dB features.
    """
    centred = np.asarray(frames, dtype=np.float64)
    centred = centred - centred.mean(axis=0, keepdims=True)  # keeps the cancellation in |a|^2 + |b|^2 - 2ab small
    norms = np.einsum("ij,ij->i", centred, centred)
    squared = norms[:, None] + norms[None, :] - 2.0 * (centred @ centred.T)
    np.fill_diagonal(squared, 0.0)
    return np.maximum(squared, 0.0) / frames.shape[1]


def self_similarity(frames: np.ndarray, tau_db: float = TAU_DB) -> np.ndarray:
    """Similarities in (0, 1] of every pair of rows, ones on the diagonal, [shape=(n, n)]."""
    return np.exp(squared_distances(frames) / (-2.0 * tau_db**2))


def lagged_similarity(frames: np.ndarray, max_lag: int, tau_db: float = TAU_DB) -> list[np.ndarray]:
    """For every lag 1 … `max_lag` frames, the similarity of frame t with frame t + lag, [shape=(n - lag,)] each.

    The band of the self-similarity matrix that a search for loops needs, without the matrix.
    """
    frames = np.asarray(frames, dtype=np.float32)
    band = []
    for lag in range(1, min(max_lag, len(frames) - 1) + 1):
        difference = frames[lag:] - frames[:-lag]
        squared = np.einsum("ij,ij->i", difference, difference) / frames.shape[1]
        band.append(np.exp(squared / (-2.0 * tau_db**2)))
    return band


@dataclass(frozen=True)
class Recurrence:
    """Similarity of every pair of chroma windows.

    Attributes
    ----------
    cosine : np.ndarray [shape=(windows, windows), float32]
        Symmetric, in [-1, 1]; 0 where either window is silent.
    moving : np.ndarray of bool [shape=(windows,)]
        False for windows that stand still.
    rate : float
        Windows (and chroma frames) a second.
    length : int
        Frames a window.
    """

    cosine: np.ndarray
    moving: np.ndarray
    rate: float
    length: int


def chroma_windows(chroma: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit window vectors and their movement.

    Parameters
    ----------
    chroma : np.ndarray [shape=(frames, 12)]
        Non-negative, unit maximum.
    length : int
        Frames a window.

    Returns
    -------
    vectors : np.ndarray [shape=(frames - length + 1, length, 12), float32]
        Centred over classes, unit norm over (length, 12); zero where silent.
    movement : np.ndarray [shape=(frames - length + 1,)]
        1 - |mean direction|^2 of the window's frames: 0 for a held chord, towards 1 for ever new ones; 0 for noise,
        whose chroma has no shape (`_MIN_TONALITY`).
    """
    centred = chroma - chroma.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.where(norms > _SILENT, centred / np.maximum(norms, _SILENT), 0.0)
    views = np.lib.stride_tricks.sliding_window_view(centred, length, axis=0).transpose(0, 2, 1)
    vectors = _unit_windows(views, _STATIC_WEIGHT)
    sums = np.concatenate([np.zeros((1, 12)), unit.cumsum(axis=0)])
    mean_direction = (sums[length:] - sums[:-length]) / length
    tonality = norms[:, 0] / np.maximum(chroma.mean(axis=1), _SILENT)
    tonal = np.convolve(tonality, np.full(length, 1.0 / length), mode="valid") >= _MIN_TONALITY
    return vectors, np.where(tonal, 1.0 - np.sum(mean_direction**2, axis=1), 0.0)


def _unit_windows(windows: np.ndarray, static: float) -> np.ndarray:
    """Unit vectors of windows of centred frames [shape=(n, length, 12)], each window's own mean counting
    `static`; zero where silent."""
    silent = np.linalg.norm(windows, axis=(1, 2), keepdims=True) <= _SILENT
    moved = windows - (1.0 - static) * windows.mean(axis=1, keepdims=True)
    size = np.linalg.norm(moved, axis=(1, 2), keepdims=True)
    heard = ~silent & (size > _SILENT * _STATIC_WEIGHT)
    return np.where(heard, moved / np.maximum(size, _SILENT), 0.0).astype(np.float32)


def half_later_scale(vectors: np.ndarray) -> np.ndarray:
    """What turns the sum of a window and the next into the unit window that begins half a frame later; the last one
    stays where it is. [shape=(n,), float32], 0 where silent."""
    between = vectors.copy()
    between[:-1] += vectors[1:]
    norms = np.linalg.norm(between, axis=(1, 2))
    return np.where(norms > _SILENT, 1.0 / np.maximum(norms, _SILENT), 0.0).astype(np.float32)


def half_later(products: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Products with the windows that begin half a frame later (linear interpolation), from those with the windows
    themselves [shape=(m, n)] and `half_later_scale`: a sum of neighbours, where a matrix product would cost as much as
    the first."""
    between = products.copy()
    between[:, :-1] += products[:, 1:]
    between *= scale
    return between


def _pool_chroma(chroma: np.ndarray, rate: float, most: int = MAX_FRAMES) -> tuple[np.ndarray, float]:
    """Chroma of `rate` frames a second with at most `most` of them (means of neighbours), and its frames a second."""
    factor = max(1, -(-len(chroma) // most))
    whole = len(chroma) // factor
    return chroma[: whole * factor].reshape(whole, factor, 12).mean(axis=1), rate / factor


@once_per_clip
def chroma_recurrence(features: Features) -> Recurrence:
    """The recurrence matrix of a clip's chroma; empty when the clip is shorter than a window."""
    chroma, rate = _pool_chroma(features.chroma, CHROMA_RATE)
    length = max(round(WINDOW_SECONDS * rate), _MIN_FRAMES)
    if len(chroma) < length + 1:
        return Recurrence(np.zeros((0, 0), np.float32), np.zeros(0, dtype=bool), rate, length)
    vectors, movement = chroma_windows(chroma, length)
    count = len(vectors)
    flat = vectors.reshape(count, -1)
    # the same windows half a frame later: a period that does not divide the frame grid then is at most a quarter of a
    # frame off
    scale = half_later_scale(vectors)
    cosine = flat @ flat.T
    np.maximum(cosine, half_later(cosine, scale), out=cosine)
    for shift in range(1, 7):
        product = flat @ np.roll(vectors, shift, axis=2).reshape(count, -1).T
        np.maximum(cosine, product, out=cosine)
        np.maximum(cosine, half_later(product, scale), out=cosine)
        if shift < 6:  # a transposition up is another pair's transposition down
            np.maximum(cosine, half_later(product.T, scale), out=cosine)
    np.maximum(cosine, cosine.T, out=cosine)
    return Recurrence(cosine, movement >= MIN_MOVEMENT, rate, length)


@dataclass(frozen=True)
class TuneRecurrence:
    """Where a tune is heard again, whatever plays it: likeness of every pair of tune windows in every transposition.

    Attributes
    ----------
    cosine : np.ndarray [shape=(12, windows, windows), float32]
        Cell (k, i, j): window i, k semitones higher, against window j at the same tempo or up to 6% off it; 0 where
        either window is silent or its harmony stands still.
    tune : np.ndarray [shape=(frames, 12)]
        The frames that the windows are of, centred over classes.
    rate : float
        Windows a second.
    length : int
        Frames a window.
    """

    cosine: np.ndarray
    tune: np.ndarray
    rate: float
    length: int


def tune_recurrence(features: Features) -> TuneRecurrence:
    """The recurrence of a clip's tune in windows of 8 s; empty when the clip is shorter than two of them."""
    tune, rate = _pool_chroma(features.tune, TUNE_RATE)
    length = max(round(_TUNE_SECONDS * rate), _MIN_FRAMES)
    centred = tune - tune.mean(axis=1, keepdims=True)
    if len(tune) < 2 * length:
        return TuneRecurrence(np.zeros((12, 0, 0), np.float32), centred, rate, length)
    _, movement = chroma_windows(tune, length)
    # a change of chord in the same place is no tune, and a fast tune's notes are many tunes': what moves quickly counts
    moving = centred - uniform_filter1d(centred, 2 * round(0.5 * _GROUND_SECONDS * rate) + 1, axis=0, mode="nearest")
    vectors = _unit_windows(np.lib.stride_tricks.sliding_window_view(moving, length, axis=0).transpose(0, 2, 1), 0.0)
    still, count = movement < MIN_MOVEMENT, len(vectors)
    # the same windows played slower and faster, each about its own middle
    steps = np.arange(length) - 0.5 * (length - 1)
    candidates = [vectors]
    for tempo in (1.0 - _TEMPO, 1.0 + _TEMPO):
        times = (np.arange(count)[:, None] + 0.5 * (length - 1) + tempo * steps).ravel()
        other = np.stack([np.interp(times, np.arange(len(tune)), column) for column in moving.T], axis=1)
        candidates.append(_unit_windows(other.reshape(count, length, 12), 0.0))
    for windows in candidates:
        windows[still] = 0.0
    flat = [windows.reshape(count, -1).T for windows in candidates]
    cosine = np.empty((12, count, count), np.float32)
    for semitones in range(12):
        question = np.roll(vectors, semitones, axis=2).reshape(count, -1)
        np.matmul(question, flat[0], out=cosine[semitones])
        for stretched in flat[1:]:
            np.maximum(cosine[semitones], question @ stretched, out=cosine[semitones])
    return TuneRecurrence(cosine, centred, rate, length)
