"""Does the weight hear loudness? The experiment of turning clips up and down, and what else goes with the weights.

The experiment changes nothing but a clip's level, so its answer is a cause. The rank correlations beside it are only
watched: what goes with the weights in one set of clips may not in another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from eisbach.diagnostics.probe.intervals import (
    MIN_CLIPS,
    RESAMPLES,
    UNKNOWN,
    Estimate,
    estimate,
    ranks,
    resample_clips,
    spearman,
)
from eisbach.diagnostics.probe.levels import Grid, safe_log
from eisbach.types import Record

_STEP_DB = 6.0
_LEAST_CLIPS = 4  # fewer give the mean slope no interval worth the name
_COLUMNS = ("latent_db", "loudness_db", "output_energy_db", "x0_energy_db", "loss", "x0_loss")
_STRUCTURE = "structure."
# Columns that differ by less have not changed: levels that were normalised, structure of the same piece at other gains.
# Ranking them would rank rounding.
_SAME_DB, _SAME_RELATIVE, _SAME_STRUCTURE = 0.1, 0.02, 0.005


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


@dataclass(frozen=True)
class Correlation:
    """What one column of the rows has to do with the weight.

    Attributes
    ----------
    column : str
    clips : int
        Clips that have it.
    spearman : Estimate
        Rank correlation, between clips, with how much more a clip weighs than the others at the same noise level.
    """

    column: str
    clips: int
    spearman: Estimate


def gain_effect(rows: Sequence[Record], grid: Grid, weights: np.ndarray) -> GainEffect | None:
    """Summary of `ProbeResult.gain`; None where there was no experiment, or on fewer than 4 clips.

    Parameters
    ----------
    rows : sequence of {clip, t, gain_db, sample_weight}
    grid : Grid
        The probe's rows: their loudness is what the effect is scaled by.
    weights : np.ndarray [shape=(clips, L, draws)]
        Sample weights of the probe's rows.
    """
    levels, slopes = _slopes(rows)
    if len(slopes) < _LEAST_CLIPS:
        return None
    mean, reach = _mean_slope(slopes.mean(axis=1))
    by_level = [(t, _factor(*_mean_slope(slopes[:, index]))) for index, t in enumerate(levels)]
    return GainEffect(len(slopes), _factor(mean, reach), by_level, _share(grid, weights, mean, reach))


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


def _mean_slope(slopes: np.ndarray) -> tuple[float, float]:
    """Mean over clips and half the width of its 95% t interval."""
    error = float(slopes.std(ddof=1)) / math.sqrt(len(slopes))
    return float(slopes.mean()), float(stats.t.ppf(0.975, len(slopes) - 1)) * error


def _factor(mean: float, reach: float) -> Estimate:
    return estimate(*(math.exp(_STEP_DB * slope) for slope in (mean, mean - reach, mean + reach)))


def _share(grid: Grid, weights: np.ndarray, slope: float, reach: float) -> Estimate:
    loudness = grid.by_clip("loudness_db")
    usable = np.isfinite(loudness) & np.isfinite(weights).all(axis=(1, 2))
    if usable.sum() < _LEAST_CLIPS:
        return UNKNOWN
    between, heard = float(_clip_effect(weights[usable]).var()), float(loudness[usable].var())
    if between <= 1e-18 or heard <= 0:
        return UNKNOWN
    # var(slope x loudness) / var(clip effect); the interval's ends follow the slope's, folded at a slope of 0.
    ends = (slope - reach, slope + reach)
    least = 0.0 if ends[0] <= 0 <= ends[1] else min(abs(end) for end in ends)
    sizes = (abs(slope), least, max(abs(end) for end in ends))
    return estimate(*(min(1.0, size**2 * heard / between) for size in sizes))


def correlations(
    grid: Grid, weights: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES
) -> list[Correlation]:
    """Each column's rank correlation with the weight, strongest first.

    Columns that fewer than `MIN_CLIPS` clips have, or in which the clips hardly differ, are left out.

    Parameters
    ----------
    weights : np.ndarray [shape=(clips, L, draws)]
        Sample weights; clips with a value that is not finite are left out.
    """
    usable = np.isfinite(weights).all(axis=(1, 2))
    rows = []
    for column in (*_COLUMNS, *grid.columns(_STRUCTURE)):
        values = grid.by_level(column)
        has = usable & np.isfinite(values).all(axis=1)
        count = int(has.sum())
        if count < MIN_CLIPS or _hardly_differs(column, values[has].mean(axis=1)):
            continue
        within_levels = ranks(values[has].T).mean(axis=0)  # a loss grows with t: only its rank at its own level counts
        link = spearman(within_levels, _clip_effect(weights[has]), resample_clips(count, rng, resamples))
        if link.value is not None:
            rows.append(Correlation(column, count, link))
    return sorted(rows, key=lambda row: -abs(row.spearman.value or 0.0))


def _hardly_differs(column: str, values: np.ndarray) -> bool:
    if column in _COLUMNS and column.endswith("_db"):
        return bool(values.std() < _SAME_DB)
    slack = _SAME_STRUCTURE if column.startswith(_STRUCTURE) else 0.0
    return bool(values.std() <= _SAME_RELATIVE * abs(float(np.median(values))) + slack)


def _clip_effect(weights: np.ndarray) -> np.ndarray:
    """How much more a clip weighs than the others at the same noise level: ln weight less the level's mean,
    (clips,)."""
    logs = safe_log(weights).mean(axis=2)
    return np.asarray((logs - logs.mean(axis=0)).mean(axis=1))
