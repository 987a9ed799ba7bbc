"""Belief, weight and loss by noise level, and how much of a weighting is noise level and how much is clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eisbach.diagnostics.probe.grid import Grid, safe_log
from eisbach.diagnostics.probe.intervals import UNKNOWN, Estimate, estimate, percentile_interval

SHOWN = ("belief", "sample_weight", "weight", "loss", "x0_loss")
"""Columns that are summarised at every level."""


@dataclass(frozen=True)
class Spread:
    """A column over the clips at one noise level.

    Attributes
    ----------
    mean : Estimate
    sd, q10, q50, q90 : float or None
        Standard deviation between clips (draws averaged) and quantiles; None where nothing is finite.
    """

    mean: Estimate
    sd: float | None
    q10: float | None
    q50: float | None
    q90: float | None


@dataclass(frozen=True)
class LevelSummary:
    """One noise level.

    Attributes
    ----------
    t, log_snr : float
    clips : int
        Clips with a finite weight at every draw.
    columns : dict of str to Spread
        One for each of `SHOWN`.
    cv : Estimate
        Coefficient of variation between clips of the weight as trained, without the noise-level weight (which is the
        same for every clip).
    cv_sample_weight : Estimate
        The same of the sample weight before strength, gate and level means.
    ess_share : float or None
        Effective sample size over the number of clips, 1 / (1 + cv^2), for a batch at this level alone.
    """

    t: float
    log_snr: float | None
    clips: int
    columns: dict[str, Spread]
    cv: Estimate
    cv_sample_weight: Estimate
    ess_share: float | None


@dataclass(frozen=True)
class VarianceShares:
    """Where the variance of ln weight lies, over the measured levels counted alike.

    Attributes
    ----------
    level, clip, remainder : Estimate
        Shares that sum to 1: between noise levels; between clips, at every level alike; and what is peculiar to a clip
        at a level or to a draw of noise.
    sd : float
        Standard deviation of ln weight: 0.1 is about 10%.
    sd_between_clips : float
        Root mean square over levels of its standard deviation between clips.
    """

    level: Estimate
    clip: Estimate
    remainder: Estimate
    sd: float
    sd_between_clips: float


@dataclass(frozen=True)
class BatchSummary:
    """Simulated training batches.

    Attributes
    ----------
    batches, batch_size : int
    cv, ess_share : float or None
        Mean over batches of the final weights' coefficient of variation and of the effective sample size over the batch
        size.
    cv_sample_weight : float or None
        The same of the sample weights, before strength, gate and level means.
    step_cv : float or None
        Coefficient of variation from batch to batch of the mean weight: with reduction 'batch' the only thing that
        varies.
    mean_weight : float or None
    """

    batches: int
    batch_size: int
    cv: float | None
    ess_share: float | None
    cv_sample_weight: float | None
    step_cv: float | None
    mean_weight: float | None


def trained_part(grid: Grid) -> np.ndarray:
    """The weight as trained without the noise-level weight, (clips, L, draws); NaN where that is 0."""
    noise = grid.cells("noise_weight")
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(noise > 0, grid.cells("weight") / noise, np.nan)


def summarise_levels(grid: Grid, trained: np.ndarray, draws: np.ndarray | None) -> list[LevelSummary]:
    """One summary a noise level.

    Parameters
    ----------
    trained : np.ndarray [shape=(clips, L, draws)]
        From `trained_part`.
    draws : np.ndarray [shape=(resamples, clips)] or None
        Bootstrap indices of clips; None gives no intervals.
    """
    columns = {name: grid.by_level(name) for name in SHOWN}
    part, sample = trained.mean(axis=2), columns["sample_weight"]
    found = []
    for index, t in enumerate(grid.levels):
        cv = _cv(part[:, index], draws)
        found.append(
            LevelSummary(
                t=float(t),
                log_snr=estimate(float(grid.log_snr[index])).value,
                clips=int(np.isfinite(part[:, index]).sum()),
                columns={name: _spread(values[:, index], draws) for name, values in columns.items()},
                cv=cv,
                cv_sample_weight=_cv(sample[:, index], draws),
                ess_share=None if cv.value is None else 1 / (1 + cv.value**2),
            )
        )
    return found


def _spread(values: np.ndarray, draws: np.ndarray | None) -> Spread:
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return Spread(UNKNOWN, None, None, None, None)
    mean = estimate(float(finite.mean()))
    if draws is not None and len(finite) == len(values):
        mean = percentile_interval(float(finite.mean()), values[draws].mean(axis=1))
    sd = float(finite.std(ddof=1)) if len(finite) > 1 else None
    return Spread(mean, sd, *(float(q) for q in np.quantile(finite, [0.1, 0.5, 0.9])))


def _cv(values: np.ndarray, draws: np.ndarray | None) -> Estimate:
    finite = values[np.isfinite(values)]
    if len(finite) < 2 or not finite.mean() > 0:
        return UNKNOWN
    value = float(finite.std(ddof=1) / finite.mean())
    if draws is None or len(finite) < len(values):
        return estimate(value)
    resampled = values[draws]
    with np.errstate(divide="ignore", invalid="ignore"):
        return percentile_interval(value, resampled.std(axis=1, ddof=1) / resampled.mean(axis=1))


def decompose(weights: np.ndarray, draws: np.ndarray | None) -> VarianceShares | None:
    """Two-way decomposition of ln weight by noise level and clip; None with fewer than 2 complete clips.

    The clip's sum of squares also holds 1 / L of the remainder's chance, which is taken out (as in omega squared), so
    that clips that differ by chance alone get a share of 0.

    Parameters
    ----------
    weights : np.ndarray [shape=(clips, L, draws)]
        At least 0. Clips with a value that is not finite are left out.
    draws : np.ndarray [shape=(resamples, clips)] or None
    """
    complete = np.isfinite(weights).all(axis=(1, 2))
    if complete.sum() < 2:
        return None
    logs = safe_log(weights[complete])
    shares = _shares(logs)
    intervals = [estimate(value) for value in shares]
    if draws is not None and complete.all():
        resampled = np.array([_shares(logs[index]) for index in draws])
        intervals = [percentile_interval(value, resampled[:, k]) for k, value in enumerate(shares)]
    between = logs.mean(axis=2).var(axis=0, ddof=1)
    level, clip, rest = intervals
    return VarianceShares(level, clip, rest, sd=float(logs.std()), sd_between_clips=float(np.sqrt(between.mean())))


def _shares(logs: np.ndarray) -> tuple[float, float, float]:
    n, levels, draws = logs.shape
    centred = logs - logs.mean()
    total = float((centred**2).sum())
    if total <= 1e-20 * max(1, logs.size):
        return float("nan"), float("nan"), float("nan")
    by_level = float((centred.mean(axis=(0, 2)) ** 2).sum()) * n * draws
    by_clip = float((centred.mean(axis=(1, 2)) ** 2).sum()) * levels * draws
    rest = max(0.0, total - by_level - by_clip)
    if levels > 1:
        chance = rest / max(1, n * levels * draws - n - levels + 1) * (n - 1)
        by_clip = max(0.0, by_clip - chance)
    return by_level / total, by_clip / total, max(0.0, 1 - (by_level + by_clip) / total)


def summarise_batches(batches: Sequence[Mapping[str, Any]]) -> BatchSummary | None:
    """The simulated training batches in a few numbers; None without any."""
    if not batches:
        return None

    def column(name: str) -> np.ndarray:
        values = [row.get(name) for row in batches]
        return np.array([np.nan if value is None else float(value) for value in values])

    def mean(name: str) -> float | None:
        values = column(name)
        return float(np.nanmean(values)) if np.isfinite(values).any() else None

    weights = column("mean_weight")
    weights = weights[np.isfinite(weights)]
    step_cv = float(weights.std(ddof=1) / weights.mean()) if len(weights) > 1 and weights.mean() > 0 else None
    return BatchSummary(
        batches=len(batches),
        batch_size=int(batches[0].get("samples") or 0),
        cv=mean("cv"),
        ess_share=mean("ess_share"),
        cv_sample_weight=mean("cv_sample_weight"),
        step_cv=step_cv,
        mean_weight=mean("mean_weight"),
    )
