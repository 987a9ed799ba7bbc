"""Fitness scape plot: how well every segment of a piece explains the rest of it by repetition.

Conventions (Mueller, Grosche and Jiang 2011; Mueller, Jiang and Grosche 2013; notation of Mueller, *Fundamentals of
Music Processing*, section 4.3): given an enhanced self-similarity matrix S with S(n, n) = 1, S <= 1 and negative
penalties where nothing matches, a *path family* over a segment alpha is a set of paths with steps (1,1), (2,1), (1,2),
each of which runs over the whole of alpha and whose projections on the other axis do not overlap. The *score* of alpha
is the largest sum of S over a path family, the *coverage* the length of its projections; both are normalised by taking
away the trivial self-match, ``score_n = (score - |alpha|) / cells`` and ``coverage_n = (coverage - |alpha|) / N``.
*Fitness* is their harmonic mean.

All segments of a piece are solved at once: the recursion runs over the rows of S, and one row is a handful of array
operations over every (segment, column) pair. Two integers travel with every score (cells and coverage of the best
family so far), so nothing has to be traced back. The time is N times the number of such pairs (N^3 / 6), all of it
inside numpy.

The matrix of a clip (`enhanced_similarity`; Wu and Yang 2020, section 4.4, read structureness off its scape) is chroma
similarity on an absolute scale. Cell (i, j) is the highest cosine (12 transpositions) of the 2 s window at i with a
window within half a cell of j, so that periods off the grid lose nothing; cosines from `_THRESHOLD` to 1 become 0 to 1,
all others the penalty -2. The threshold is absolute: a relative one ("the best 20% of cells") would find repetition in
every piece. *Drones*: cells of windows whose chroma stands still (`similarity.MIN_MOVEMENT`) count 0 at most: a path
may cross them and gains nothing, so a drone has no fitness. This gate sits on the evidence itself, while one on block
strength would also silence a tune that repeats in an unchanging timbre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eisbach.structure.features import Features, once_per_clip
from eisbach.structure.similarity import chroma_recurrence

_SCAPE_CELLS = 80
"""Cells of the whole scape plot at most."""
_FINE_CELLS = 300
"""Cells of the plot that holds lengths up to 15 s only, at most."""
_THRESHOLD = 0.7
_PENALTY = -2.0
BANDS = {"short": (3.0, 8.0), "mid": (8.0, 15.0), "long": (15.0, float("inf"))}
"""Lengths of segments, seconds: from, up to."""
_PACK = 1 << 12  # cells * _PACK + coverage in one int32; cells and coverage are at most 2 n
_CHUNK = 20_000  # (segment, column) pairs that are solved together: what stays in a core's cache


@dataclass(frozen=True)
class Scape:
    """A scape plot; row `length - 1`, column `start` (both in cells) holds the segment [start, start + length).

    Attributes
    ----------
    fitness, score, coverage : np.ndarray [shape=(n, n)]
        Fitness, normalised score and normalised coverage, each in [0, 1] for matrices that obey the conventions.
        NaN where no such segment exists or its length was not asked for.
    step_seconds : float
        Seconds a cell.
    """

    fitness: np.ndarray
    score: np.ndarray
    coverage: np.ndarray
    step_seconds: float

    def best(self, shortest: float, longest: float = np.inf) -> float:
        """Highest fitness of a segment of `shortest` <= length < `longest` seconds; NaN when there is none."""
        lengths = np.arange(1, len(self.fitness) + 1) * self.step_seconds
        rows = self.fitness[(lengths >= shortest - 1e-9) & (lengths < longest - 1e-9)]
        return float(np.nanmax(rows)) if rows.size and not np.isnan(rows).all() else float("nan")

    def thumbnail(self, shortest: float = 0.0) -> tuple[float, float]:
        """Start and end (s) of the fittest segment of at least `shortest` seconds: the audio thumbnail."""
        lengths = np.arange(1, len(self.fitness) + 1) * self.step_seconds
        rows = np.where((lengths >= shortest - 1e-9)[:, None], self.fitness, np.nan)
        if not rows.size or np.isnan(rows).all():
            return float("nan"), float("nan")
        row, start = np.unravel_index(int(np.nanargmax(rows)), rows.shape)
        return float(start * self.step_seconds), float((start + row + 1) * self.step_seconds)


def fitness_scape(
    similarity: np.ndarray, *, step_seconds: float = 1.0, shortest: int = 1, longest: int | None = None,
    strict_start: bool = False,
) -> Scape:  # fmt: skip
    """The scape plot of an enhanced self-similarity matrix.

    Parameters
    ----------
    similarity : np.ndarray [shape=(n, n)]
        At most 1, ones on the diagonal, penalties (-2, say) where there is no match. Need not be symmetric.
    step_seconds : float
        Seconds a cell; only copied into the result.
    shortest, longest : int, int or None
        Lengths of segments in cells, inclusive; None is all of them. Others stay NaN.
    strict_start : bool
        True is the recursion as printed: a path starts in the segment's first column. False (what libfmp 1.3, the
        method's reference code, computes; equal to the last bit) also lets the score enter in the second column, since
        its ``D[n-1, m-2]`` is the elevator column at m = 2, while the trace back, which counts cells and coverage, does
        not.

    Raises
    ------
    ValueError
        `similarity` is not square.
    """
    similarity = np.asarray(similarity, dtype=np.float64)
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"a self-similarity matrix is square; got shape {similarity.shape}.")
    n = len(similarity)
    longest = n if longest is None else min(longest, n)
    planes = np.full((3, n, n), np.nan)
    for first, last in _chunks(n, max(1, shortest), longest):
        lengths = np.concatenate([np.full(n - length + 1, length) for length in range(first, last)])
        starts = np.concatenate([np.arange(n - length + 1) for length in range(first, last)])
        score, cells, covered = _path_families(similarity, starts, lengths, strict_start)
        # A segment always matches itself, along its diagonal and over its own length: both are taken out.
        score_n = (score - lengths) / np.maximum(cells, 1)
        coverage_n = (covered - lengths) / n
        total = score_n + coverage_n
        # The harmonic mean, so that neither long weak paths nor one strong short one is fit.
        fitness = np.divide(2.0 * score_n * coverage_n, total, out=np.zeros_like(total), where=np.abs(total) > 1e-12)
        planes[:, lengths - 1, starts] = fitness, score_n, coverage_n
    return Scape(planes[0], planes[1], planes[2], step_seconds)


def _chunks(n: int, shortest: int, longest: int) -> list[tuple[int, int]]:
    """Ranges of lengths [first, last) of about `_CHUNK` pairs each."""
    chunks, first, pairs = [], shortest, 0
    for length in range(shortest, longest + 1):
        pairs += (n - length + 1) * (length + 1)
        if pairs >= _CHUNK:
            chunks.append((first, length + 1))
            first, pairs = length + 1, 0
    if first <= longest:
        chunks.append((first, longest + 1))
    return chunks


def _path_families(
    similarity: np.ndarray, starts: np.ndarray, lengths: np.ndarray, strict: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, cells and covered rows of the optimal path family of every segment, [shape=(segments,)] each.

    The pairs lie one segment after another: slot 0 is the elevator column, slots 1 ... length the segment's columns.
    """
    # Every segment is one dynamic programme over the rows of the matrix; all of them are advanced together, row by row.
    n = len(similarity)
    heads = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])
    ends = heads + lengths
    slots = int(ends[-1]) + 1
    columns = np.arange(slots) - np.repeat(heads, lengths + 1) - 1 + np.repeat(starts, lengths + 1)
    columns[heads] = 0  # unused
    seconds = heads[lengths >= 2] + 2

    # Scores of the two rows before and of this one; a tally packs cells and covered rows of the same path into one int.
    offsets = np.zeros(slots, dtype=np.int32)
    older, best, new = (np.full(slots, -np.inf) for _ in range(3))
    older_tally, tally, new_tally = (np.zeros(slots, dtype=np.int32) for _ in range(3))
    best[heads + 1] = similarity[0, starts]
    tally[heads + 1] = _PACK + 1
    elevator, elevator_tally = np.zeros(len(starts)), np.zeros(len(starts), dtype=np.int32)
    if not strict:
        best[heads] = 0.0
    higher = np.empty(slots - 2, dtype=bool)
    for row in range(1, n):
        # The elevator column: the best score of path families that end above this row. A path that reached the
        # segment's last column joins it, and a new one may start from it.
        finished, finished_tally = best[ends], tally[ends]
        jump = finished > elevator
        elevator = np.where(jump, finished, elevator)
        elevator_tally = np.where(jump, finished_tally, elevator_tally)
        # step (1, 1), unless (2, 1) comes from a higher score, or then (1, 2)
        top, count, source = new[2:], new_tally[2:], offsets[2:]
        np.greater(older[1:-1], best[1:-1], out=higher)
        if not strict and row == 2:
            higher[seconds - 2] = False
        np.subtract(older_tally[1:-1] + 1, tally[1:-1], out=source)
        np.multiply(source, higher, out=source)
        np.add(tally[1:-1], source, out=count)
        np.maximum(older[1:-1], best[1:-1], out=top)
        np.greater(best[:-2], top, out=higher)
        if not strict:
            higher[seconds - 2] = False
        np.subtract(tally[:-2], count, out=source)
        np.multiply(source, higher, out=source)
        np.add(count, source, out=count)
        count += _PACK + 1
        np.maximum(top, best[:-2], out=top)
        top += similarity[row].take(columns[2:])
        new[heads] = -np.inf if strict else elevator
        new[heads + 1] = elevator + similarity[row, starts]
        new_tally[heads + 1] = elevator_tally + (_PACK + 1)
        older, older_tally, best, tally, new, new_tally = best, tally, new, new_tally, older, older_tally
    finished, finished_tally = best[ends], tally[ends]
    take = finished >= elevator
    score = np.where(take, finished, elevator)
    packed = np.where(take, finished_tally, elevator_tally)
    return score, packed // _PACK, packed % _PACK


def enhanced_similarity(features: Features, max_cells: int = _SCAPE_CELLS) -> tuple[np.ndarray, float]:
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
    cosine = np.where(recurrence.moving, recurrence.cosine[cells], np.minimum(recurrence.cosine[cells], _THRESHOLD))
    cosine[~recurrence.moving[cells]] = np.minimum(cosine[~recurrence.moving[cells]], _THRESHOLD)
    similarity = cosine[:, cells]
    for offset in range(-(per_cell // 2), per_cell // 2 + 1):
        near = cells + offset
        inside = (near >= 0) & (near < count)
        similarity[:, inside] = np.maximum(similarity[:, inside], cosine[:, near[inside]])
    similarity = np.minimum(np.maximum(similarity, similarity.T), 1.0).astype(np.float64)
    enhanced = np.where(similarity >= np.float32(_THRESHOLD), (similarity - _THRESHOLD) / (1.0 - _THRESHOLD), _PENALTY)
    np.fill_diagonal(enhanced, 1.0)
    return enhanced, per_cell / recurrence.rate


@once_per_clip
def clip_scape(features: Features) -> Scape:
    """The whole fitness scape plot of a clip; 0 x 0 when it is shorter than one window."""
    similarity, step = enhanced_similarity(features)
    return fitness_scape(similarity, step_seconds=step)


@once_per_clip
def fine_scape(features: Features) -> Scape:
    """The scape plot's segments of 3 to 15 s, on finer cells than the whole plot's."""
    similarity, step = enhanced_similarity(features, _FINE_CELLS)
    shortest, longest = (int(BANDS[band][end] / step + 1e-9) for band, end in (("short", 0), ("mid", 1)))
    return fitness_scape(similarity, step_seconds=step, shortest=shortest, longest=longest)
