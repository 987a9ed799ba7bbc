"""Distances of weighted clips to a reference, one for each row of weights, to be resampled and dealt anew.

Weights are relative: rows of clips [shape=(B, n)], rows of the reference's clips [shape=(B or 1, m)].
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

_MOST_SCALE = 3.0  # a draw of few different clips may hardly vary, and would be no yardstick


class Statistic(ABC):
    """A distance to the reference for each row of weights."""

    squares = False
    """Whether its noise adds in squares, so that the correction for the size of sets does."""

    @abstractmethod
    def __call__(self, weights: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Distances [shape=(B,)]."""

    def scale(self, reference: np.ndarray) -> np.ndarray:
        """What a draw of the reference multiplies distances by, where its spread is their unit, [shape=(B,)]."""
        return np.ones(len(reference))


class Wasserstein(Statistic):
    """Wasserstein-1 in standard deviations of the reference."""

    squares = True

    def __init__(self, values: np.ndarray, reference: np.ndarray) -> None:
        # Both sets sorted together once: W1 is the integral of |F - G|, and between neighbours both are constant.
        pooled = np.concatenate([values, reference])
        self._order = np.argsort(pooled, kind="stable")
        self._gaps, self._reference = np.diff(pooled[self._order]), reference - reference.mean()
        self._least = 1e-9 * float(np.ptp(pooled)) or 1.0
        own = float(self._deviation(np.full((1, len(reference)), 1.0 / len(reference)))[0])
        # Where all of the reference reads alike it gives no yardstick, and the spread of everything is one.
        self._scale = own if own > self._least else float(np.std(pooled)) or 1.0

    def __call__(self, weights: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Distances [shape=(B,)]."""
        ours, theirs = _normed(weights), _normed(reference)
        theirs = np.broadcast_to(theirs, (len(ours), theirs.shape[1]))
        # F - G right of each pooled value but the last, a row of weights each [shape=(B, n + m - 1)].
        apart = np.cumsum(np.concatenate([ours, -theirs], axis=1)[:, self._order], axis=1)[:, :-1]
        distance: np.ndarray = np.abs(apart) @ self._gaps / self._scale
        return distance

    def scale(self, reference: np.ndarray) -> np.ndarray:
        """The whole reference's SD over each draw's: what the yardstick's own uncertainty multiplies a distance by."""
        own = self._deviation(_normed(reference))
        ratio: np.ndarray = np.clip(self._scale / np.maximum(own, self._least), 1.0 / _MOST_SCALE, _MOST_SCALE)
        return ratio

    def _deviation(self, weights: np.ndarray) -> np.ndarray:
        # Weighted variance; 1 / (1 - sum w^2) is n / (n - 1) where the weights are equal.
        variance = weights @ self._reference**2 - (weights @ self._reference) ** 2
        bessel = 1.0 / np.maximum(1.0 - np.sum(weights**2, axis=1), 0.01)
        deviation: np.ndarray = np.sqrt(np.maximum(0.0, variance * bessel))
        return deviation


class Beyond(Statistic):
    """The share beyond the reference's own."""

    def __init__(self, values: np.ndarray, reference: np.ndarray) -> None:
        self._values, self._reference = values, reference

    def __call__(self, weights: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Distances [shape=(B,)]."""
        beyond: np.ndarray = _normed(weights) @ self._values - _normed(reference) @ self._reference
        positive: np.ndarray = np.maximum(0.0, beyond)
        return positive


class Kernel(Statistic):
    """Unbiased MMD² with a Gaussian kernel as wide as the reference's median distance; copies of one row make no
    pair."""

    def __init__(self, rows: np.ndarray, reference: np.ndarray) -> None:
        pooled = np.concatenate([rows, reference]) - reference.mean(axis=0)
        norms = np.einsum("ij,ij->i", pooled, pooled)
        # |x - y|^2 = |x|^2 + |y|^2 - 2 x.y; rows were centred, so that little cancels.
        squared = np.maximum(norms[:, None] + norms[None, :] - 2.0 * pooled @ pooled.T, 0.0)
        count = len(rows)
        within = squared[count:, count:][np.triu_indices(len(reference), 1)]
        width = float(np.median(within)) or float(np.median(squared)) or 1.0
        kernel = np.exp(squared / (-2.0 * width))
        self._across = kernel[:count, count:]
        self._ours, self._theirs = kernel[:count, :count].copy(), kernel[count:, count:].copy()
        # A row is no pair with itself: that is what makes the estimate unbiased.
        np.fill_diagonal(self._ours, 0.0)
        np.fill_diagonal(self._theirs, 0.0)

    def __call__(self, weights: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Distances [shape=(B,)]."""
        ours, theirs = _normed(weights), _normed(reference)
        cross = np.einsum("ij,ij->i", ours @ self._across, np.broadcast_to(theirs, (len(ours), theirs.shape[1])))
        mmd: np.ndarray = _within(ours, self._ours) + _within(theirs, self._theirs) - 2.0 * cross
        return mmd


def _within(weights: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    # The mean over pairs of different rows: the weights of all pairs less those of rows with themselves.
    pairs = np.maximum(1.0 - np.sum(weights**2, axis=1), 1e-12)
    mean: np.ndarray = np.einsum("ij,ij->i", weights @ kernel, weights) / pairs
    return mean


def _normed(weights: np.ndarray) -> np.ndarray:
    normed: np.ndarray = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
    return normed


def wasserstein_distance(values: Sequence[float] | np.ndarray, reference: Sequence[float] | np.ndarray) -> float:
    """Wasserstein-1 distance of two samples in standard deviations of the second, not corrected for their sizes.

    >>> round(wasserstein_distance([1.0, 2.0, 3.0], [0.0, 1.0, 2.0]), 6)
    1.0
    """
    ours, theirs = np.asarray(values, dtype=float), np.asarray(reference, dtype=float)
    distance = Wasserstein(ours, theirs)(np.ones((1, len(ours))), np.ones((1, len(theirs))))
    return float(distance[0])


def corrected(
    raw: float, drawn: np.ndarray, scales: np.ndarray, squares: bool, ends: tuple[float, float]
) -> tuple[float, tuple[float, float]]:
    """The distance without what resampling adds to it, and an interval: the replicates' spread around it."""
    # raw^2 is d^2 and the noise of sampling, and E[drawn^2] is raw^2 and as much noise again.
    value = raw if not squares else math.sqrt(max(0.0, 2.0 * raw**2 - float(np.mean(drawn**2))))
    spread = (drawn - drawn.mean() + value) * scales - value
    low, high = np.quantile(spread - np.median(spread), ends)
    return value, (value + float(low), value + float(high))


def tails(alpha: float, units: int) -> tuple[float, float]:
    """Quantiles of an interval, wider for few units, where the bootstrap is too narrow (Hesterberg 2015, §4.1)."""
    from scipy.stats import norm, t

    reach = float(t.ppf(1.0 - alpha / 2.0, units - 1)) * math.sqrt(units / (units - 1))
    tail = float(norm.cdf(-reach))
    return tail, 1.0 - tail
