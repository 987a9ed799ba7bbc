"""Longest repeat: how long a passage returns at most.

Conventions: the longest diagonal of the chroma recurrence matrix (`recurrence`), in seconds: two passages, at least `MIN_LAG`
seconds apart, that match window by window (2 s, any transposition, cosine of at least `recurrence.MIN_COSINE`). The passages may overlap, so a loop
repeats itself for its whole length less one period. *Tolerances*: from one frame to the next the lag may change by one frame
(0.25 s; periods that do not divide the frame grid, and small changes of tempo), and gaps of up to half a second are bridged (an ornament,
a smeared onset). *Movement gate*: in a quarter of a repeat at least the harmony has to move; held chords and drones repeat for 0 s.
"""

from __future__ import annotations

import numpy as np

from eisbach.structure.features import Features
from eisbach.structure.once import once_per_clip
from eisbach.structure.recurrence import MIN_COSINE, chroma_recurrence

MIN_SECONDS = 12.0
MIN_LAG = 2.0
MAX_GAP = 0.5  # seconds


def longest_diagonal(
    matches: np.ndarray, min_lag: int, max_gap: int, moving: np.ndarray | None = None
) -> tuple[int, int, int]:
    """Length, first row and lag (column less row, at its end) of the longest diagonal above the main one; zeros for none.

    Parameters
    ----------
    matches : np.ndarray of bool [shape=(n, n)]
    min_lag : int
        Smallest distance from the main diagonal.
    max_gap : int
        Misses in a row that a diagonal survives; it always ends on a match.
    moving : np.ndarray of bool [shape=(n,)] or None
        Rows that are evidence; a diagonal counts when at least a quarter of its rows are. None: all are.
    """
    n = len(matches)
    lags = n - min_lag
    best = (0, 0, 0)
    if lags <= 0:
        return best
    evidence = np.ones(n, dtype=bool) if moving is None else moving
    # one row a property of the diagonal that ends at each lag: length, misses at its end, first row, moving rows; padded by one
    state = np.zeros((4, lags + 2), dtype=np.int32)
    places = np.arange(1, lags + 1)
    for row in range(lags):
        hit = np.zeros(lags, dtype=bool)
        hit[: lags - row] = matches[row, row + min_lag :]
        run = state[0]
        if not hit.any() and not run.any():
            continue
        own, above, below = run[1:-1], run[2:], run[:-2]
        step = np.where((above > own) & (above >= below), 1, np.where(below > own, -1, 0))
        length, gap, first, moved = state[:, places + step]
        gap = np.where(hit, 0, gap + 1)
        alive = hit | ((gap <= max_gap) & (length > 0))
        first = np.where(length > 0, first, row)
        length = (length + 1) * alive
        moved = (moved + (hit & evidence[row])) * alive
        state[:, 1:-1] = length, gap, first, moved
        counted = np.where(hit & (4 * moved >= length), length, 0)
        top = int(counted.argmax())
        if counted[top] > best[0]:
            best = (int(counted[top]), int(first[top]), top + min_lag)
    return best


@once_per_clip
def longest_repeat_span(features: Features) -> tuple[float, float, float]:
    """Length, start and lag of the longest repeat, seconds from the start of the analysed stretch."""
    recurrence = chroma_recurrence(features)
    rate = recurrence.rate
    matches = recurrence.cosine >= MIN_COSINE
    length, start, lag = longest_diagonal(
        matches, max(round(MIN_LAG * rate), 1), round(MAX_GAP * rate), recurrence.moving
    )
    if length == 0:
        return 0.0, 0.0, 0.0
    return (length - 1 + recurrence.length) / rate, start / rate, lag / rate


def longest_repeat(features: Features) -> float:
    """Seconds of the longest passage that is heard again; 0 when nothing comes back."""
    return longest_repeat_span(features)[0]
