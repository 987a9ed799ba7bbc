"""Statistics between clips: rank correlation, intervals over clips, permutation tests, and shares of a variance.

The clip is the unit everywhere: noise levels and draws of one clip are never counted as if they were further clips. All
randomness comes from the `numpy.random.Generator` that is passed in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
"""Bootstrap resamples: 2.5% tails rest on 25 of them, and an interval moves by about 3% of its width between seeds."""

PERMUTATIONS = 9999
"""Smallest p is 1e-4, below 0.05 / 24: Holm over all candidates can still find something."""

_PENALTIES = np.array([0.003, 0.03, 0.3, 3.0, np.inf])  # ridge, in units of the number of clips; inf leaves a group out
_BLOCKS = 50  # most groups that the jackknife deletes in turn: its cost, not its width, grows with them


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval.

    Attributes
    ----------
    value : float or None
        None where it is undefined.
    low, high : float or None
        None where the data allow no interval.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    def above(self, bound: float) -> bool:
        """Whether the whole interval lies above `bound`; False without an interval."""
        return self.low is not None and self.low > bound

    def below(self, bound: float) -> bool:
        """Whether the whole interval lies below `bound`; False without an interval."""
        return self.high is not None and self.high < bound


UNKNOWN = Estimate(None)


def estimate(value: float, low: float = np.nan, high: float = np.nan) -> Estimate:
    """An `Estimate` in which what is not finite is None."""
    return Estimate(*(float(number) if np.isfinite(number) else None for number in (value, low, high)))


def percentile_interval(value: float, resampled: np.ndarray) -> Estimate:
    """The 95% percentile interval of resampled values; no interval where under half of them are finite."""
    finite = resampled[np.isfinite(resampled)]
    if not np.isfinite(value) or len(finite) < len(resampled) / 2:
        return estimate(value)
    low, high = np.percentile(finite, [2.5, 97.5])
    return estimate(value, min(low, value), max(high, value))


def resample_clips(n: int, rng: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """Indices of clips drawn with replacement, shape (resamples, n)."""
    return rng.integers(0, n, size=(resamples, n))


def ranks(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Ranks with ties averaged, scaled to mean 0 and the range (-1, 1)."""
    from scipy.stats import rankdata

    n = values.shape[axis]
    return np.asarray((2 * rankdata(values, axis=axis) - 1) / n - 1)


def correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson correlation along the last axis; NaN where either is constant."""
    a = first - first.mean(axis=-1, keepdims=True)
    b = second - second.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 1e-12, (a * b).sum(axis=-1) / scale, np.nan)


def spearman(first: np.ndarray, second: np.ndarray, draws: np.ndarray) -> Estimate:
    """Spearman's correlation with a percentile bootstrap over clips.

    Parameters
    ----------
    first, second : np.ndarray [shape=(n,)], finite
    draws : np.ndarray [shape=(resamples, n)]
        From `resample_clips`.
    """
    if len(first) < 3:
        return UNKNOWN
    value = float(correlate(ranks(first), ranks(second)))
    if not np.isfinite(value):
        return UNKNOWN
    return percentile_interval(value, correlate(ranks(first[draws]), ranks(second[draws])))


def permutation_p(
    target: np.ndarray, candidates: np.ndarray, rng: np.random.Generator, permutations: int = PERMUTATIONS
) -> np.ndarray:
    """Two-sided p of each candidate's correlation with `target`, (K,): how often a shuffled target does as well.

    p = (b + 1) / (m + 1) (Phipson & Smyth 2010). The same shuffles serve every candidate.

    Parameters
    ----------
    target : np.ndarray [shape=(n,)]
        Ranks, or residuals of ranks.
    candidates : np.ndarray [shape=(n, K)]
    """
    centred = candidates - candidates.mean(axis=0)
    observed = np.abs((target - target.mean()) @ centred)
    tolerance = 1e-9 * np.abs(centred).sum(axis=0)
    hits = np.zeros(candidates.shape[1])
    for start in range(0, permutations, 1000):
        size = min(1000, permutations - start)
        shuffled = rng.permuted(np.broadcast_to(target - target.mean(), (size, len(target))), axis=1)
        hits += (np.abs(shuffled @ centred) >= observed - tolerance).sum(axis=0)
    return np.asarray((hits + 1) / (permutations + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; same order as given."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]) if len(p) else p
    out = np.empty(len(p))
    out[order] = np.minimum(1.0, stepped)
    return [float(value) for value in out]


def features(columns: np.ndarray) -> np.ndarray:
    """Predictors from values (n, K): each column's ranks, and their squares, standardised, (n, 2K).

    The square lets a weight that prefers the middle of a range, or both ends, count as explained: quiet and loud may
    both lie far from an average level.
    """
    linear = ranks(columns, axis=0)
    both = np.concatenate([linear, linear**2], axis=1)
    both = both - both.mean(axis=0)
    deviation = both.std(axis=0)
    return np.asarray(both / np.where(deviation > 1e-9, deviation, 1.0) * (deviation > 1e-9))


def explained(target: np.ndarray, groups: Sequence[np.ndarray]) -> float:
    """Share of the variance of `target`'s ranks that the groups predict for a clip left out, in [0, 1].

    Ridge regression on ranks and squared ranks (`features`), one penalty a group, chosen (with "leave the group out"
    among the choices) by the same leave-one-out error. Fitted shares would rise with every further predictor, and there
    are about as many structure metrics as a small probe has clips; this one does not.

    Parameters
    ----------
    target : np.ndarray [shape=(n,)]
    groups : sequence of np.ndarray [shape=(n, K)]
    """
    n = len(target)
    y = ranks(target)
    y = y - y.mean()
    total = float((y * y).sum()) * (n / (n - 1)) ** 2  # the error of predicting by the mean of the others
    if total <= 1e-12:
        return float("nan")
    kernels = []
    for group in groups:
        x = features(group)
        kernels.append(x @ x.T / (n * max(1, group.shape[1])))
    penalties = np.array(list(itertools.product(_PENALTIES, repeat=len(kernels))))
    kernel = np.einsum("pg,gij->pij", 1 / penalties, np.stack(kernels))
    hat = np.linalg.solve(kernel + np.eye(n), kernel)  # (K + 1)^-1 K
    leverage = np.diagonal(hat, axis1=1, axis2=2) + 1 / n
    error = (((y - hat @ y) / np.maximum(1 - leverage, 1e-9)) ** 2).sum(axis=1)
    return float(np.clip(1 - error.min() / total, 0.0, 1.0))


def jackknife(statistic: Callable[[np.ndarray], np.ndarray], n: int, lowest: float, highest: float) -> list[Estimate]:
    """Numbers with 95% intervals from deleting clips in turn, for statistics that a bootstrap would flatter.

    A bootstrap draws clips twice, and a predictor that has seen a clip's twin predicts it too well.

    Parameters
    ----------
    statistic : callable
        From indices of clips to K numbers.
    n : int
        Number of clips; beyond 50 they are deleted in 50 groups.
    lowest, highest : float
        Bounds that the statistics respect; intervals are cut there.
    """
    from scipy.stats import t as student

    whole = np.asarray(statistic(np.arange(n)), dtype=float)
    blocks = np.array_split(np.arange(n), min(n, _BLOCKS))
    parts = np.array([statistic(np.setdiff1d(np.arange(n), block)) for block in blocks])
    count = len(blocks)
    error = np.sqrt((count - 1) / count * ((parts - parts.mean(axis=0)) ** 2).sum(axis=0))
    reach = float(student.ppf(0.975, count - 1)) * error
    return [
        estimate(value, max(lowest, value - wide), min(highest, value + wide))
        for value, wide in zip(whole, reach, strict=True)
    ]


def partial_residuals(values: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Ranks of `values` (n, K) without what ranks and squared ranks of `given` (n, G) predict of them, (n, K)."""
    x = np.concatenate([np.ones((len(given), 1)), features(given)], axis=1)
    y = ranks(values, axis=0)
    solution, *_ = np.linalg.lstsq(x, y, rcond=None)
    return np.asarray(y - x @ solution)


def auc(more: np.ndarray, less: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES) -> Estimate:
    """Chance that a value of `more` exceeds one of `less` (ties count half), with a bootstrap over the clips of each side.

    Where every pair is ordered alike a bootstrap has no width; there the exact bound for one side's clips all on one side
    is given instead (rule of three, 1 - 0.05^(1/n) for the smaller side).
    """
    if len(more) == 0 or len(less) == 0:
        return UNKNOWN
    wins = (more[:, None] > less[None, :]) + 0.5 * (more[:, None] == less[None, :])
    value = float(wins.mean())
    if min(len(more), len(less)) < 2:
        return estimate(value)
    first = rng.multinomial(len(more), np.full(len(more), 1 / len(more)), size=resamples) / len(more)
    second = rng.multinomial(len(less), np.full(len(less), 1 / len(less)), size=resamples) / len(less)
    found = percentile_interval(value, ((first @ wins) * second).sum(axis=1))
    slack = 1 - 0.05 ** (1 / min(len(more), len(less)))
    if value == 1.0:
        return estimate(value, 1 - slack, 1.0)
    if value == 0.0:
        return estimate(value, 0.0, slack)
    return found
