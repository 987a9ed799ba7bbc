"""Permutation tests, corrections for looking several times, and the cluster bootstrap, in arrays only.

All randomness comes from the `numpy.random.Generator` that is passed in.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from math import comb
from typing import Literal

import numpy as np

_EXACT_LIMIT = 1 << 16
"""Up to this many rearrangements are enumerated; beyond it they are sampled."""

_DEALS = 1 << 12  # the same for statistics that are no sums, where each rearrangement costs more
_CHUNK = 2_000_000  # values gathered at once by the bootstrap, so that memory stays near 50 MB


def sign_flip_test(differences: np.ndarray, rng: np.random.Generator, n_resamples: int = 19_999) -> tuple[float, float]:
    """Two-sided p value of a mean difference of zero, and the smallest p that this many units can reach.

    Under the null hypothesis a unit's two arms may be swapped, which flips the sign of its difference. Exact when
    2^n <= 65,536 (n <= 16), otherwise Monte Carlo with p = (b + 1) / (m + 1) (Phipson & Smyth 2010).

    Parameters
    ----------
    differences : np.ndarray [shape=(n,)]
        One paired difference a unit, finite; n >= 1.
    """
    n = len(differences)
    observed = abs(differences.sum())
    tolerance = 1e-10 * np.abs(differences).sum()
    if 2**n <= _EXACT_LIMIT:
        codes = np.arange(2**n, dtype=np.int64)
        signs = 1.0 - 2.0 * ((codes[:, None] >> np.arange(n)) & 1)
        return float(np.mean(np.abs(signs @ differences) >= observed - tolerance)), min(1.0, 2.0 / 2**n)
    hits = 0
    for size in chunk_sizes(n_resamples, n):
        signs = 1.0 - 2.0 * rng.integers(0, 2, size=(size, n))
        hits += int(np.sum(np.abs(signs @ differences) >= observed - tolerance))
    return (hits + 1) / (n_resamples + 1), 1.0 / (n_resamples + 1)


def label_permutation_test(
    first: np.ndarray, second: np.ndarray, rng: np.random.Generator, n_resamples: int = 19_999
) -> tuple[float, float]:
    """Two-sided p value of equal means when units carry exchangeable labels, and the smallest p they can reach.

    Exact when there are at most 65,536 ways to deal out the labels, otherwise Monte Carlo as in `sign_flip_test`.

    Parameters
    ----------
    first, second : np.ndarray [shape=(n1,) and (n2,)]
        Finite; n1, n2 >= 1.
    """
    pooled = np.concatenate([first, second])
    n1, n2, total = len(first), len(second), float(pooled.sum())
    observed = abs(second.mean() - first.mean())
    tolerance = 1e-10 * (np.abs(pooled).sum() / min(n1, n2))
    ways = comb(n1 + n2, n1)
    if ways <= _EXACT_LIMIT:
        chosen = np.array(list(itertools.combinations(range(n1 + n2), n1)))
        sums = pooled[chosen].sum(axis=1)
        statistics = np.abs((total - sums) / n2 - sums / n1)
        # With equal sizes each split has a mirror image of the same |difference|; otherwise only itself.
        return float(np.mean(statistics >= observed - tolerance)), min(1.0, (2 if n1 == n2 else 1) / ways)
    hits = 0
    for size in chunk_sizes(n_resamples, n1 + n2):
        order = rng.permuted(np.broadcast_to(pooled, (size, n1 + n2)), axis=1)
        sums = order[:, :n1].sum(axis=1)
        hits += int(np.sum(np.abs((total - sums) / n2 - sums / n1) >= observed - tolerance))
    return (hits + 1) / (n_resamples + 1), 1.0 / (n_resamples + 1)


def deals(
    how: Literal["swap", "deal"], first: int, second: int, rng: np.random.Generator, n_resamples: int
) -> tuple[np.ndarray, float, bool]:
    """Rearrangements of units between two sides [shape=(B, units), bool], the smallest p they can give, and
    whether they are all that there are.

    Parameters
    ----------
    how : 'swap' or 'deal'
        'swap': unit n of one side may change places with unit n of the other (True: it does); 'deal': the units of both
        sides are dealt out anew (True: the second side gets it).
    first, second : int
        Units of each side; equal for 'swap'.
    """
    if how == "swap":
        if 2**first <= _DEALS:
            codes = np.arange(2**first, dtype=np.int64)
            return ((codes[:, None] >> np.arange(first)) & 1).astype(bool), min(1.0, 2.0 / 2**first), True
        return rng.integers(0, 2, size=(n_resamples, first)).astype(bool), 1.0 / (n_resamples + 1), False
    total, ways = first + second, comb(first + second, second)
    if ways <= _DEALS:
        members = np.zeros((ways, total), dtype=bool)
        for row, chosen in enumerate(itertools.combinations(range(total), second)):
            members[row, list(chosen)] = True
        return members, min(1.0, (2 if first == second else 1) / ways), True
    order = rng.permuted(np.broadcast_to(np.arange(total), (n_resamples, total)), axis=1)
    return order < second, 1.0 / (n_resamples + 1), False


def chunk_sizes(total: int, width: int) -> list[int]:
    """`total` in parts that hold at most two million values when each has `width` of them."""
    step = max(1, _CHUNK // max(1, width))
    return [min(step, total - start) for start in range(0, total, step)]


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected so that the chance of any false alarm among them stays under the level (Holm 1979).

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    raw = np.asarray(p_values, dtype=float)
    order = np.argsort(raw)
    steps = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    return _in_place(steps, order)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """p values corrected so that the expected share of false alarms among the shown stays under the level (1995).

    >>> [round(p, 3) for p in benjamini_hochberg([0.01, 0.04, 0.03])]
    [0.03, 0.04, 0.04]
    """
    raw = np.asarray(p_values, dtype=float)
    order = np.argsort(raw)
    ranks = np.arange(1, len(raw) + 1) / len(raw)
    steps = np.minimum.accumulate((raw[order] / ranks)[::-1])[::-1]
    return _in_place(steps, order)


def _in_place(ascending: np.ndarray, order: np.ndarray) -> list[float]:
    """Corrected values, at most 1, at the places of the raw ones."""
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(ascending, 1.0)
    return [float(value) for value in corrected]


def crossed_means(cells: np.ndarray) -> np.ndarray:
    """Mean over trained models and prompts of the means over seeds: shape (..., R, P, S) to (...).

    Models and prompts that exist weigh alike, however many seeds they have; NaN entries do not exist.
    """
    present = np.isfinite(cells)
    counts = present.sum(axis=-1)
    means = np.where(present, cells, 0.0).sum(axis=-1) / np.maximum(counts, 1)
    filled = counts > 0
    grand: np.ndarray = (means * filled).sum(axis=(-1, -2)) / np.maximum(filled.sum(axis=(-1, -2)), 1)
    return grand


def cluster_bootstrap(values: np.ndarray, rng: np.random.Generator, n_resamples: int = 9_999) -> np.ndarray:
    """Bootstrap replicates of `crossed_means`, shape (n_resamples, K).

    Trained models and prompts are drawn with replacement independently of one another, because every model plays the
    same prompts (the pigeonhole bootstrap of Owen 2007); then the seeds within each drawn model and prompt. With one
    model this is the two-stage bootstrap of prompts and seeds. All K arms share every draw, so that pairing is kept.

    Parameters
    ----------
    values : np.ndarray [shape=(K, R, P, S)]
        NaN in the same places for every arm, valid seeds first, at least one valid.
    """
    arms, models, prompts, depth = values.shape
    counts = np.isfinite(values[0]).sum(axis=-1)  # (R, P)
    replicates = np.empty((n_resamples, arms))
    start = 0
    for size in chunk_sizes(n_resamples, models * prompts * depth):
        rows = rng.integers(0, models, size=(size, models)) if models > 1 else np.zeros((size, 1), dtype=np.int64)
        columns = rng.integers(0, prompts, size=(size, prompts))
        r, p = rows[:, :, None], columns[:, None, :]
        drawn = counts[r, p]  # (size, R, P)
        weight = (drawn > 0).astype(float)
        inner = (rng.random((*drawn.shape, depth)) * drawn[..., None]).astype(np.int64)
        valid = np.arange(depth) < drawn[..., None]
        norm = np.maximum(weight.sum(axis=(1, 2)), 1.0)
        for arm in range(arms):
            picked = np.where(valid, values[arm][r[..., None], p[..., None], inner], 0.0)
            means = picked.sum(axis=-1) / np.maximum(drawn, 1)
            replicates[start : start + size, arm] = (means * weight).sum(axis=(1, 2)) / norm
        # A draw of only absent model-prompt pairs has no mean; it is left out by the caller.
        replicates[start : start + size][weight.sum(axis=(1, 2)) == 0] = np.nan
        start += size
    return replicates[np.isfinite(replicates).all(axis=1)]


def cluster_weights(present: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """The draws of `cluster_bootstrap` as weights on the clips, for statistics that are no means: shape (size, R·P·S).

    Every drawn model and prompt weighs alike, however many seeds it has.

    Parameters
    ----------
    present : np.ndarray [shape=(R, P, S), bool]
        Which clips there are, valid seeds first.
    """
    models, prompts, depth = present.shape
    counts = present.sum(axis=-1)
    rows = rng.integers(0, models, size=(size, models)) if models > 1 else np.zeros((size, 1), dtype=np.int64)
    columns = rng.integers(0, prompts, size=(size, prompts))
    r, p = rows[:, :, None], columns[:, None, :]
    drawn = counts[r, p]  # (size, R, P)
    inner = (rng.random((*drawn.shape, depth)) * drawn[..., None]).astype(np.int64)
    valid = np.arange(depth) < drawn[..., None]
    clip = (r[..., None] * prompts + p[..., None]) * depth + inner
    weight = np.where(valid, 1.0 / np.maximum(drawn, 1)[..., None], 0.0)
    flat = clip + (np.arange(size) * present.size)[:, None, None, None]
    return np.bincount(flat.ravel(), weight.ravel(), minlength=size * present.size).reshape(size, present.size)


def jackknife_means(values: np.ndarray) -> np.ndarray:
    """`crossed_means` with one unit left out at a time, shape (n, K): a trained model, or a prompt when R = 1."""
    axis = 1 if values.shape[1] > 1 else 2
    return np.stack([crossed_means(np.delete(values, index, axis=axis)) for index in range(values.shape[axis])])


def bca_interval(
    estimate: float, replicates: np.ndarray, jackknife: np.ndarray, confidence: float = 0.95
) -> tuple[float, float]:
    """The bias-corrected and accelerated interval of a statistic (Efron 1987).

    Parameters
    ----------
    estimate : float
        The statistic of the data.
    replicates : np.ndarray [shape=(m,)]
        Bootstrap replicates of it.
    jackknife : np.ndarray [shape=(n,)]
        The statistic with one unit left out at a time.

    Returns
    -------
    (float, float)
        Both equal to the estimate when the statistic does not vary.
    """
    from scipy.stats import norm

    if np.ptp(replicates) <= 1e-12 * max(1.0, abs(estimate)):
        return float(estimate), float(estimate)
    below = (np.mean(replicates < estimate) + np.mean(replicates <= estimate)) / 2
    limit = 1 / (2 * len(replicates))
    bias = float(norm.ppf(np.clip(below, limit, 1 - limit)))
    centred = jackknife.mean() - jackknife
    spread = float(np.sum(centred**2))
    acceleration = float(np.sum(centred**3)) / (6 * spread**1.5) if spread > 0 else 0.0
    ends = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        z = bias + float(norm.ppf(tail))
        slope = 1 - acceleration * z
        # Beyond the pole of the correction the end lies outside every replicate.
        ends.append(float(norm.cdf(bias + z / slope)) if slope > 0 else float(z > 0))
    low, high = np.quantile(replicates, ends)
    return float(low), float(high)


def random_stream(seed: int, *names: str) -> np.random.Generator:
    """A generator of its own for every seed and tuple of names (a metric, arms), equal in every process."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])
