"""Order: whether what comes next follows from what was heard, as music does and the same music cut up and shuffled does
not.

*Continuation*: for every moment the three moments elsewhere in the piece (at least 4 s away) whose last 2 s sounded
most like its own last 2 s are looked up; how near is what followed them to what follows here, over the next 2 s? The
value is 1 less the ratio of that distance to the distance of any two moments' continuations: 1 when the piece's own
past foretells it exactly (loops), 0 when it foretells nothing (noise, and pieces put together from strangers). Music
lies between: motifs return with their continuations, and what was like now a few seconds ago led to something like what
comes. Cut into pieces of 2 s and shuffled, every continuation crosses a joint, and what follows does not follow.
Prediction from analogues is Lorenz's (1969); of music by nearest neighbours, Serra et al.'s (2012).

Frames are mel spectra, 4 a second, in dB, no deeper than 50 dB below the clip's maximum, so that hiss there is no
music. Long pieces are read in equal stretches of at most 60 s, whose mean is the value: a longer piece would find
better analogues for being longer.
"""

from __future__ import annotations

import numpy as np

from eisbach.structure.features import FRAME_RATE, Features
from eisbach.structure.metrics.base import Invariances, Metric

_POOL = 12  # mel frames: 50 → 4.17 a second
_RATE = FRAME_RATE / _POOL
_PAST, _FUTURE, _APART, _STRETCH = 2.0, 2.0, 4.0, 60.0  # seconds
_ANALOGUES = 3
_DEPTH_DB = 50.0
_STILL_DB = 0.3  # of a band, root mean square: continuations that differ by less do not differ


def continuation(features: Features) -> float:
    """Share of what comes next that the piece's own past foretells, at most 1; NaN where nothing moves."""
    frames = len(features.steady_db) // _POOL
    mel = np.maximum(features.steady_db[: frames * _POOL], -_DEPTH_DB)
    pooled = mel.reshape(frames, _POOL, -1).mean(axis=1, dtype=np.float64)
    stretches = np.array_split(pooled, max(1, int(np.ceil(frames / (_STRETCH * _RATE)))))
    past, future, apart = (round(seconds * _RATE) for seconds in (_PAST, _FUTURE, _APART))
    still = _STILL_DB * np.sqrt(future * pooled.shape[1])
    values = [foretold(stretch, past, future, apart, still) for stretch in stretches]
    heard = [value for value in values if not np.isnan(value)]
    return float(np.mean(heard)) if heard else float("nan")


def foretold(frames: np.ndarray, past: int, future: int, apart: int, still: float = 1e-6) -> float:
    """1 less the distance of what followed a moment's three nearest analogues to what follows it, over that of any two
    moments' continuations; NaN where nothing moves.

    Parameters
    ----------
    frames : np.ndarray [shape=(frames, features)]
    past, future : int
        Frames before a moment that are looked up, and frames after it that are compared.
    apart : int
        Frames between a moment and its analogues, at least.
    still : float
        Continuations that usually differ by less (Euclidean, over all their frames) do not move.
    """
    moments = len(frames) - past - future + 1
    if moments <= apart + _ANALOGUES:
        return float("nan")
    square = np.square(frames).sum(axis=1)
    distance = np.maximum(square[:, None] + square[None, :] - 2.0 * frames @ frames.T, 0.0)
    # Row i, column j: what lies before, and from, frames `past + i` and `past + j`.
    before, after = (
        np.sqrt(sum(distance[k : k + moments, k : k + moments] for k in range(first, first + count)))
        for first, count in ((0, past), (past, future))
    )
    place = np.arange(moments)
    elsewhere = np.abs(place[:, None] - place[None, :]) >= apart
    usual = after[elsewhere].mean()
    if usual < still:
        return float("nan")
    before[~elsewhere] = np.inf
    # Moments in the middle of a short stretch may have fewer than three others far enough away.
    analogues = np.argpartition(before, _ANALOGUES - 1, axis=1)[:, :_ANALOGUES]
    usable = np.take_along_axis(elsewhere, analogues, axis=1)
    return float(1.0 - np.take_along_axis(after, analogues, axis=1)[usable].mean() / usual)


CONTINUATION = Metric(
    name="continuation",
    label="Continuation",
    unit="",
    range=(-1.0, 1.0),
    higher_means="what comes next follows from what was heard (shuffled music reads low, loops near 1)",
    family="form",
    min_seconds=24.0,
    function=continuation,
    primary=True,
    invariances=Invariances(codec=0.05, noise_floor=0.05),
)
