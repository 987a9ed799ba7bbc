"""What turning clips up and down did to their weights, and how much of the difference between clips that would make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from eisbach.diagnostics.probe.association import UNKNOWN, Estimate, estimate
from eisbach.diagnostics.probe.drivers import clip_effect
from eisbach.diagnostics.probe.grid import Grid, safe_log
from eisbach.types import Record

LEAST_CLIPS = 4
"""Fewer clips give the mean slope no interval worth the name."""
STEP_DB = 6.0


@dataclass(frozen=True)
class GainEffect:
    """The outcome of the experiment on loudness.

    Attributes
    ----------
    clips : int
        Clips that took part.
    levels : list of float
        Noise levels at which they were weighed.
    per_step : Estimate
        Factor on a clip's weight of 6 dB more; t interval over clips, on the logarithm.
    share : Estimate
        Share of the variance of ln weight between the probe's clips that their differences in loudness would make by
        this factor alone, at most 1. Unknown where the clips' loudness or weights do not differ.
    """

    clips: int
    levels: list[float]
    per_step: Estimate
    share: Estimate


def gain_effect(rows: Sequence[Record], grid: Grid, weights: np.ndarray) -> GainEffect | None:
    """Summary of `ProbeResult.gain`; None where there was no experiment, or on fewer than `LEAST_CLIPS` clips.

    Parameters
    ----------
    rows : sequence of {clip, t, gain_db, sample_weight}
    grid : Grid
        The probe's rows: their loudness is what the effect is scaled by.
    weights : np.ndarray [shape=(clips, L, draws)]
        Sample weights of the probe's rows.
    """
    slopes = _slopes(rows)
    if len(slopes) < LEAST_CLIPS:
        return None
    mean, error = float(slopes.mean()), float(slopes.std(ddof=1)) / math.sqrt(len(slopes))
    reach = float(stats.t.ppf(0.975, len(slopes) - 1)) * error
    per_step = estimate(*(math.exp(STEP_DB * slope) for slope in (mean, mean - reach, mean + reach)))
    levels = sorted({float(row["t"]) for row in rows})  # type: ignore[arg-type]
    return GainEffect(len(slopes), levels, per_step, _share(grid, weights, mean, reach))


def _slopes(rows: Sequence[Record]) -> np.ndarray:
    """Each clip's mean slope of ln weight over dB, over its noise levels; clips with a weight missing are left out."""
    cells: dict[tuple[str, float], list[tuple[float, float]]] = {}
    broken: set[str] = set()
    for row in rows:
        clip, weight = str(row["clip"]), row["sample_weight"]
        if weight is None:
            broken.add(clip)
            continue
        cells.setdefault((clip, float(row["t"])), []).append((float(row["gain_db"]), float(weight)))  # type: ignore[arg-type]
    found: dict[str, list[float]] = {}
    for (clip, _), points in cells.items():
        gains, weights = (np.array(column) for column in zip(*points, strict=True))
        if clip not in broken and np.ptp(gains) > 0:
            found.setdefault(clip, []).append(float(np.polyfit(gains, safe_log(weights), 1)[0]))
    return np.array([np.mean(slopes) for slopes in found.values()])


def _share(grid: Grid, weights: np.ndarray, slope: float, reach: float) -> Estimate:
    loudness = grid.by_clip("loudness_db")
    kept = np.isfinite(loudness) & np.isfinite(weights).all(axis=(1, 2))
    if kept.sum() < LEAST_CLIPS:
        return UNKNOWN
    effect, _ = clip_effect(weights[kept])
    between, heard = float(effect.var()), float(loudness[kept].var())
    if between <= 1e-18 or heard <= 0:
        return UNKNOWN
    ends = (slope - reach, slope + reach)
    least = 0.0 if ends[0] <= 0 <= ends[1] else min(abs(end) for end in ends)
    sizes = (abs(slope), least, max(abs(end) for end in ends))
    return estimate(*(min(1.0, size**2 * heard / between) for size in sizes))
