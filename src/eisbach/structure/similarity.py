"""Self-similarity of dB features on an absolute scale.

``S_ij = exp(-d_ij^2 / 2 tau^2)`` with d^2 the mean squared dB difference and tau = 6 dB for every clip. The scale is
fixed on purpose: a similarity normalised by each clip's own spread gives a drone the novelty of music.
"""

from __future__ import annotations

import numpy as np

TAU_DB = 6.0
"""Scale of the similarity kernel, dB."""


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


def lag_similarity(frames: np.ndarray, max_lag: int, tau_db: float = TAU_DB) -> list[np.ndarray]:
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
