"""Motif coverage: the share of a piece whose melody and harmony are heard again elsewhere in it.

Conventions: chroma at 4 Hz, windows of 4 s, hop one frame. Every frame has its mean over the 12 classes removed, so the
cosine of two windows compares shapes and not the fact that energy is positive. A window *recurs* when some window that
does not overlap it matches, under one of 12 transpositions, with a cosine of at least 0.9. *Movement gate*: a window in
which the harmony stands still carries no motif and cannot recur; without it a drone would be one long motif.
A piece's coverage is the share of its frames that lie inside a recurring window.
"""

from __future__ import annotations

import numpy as np

from eisbach.structure.features import CHROMA_RATE, Features
from eisbach.structure.synthetic import Ladder, motif_share

MIN_SECONDS = 12.0
WINDOW_SECONDS = 4.0
MIN_COSINE = 0.9
MIN_MOVEMENT = 0.15
"""Share of a window's (centred, level-free) chroma energy that must change within the window."""

_SILENT = 1e-3  # chroma frames weaker than this share of the clip's maximum carry no pitch


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
        1 - |mean direction|^2 of the window's frames: 0 for a held chord, towards 1 for ever new ones.
    """
    centred = chroma - chroma.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.where(norms > _SILENT, centred / np.maximum(norms, _SILENT), 0.0)
    view = np.lib.stride_tricks.sliding_window_view(centred, length, axis=0).transpose(0, 2, 1)
    size = np.linalg.norm(view, axis=(1, 2), keepdims=True)
    vectors = np.where(size > _SILENT, view / np.maximum(size, _SILENT), 0.0).astype(np.float32)
    sums = np.concatenate([np.zeros((1, 12)), unit.cumsum(axis=0)])
    mean_direction = (sums[length:] - sums[:-length]) / length
    return vectors, 1.0 - np.sum(mean_direction**2, axis=1)


def best_matches(vectors: np.ndarray, min_lag: int) -> np.ndarray:
    """Highest cosine of each window with any window at least `min_lag` away, over 12 transpositions, [shape=(n,)]."""
    n, length, _ = vectors.shape
    flat = vectors.reshape(n, length * 12)
    apart = np.abs(np.arange(n)[:, None] - np.arange(n)[None, :]) >= min_lag
    best = np.full(n, -1.0)
    for shift in range(12):
        moved = np.roll(vectors, shift, axis=2).reshape(n, length * 12)
        cosine = np.where(apart, flat @ moved.T, -1.0)
        best = np.maximum(best, cosine.max(axis=1))
    return best


def motif_coverage(features: Features) -> float:
    """Share of the frames that lie in a moving window which recurs, in [0, 1]."""
    length = round(WINDOW_SECONDS * CHROMA_RATE)
    vectors, movement = chroma_windows(features.chroma, length)
    recurs = (best_matches(vectors, length) >= MIN_COSINE) & (movement >= MIN_MOVEMENT)
    covered = np.zeros(len(features.chroma) + 1)
    starts = np.flatnonzero(recurs)
    np.add.at(covered, starts, 1.0)
    np.add.at(covered, starts + length, -1.0)
    return float((np.cumsum(covered)[:-1] > 0.5).mean())


LADDER = Ladder((0.0, 0.25, 0.5, 0.75, 1.0), motif_share)
"""Share of the sections that are heard twice."""
