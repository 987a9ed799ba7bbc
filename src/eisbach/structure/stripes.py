"""Repeated passages, the moments at which they begin and end, and what they run through: how boundaries are known by
repetition.

Conventions: a *stripe* is a run of matching windows along one lag of the chroma recurrence matrix, at least 4 s long,
with gaps of two frames closed, a lag of one frame either way allowed, and movement in a quarter of its windows. Its two
passages have four ends. The idea is that of structure features (Serra, Mueller, Grosche and Arcos 2014): where the set
of lags at which the music repeats changes, a section begins. Here the change is read off the ends of whole stripes,
which sit where the repetition does; smoothed time-lag matrices place it only to about the width of their kernel.

The number of ends grows with the length of a piece and with how often it comes back to a section, so it cannot be read
alone: the *share* says how much of the repetition about a moment begins or ends there, in seconds of stripe; a phrase
within a section that recurs as a whole has a low one.

A stripe of two lags or more is one passage that is heard three times or more in a row (strophes): it does not run
through the moments at which the passage starts again but ends and begins there, and the stripes within it at longer
lags say the same once more.

A *loop* (a lag of at most 10 s at which the music goes on matching for three lags, so four cycles in a row) begins and
ends where a section may, but no cycle of it is a section: passages that lie within it end where it does or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.ndimage import binary_closing, maximum_filter1d

from eisbach.structure.features import Features, once_per_clip
from eisbach.structure.similarity import MIN_COSINE, chroma_recurrence

MIN_SECONDS = 4.0
_MIN_LAG = 2.0  # seconds
_LOOP_SECONDS, _LOOP_LAGS = 10.0, 3.0
_LOOP_EDGE = 1.0  # seconds: ends of stripes this near to the ends of a loop are the loop's own
_WHOLE = 0.1  # lags that a stripe may be longer or shorter than a whole number of them
_SAME_LAG = 1.5  # lags that differ by less than this factor are no multiples of each other
_TENT = (0.4, 0.7, 1.0, 0.7, 0.4)  # what the end of a stripe counts for up to two frames away
_MARGIN = 2.0  # seconds from its ends within which a stripe does not count as going on
_MOST_SECONDS = 60.0  # a longer stripe says no more
_LITTLE_SECONDS = 24.0  # so much repetition is too little for its share to say much


@dataclass(frozen=True)
class Stripes:
    """Stripes, all in frames of the recurrence matrix.

    Attributes
    ----------
    lag, first, last : np.ndarray of int [shape=(stripes,)]
        The passage [first, last) is heard again at [first + lag, last + lag).
    rate : float
        Frames a second.
    frames : int
        Length of the matrix.
    """

    lag: np.ndarray
    first: np.ndarray
    last: np.ndarray
    rate: float
    frames: int


@once_per_clip
def find_stripes(features: Features) -> Stripes:
    """The stripes of a clip; none when it is too short."""
    recurrence = chroma_recurrence(features)
    count, rate, length = len(recurrence.cosine), recurrence.rate, recurrence.length
    none = np.zeros(0, dtype=int)
    lags = np.arange(max(2, round(_MIN_LAG * rate)), count)
    if not len(lags):
        return Stripes(none, none, none, rate, count)
    # the upper triangle laid out by lag and row: cell (lag, row) is a step of n + 1 along row `row` of the matrix
    padded = np.zeros((count, 2 * count), dtype=bool)
    padded[:, :count] = recurrence.cosine >= MIN_COSINE
    size = padded.strides
    sheared = np.lib.stride_tricks.as_strided(padded, (count, count), (size[0] + size[1], size[1]), writeable=False).T
    runs = maximum_filter1d(sheared[lags].view(np.uint8), 3, axis=0).astype(bool)
    runs = binary_closing(np.pad(runs, ((0, 0), (3, 3))), np.ones((1, 3), dtype=bool))[:, 3:-3]
    edges = np.diff(np.pad(runs.view(np.int8), ((0, 0), (1, 1))), axis=1)
    row, first = np.nonzero(edges == 1)
    last = np.nonzero(edges == -1)[1]
    moving = np.concatenate([[0], np.cumsum(recurrence.moving)])
    long_enough = last - first + length - 1 >= MIN_SECONDS * rate
    evident = long_enough & (4 * (moving[last] - moving[first]) >= last - first)
    return Stripes(lags[row[evident]], first[evident], last[evident] + length - 1, rate, count)


def _loop_spans(stripes: Stripes) -> np.ndarray:
    """First and last frame of every loop, those that overlap or touch joined, [shape=(loops, 2)]."""
    looping = (stripes.lag <= _LOOP_SECONDS * stripes.rate) & (stripes.last - stripes.first >= _LOOP_LAGS * stripes.lag)
    spans: list[list[int]] = []
    for first, last in sorted(zip(stripes.first[looping], (stripes.last + stripes.lag)[looping], strict=True)):
        if spans and first <= spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], int(last))
        else:
            spans.append([int(first), int(last)])
    return np.array(spans, dtype=int).reshape(-1, 2)


def _inside(loops: np.ndarray, first: np.ndarray, last: np.ndarray, place: np.ndarray, edge: int) -> np.ndarray:
    """Which passages [first, last) lie within a loop while `place` is farther than `edge` from both its ends,
    [shape=(passages,)]."""
    within = np.zeros(len(place), dtype=bool)
    for begin, end in loops:
        own = (first >= begin - edge) & (last <= end + edge)
        within |= own & (place > begin + edge) & (place < end - edge)
    return within


def cut_at_restarts(stripes: Stripes, loops: np.ndarray) -> Stripes:
    """The stripes, those of passages heard three times or more in a row cut where the passage starts again; loops stay
    as they are.

    What else lies within such a stretch at the same lag or a longer one is left out: it is implied.
    """
    runs: list[list[int]] = []
    for lag, first, last in sorted(
        zip(stripes.lag.tolist(), stripes.first.tolist(), stripes.last.tolist(), strict=True)
    ):
        # windows overlap, so a run that a mismatch of a moment breaks goes on without a gap
        if runs and runs[-1][0] == lag and first <= runs[-1][2]:
            runs[-1][2] = max(runs[-1][2], last)
        else:
            runs.append([lag, first, last])
    lag, first, last = np.array(runs, dtype=int).reshape(-1, 3).T
    edge = round(_LOOP_EDGE * stripes.rate)
    restarts = last - first >= (2.0 - _WHOLE) * lag
    restarts &= ~_inside(loops, first, last + lag, (first + last + lag) // 2, edge)
    lag, first, last = lag[restarts], first[restarts], last[restarts]
    ends, middle = stripes.last + stripes.lag, (stripes.first + stripes.last + stripes.lag) // 2
    independent = np.ones(len(stripes.lag), dtype=bool)
    cut: list[tuple[int, int, int]] = []
    for step, begin, end in zip(lag.tolist(), first.tolist(), last.tolist(), strict=True):
        shorter = (_SAME_LAG * lag < step) & (first <= begin + edge) & (last + lag >= end + step - edge)
        if shorter.any():
            continue
        stretch = np.array([[begin, end + step]])
        independent &= (stripes.lag <= step - edge) | ~_inside(stretch, stripes.first, ends, middle, edge)
        # one stripe is seen at a few neighbouring lags; many times in a row, only their mean says how many
        seen = (np.abs(lag - step) <= edge) & (np.abs(first - begin) <= edge) & (np.abs(last - end) <= edge)
        period = float(lag[seen].mean())
        times, rest = divmod((end - begin) / period + _WHOLE, 1.0)
        # a whole number of times is spread between the ends, which are exact; the lag is one to a frame
        places = begin + np.arange(times + 1) * ((end - begin) / times if rest <= 2 * _WHOLE else period)
        joints = np.append(places, [] if rest <= 2 * _WHOLE else end).round().astype(int).tolist()
        cut += [(step, joint, next_joint) for joint, next_joint in pairwise(joints)]
    columns = np.array(cut, dtype=int).reshape(-1, 3).T
    lag, first, last = (
        np.concatenate([old[independent], new])
        for old, new in zip((stripes.lag, stripes.first, stripes.last), columns, strict=True)
    )
    return Stripes(lag, first, last, stripes.rate, stripes.frames)


def repetition_at(features: Features, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What repetition says about moments.

    Parameters
    ----------
    features : Features
    times : np.ndarray
        Seconds from the start of the analysed stretch, evenly spaced.

    Returns
    -------
    share : np.ndarray [shape=(times,)]
        Of the stripes about a moment the share that begins or ends there, weighed by their seconds, 0-1.
    through : np.ndarray [shape=(times,)]
        Seconds of the stripes, cut at restarts, that go on for 2 s or more on either side, in all.
    """
    stripes = find_stripes(features)
    if not len(stripes.lag) or not len(times):
        return np.zeros(len(times)), np.zeros(len(times))
    loops, margin = _loop_spans(stripes), round(_MARGIN * stripes.rate)
    stripes = cut_at_restarts(stripes, loops)
    size = 2 * stripes.frames
    seconds = np.minimum((stripes.last - stripes.first) / stripes.rate, _MOST_SECONDS)
    ends, steps = np.zeros(size), np.zeros(size)
    for shift in (np.zeros_like(stripes.lag), stripes.lag):
        first, last = stripes.first + shift, stripes.last + shift
        np.add.at(steps, np.minimum(first + margin, last - margin), seconds)
        np.add.at(steps, last - margin, -seconds)
        for place in (first, last):
            evidence = ~_inside(loops, first, last, place, round(_LOOP_EDGE * stripes.rate))
            np.add.at(ends, place[evidence], seconds[evidence])
    through = steps.cumsum()
    ends = np.convolve(ends, _TENT, mode="same")
    share = ends / (ends + through + _LITTLE_SECONDS)
    grid = np.arange(size)
    return np.interp(times * stripes.rate, grid, share), np.interp(times * stripes.rate, grid, through)
