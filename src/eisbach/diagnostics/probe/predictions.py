"""What became of the barrier paper's predictions 1 and 5: weight and gradient by noise level, and belief against loss.

A prediction is called confirmed or refuted only where an interval over clips says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from eisbach.diagnostics.probe.grid import Grid
from eisbach.diagnostics.probe.intervals import (
    MIN_CLIPS,
    RESAMPLES,
    UNKNOWN,
    Estimate,
    correlate,
    percentile_interval,
    ranks,
    resample_clips,
    spearman,
)
from eisbach.diagnostics.probe.wording import said

BANDS = (("low", 0.0, 1 / 3), ("mid", 1 / 3, 2 / 3), ("high", 2 / 3, 1.0))
"""Noise levels t, lower end excluded; thirds of the range."""
_FULL_WEIGHT = 0.9  # the paper's 'w -> 1' at low t counts as met from here
Outcome = Literal["confirmed", "refuted", "undecided"]


@dataclass(frozen=True)
class BeliefLoss:
    """Spearman's correlation between clips of belief and loss.

    Attributes
    ----------
    levels : list of (t, Estimate)
    bands : dict of str to Estimate
        Means over the levels of the low, mid and high thirds of t.
    difference : Estimate
        Low band less high band.
    """

    levels: list[tuple[float, Estimate]]
    bands: dict[str, Estimate]
    difference: Estimate


@dataclass(frozen=True)
class Prediction:
    """One prediction of the barrier paper's section 9.

    Attributes
    ----------
    number : int
    claim : str
    outcome : "confirmed", "refuted" or "undecided"
    because : str
        The numbers, as part of a sentence.
    """

    number: int
    claim: str
    outcome: Outcome
    because: str


def belief_and_loss(grid: Grid, rng: np.random.Generator, resamples: int = RESAMPLES) -> BeliefLoss | None:
    """How belief goes with loss between clips at each noise level; None without beliefs or with too few clips."""
    belief, loss = grid.by_level("belief"), grid.by_level("loss")
    usable = np.isfinite(belief).all(axis=1) & np.isfinite(loss).all(axis=1)
    if usable.sum() < MIN_CLIPS:
        return None
    belief, loss = belief[usable].T, loss[usable].T  # (L, clips)
    draws = resample_clips(belief.shape[1], rng, resamples)
    levels = [(float(t), spearman(a, b, draws)) for t, a, b in zip(grid.levels, belief, loss, strict=True)]
    values = np.array([np.nan if link.value is None else link.value for _, link in levels])
    if np.isnan(values).all():
        return None
    # Bands are resampled as wholes: a clip that is drawn is drawn at all of its levels.
    each = np.stack([correlate(ranks(a[draws]), ranks(b[draws])) for a, b in zip(belief, loss, strict=True)])
    bands, resampled = {}, {}
    for band, low, high in BANDS:
        inside = (grid.levels > low) & (grid.levels <= high) & np.isfinite(values)
        if inside.any():
            resampled[band] = np.nanmean(each[inside], axis=0)
            bands[band] = percentile_interval(float(values[inside].mean()), resampled[band])
    difference = UNKNOWN
    if "low" in bands and "high" in bands:
        gap = float((bands["low"].value or 0.0) - (bands["high"].value or 0.0))
        difference = percentile_interval(gap, resampled["low"] - resampled["high"])
    return BeliefLoss(levels, bands, difference)


def belief_correctness(link: BeliefLoss | None) -> Prediction | None:
    """Prediction 5: at low t a low belief goes with a low loss; at high t the correlation drops or inverts."""
    if link is None or "low" not in link.bands:
        return None
    low, high, gap = link.bands["low"], link.bands.get("high", UNKNOWN), link.difference
    outcome: Outcome = "undecided"
    if low.above(0) and gap.above(0):
        outcome = "confirmed"
    elif low.below(0.1) or (low.above(0) and gap.below(0)):
        outcome = "refuted"
    claim = "low belief goes with low loss at low noise, less so or inversely at high noise"
    because = (
        f"their rank correlation is {said(low)} at low noise and {said(high)} at high noise, a difference of "
        f"{said(gap)}"
    )
    return Prediction(5, claim, outcome, because)


def stratification(
    grid: Grid, gradient_levels: Sequence[Mapping[str, Any]], draws: np.ndarray | None
) -> Prediction | None:
    """Prediction 1: at low t the weight goes to 1 and the gradient's norm is high; at high t both are damped."""
    weights = grid.by_level("sample_weight")
    low_end, high_start = BANDS[0][2], BANDS[2][1]
    low, high = grid.levels <= low_end, grid.levels > high_start
    if draws is None or not np.isfinite(weights).all() or not low.any() or not high.any() or np.ptp(weights) < 1e-9:
        return None
    at_lowest = percentile_interval(float(weights[:, 0].mean()), weights[draws, 0].mean(axis=1))
    by_clip = weights[:, low].mean(axis=1) - weights[:, high].mean(axis=1)
    falls = percentile_interval(float(by_clip.mean()), by_clip[draws].mean(axis=1))
    norms = [(float(row["t"]), row.get("weighted_norm")) for row in gradient_levels]
    quiet = [float(norm) for t, norm in norms if t <= low_end and norm is not None]
    noisy = [float(norm) for t, norm in norms if t > high_start and norm is not None]
    larger = float(np.mean(quiet)) > float(np.mean(noisy)) if quiet and noisy else None
    outcome: Outcome = "undecided"
    if at_lowest.above(_FULL_WEIGHT) and falls.above(0) and larger:
        outcome = "confirmed"
    elif at_lowest.below(_FULL_WEIGHT) or falls.below(0) or larger is False:
        outcome = "refuted"
    claim = "the weight goes to 1 and the gradient is large at low noise, and both are damped at high noise"
    because = (
        f"the mean weight at t = {grid.levels[0]:g} is {said(at_lowest)}, and it falls by {said(falls)} from low to "
        "high noise"
    )
    if quiet and noisy:
        because += f"; the gradient's norm is {np.mean(quiet):.3g} at low and {np.mean(noisy):.3g} at high noise"
    return Prediction(1, claim, outcome, because)
