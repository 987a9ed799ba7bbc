"""Structureness indicators: fitness of the fittest segment of short, middle and long duration (Wu and Yang 2020, section 4.4).

Conventions: the fitness scape plot (`scape`) of a chroma self-similarity matrix on an absolute scale. Cell (i, j) is the highest
cosine (12 transpositions) of the 2 s window at i with a window within half a cell of j, so that periods off the grid lose nothing;
cosines from `THRESHOLD` to 1 become 0 to 1, all others the penalty -2. The threshold is absolute: a relative one ("the best 20%
of cells") would find repetition in every piece. SI 3-8, 8-15 and 15+ are the largest fitness of a segment of such a length in
seconds; the first two are read on cells of 1 s (a 300th of pieces longer than five minutes), the third and the picture on at most
80 cells (1.5 s for two minutes). An indicator whose lengths are shorter than a cell is undefined.
*Drones*: cells of windows whose chroma stands still (`recurrence.MIN_MOVEMENT`) count 0 at most: a path may cross them and gains nothing,
so a drone has no fitness. This gate sits on the evidence itself, while one on block strength would also silence a tune that repeats in an unchanging timbre.
"""

from __future__ import annotations

import numpy as np

from eisbach.structure.features import Features
from eisbach.structure.once import once_per_clip
from eisbach.structure.recurrence import chroma_recurrence
from eisbach.structure.scape import Scape, fitness_scape

MIN_SECONDS = 24.0
SCAPE_CELLS = 80
"""Cells of the whole scape plot at most."""
FINE_CELLS = 300
"""Cells of the plot that holds lengths up to 15 s only, at most."""
THRESHOLD = 0.7
PENALTY = -2.0
BANDS = {"short": (3.0, 8.0), "mid": (8.0, 15.0), "long": (15.0, float("inf"))}
"""Lengths of segments, seconds: from, up to."""


def enhanced_similarity(features: Features, max_cells: int = SCAPE_CELLS) -> tuple[np.ndarray, float]:
    """The thresholded, penalised chroma similarity, ones on its diagonal, and the seconds a cell.

    Parameters
    ----------
    features : Features
    max_cells : int
        Cells are at least 1 s, and longer where more than this would be needed.

    Returns
    -------
    similarity : np.ndarray [shape=(cells, cells)]
        -2, or 0 to 1.
    step_seconds : float
    """
    recurrence = chroma_recurrence(features)
    count = len(recurrence.cosine)
    per_cell = max(round(recurrence.rate), -(-count // max_cells), 1)
    cells = np.arange(0, count, per_cell)
    cosine = np.where(recurrence.moving, recurrence.cosine[cells], np.minimum(recurrence.cosine[cells], THRESHOLD))
    cosine[~recurrence.moving[cells]] = np.minimum(cosine[~recurrence.moving[cells]], THRESHOLD)
    similarity = cosine[:, cells]
    for offset in range(-(per_cell // 2), per_cell // 2 + 1):
        near = cells + offset
        inside = (near >= 0) & (near < count)
        similarity[:, inside] = np.maximum(similarity[:, inside], cosine[:, near[inside]])
    similarity = np.minimum(np.maximum(similarity, similarity.T), 1.0).astype(np.float64)
    enhanced = np.where(similarity >= np.float32(THRESHOLD), (similarity - THRESHOLD) / (1.0 - THRESHOLD), PENALTY)
    np.fill_diagonal(enhanced, 1.0)
    return enhanced, per_cell / recurrence.rate


@once_per_clip
def clip_scape(features: Features) -> Scape:
    """The whole fitness scape plot of a clip; 0 x 0 when it is shorter than one window."""
    similarity, step = enhanced_similarity(features)
    return fitness_scape(similarity, step_seconds=step)


@once_per_clip
def _fine_scape(features: Features) -> Scape:
    similarity, step = enhanced_similarity(features, FINE_CELLS)
    shortest, longest = (int(BANDS[band][end] / step + 1e-9) for band, end in (("short", 0), ("mid", 1)))
    return fitness_scape(similarity, step_seconds=step, shortest=shortest, longest=longest)


def structureness(features: Features, band: str) -> float:
    """The indicator of "short" (3-8 s), "mid" (8-15 s) or "long" (15 s and more) segments, 0-1; NaN where no such length fits."""
    scape = clip_scape(features) if band == "long" else _fine_scape(features)
    if scape.step_seconds > BANDS[band][0]:
        return float("nan")
    value = scape.best(*BANDS[band])
    return value if np.isnan(value) else min(1.0, max(0.0, value))


def structureness_short(features: Features) -> float:
    """SI 3-8 s."""
    return structureness(features, "short")


def structureness_mid(features: Features) -> float:
    """SI 8-15 s."""
    return structureness(features, "mid")


def structureness_long(features: Features) -> float:
    """SI 15+ s."""
    return structureness(features, "long")
