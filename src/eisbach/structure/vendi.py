"""Textural Vendi score: the effective number of different textures that a piece visits.

Conventions: the exponential of the von Neumann entropy of S / N (Friedman & Dieng 2023), S the texture's
self-similarity matrix. 1 is one unchanging texture. It grows with length, so compare clips of equal length only.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

from eisbach.structure.features import Features
from eisbach.structure.invariances import Invariances
from eisbach.structure.similarity import self_similarity

MIN_SECONDS = 6.0
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


INVARIANCES = Invariances(sample_rate=0.0, codec=0.5, noise_floor=0.8)
