"""Copied excerpts: a few seconds of one clip found inside another, at another gain, time, key or through a codec.

Conventions: a clip is kept as its chroma (4 a second) and its flux in three bands (25 a second): what is played, and
exactly when. Both are compared over windows of 4 s, as cosines after removing means, so gain does not matter. The score
of two windows is the mean of the chroma's cosine and the flux's correlation, the latter at the best of a few lags
within +- 0.2 s; it lies in [-1, 1], near 1 for a copy. Chroma alone hears a shared chord progression as a copy, flux
alone a shared beat.

The search has two stages. Every window of every query meets every training window (one a second) in blocked matrix
products, under 12 transpositions, by chroma alone; the windows must move (`recurrence`'s gate), or held chords would
match each other. The few training clips that came closest are then compared at full resolution, along the diagonals
where the chroma agrees. Memory holds the clips' small features and one block. Copies at another tempo are found up to
about 3%.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eisbach.errors import UserError
from eisbach.structure.features import CHROMA_RATE, FRAME_RATE, Features
from eisbach.structure.similarity import MIN_MOVEMENT, chroma_windows

WINDOW_SECONDS = 4.0
_FLUX_RATE = 25.0
MAX_SECONDS = 600.0
"""What is kept of a longer clip: two of them are compared in a matrix of 2400 windows a side."""
_FLUX_BANDS = 3
_LENGTH = round(WINDOW_SECONDS * CHROMA_RATE)
_FLUX_LENGTH = round(WINDOW_SECONDS * _FLUX_RATE)
_TRAINING_HOP = 4  # chroma frames: one window a second
_BLOCK = (2048, 2048)  # training x query windows at once: 16 MB
_CANDIDATES = 4
_DIAGONALS = 3
_FINE_LAGS = 5  # flux frames on either side: 0.2 s


@dataclass(frozen=True)
class ExcerptFeatures:
    """What the search keeps of a clip: about 0.25 kB a second.

    Attributes
    ----------
    chroma : np.ndarray [shape=(frames, 12), float16]
        4 a second, non-negative.
    flux : np.ndarray [shape=(frames, 3), float16]
        25 a second: rise of amplitude in the low, middle and high third of the mel bands, unit maximum.
    start : float
        Seconds of silence before the first frame.
    """

    chroma: np.ndarray
    flux: np.ndarray
    start: float = 0.0

    @property
    def windows(self) -> int:
        """Windows of 4 s, every quarter of a second, that both features cover."""
        flux = (len(self.flux) - _FLUX_LENGTH) / (_FLUX_RATE / CHROMA_RATE)
        return max(0, min(len(self.chroma) - _LENGTH + 1, int(flux) + 1 if flux >= 0 else 0))


@dataclass(frozen=True)
class ExcerptMatch:
    """A window of a query that sounds like one of a training clip.

    Attributes
    ----------
    training : int
        Index of the training clip.
    start, training_start : float
        Where the matching stretch begins in either file, seconds.
    seconds : float
        Its length.
    semitones : int
        What the training clip has to be transposed by, in -5 … 6.
    score : float
        Best window score inside, in [-1, 1].
    """

    training: int
    start: float
    training_start: float
    seconds: float
    semitones: int
    score: float


@dataclass(frozen=True)
class Diagonal:
    """A query clip laid over a training clip at one offset and transposition.

    Attributes
    ----------
    training : int
    first : int
        Query window at which `scores` begins.
    training_first : int
        Training window that lies under it.
    semitones : int
    scores : np.ndarray [shape=(windows,)]
        Window scores along the diagonal, in [-1, 1].
    """

    training: int
    first: int
    training_first: int
    semitones: int
    scores: np.ndarray


def excerpt_features(features: Features) -> ExcerptFeatures:
    """Chroma and flux of a clip's first ten minutes, small enough to keep ten thousand of them."""
    amplitude = 10.0 ** (np.asarray(features.mel_db[: round(MAX_SECONDS * FRAME_RATE)], dtype=np.float64) / 20.0)
    rise = np.maximum(amplitude[2:] - amplitude[:-2], 0.0) if len(amplitude) > 2 else np.zeros((0, amplitude.shape[1]))
    pool = round(FRAME_RATE / _FLUX_RATE)
    whole = len(rise) // pool
    pooled = rise[: whole * pool].reshape(whole, pool, -1).sum(axis=1)
    flux = np.stack([part.sum(axis=1) for part in np.array_split(pooled, _FLUX_BANDS, axis=1)], axis=1)
    top = float(flux.max(initial=0.0))
    chroma = features.chroma[: round(MAX_SECONDS * CHROMA_RATE)]
    flux = flux / top if top > 0.0 else flux
    return ExcerptFeatures(chroma.astype(np.float16), flux.astype(np.float16), float(features.trimmed_start))


def closest_excerpts(
    queries: Sequence[ExcerptFeatures],
    training: Sequence[ExcerptFeatures],
    *,
    transpositions: bool = True,
    candidates: int = _CANDIDATES,
) -> list[list[Diagonal]]:
    """For every query the alignments with training clips that match best somewhere, best first.

    Parameters
    ----------
    queries, training : sequence of ExcerptFeatures
    transpositions : bool
        Look under all 12 transpositions; False is twelve times faster and finds copies in the same key only.
    candidates : int
        Training clips a query that are compared at full resolution, at least 1.

    Raises
    ------
    UserError
        No training clip is at least 4 s long.
    """
    if not any(clip.windows for clip in training):
        raise UserError(
            f"none of the {len(training)} training clips lasts {WINDOW_SECONDS:g} s; excerpts cannot be looked for."
        )
    shifts = range(12) if transpositions else range(1)
    coarse = coarse_scores(queries, training, shifts)
    matches = []
    for query, row in zip(queries, coarse, strict=True):
        order = [index for index in np.argsort(-row)[:candidates] if row[index] > 0.0]
        diagonals = [line for index in order for line in _diagonals(query, training[index], int(index), shifts)]
        matches.append(sorted(diagonals, key=lambda line: -float(line.scores.max())))
    return matches


def coarse_scores(
    queries: Sequence[ExcerptFeatures], training: Sequence[ExcerptFeatures], shifts: Sequence[int]
) -> np.ndarray:
    """Best chroma cosine of any two moving windows, [shape=(queries, training)]; -1 where there is none."""
    out = np.full((len(queries), len(training)), -1.0, dtype=np.float32)
    for query_block, query_edges in _blocks(queries, 1, _BLOCK[1]):
        vectors = np.concatenate([_windows(queries[i])[0] for i in query_block])
        flat = vectors.reshape(len(vectors), -1).T.copy()
        for block, edges in _blocks(training, _TRAINING_HOP, _BLOCK[0]):
            rows = np.concatenate([_windows(training[i])[0][::_TRAINING_HOP] for i in block])
            best = np.full((len(rows), flat.shape[1]), -1.0, dtype=np.float32)
            for shift in shifts:
                np.maximum(best, np.roll(rows, shift, axis=2).reshape(len(rows), -1) @ flat, out=best)
            reduced = np.maximum.reduceat(np.maximum.reduceat(best, edges, axis=0), query_edges, axis=1)
            out[np.ix_(query_block, block)] = reduced.T
    return out


def _blocks(clips: Sequence[ExcerptFeatures], hop: int, size: int) -> list[tuple[list[int], np.ndarray]]:
    """Runs of clips with about `size` windows together (at least one clip), and where each clip's windows begin in the
    run."""
    blocks: list[tuple[list[int], np.ndarray]] = []
    members: list[int] = []
    edges: list[int] = []
    total = 0
    for index, clip in enumerate(clips):
        count = -(-clip.windows // hop)
        if count == 0:
            continue
        if members and total + count > size:
            blocks.append((members, np.array(edges)))
            members, edges, total = [], [], 0
        members.append(index)
        edges.append(total)
        total += count
    return [*blocks, (members, np.array(edges))] if members else blocks


def _windows(clip: ExcerptFeatures) -> tuple[np.ndarray, np.ndarray]:
    """Unit chroma windows [shape=(windows, 16, 12), float32], zero where nothing moves, and whether each moves."""
    vectors, movement = chroma_windows(clip.chroma.astype(np.float32), _LENGTH)
    moves = (movement >= MIN_MOVEMENT)[: clip.windows]
    return vectors[: clip.windows] * moves[:, None, None], moves


def _diagonals(query: ExcerptFeatures, clip: ExcerptFeatures, index: int, shifts: Sequence[int]) -> list[Diagonal]:
    mine, moves = _windows(query)
    theirs, _ = _windows(clip)
    flat = mine.reshape(len(mine), -1)
    peaks: list[tuple[float, int, int, int]] = []
    for shift in shifts:
        cosine = flat @ np.roll(theirs, shift, axis=2).reshape(len(theirs), -1).T
        for _ in range(_DIAGONALS):
            i, j = divmod(int(cosine.argmax()), cosine.shape[1])
            peaks.append((float(cosine[i, j]), i, j, shift))
            rows = np.arange(len(mine))
            for offset in (-1, 0, 1):  # the neighbours of a diagonal are the same alignment
                columns = rows + (j - i) + offset
                inside = (columns >= 0) & (columns < len(theirs))
                cosine[rows[inside], columns[inside]] = -1.0
    lines = []
    for value, i, j, shift in sorted(peaks, reverse=True)[:_DIAGONALS]:
        if value <= 0.0:
            continue
        back = min(i, j)
        first, second = i - back, j - back
        count = min(len(mine) - first, len(theirs) - second)
        chroma = np.einsum(
            "nlc,nlc->n", mine[first : first + count], np.roll(theirs[second : second + count], shift, axis=2)
        )
        scores = 0.5 * (chroma + _flux_correlation(query, clip, first, second, count))
        scores = np.where(moves[first : first + count], np.clip(scores, -1.0, 1.0), -1.0)
        lines.append(Diagonal(index, first, second, (shift + 5) % 12 - 5, scores))
    return lines


def _flux_correlation(a: ExcerptFeatures, b: ExcerptFeatures, first: int, second: int, count: int) -> np.ndarray:
    """Correlation of the flux over each window of a diagonal, at its best lag within 0.2 s, [shape=(count,)]."""
    step = _FLUX_RATE / CHROMA_RATE
    starts = np.round((first + np.arange(count)) * step).astype(np.int64)
    others = np.round((second + np.arange(count)) * step).astype(np.int64)
    mine = _flux_windows(a.flux, starts)
    best = np.full(count, -1.0)
    for lag in range(-_FINE_LAGS, _FINE_LAGS + 1):
        moved = np.clip(others + lag, 0, max(0, len(b.flux) - _FLUX_LENGTH))
        best = np.maximum(best, np.einsum("ij,ij->i", mine, _flux_windows(b.flux, moved)))
    return best


def _flux_windows(flux: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Windows of all bands, each band centred, together of unit length, [shape=(n, 300)]."""
    view = np.lib.stride_tricks.sliding_window_view(flux.astype(np.float32), _FLUX_LENGTH, axis=0)
    windows = view[np.minimum(starts, len(view) - 1)]
    windows = windows - windows.mean(axis=2, keepdims=True)
    flat = windows.reshape(len(windows), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)


def matches_above(
    lines: Sequence[Diagonal], query: ExcerptFeatures, training: Sequence[ExcerptFeatures], threshold: float
) -> tuple[list[ExcerptMatch], float]:
    """Stretches whose windows score at least `threshold`, best first, and the share of the query that they cover, in
    [0, 1]."""
    frames = query.windows + _LENGTH - 1
    covered = np.zeros(max(1, frames), dtype=bool)
    excerpts = []
    for line in lines:
        for begin, end in _runs(line.scores >= threshold):
            first = line.first + begin
            stretch = slice(first, first + (end - begin) - 1 + _LENGTH)
            if covered[stretch].all():  # a better match already explains it
                continue
            covered[stretch] = True
            excerpts.append(
                ExcerptMatch(
                    line.training,
                    query.start + first / CHROMA_RATE,
                    training[line.training].start + (line.training_first + begin) / CHROMA_RATE,
                    (end - begin - 1) / CHROMA_RATE + WINDOW_SECONDS,
                    line.semitones,
                    float(line.scores[begin:end].max()),
                )
            )
    return sorted(excerpts, key=lambda match: -match.score), float(covered.mean())


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
