"""How large a difference is, beside whether there is one: Hedges g, P(improvement), t intervals, equivalence."""

from __future__ import annotations

from typing import Literal

import numpy as np

Direction = Literal["higher", "lower"] | None


def hedges_g(sample: np.ndarray, other: np.ndarray | None = None) -> float | None:
    """The standardised mean with Hedges' small-sample correction (Hedges 1981); None when nothing varies.

    Parameters
    ----------
    sample : np.ndarray [shape=(n,)]
        Paired differences, or one arm's values when `other` is given.
    other : np.ndarray [shape=(m,)] or None
        The baseline's values; the deviation is then the pooled one.
    """
    from scipy.special import gammaln

    if other is None:
        df = len(sample) - 1
        effect, spread = float(sample.mean()), float(np.std(sample, ddof=1)) if df > 0 else 0.0
    else:
        df = len(sample) + len(other) - 2
        squares = np.sum((sample - sample.mean()) ** 2) + np.sum((other - other.mean()) ** 2)
        effect, spread = float(sample.mean() - other.mean()), float(np.sqrt(squares / df)) if df > 0 else 0.0
    if df < 1 or spread <= 1e-12 * max(1.0, abs(effect)):
        return None
    if df == 1:  # the correction factor Gamma(df/2) / (sqrt(df/2) Gamma((df-1)/2)) tends to 0 here
        return None
    correction = np.exp(gammaln(df / 2) - gammaln((df - 1) / 2)) / np.sqrt(df / 2)
    return float(correction * effect / spread)


def pair_improvement(baseline: np.ndarray, arm: np.ndarray, better: Direction) -> float | None:
    """Share of matched pairs in which the arm is better, ties half, averaged within cells first; NaN marks no pair.

    Parameters
    ----------
    baseline, arm : np.ndarray [shape=(..., S)]
        Pairs along the last axis; a cell is one prompt (of one trained model).
    """
    present = np.isfinite(baseline) & np.isfinite(arm)
    if not present.any():
        return None
    sign = -1.0 if better == "lower" else 1.0
    wins = np.where(present, 0.5 * (1 + np.sign(sign * (arm - baseline))), 0.0)
    counts = present.sum(axis=-1)
    return float((wins.sum(axis=-1)[counts > 0] / counts[counts > 0]).mean())


def unpaired_improvement(baseline: np.ndarray, arm: np.ndarray, better: Direction) -> float | None:
    """Share of all (arm, baseline) pairs in which the arm is better, ties half (Mann-Whitney U over n m)."""
    if not len(baseline) or not len(arm):
        return None
    sign = -1.0 if better == "lower" else 1.0
    return float((0.5 * (1 + np.sign(sign * (arm[:, None] - baseline[None, :])))).mean())


def t_interval(sample: np.ndarray, confidence: float, other: np.ndarray | None = None) -> tuple[float, float] | None:
    """Student's interval of a mean, or Welch's of `sample` minus `other`; None with fewer than two values a side."""
    from scipy.stats import t

    moments = _moments(sample, other)
    if moments is None:
        return None
    mean, error, df = moments
    half = float(t.ppf((1 + confidence) / 2, df)) * error if error > 0 else 0.0
    return mean - half, mean + half


def equivalence_p(sample: np.ndarray, margin: float | None, other: np.ndarray | None = None) -> float | None:
    """p value of 'the mean lies within +-margin': the larger of two one-sided t tests (Schuirmann 1987).

    None without a margin or with fewer than two values a side.
    """
    from scipy.stats import t

    moments = _moments(sample, other)
    if margin is None or moments is None:
        return None
    mean, error, df = moments
    if error == 0:
        return 0.0 if abs(mean) < margin else 1.0
    return float(max(t.sf((mean + margin) / error, df), t.cdf((mean - margin) / error, df)))


def _moments(sample: np.ndarray, other: np.ndarray | None) -> tuple[float, float, float] | None:
    """Mean (difference), its standard error and the degrees of freedom (Welch-Satterthwaite for two samples)."""
    n = len(sample)
    if n < 2 or (other is not None and len(other) < 2):
        return None
    own = float(np.var(sample, ddof=1)) / n
    if other is None:
        return float(sample.mean()), own**0.5, n - 1
    rest = float(np.var(other, ddof=1)) / len(other)
    total = own + rest
    df = total**2 / (own**2 / (n - 1) + rest**2 / (len(other) - 1)) if total > 0 else float(n + len(other) - 2)
    return float(sample.mean() - other.mean()), total**0.5, df
