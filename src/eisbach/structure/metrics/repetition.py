"""Repetition: how much of a piece is heard again, for how long at a stretch, and whether it is one loop.

*Motif coverage* (`motif_map`): the share of the chroma frames that lie inside a 4 s window which recurs, in any of 12
transpositions, without overlap; a movement gate keeps a drone from being one long motif.

*Structureness* (Wu and Yang 2020, section 4.4): the largest fitness (`scape`) of a segment of 3-8, 8-15 or 15 s and
more.

*Longest repeat*: the longest diagonal of the chroma recurrence matrix (`similarity.chroma_recurrence`), in seconds: two
passages, at least 2 s apart, that match window by window. The passages may overlap, so a loop repeats itself for its
whole length less one period. *Tolerances*: from one frame to the next the lag may change by one frame (0.25 s; periods
that do not divide the frame grid, and small changes of tempo), and gaps of up to half a second are bridged (an
ornament, a smeared onset). *Movement gate*: in a quarter of a repeat at least the harmony has to move; held chords and
drones repeat for 0 s.

*Loops*: mel frames pooled to 10 a second; for each lag up to 16 s the similarity (tau = 6 dB) of every frame with the
one a lag later. *Lag similarity* is the best mean over lags of at least 3 s: near 1 for loops (some multiple of their
period lies there) and for anything that stands still; a long note alone does not raise it. *Loop strength* is how far
the profile climbs back at some lag of at least 1 s after it fell at a shorter one: near 0 for drones (it never falls)
and for music that moves on (it never returns), near 1 for exact loops of changing content. A lag counts only up to
three quarters of the clip, so that a single chance match at the end cannot pass for a loop.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from eisbach.structure.features import CHROMA_RATE, FRAME_RATE, Features, once_per_clip
from eisbach.structure.metrics.base import Invariances, Metric
from eisbach.structure.motif_map import motif_map
from eisbach.structure.scape import BANDS, clip_scape, fine_scape
from eisbach.structure.similarity import MIN_COSINE, chroma_recurrence, lagged_similarity

_REPEAT_MIN_LAG, _REPEAT_MAX_GAP = 2.0, 0.5  # seconds
_LOOP_POOL = 5  # 50 -> 10 frames a second
_LOOP_RATE = FRAME_RATE / _LOOP_POOL
_LOOP_MIN_LAG, _LOOP_MIN_PERIOD, _LOOP_MAX_LAG = 3.0, 1.0, 16.0  # seconds


def motif_coverage(features: Features) -> float:
    """Share of the frames that lie in a moving window which recurs, in [0, 1]; NaN under one window."""
    motifs = motif_map(features)
    if len(motifs.start) == 0:
        return float("nan")
    count, length = len(features.chroma), round(motifs.window_seconds * CHROMA_RATE)
    starts = np.round(motifs.start[motifs.recurs] * CHROMA_RATE).astype(int)
    # +1 where a window opens and -1 where it closes: the running sum counts the windows over each frame
    openings = np.zeros(count + 1)
    np.add.at(openings, starts, 1.0)
    np.add.at(openings, starts + length, -1.0)
    return float((np.cumsum(openings)[:-1] > 0.5).mean())


def structureness(features: Features, band: str) -> float:
    """The indicator of "short" (3-8 s), "mid" (8-15 s) or "long" (15 s and more) segments, 0-1; NaN where no length
    fits."""
    scape = clip_scape(features) if band == "long" else fine_scape(features)
    if scape.step_seconds > BANDS[band][0]:
        return float("nan")
    value = scape.best(*BANDS[band])
    return value if np.isnan(value) else min(1.0, max(0.0, value))


def longest_diagonal(
    matches: np.ndarray, min_lag: int, max_gap: int, moving: np.ndarray | None = None
) -> tuple[int, int, int]:
    """Length, first row and lag (column less row, at its end) of the longest diagonal above the main one; zeros for
    none.

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
    # Row by row, the diagonal that ends at each lag: length, misses at its end, first row, moving rows. A zero on
    # either side stands for the lags beyond the first and the last.
    state = np.zeros((4, lags + 2), dtype=np.int32)
    places = np.arange(1, lags + 1)
    for row in range(lags):
        hit = np.zeros(lags, dtype=bool)
        hit[: lags - row] = matches[row, row + min_lag :]
        run = state[0]
        if not hit.any() and not run.any():
            continue
        # continue the diagonal at the same lag, unless a neighbouring lag holds a longer one
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
    """Length, start and lag of the longest repeat, seconds from the start of the analysed stretch; zeros for none."""
    recurrence = chroma_recurrence(features)
    rate = recurrence.rate
    length, start, lag = longest_diagonal(
        recurrence.cosine >= MIN_COSINE,
        max(round(_REPEAT_MIN_LAG * rate), 1),
        round(_REPEAT_MAX_GAP * rate),
        recurrence.moving,
    )
    if length == 0:
        return 0.0, 0.0, 0.0
    return (length - 1 + recurrence.length) / rate, start / rate, lag / rate


def longest_repeat(features: Features) -> float:
    """Seconds of the longest passage that is heard again; 0 when nothing comes back."""
    return longest_repeat_span(features)[0]


def _lag_profile(features: Features) -> np.ndarray:
    """Mean similarity at lags of 0.1, 0.2, … s, [shape=(lags,)], up to 16 s or three quarters of the clip."""
    count = len(features.steady_db) // _LOOP_POOL
    pooled = features.steady_db[: count * _LOOP_POOL].reshape(count, _LOOP_POOL, -1).mean(axis=1)
    longest = int(min(_LOOP_MAX_LAG * _LOOP_RATE, 0.75 * count))
    return np.array([similarity.mean(dtype=np.float64) for similarity in lagged_similarity(pooled, longest)])


def lag_similarity(features: Features) -> float:
    """Best mean similarity of the piece with itself 3 to 16 s later, in [0, 1]."""
    return float(_lag_profile(features)[round(_LOOP_MIN_LAG * _LOOP_RATE) - 1 :].max())


def loop_strength(features: Features) -> float:
    """Largest recovery of the lag profile: similarity at a lag of at least 1 s less its lowest value before, in [0,
    1]."""
    profile = _lag_profile(features)
    lowest = np.minimum.accumulate(profile)
    return float((profile - lowest)[round(_LOOP_MIN_PERIOD * _LOOP_RATE) - 1 :].max())


def _structureness_metric(band: str, label: str, seconds: str) -> Metric:
    return Metric(
        name=f"structureness_{band}",
        label=f"Structureness {label}",
        unit="",
        range=(0.0, 1.0),
        higher_means=f"a fitter repeated segment of {seconds}",
        family="repetition",
        min_seconds=24.0,
        function=partial(structureness, band=band),
        invariances=Invariances(codec=0.03, noise_floor=0.05),
    )


MOTIF_COVERAGE = Metric(
    name="motif_coverage",
    label="Motif coverage",
    unit="",
    range=(0.0, 1.0),
    higher_means="more of the piece is heard again elsewhere in it",
    family="repetition",
    min_seconds=12.0,
    function=motif_coverage,
    primary=True,
    invariances=Invariances(codec=0.05, noise_floor=0.05),
)
STRUCTURENESS_SHORT = _structureness_metric("short", "3-8 s", "3-8 s")
STRUCTURENESS_MID = _structureness_metric("mid", "8-15 s", "8-15 s")
STRUCTURENESS_LONG = _structureness_metric("long", "15+ s", "15 s or more")
LONGEST_REPEAT = Metric(
    name="longest_repeat",
    label="Longest repeat",
    unit="s",
    range=(0.0, float("inf")),
    higher_means="a longer passage that is heard again",
    family="repetition",
    min_seconds=12.0,
    function=longest_repeat,
    invariances=Invariances(codec=1.0, noise_floor=1.0),
)
LAG_SIMILARITY = Metric(
    name="lag_similarity",
    label="Lag similarity",
    unit="",
    range=(0.0, 1.0),
    higher_means="some delay at which the piece matches itself (loops, drones)",
    family="repetition",
    min_seconds=8.0,
    function=lag_similarity,
    invariances=Invariances(codec=0.04, noise_floor=0.06),
)
LOOP_STRENGTH = Metric(
    name="loop_strength",
    label="Loop strength",
    unit="",
    range=(0.0, 1.0),
    higher_means="a clearer exact period (loops)",
    family="repetition",
    min_seconds=8.0,
    function=loop_strength,
    invariances=Invariances(codec=0.04, noise_floor=0.05),
)
