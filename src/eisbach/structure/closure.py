"""Closure: whether a piece ends where it began.

Conventions: the texture distance (RMS dB) between the first and the last tenth of the piece, over the median distance between
all pairs of textures. 0 is a full circle, 1 an end as far from the start as any two moments, above 1 an arrival elsewhere.
A piece that does not move (median under 1 dB) has no value (NaN).
"""

from __future__ import annotations

import numpy as np

from eisbach.structure.features import Features
from eisbach.structure.invariances import Invariances
from eisbach.structure.similarity import squared_distances

MIN_SECONDS = 12.0
_MIN_MEDIAN_DB = 1.0
_MAX_WINDOWS = 1200  # ten minutes; longer clips are thinned evenly for the median, which keeps it


def closure(features: Features) -> float:
    """Start-to-end distance over the median pairwise distance, >= 0; NaN when the texture stands still."""
    texture = features.texture
    tenth = max(1, round(len(texture) / 10))
    thinned = texture[:: -(-len(texture) // _MAX_WINDOWS)]
    distances = np.sqrt(squared_distances(thinned))
    median = float(np.median(distances[np.triu_indices(len(thinned), k=1)]))
    if median < _MIN_MEDIAN_DB:
        return float("nan")
    ends = texture[:tenth].mean(axis=0) - texture[-tenth:].mean(axis=0)
    return float(np.sqrt(np.mean(ends**2)) / median)


INVARIANCES = Invariances(sample_rate=0.0, codec=0.15, noise_floor=0.1)
