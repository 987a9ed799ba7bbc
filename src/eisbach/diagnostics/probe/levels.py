"""What a probe's rows say at each noise level, between clips, in batches, and when clips are turned up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eisbach.diagnostics.probe.grid import UNKNOWN, Estimate, Grid, estimate, percentile_interval, safe_log
from eisbach.statistics.effect_size import mean_moments, t_interval
from eisbach.types import Record

SHOWN = ("belief", "sample_weight", "weight", "loss", "x0_loss")
"""Columns that are summarised at every level."""


@dataclass(frozen=True)
class Spread:
    """A column over the clips at one noise level: its mean, and quantiles between clips (draws averaged)."""

    mean: Estimate
    q10: float | None = None
    q50: float | None = None
    q90: float | None = None


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
    """

    level: Estimate
    clip: Estimate
    remainder: Estimate
    sd: float


@dataclass(frozen=True)
class BatchSummary:
    """Simulated training batches.

    Attributes
    ----------
    batches, batch_size : int
    ess_share : float or None
        Effective sample size of the final weights over the batch size, mean over batches.
    step_cv : float or None
        Coefficient of variation from batch to batch of the mean weight: with reduction 'batch' the only thing that
        varies.
    mean_weight : float or None
    """

    batches: int
    batch_size: int
    ess_share: float | None
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
    summaries = []
    for index, t in enumerate(grid.levels):
        cv = _cv(part[:, index], draws)
        summaries.append(
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
    return summaries


def _spread(values: np.ndarray, draws: np.ndarray | None) -> Spread:
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return Spread(UNKNOWN)
    resampled = None if draws is None or len(finite) < len(values) else values[draws].mean(axis=1)
    mean = percentile_interval(float(finite.mean()), resampled)
    return Spread(mean, *(float(q) for q in np.quantile(finite, [0.1, 0.5, 0.9])))


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
    level, clip, rest = intervals
    return VarianceShares(level, clip, rest, sd=float(logs.std()))


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

    def known(name: str) -> np.ndarray:
        return np.array([float(row[name]) for row in batches if row.get(name) is not None])

    weights, ess = known("mean_weight"), known("ess_share")
    return BatchSummary(
        batches=len(batches),
        batch_size=int(batches[0].get("samples") or 0),
        ess_share=float(ess.mean()) if len(ess) else None,
        step_cv=float(weights.std(ddof=1) / weights.mean()) if len(weights) > 1 and weights.mean() > 0 else None,
        mean_weight=float(weights.mean()) if len(weights) else None,
    )


# --- the same clips turned up and down


_STEP_DB = 6.0
_LEAST_CLIPS = 4  # fewer give the mean slope no interval worth the name


@dataclass(frozen=True)
class GainEffect:
    """The outcome of the experiment on loudness.

    Attributes
    ----------
    clips : int
        Clips that took part.
    per_step : Estimate
        Factor on a clip's weight of 6 dB more, over all levels; t interval over clips, on the logarithm.
    levels : list of (t, Estimate)
        The same at each noise level of the experiment.
    share : Estimate
        Share of the variance of ln weight between the probe's clips that their differences in loudness would make by
        this factor alone, at most 1. Unknown where the clips' loudness or weights do not differ.
    """

    clips: int
    per_step: Estimate
    levels: list[tuple[float, Estimate]]
    share: Estimate


def gain_effect(rows: Sequence[Record], grid: Grid) -> GainEffect | None:
    """Summary of `ProbeResult.gain`; None where there was no experiment, or on fewer than 4 clips.

    Parameters
    ----------
    rows : sequence of {clip, t, gain_db, sample_weight}
    grid : Grid
        The probe's rows: their loudness and weights are what the effect is scaled by.
    """
    levels, slopes = _slopes(rows)
    if len(slopes) < _LEAST_CLIPS:
        return None
    mean = _mean_slope(slopes.mean(axis=1))
    by_level = [(t, _factor(_mean_slope(slopes[:, index]))) for index, t in enumerate(levels)]
    return GainEffect(len(slopes), _factor(mean), by_level, _share(grid, mean))


def _slopes(rows: Sequence[Record]) -> tuple[list[float], np.ndarray]:
    """The noise levels, and each clip's slope of ln weight over dB at each (clips, L); clips with a gap are left
    out."""
    levels = sorted({float(row["t"]) for row in rows})  # type: ignore[arg-type]
    clips: dict[str, list[Record]] = {}
    for row in rows:
        clips.setdefault(str(row["clip"]), []).append(row)
    slopes = []
    for points in clips.values():
        gains = {row["gain_db"] for row in points}
        if any(row["sample_weight"] is None for row in points) or len(gains) < 2:
            continue
        values = np.array([[row["t"], row["gain_db"], row["sample_weight"]] for row in points], dtype=float)
        # A zero weight counts as a tiny share of the largest at the same level, as everywhere in a logarithm.
        at_levels = [values[values[:, 0] == t] for t in levels]
        slopes.append([float(np.polyfit(part[:, 1], safe_log(part[:, 2]), 1)[0]) for part in at_levels])
    return levels, np.array(slopes)


def _mean_slope(slopes: np.ndarray) -> tuple[float, float, float]:
    """Mean over clips and its 95% t interval."""
    ends = t_interval(mean_moments(slopes), 0.95)
    assert ends is not None  # at least _LEAST_CLIPS
    return float(slopes.mean()), *ends


def _factor(slope: tuple[float, float, float]) -> Estimate:
    return estimate(*(math.exp(_STEP_DB * value) for value in slope))


def _share(grid: Grid, slope: tuple[float, float, float]) -> Estimate:
    loudness, weights = grid.by_level("loudness_db").mean(axis=1), grid.cells("sample_weight")
    usable = np.isfinite(loudness) & np.isfinite(weights).all(axis=(1, 2))
    if usable.sum() < _LEAST_CLIPS:
        return UNKNOWN
    logs = safe_log(weights[usable]).mean(axis=2)
    # How much more a clip weighs than the others at the same noise level, over the levels.
    between, heard = float((logs - logs.mean(axis=0)).mean(axis=1).var()), float(loudness[usable].var())
    if between <= 1e-18 or heard <= 0:
        return UNKNOWN
    # var(slope x loudness) / var(clip effect); the interval's ends follow the slope's, folded at a slope of 0.
    _, low, high = slope
    sizes = (abs(slope[0]), 0.0 if low <= 0 <= high else min(abs(low), abs(high)), max(abs(low), abs(high)))
    return estimate(*(min(1.0, size**2 * heard / between) for size in sizes))
