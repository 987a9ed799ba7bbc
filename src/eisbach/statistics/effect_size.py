"""How large a difference is, beside whether there is one: Hedges g, P(improvement), t intervals, equivalence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Direction = Literal["higher", "lower", "nearer"] | None


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
    # The exact factor; the usual 1 - 3 / (4 df - 1) is its approximation, 1.3% off at df = 2.
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
    return auc(baseline, arm) if better == "lower" else auc(arm, baseline)


def auc(higher: np.ndarray, lower: np.ndarray) -> float:
    """Chance that a value of the first exceeds one of the second, ties counting half: the area under the ROC curve.

    Parameters
    ----------
    higher, lower : np.ndarray [shape=(n,) and (m,)]
        Finite; n, m >= 1.

    >>> auc(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0]))
    0.75
    """
    # Values below, and values not above, each of the first: their mean counts ties half. n log m in place of n m.
    order = np.sort(lower)
    below, upto = np.searchsorted(order, higher, "left"), np.searchsorted(order, higher, "right")
    return float((below + upto).sum() / (2 * len(higher) * len(lower)))


def auc_replicates(higher: np.ndarray, lower: np.ndarray, times: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """`auc` of resampled values [shape=(R',)]; resamples in which one side is empty are left out.

    Parameters
    ----------
    higher, lower : np.ndarray [shape=(n,) and (m,)]
    times : pair of np.ndarray [shape=(R, n) and (R, m)]
        How often each value is drawn; whoever draws decides what the unit is (a clip, or a piece with all its clips).
    """
    # The AUC of a resample is a bilinear form of which value wins against which, so that no resample is ever gathered.
    wins = (higher[:, None] > lower) + 0.5 * (higher[:, None] == lower)
    pairs = times[0].sum(1) * times[1].sum(1)
    replicates: np.ndarray = ((times[0] @ wins) * times[1]).sum(1)[pairs > 0] / pairs[pairs > 0]
    return replicates


@dataclass(frozen=True)
class Moments:
    """A mean (difference), its standard error and the degrees of freedom of that error."""

    mean: float
    error: float
    df: float


def mean_moments(sample: np.ndarray, other: np.ndarray | None = None) -> Moments | None:
    """Moments of a mean, or of `sample` minus `other` (Welch-Satterthwaite); None with fewer than two values a side."""
    n = len(sample)
    if n < 2 or (other is not None and len(other) < 2):
        return None
    own = float(np.var(sample, ddof=1)) / n  # squared standard error of this side's mean
    if other is None:
        return Moments(float(sample.mean()), own**0.5, n - 1)
    rest = float(np.var(other, ddof=1)) / len(other)
    total = own + rest
    df = total**2 / (own**2 / (n - 1) + rest**2 / (len(other) - 1)) if total > 0 else float(n + len(other) - 2)
    return Moments(float(sample.mean() - other.mean()), total**0.5, df)


def crossed_moments(cells: np.ndarray) -> Moments | None:
    """Moments of the grand mean when trained models and prompts are both samples of more.

    Every model plays every prompt, so both spread the mean: its variance is (MS_model + MS_prompt - MS_rest) / (R P),
    with Satterthwaite's degrees of freedom (the two-way random-effects model; Judd, Westfall & Kenny 2012). A t
    interval over models alone would miss the prompts' share.

    Parameters
    ----------
    cells : np.ndarray [shape=(R, P)]
        Differences by model and prompt. With gaps, or with one prompt, the models alone are used.
    """
    models, prompts = cells.shape
    if models < 2:
        return None
    by_model, by_prompt = np.nanmean(cells, axis=1), np.nanmean(cells, axis=0)
    if prompts < 2 or not np.isfinite(cells).all():
        return mean_moments(by_model)
    grand = float(cells.mean())
    # What neither the model's nor the prompt's own level explains: the interaction, with one value a cell.
    rest = cells - by_model[:, None] - by_prompt[None, :] + grand
    ms_model = prompts * float(np.var(by_model, ddof=1))
    ms_prompt = models * float(np.var(by_prompt, ddof=1))
    ms_rest = float(np.sum(rest**2)) / ((models - 1) * (prompts - 1))
    # The estimate may fall below what either factor alone gives; the larger of these is then the honest one.
    total = max(ms_model + ms_prompt - ms_rest, ms_model, ms_prompt)
    if total <= 0:
        return Moments(grand, 0.0, models - 1)
    spread = ms_model**2 / (models - 1) + ms_prompt**2 / (prompts - 1) + ms_rest**2 / ((models - 1) * (prompts - 1))
    df = max(float(min(models, prompts) - 1), total**2 / spread)
    return Moments(grand, (total / (models * prompts)) ** 0.5, df)


def t_interval(moments: Moments | None, confidence: float) -> tuple[float, float] | None:
    """Student's interval; None without moments."""
    from scipy.stats import t

    if moments is None:
        return None
    half = float(t.ppf((1 + confidence) / 2, moments.df)) * moments.error if moments.error > 0 else 0.0
    return moments.mean - half, moments.mean + half


def equivalence_p(moments: Moments | None, margin: float | None) -> float | None:
    """p value of 'the mean lies within +-margin': the larger of two one-sided t tests (Schuirmann 1987).

    None without a margin or without moments.
    """
    from scipy.stats import t

    if margin is None or moments is None:
        return None
    if moments.error == 0:
        return 0.0 if abs(moments.mean) < margin else 1.0
    above = t.sf((moments.mean + margin) / moments.error, moments.df)
    below = t.cdf((moments.mean - margin) / moments.error, moments.df)
    return float(max(above, below))


def unvaried_share_interval(mean: float, units: int, confidence: float) -> tuple[float, float]:
    """Interval of a difference of shares of which all units show the same, so that no spread can be told from them.

    If a share r of all units would show another difference, `units` of them show none with probability (1 - r)^units;
    such a unit moves the mean by 1 at most where there was no difference, and by 2 where there was a whole one.

    Parameters
    ----------
    mean : float
        The difference that every unit shows, -1 to 1.
    units : int
        Of the smaller side where nothing pairs them; at least 1.
    confidence : float

    >>> low, high = unvaried_share_interval(0.0, 4, 0.95)
    >>> round(low, 2), round(high, 2)
    (-0.6, 0.6)
    """
    other = 1 - ((1 - confidence) / 2) ** (1 / units)
    half = other * (1 + abs(mean))
    return mean - half, mean + half


def unvaried_share_equivalence_p(mean: float, units: int, margin: float | None) -> float | None:
    """p of 'the mean lies within +-margin' for such units: how probable it is that none shows a difference when a share
    `margin` of all units does; 1 where they all show one as large, None without a margin.

    >>> round(unvaried_share_equivalence_p(0.0, 4, 0.1), 2)
    0.66
    """
    if margin is None:
        return None
    room = (margin - abs(mean)) / (1 + abs(mean))
    return float((1 - min(room, 1.0)) ** units) if room > 0 else 1.0
