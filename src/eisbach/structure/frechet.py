"""Fréchet distance between two sets of clips, on texture statistics.

A clip becomes 64 numbers: the mean and the standard deviation over time of its 32 texture dimensions (dB). Two sets are
compared as Gaussians (Dowson & Landau 1982; Heusel et al. 2017): ``|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a
C_b)^(1/2))``. With fewer clips than a covariance needs, the sample covariance is singular and the distance badly
biased: each covariance is shrunk towards a scaled identity with the intensity of Ledoit & Wolf (2004), which vanishes
as the set grows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eisbach.errors import AudioError, UserError
from eisbach.structure.features import TEXTURE_WINDOW, extract_features
from eisbach.types import Waveform

EMBEDDING_SIZE = 64


def texture_embedding(waveform: Waveform) -> np.ndarray:
    """Mean and standard deviation over time of the texture, dB, [shape=(64,), float64].

    Raises
    ------
    AudioError
        Empty, non-finite or silent audio, or less than 2 s of it.
    """
    texture = extract_features(waveform).texture
    if len(texture) == 0:
        raise AudioError(f"a texture needs at least {TEXTURE_WINDOW:g} s of sound; use a longer, non-silent clip.")
    return np.concatenate([texture.mean(axis=0), texture.std(axis=0)])


def shrunk_covariance(rows: np.ndarray) -> np.ndarray:
    """Ledoit–Wolf covariance, [shape=(d, d)], of rows [shape=(n, d)], n >= 2."""
    n, d = rows.shape
    centred = rows - rows.mean(axis=0)
    # The target is a sphere of the same trace; the intensity is noise over spread, both in squared Frobenius norm.
    sample = centred.T @ centred / n
    scale = np.trace(sample) / d
    spread = float(np.sum((sample - scale * np.eye(d)) ** 2))
    if spread <= 0.0:
        return sample
    # mean over rows of |x x^T - S|^2 = |x|^4 - 2 x^T S x + |S|^2
    fourth = np.sum(centred**2, axis=1) ** 2
    mixed = np.einsum("ij,jk,ik->i", centred, sample, centred)
    noise = float(np.mean(fourth - 2.0 * mixed + np.sum(sample**2))) / n
    intensity = min(1.0, max(0.0, noise / spread))
    return (1.0 - intensity) * sample + intensity * scale * np.eye(d)


def _square_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def gaussian_frechet(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """Squared Fréchet distance of two Gaussians, >= 0.

    The trace of the square root is taken over the eigenvalues of the symmetric ``A^(1/2) B A^(1/2)``, which stays real
    where a general matrix square root of a near-singular product turns complex.
    """
    root = _square_root(covariance_a)
    inner = root @ covariance_b @ root
    eigenvalues = np.maximum(np.linalg.eigvalsh(0.5 * (inner + inner.T)), 0.0)
    difference = mean_a - mean_b
    trace = np.trace(covariance_a) + np.trace(covariance_b) - 2.0 * np.sqrt(eigenvalues).sum()
    return float(max(0.0, difference @ difference + trace))


def texture_frechet(a: Sequence[Waveform] | np.ndarray, b: Sequence[Waveform] | np.ndarray) -> float:
    """Fréchet distance of two sets of clips on texture statistics, dB^2, >= 0.

    Parameters
    ----------
    a, b : sequence of Waveform, or np.ndarray [shape=(clips, d)]
        At least two clips a set; arrays hold embeddings (`texture_embedding`). Use clips of equal length and sets of
        equal size where distances are to be compared: the distance is biased upward in small sets.

    Raises
    ------
    UserError
        Fewer than two clips, non-finite embeddings, or embeddings of different sizes.
    """
    sets = [_embeddings(clips, name) for clips, name in ((a, "first"), (b, "second"))]
    if sets[0].shape[1] != sets[1].shape[1]:
        raise UserError(
            f"the embeddings have {sets[0].shape[1]} and {sets[1].shape[1]} dimensions; compare equal ones."
        )
    moments = [(rows.mean(axis=0), shrunk_covariance(rows)) for rows in sets]
    return gaussian_frechet(*moments[0], *moments[1])


def _embeddings(clips: Sequence[Waveform] | np.ndarray, name: str) -> np.ndarray:
    rows = clips if isinstance(clips, np.ndarray) else [texture_embedding(clip) for clip in clips]
    array = np.asarray(rows, dtype=np.float64)
    if array.ndim != 2 or len(array) < 2:
        raise UserError(f"the {name} set holds {len(clips)} clip(s); a Fréchet distance needs at least two a set.")
    if not np.isfinite(array).all():
        raise UserError(f"the {name} set holds non-finite embeddings; leave out the clips that cannot be analysed.")
    return array
