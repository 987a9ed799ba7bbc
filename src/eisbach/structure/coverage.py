"""Trajectory coverage: how large an area a piece walks through in the plane of its own two main directions of texture.

Conventions: the texture (2 s windows, 0.5 s hop) is projected on its first two principal components, in RMS dB (a distance of 1 is a
mean difference of 1 dB over the 32 dimensions, as in the pictures); the value is the square root of the area of the convex hull, so
that it is a length in dB. Windows of 2 s average out the play of single notes, with which a short loop fills half the plane of
*raw* frames (`paper.pca_coverage`).
"""

from __future__ import annotations

import numpy as np

from eisbach.structure.features import Features
from eisbach.structure.invariances import Invariances

MIN_SECONDS = 6.0


def principal_plane(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Projection on the first two principal components, and the share of variance of every component.

    Parameters
    ----------
    frames : np.ndarray [shape=(n, d)]
        dB features.

    Returns
    -------
    points : np.ndarray [shape=(n, 2)]
        RMS dB: Euclidean distance over the square root of d.
    shares : np.ndarray [shape=(d,)]
        Descending, summing to 1; all zero when nothing varies.
    """
    centred = np.asarray(frames, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    total = max(float(values.sum()), 0.0)
    shares = np.maximum(values[::-1], 0.0) / total if total > 0 else np.zeros(len(values))
    return centred @ vectors[:, :-3:-1] / np.sqrt(frames.shape[1]), shares


def hull_area(points: np.ndarray) -> float:
    """Area of the convex hull of points in the plane [shape=(n, 2)]; 0 when they lie on a line."""
    from scipy.spatial import ConvexHull, QhullError

    span = np.ptp(points, axis=0) if len(points) else np.zeros(2)
    if len(points) < 3 or span.min() <= 1e-9 * max(1.0, span.max()):
        return 0.0
    try:
        return float(ConvexHull(points).volume)  # in two dimensions the volume is the area
    except QhullError:
        return 0.0


def trajectory_coverage(features: Features) -> float:
    """Square root of the hull's area in the plane of textures, dB, at least 0."""
    return float(np.sqrt(hull_area(principal_plane(features.texture)[0])))


INVARIANCES = Invariances(sample_rate=0.0, codec=1.0, noise_floor=1.5)
