"""Texture: how many different sounds a piece visits, how far they lie apart, and how clear its tones are.

*Textural Vendi* (Friedman & Dieng 2023): the exponential of the von Neumann entropy of S / N, S the texture's
self-similarity matrix. 1 is one unchanging texture. It grows with length: compare clips of equal length only.

*Trajectory coverage*: the texture (2 s windows, 0.5 s hop) is projected on its first two principal components, in RMS
dB (a distance of 1 is a mean difference of 1 dB over the 32 dimensions, as in the pictures); the value is the square
root of the area of the convex hull, so that it is a length in dB. Windows of 2 s average out the play of single notes,
with which a short loop fills half the plane of *raw* frames (`paper.pca_coverage`).

*Spectral contrast* (Jiang et al. 2002): in seven octave bands (30 Hz to 10 kHz) of a 0.37 s spectrum the mean of the
strongest 2% of bins over the mean of the weakest 2%, in dB; averaged over bands and over the frames within 40 dB of the
loudest. Clear tones give high values, noise 27 dB (the ratio of the 2% tails of the exponential distribution). It looks
at every moment by itself: it says nothing of form.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

from eisbach.structure.features import Features
from eisbach.structure.metrics.base import Invariances, Metric
from eisbach.structure.similarity import self_similarity

_MAX_WINDOWS = 400  # eigenvalues cost n^3: longer clips are thinned evenly, which keeps S / N's spectrum


def vendi_score(similarity: np.ndarray) -> float:
    """exp(-sum p ln p) over the eigenvalues p of similarity / n, in [1, n]."""
    eigenvalues = scipy.linalg.eigvalsh(similarity / len(similarity))
    p = eigenvalues[eigenvalues > 1e-12]
    p = p / p.sum()
    return float(np.exp(-np.sum(p * np.log(p))))


def textural_vendi(features: Features) -> float:
    """Effective number of textures, at least 1."""
    stride = -(-len(features.texture) // _MAX_WINDOWS)
    return vendi_score(self_similarity(features.texture[::stride]))


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
    values, vectors = np.linalg.eigh(centred.T @ centred)  # ascending
    return centred @ vectors[:, :-3:-1] / np.sqrt(frames.shape[1]), _shares(values)


def principal_shares(frames: np.ndarray) -> np.ndarray:
    """The shares of `principal_plane` alone."""
    centred = np.asarray(frames, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    return _shares(np.linalg.eigvalsh(centred.T @ centred))


def _shares(values: np.ndarray) -> np.ndarray:
    """Of the total, descending, from ascending eigenvalues; all zero where nothing varies."""
    total = max(float(values.sum()), 0.0)
    return np.maximum(values[::-1], 0.0) / total if total > 0 else np.zeros(len(values))


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


def spectral_contrast(features: Features) -> float:
    """Mean contrast over bands and active frames, dB, in [0, 80]; NaN when no frame is active."""
    active = features.contrast_db[~np.isnan(features.contrast_db[:, 0])]
    return float(active.mean(dtype=np.float64)) if len(active) else float("nan")


TEXTURAL_VENDI = Metric(
    name="textural_vendi",
    label="Textural Vendi",
    unit="textures",
    range=(1.0, float("inf")),
    higher_means="more different textures",
    family="texture",
    min_seconds=6.0,
    function=textural_vendi,
    primary=True,
    invariances=Invariances(codec=0.5, noise_floor=0.8),
)
SPECTRAL_CONTRAST = Metric(
    name="spectral_contrast",
    label="Spectral contrast",
    unit="dB",
    range=(0.0, 80.0),
    higher_means="tones that stand out more from what lies between them",
    family="texture",
    min_seconds=3.0,
    function=spectral_contrast,
    invariances=Invariances(length=2.0),  # its valleys are the first thing that hiss and codecs fill
)
TRAJECTORY_COVERAGE = Metric(
    name="trajectory_coverage",
    label="Trajectory coverage",
    unit="dB",
    range=(0.0, 80.0),
    higher_means="a wider area of textures walked through",
    family="texture",
    min_seconds=6.0,
    function=trajectory_coverage,
    invariances=Invariances(codec=1.0, noise_floor=1.5),
)
