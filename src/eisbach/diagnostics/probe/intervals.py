"""Numbers with intervals over clips: rank correlation, AUC, and whatever is resampled.

The clip is the unit everywhere: noise levels and draws of one clip are never counted as if they were further clips. All
randomness comes from the `numpy.random.Generator` that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
"""Bootstrap resamples: 2.5% tails rest on 25 of them, and an interval moves by about 3% of its width between seeds."""

MIN_CLIPS = 12
"""Below this there are no intervals: a rank correlation must exceed 0.58 to be told from 0."""


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


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, ties averaged, scaled to mean 0 and the range (-1, 1)."""
    from scipy.stats import rankdata

    return np.asarray((2 * rankdata(values, axis=-1) - 1) / values.shape[-1] - 1)


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


def auc(more: np.ndarray, less: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES) -> Estimate:
    """Chance that a value of `more` exceeds one of `less` (ties count half), with a bootstrap over the clips of each
    side.

    Where every pair is ordered alike a bootstrap has no width; there the exact bound for one side's clips all on one
    side is given instead (rule of three, 1 - 0.05^(1/n) for the smaller side).
    """
    if len(more) == 0 or len(less) == 0:
        return UNKNOWN
    wins = (more[:, None] > less[None, :]) + 0.5 * (more[:, None] == less[None, :])
    value = float(wins.mean())
    fewer = min(len(more), len(less))
    if fewer < 2:
        return estimate(value)
    # A resampled side is a vector of how often each clip was drawn; the resampled AUC is then a bilinear form of
    # `wins`.
    first = rng.multinomial(len(more), np.full(len(more), 1 / len(more)), size=resamples) / len(more)
    second = rng.multinomial(len(less), np.full(len(less), 1 / len(less)), size=resamples) / len(less)
    slack = 1 - 0.05 ** (1 / fewer)
    if value == 1.0:
        return estimate(value, 1 - slack, 1.0)
    if value == 0.0:
        return estimate(value, 0.0, slack)
    return percentile_interval(value, ((first @ wins) * second).sum(axis=1))
