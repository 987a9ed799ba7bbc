"""The Fréchet distance of two Gaussians, and what a clip is for it: its texture's statistics.

A clip becomes 64 numbers: the mean and the standard deviation over time of its 32 texture dimensions (dB). Two sets are
compared as Gaussians (Dowson & Landau 1982; Heusel et al. 2017): ``|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a
C_b)^(1/2))``. With fewer clips than a covariance needs, the sample covariance is singular and the distance badly
biased: each covariance is shrunk towards a scaled identity with the intensity of Ledoit & Wolf (2004), which vanishes
as the set grows.
"""

from __future__ import annotations

import numpy as np

from eisbach.errors import AudioError
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
