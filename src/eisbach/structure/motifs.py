"""Motif coverage: the share of a piece whose melody and harmony are heard again elsewhere in it.

Conventions: those of the motif map (`motif_map`): 4 s windows of chroma, any of 12 transpositions, a cosine of at least 0.88, matches
that do not overlap, and a movement gate, without which a drone would be one long motif. A piece's coverage is the share of its
chroma frames that lie inside a recurring window.
"""

from __future__ import annotations

import numpy as np

from eisbach.structure.features import CHROMA_RATE, Features
from eisbach.structure.motif_map import motif_map

MIN_SECONDS = 12.0


def motif_coverage(features: Features) -> float:
    """Share of the frames that lie in a moving window which recurs, in [0, 1]; NaN under one window."""
    found = motif_map(features)
    if len(found.start) == 0:
        return float("nan")
    count, length = len(features.chroma), round(found.window_seconds * CHROMA_RATE)
    starts = np.round(found.start[found.recurs] * CHROMA_RATE).astype(int)
    covered = np.zeros(count + 1)
    np.add.at(covered, starts, 1.0)
    np.add.at(covered, starts + length, -1.0)
    return float((np.cumsum(covered)[:-1] > 0.5).mean())
