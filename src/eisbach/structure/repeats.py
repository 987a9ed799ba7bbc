"""Longest repeat: how long a passage returns at most.

Conventions: the longest diagonal of the chroma recurrence matrix (`recurrence`), in seconds: two passages, at least `MIN_LAG`
seconds apart, that match window by window (2 s, any transposition, cosine of at least `recurrence.MIN_COSINE`). The passages may overlap, so a loop
repeats itself for its whole length less one period. *Tolerances*: from one frame to the next the lag may change by one frame
(0.25 s; periods that do not divide the frame grid, and small changes of tempo), and gaps of up to half a second are bridged (an ornament,
a smeared onset). Held chords and drones carry no tune and repeat for 0 s.
"""

from __future__ import annotations

import numpy as np

from eisbach.structure.features import Features
from eisbach.structure.once import once_per_clip
from eisbach.structure.recurrence import MIN_COSINE, chroma_recurrence
from eisbach.structure.synthetic import Ladder
from eisbach.structure.synthetic_forms import repeated_stretch

MIN_SECONDS = 12.0
MIN_LAG = 2.0
MAX_GAP = 0.5  # seconds


def longest_diagonal(matches: np.ndarray, min_lag: int, max_gap: int) -> tuple[int, int, int]:
    """Length, first row and lag (column less row) of the longest diagonal above the main one; zeros when there is none.

    Parameters
    ----------
    matches : np.ndarray of bool [shape=(n, n)]
    min_lag : int
        Smallest distance from the main diagonal.
    max_gap : int
        Misses in a row that a diagonal survives; it always ends on a match.
    """
    n = len(matches)
    if n <= min_lag:
        return 0, 0, 0
    lags = n - min_lag
    run = np.zeros(lags + 2, dtype=np.int64)  # one slot of padding on either side
    missed = np.zeros(lags + 2, dtype=np.int64)
    first = np.zeros(lags + 2, dtype=np.int64)
    best = (0, 0, 0)
    for row in range(n - min_lag):
        hit = np.zeros(lags, dtype=bool)
        hit[: n - min_lag - row] = matches[row, row + min_lag :]
        own, above, below = run[1:-1], run[2:], run[:-2]
        offset = np.where(above > np.maximum(own, below), 1, np.where(below > own, -1, 0))
        source = np.arange(1, lags + 1) + offset
        length, gap, start = run[source], missed[source], first[source]
        gap = np.where(hit, 0, gap + 1)
        alive = (hit | (gap <= max_gap)) & (hit | (length > 0))
        start = np.where(length > 0, start, row)
        run[1:-1] = np.where(alive, length + 1, 0)
        missed[1:-1], first[1:-1] = gap, start
        reached = np.where(hit, run[1:-1], 0)
        top = int(reached.argmax())
        if reached[top] > best[0]:
            best = (int(reached[top]), int(start[top]), top + min_lag)
    return best


@once_per_clip
def longest_repeat_span(features: Features) -> tuple[float, float, float]:
    """Length, start and lag of the longest repeat, seconds from the start of the analysed stretch."""
    recurrence = chroma_recurrence(features)
    rate = recurrence.rate
    min_lag = max(round(MIN_LAG * rate), 1)
    length, start, lag = longest_diagonal(recurrence.cosine >= MIN_COSINE, min_lag, round(MAX_GAP * rate))
    if length == 0:
        return 0.0, 0.0, 0.0
    return (length - 1 + recurrence.length) / rate, start / rate, lag / rate


def longest_repeat(features: Features) -> float:
    """Seconds of the longest passage that is heard again; 0 when nothing comes back."""
    return longest_repeat_span(features)[0]


LADDER = Ladder((0.0, 4.0, 8.0, 12.0, 16.0, 24.0), repeated_stretch)
"""Length of the one passage that is heard twice, seconds."""
