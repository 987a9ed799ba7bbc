"""Motif map: which moment of a piece is heard again where, and how far it was transposed.

Conventions: chroma at 4 Hz, windows of 4 s, cosines of centred chroma (`similarity.chroma_windows`). For every window
the best match is sought among all windows that do not overlap it, in 12 transpositions, on the frame grid and half a
frame later (a period of 7.37 s does not divide the grid). A window *recurs* when that match has a cosine of at least
`similarity.MIN_COSINE` and its harmony moves (`similarity.MIN_MOVEMENT`). In pieces longer than five minutes every
second, third, … window is asked for, so that there are at most 1200 questions; the answers are still sought at 4 Hz,
block by block.

So much likeness only the same instruments give. A *tune* recurs also on other instruments, over another accompaniment
and up to a tenth faster or slower: there windows of 8 s of `Features.tune` match (`similarity.tune_recurrence`), alone
or, less alike, in a row along one lag and transposition (`_RUNS`). Windows that lie in such a passage recur, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d

from eisbach.structure.features import CHROMA_RATE, TUNE_RATE, Features, once_per_clip
from eisbach.structure.similarity import (
    MAX_FRAMES,
    MIN_COSINE,
    MIN_MOVEMENT,
    chroma_windows,
    half_later,
    half_later_scale,
    tune_recurrence,
)

WINDOW_SECONDS = 4.0
_BLOCK = 256  # questions answered at once
_ALIKE_FRAMES, _ALIKE_COSINE = 3, 0.7
_RUNS = {1: 0.66, 8: 0.62, 16: 0.57}
"""Windows in a row, half a second apart -> the mean cosine from which a tune recurs there."""


@dataclass(frozen=True)
class MotifMap:
    """The best match of every window; times are seconds from the start of the analysed stretch.

    Attributes
    ----------
    start : np.ndarray [shape=(windows,)]
        Where each window begins.
    match : np.ndarray [shape=(windows,)]
        Where its best match begins; NaN for a window without one (a piece shorter than two windows).
    transposition : np.ndarray [shape=(windows,), int]
        Semitones upwards from the window to its match, -5 to 6.
    cosine : np.ndarray [shape=(windows,)]
        Of that match; 0 where either harmony stands still.
    recurs : np.ndarray of bool [shape=(windows,)]
        Whether the cosine reaches the threshold, or the window lies in a tune that is heard again; where it is a tune,
        `match` and `transposition` are the tune's, and `cosine` is that of the tune's windows.
    window_seconds : float
        Length of a window.
    duration : float
        Seconds of chroma that were searched.
    """

    start: np.ndarray
    match: np.ndarray
    transposition: np.ndarray
    cosine: np.ndarray
    recurs: np.ndarray
    window_seconds: float
    duration: float


@once_per_clip
def motif_map(features: Features) -> MotifMap:
    """The motif map of a clip; without windows when it is shorter than one."""
    length = round(WINDOW_SECONDS * CHROMA_RATE)
    chroma = features.chroma
    duration = len(chroma) / CHROMA_RATE
    if len(chroma) < length:
        none = np.zeros(0)
        return MotifMap(none, none, none.astype(int), none, none.astype(bool), WINDOW_SECONDS, duration)
    vectors, movement = chroma_windows(chroma, length)
    vectors[movement < MIN_MOVEMENT] = 0.0
    asked = np.arange(0, len(vectors), -(-len(vectors) // MAX_FRAMES))
    cosine, match, shift = _best_matches(vectors, asked, length)
    start, match, exact = asked / CHROMA_RATE, match / CHROMA_RATE, cosine >= MIN_COSINE
    lag, semitones, likeness = _returning_tunes(features)
    if len(lag):
        # a window belongs to a tune when its first and its last frame do, at one lag
        first, last = (
            np.minimum(np.round((start + edge) * TUNE_RATE).astype(int), len(lag) - 1) for edge in (0.0, WINDOW_SECONDS)
        )
        inside = ~exact & (likeness[first] > 0.0) & (likeness[last] > 0.0)
        match = np.where(inside, start + lag[first], match)
        shift = np.where(inside, semitones[first], shift)
        cosine = np.where(inside, likeness[first], cosine)
    else:
        inside = np.zeros(len(exact), dtype=bool)
    has_match = cosine > -1.0
    return MotifMap(
        start=start,
        match=np.where(has_match, match, np.nan),
        transposition=(shift + 5) % 12 - 5,
        cosine=np.where(has_match, cosine, 0.0),
        recurs=exact | inside,
        window_seconds=WINDOW_SECONDS,
        duration=duration,
    )


def _returning_tunes(features: Features) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every tune frame (2 a second) that lies in a tune heard again: how much later (s), how many semitones higher
    (0 to 11), how like; 0 for others; [shape=(tune frames,)] each, empty for short clips."""
    recurrence = tune_recurrence(features)
    means, rate = recurrence.cosine, recurrence.rate
    if not means.shape[1]:
        return np.zeros(0), np.zeros(0, dtype=int), np.zeros(0)
    frames = means.shape[1] + recurrence.length - 1
    lag, shift, likeness = np.zeros(frames), np.zeros(frames, dtype=int), np.zeros(frames)
    run = 1
    for windows, threshold in _RUNS.items():
        # means along the diagonals of `run` windows, doubled until there are enough
        while run < windows and means.shape[1] > run:
            means = 0.5 * (means[:, :-run, :-run] + means[:, run:, run:])
            run *= 2
        if run < windows:
            break
        best = means.max(axis=0)
        count, span = len(best), recurrence.length + windows - 1
        places = np.arange(count)
        best[np.abs(places[:, None] - places) < span] = -1.0  # a passage is no repeat of itself
        column = best.argmax(axis=1)
        value = best[places, column]
        for row in np.flatnonzero(value >= threshold):
            part, semitones = slice(row, row + span), int(means[:, row, column[row]].argmax())
            there = recurrence.tune[column[row] : column[row] + span]
            # a window that matches reaches a little over the ends of what does
            nearer = _alike(np.roll(recurrence.tune[part], semitones, axis=1), there) & (likeness[part] < value[row])
            lag[part][nearer] = (column[row] - row) / rate
            shift[part][nearer] = semitones
            likeness[part][nearer] = value[row]
    grid = np.minimum((np.arange(len(features.tune)) * (rate / TUNE_RATE)).astype(int), frames - 1)
    return lag[grid], shift[grid], likeness[grid]


def _alike(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Where two stretches of centred frames are alike over 1.5 s, [shape=(frames,), bool]."""
    products, own, other = (
        uniform_filter1d(np.einsum("ij,ij->i", a, b), _ALIKE_FRAMES, mode="nearest")
        for a, b in ((first, second), (first, first), (second, second))
    )
    return np.asarray(products >= _ALIKE_COSINE * np.sqrt(own * other))


def _best_matches(vectors: np.ndarray, asked: np.ndarray, min_lag: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best match at least `min_lag` windows away, over 12 transpositions.

    Parameters
    ----------
    vectors : np.ndarray [shape=(n, length, 12), float32]
        Unit windows, or zeros.
    asked : np.ndarray of int
        The windows whose matches are sought.
    min_lag : int
        In frames.

    Returns
    -------
    cosine, match, shift : np.ndarray [shape=(len(asked),)]
        -1, 0 and 0 where no window is far enough away. `match` may end in .5; `shift` is in semitones upwards, 0 to 11.
    """
    count = len(vectors)
    flat, scale = vectors.reshape(count, -1), half_later_scale(vectors)
    best, match, shift = np.full(len(asked), -1.0), np.zeros(len(asked)), np.zeros(len(asked), dtype=int)
    for first in range(0, len(asked), _BLOCK):
        rows = asked[first : first + _BLOCK]
        part = slice(first, first + len(rows))
        too_near = np.where(
            np.abs(rows[:, None] - np.arange(count)[None, :]) < min_lag, np.float32(-3.0), np.float32(0.0)
        )
        for semitones in range(12):
            question = np.roll(vectors[rows], semitones, axis=2).reshape(len(rows), -1)
            whole = question @ flat.T
            for half, product in enumerate((whole, half_later(whole, scale))):
                product += too_near
                column = product.argmax(axis=1)
                value = product[np.arange(len(rows)), column]
                better = value > best[part] + (1e-4 if semitones or half else 0.0)  # ties go to the plainest match
                best[part] = np.where(better, value, best[part])
                match[part] = np.where(better, column + 0.5 * half, match[part])
                shift[part] = np.where(better, semitones, shift[part])
    return best, match, shift
