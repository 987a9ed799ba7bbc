"""Form: whether a piece falls into sections, on what time scale, how far they lie apart, and whether it ends where it
began.

*Block strength and scale.* The texture's self-similarity matrix (0.5 s hop, tau = 6 dB fixed) is scanned with Foote
checkerboards of half-width L (Foote 2000). At time t, *within* is the mean similarity inside [t-L, t) and inside [t,
t+L), *across* the mean similarity between the two; their difference, floored at 0 and averaged over t, is the strength
of structure at scale L. Drones and stationary noise score 0 because the scale of the similarity is absolute.

The scale asks more. Pairs inside a half are nearer to each other in time than pairs across, and textures half a second
apart share most of their 2 s: that alone makes sparse or slow music look like blocks of 2 s. So the curve that gives
the scale compares pairs of equal distance, from L/2 up to L, within and across (`equal_distance_profile`).

*Section contrast.* The texture is averaged over stretches of about 5 s; the value is the mean distance (RMS dB) over
all pairs of stretches. What fluctuates around a constant (a drone, a cloud of grains, a short loop) averages out; what
goes somewhere keeps its distance. Unlike block strength it counts dB beyond the point where two textures are simply
'different'.

*Closure.* The texture distance (RMS dB) between the first and the last tenth of the piece, over the median distance
between all pairs of textures. 0 is a full circle, 1 an end as far from the start as any two moments, above 1 an arrival
elsewhere.
"""

from __future__ import annotations

import numpy as np

from eisbach.structure.features import FRAME_RATE, TEXTURE_RATE, Features, once_per_clip
from eisbach.structure.metrics.base import Invariances, Metric
from eisbach.structure.similarity import self_similarity, squared_distances

BLOCKS_MIN_SECONDS = 8.0
"""Shortest clip that has a `block_curve` worth reading."""
_MAX_WINDOWS = 1200  # ten minutes of texture; longer clips are pooled or thinned evenly to it
_MIN_SCALE, _MAX_SCALE = 1.5, 40.0  # seconds
_MIN_STRENGTH = 0.02
_STRETCH_SECONDS = 5.0
_STILL_DB = 1.0  # a median distance under this is a piece that does not move


def checkerboard_profile(similarity: np.ndarray, half_widths: np.ndarray) -> np.ndarray:
    """Mean over time of max(0, within - across) for every half-width, [shape=(len(half_widths),)].

    Parameters
    ----------
    similarity : np.ndarray [shape=(n, n)]
        Symmetric, values in [0, 1].
    half_widths : np.ndarray of int
        In frames; each at most n // 2.
    """
    n = len(similarity)
    # summed-area table: the sum over any rectangle is four of its entries, so every scale costs O(n)
    integral = np.zeros((n + 1, n + 1))
    np.cumsum(np.cumsum(similarity, axis=0), axis=1, out=integral[1:, 1:])

    def block(r0: np.ndarray, r1: np.ndarray, c0: np.ndarray, c1: np.ndarray) -> np.ndarray:
        return integral[r1, c1] - integral[r0, c1] - integral[r1, c0] + integral[r0, c0]

    profile = np.zeros(len(half_widths))
    for index, width in enumerate(half_widths):
        t = np.arange(width, n - width + 1)
        before, after = t - width, t + width
        within = 0.5 * (block(before, t, before, t) + block(t, after, t, after)) / width**2
        across = block(before, t, t, after) / width**2
        profile[index] = np.maximum(0.0, within - across).mean()
    return profile


def equal_distance_profile(similarity: np.ndarray, half_widths: np.ndarray) -> np.ndarray:
    """The checkerboard on pairs of equal distance, [shape=(len(half_widths),)].

    For every distance from half the half-width up to one frame less than it: mean similarity of such pairs within the
    halves less that of such pairs across the centre; the mean over the distances is floored at 0 and averaged over
    time. Whatever depends on the distance of two moments alone cancels. Arguments as for `checkerboard_profile`.
    """
    n, widest = len(similarity), int(max(half_widths, default=0))
    # by distance d and moment t: summed similarity of the pairs (i, i + d) with i < t, and with i + d < t
    begun, ended = np.zeros((widest, n + 1)), np.zeros((widest, n + 1))
    for apart in range(1, widest):
        begun[apart, 1 : n - apart + 1] = ended[apart, apart + 1 :] = np.diagonal(similarity, apart).cumsum()
    profile = np.zeros(len(half_widths))
    for index, width in enumerate(half_widths.tolist()):
        distance = np.arange((width + 1) // 2, width)
        rows, t = slice(distance[0], width), slice(width, n - width + 1)
        before, after = slice(0, n - 2 * width + 1), slice(2 * width, n + 1)
        within = (ended[rows, t] - begun[rows, before]) + (ended[rows, after] - begun[rows, t])
        across = begun[rows, t] - ended[rows, t]
        # 2 (width - d) pairs at distance d lie within the halves, d of them across the centre
        difference = (0.5 / (width - distance)) @ within - (1.0 / distance) @ across
        profile[index] = np.maximum(0.0, difference / len(distance)).mean()
    return profile


@once_per_clip
def _pooled_similarity(features: Features) -> tuple[np.ndarray, np.ndarray, float]:
    """Self-similarity, half-widths in frames (none for clips under about 5 s) and frames a second."""
    factor = max(1, -(-len(features.texture) // _MAX_WINDOWS))
    windows = len(features.texture) // factor
    rate = TEXTURE_RATE / factor
    if windows == 0:
        return np.zeros((0, 0)), np.zeros(0, dtype=int), rate
    pooled = features.texture[: windows * factor].reshape(windows, factor, -1).mean(axis=1)
    longest = min(max(_MAX_SCALE, features.duration / 12.0), features.duration / 3.0)
    half_widths = np.arange(max(2, round(_MIN_SCALE * rate)), int(longest * rate) + 1)
    return self_similarity(pooled), half_widths[2 * half_widths < windows], rate


@once_per_clip
def block_curve(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Contrast of blocks at every scale: half-widths (s) and `equal_distance_profile` (0-1), both [shape=(scales,)].

    Scales go from 1.5 s to 40 s or a third of the clip. Beyond ten minutes the texture is pooled to at most 1200
    windows and the scales go to 40 s or a twelfth of the clip. Empty for clips under about 5 s.
    """
    similarity, half_widths, rate = _pooled_similarity(features)
    return half_widths / rate, equal_distance_profile(similarity, half_widths)


def block_strength(features: Features) -> float:
    """Strength of the best scale of the whole checkerboard, in [0, 1]; 0 for drones and noise."""
    similarity, half_widths, _ = _pooled_similarity(features)
    return float(checkerboard_profile(similarity, half_widths).max()) if len(half_widths) else float("nan")


def block_scale(features: Features) -> float:
    """The half-width at which the blocks of `block_curve` are clearest, s; NaN without any (strength or contrast under
    0.02)."""
    scales, contrasts = block_curve(features)
    if not len(scales) or min(block_strength(features), contrasts.max()) < _MIN_STRENGTH:
        return float("nan")
    return float(scales[contrasts.argmax()])


def section_contrast(features: Features) -> float:
    """Mean distance between the textures of 5 s stretches, dB, in [0, 80]."""
    count = round(features.duration / _STRETCH_SECONDS)
    stretches = np.array([part.mean(axis=0) for part in np.array_split(features.texture, count)])
    distances = np.sqrt(squared_distances(stretches))
    return float(distances[np.triu_indices(count, k=1)].mean())


def closure(features: Features) -> float:
    """Start-to-end distance over the median pairwise distance, >= 0; NaN when the texture stands still (median under 1
    dB)."""
    texture = features.texture
    tenth = max(1, round(len(texture) / 10))
    thinned = texture[:: -(-len(texture) // _MAX_WINDOWS)]  # thinning keeps the median
    distances = np.sqrt(squared_distances(thinned))
    median = float(np.median(distances[np.triu_indices(len(thinned), k=1)]))
    if median < _STILL_DB:
        return float("nan")
    ends = texture[:tenth].mean(axis=0) - texture[-tenth:].mean(axis=0)
    return float(np.sqrt(np.mean(ends**2)) / median)


BLOCK_STRENGTH = Metric(
    name="block_strength",
    label="Block strength",
    unit="",
    range=(0.0, 1.0),
    higher_means="sections that differ more clearly from one another",
    family="form",
    min_seconds=BLOCKS_MIN_SECONDS,
    function=block_strength,
    primary=True,
    invariances=Invariances(codec=0.03, noise_floor=0.04, length=0.08),
)
BLOCK_SCALE = Metric(
    name="block_scale",
    label="Block scale",
    unit="s",
    range=(0.0, float("inf")),
    higher_means="longer sections",
    family="form",
    min_seconds=BLOCKS_MIN_SECONDS,
    function=block_scale,
)
SECTION_CONTRAST = Metric(
    name="section_contrast",
    label="Section contrast",
    unit="dB",
    range=(0.0, 80.0),
    higher_means="stretches that sound more different from one another",
    family="form",
    min_seconds=15.0,
    function=section_contrast,
    invariances=Invariances(codec=0.6, noise_floor=1.2, length=1.5),
)
CLOSURE = Metric(
    name="closure",
    label="Closure",
    unit="",
    range=(0.0, float("inf")),
    higher_means="an end farther from the beginning",
    family="form",
    min_seconds=12.0,
    function=closure,
    invariances=Invariances(codec=0.15, noise_floor=0.1),
)


# --- order: whether what comes next follows from what was heard


_POOL = 12  # mel frames: 50 → 4.17 a second
_RATE = FRAME_RATE / _POOL
_PAST, _FUTURE, _APART, _STRETCH = 2.0, 2.0, 4.0, 60.0  # seconds
_ANALOGUES = 3
_DEPTH_DB = 50.0
_SAME_DB = 0.3  # of a band, root mean square: continuations that differ by less do not differ


def continuation(features: Features) -> float:
    """Share of what comes next that the piece's own past foretells, at most 1; NaN where nothing moves."""
    frames = len(features.steady_db) // _POOL
    mel = np.maximum(features.steady_db[: frames * _POOL], -_DEPTH_DB)
    pooled = mel.reshape(frames, _POOL, -1).mean(axis=1, dtype=np.float64)
    stretches = np.array_split(pooled, max(1, int(np.ceil(frames / (_STRETCH * _RATE)))))
    past, future, apart = (round(seconds * _RATE) for seconds in (_PAST, _FUTURE, _APART))
    still = _SAME_DB * np.sqrt(future * pooled.shape[1])
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
