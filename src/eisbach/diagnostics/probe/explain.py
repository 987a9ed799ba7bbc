"""From a probe's rows to numbers with intervals: what the weighting does, where, and for whom.

Pure: the same result gives the same explanation, and nothing is read or written. The clip is the unit of every
interval.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eisbach.diagnostics.probe.grid import MIN_CLIPS, RESAMPLES, Estimate, make_grid, resample_clips
from eisbach.diagnostics.probe.levels import (
    BatchSummary,
    GainEffect,
    LevelSummary,
    VarianceShares,
    decompose,
    gain_effect,
    summarise_batches,
    summarise_levels,
    trained_part,
)
from eisbach.diagnostics.probe.predictions import (
    BeliefLoss,
    Prediction,
    Separation,
    belief_and_loss,
    belief_correctness,
    separate,
    stratification,
)
from eisbach.diagnostics.probe.result import ProbeResult, plain

ACTS_CV = 0.1
"""A coefficient of variation between clips from which a weighting acts: it then moves a clip's share of the step by a
tenth."""


@dataclass(frozen=True)
class GradientSummary:
    """The weighted gradient against the plain one, means over batches with their intervals; degrees.

    `angle` and `norm_ratio` lie between the gradients of one batch, `between_batches_angle` between the plain ones of
    two (what chance alone does), `update_*` between AdamW's updates, clipped as the recipe clips, over the last third
    of the batches. Measured at the last of `ProbeResult.gradients`' points.
    """

    batches: int
    angle: Estimate
    norm_ratio: Estimate
    between_batches_angle: Estimate
    update_angle: Estimate
    update_norm_ratio: Estimate


@dataclass(frozen=True)
class Explanation:
    """Everything a verdict rests on.

    Attributes
    ----------
    setup : dict
        The probe's own, as it came.
    clips : int
    enough_clips : bool
        Whether there are at least `MIN_CLIPS`; intervals need that many.
    has_sample_weight : bool
        Whether a sample weighting was probed.
    levels : list of LevelSummary
    acts_at, sample_acts_at : list of float
        Noise levels at which clips get weights that differ by `ACTS_CV` or more: as trained, and before strength, gate
        and level means.
    variance, sample_variance : VarianceShares or None
        Of ln of the weight as trained, without the noise-level weight; and of ln of the sample weight.
    batches : BatchSummary or None
    gain : GainEffect or None
        What turning clips up and down did to their sample weights.
    separations : list of Separation
    belief_loss : BeliefLoss or None
    predictions : list of Prediction
    gradients : GradientSummary or None
    gradient_levels : list of dict
        As in `ProbeResult.gradients`.
    level_means : list of [t, mean sample weight]
    """

    setup: dict[str, Any]
    clips: int
    enough_clips: bool
    has_sample_weight: bool
    levels: list[LevelSummary]
    acts_at: list[float]
    sample_acts_at: list[float]
    variance: VarianceShares | None
    sample_variance: VarianceShares | None
    batches: BatchSummary | None
    gain: GainEffect | None
    separations: list[Separation]
    belief_loss: BeliefLoss | None
    predictions: list[Prediction]
    gradients: GradientSummary | None
    gradient_levels: list[dict[str, Any]]
    level_means: list[list[float | None]]

    def to_json(self) -> dict[str, Any]:
        """Plain mappings, lists and numbers; the setup is left out, as the result holds it."""
        values: dict[str, Any] = plain(asdict(self))
        del values["setup"]
        return values


def explain(result: ProbeResult, *, label: str | None = None, seed: int = 0, resamples: int = RESAMPLES) -> Explanation:
    """What a probe's rows say.

    Parameters
    ----------
    result : ProbeResult
    label : str or None
        A two-valued label to judge the weights by; None takes `kind` or `flat` where the clips have one.
    seed, resamples : int
        Of the bootstrap.

    Raises
    ------
    UserError
        No rows, or a label that does not exist or has not two values.
    """
    rng = np.random.default_rng(seed)
    grid = make_grid(result.rows)
    clips = len(grid.clips)
    draws = resample_clips(clips, rng, resamples) if clips >= MIN_CLIPS else None
    sampled = str(result.setup.get("sample", "none")) != "none"
    trained = trained_part(grid)
    if sampled and result.setup.get("reduction") == "batch":
        # One number a step: within a step no clip weighs more than another.
        trained = np.where(np.isfinite(trained), 1.0, np.nan)
    levels = summarise_levels(grid, trained, draws)
    link = belief_and_loss(grid, rng, resamples) if sampled else None
    gradient_levels = list(result.gradients.get("levels") or [])
    predictions = stratification(grid, gradient_levels, draws) if sampled else None, belief_correctness(link)
    return Explanation(
        setup=result.setup,
        clips=clips,
        enough_clips=draws is not None,
        has_sample_weight=sampled,
        levels=levels,
        acts_at=[level.t for level in levels if (level.cv.value or 0.0) >= ACTS_CV],
        sample_acts_at=[level.t for level in levels if (level.cv_sample_weight.value or 0.0) >= ACTS_CV],
        variance=decompose(trained, draws),
        sample_variance=decompose(grid.cells("sample_weight"), draws) if sampled else None,
        batches=summarise_batches(result.batches),
        gain=gain_effect(result.gain, grid) if sampled else None,
        separations=separate(grid, label, rng, resamples) if sampled or label is not None else [],
        belief_loss=link,
        predictions=[outcome for outcome in predictions if outcome is not None],
        gradients=_summarise_gradients(result.gradients),
        gradient_levels=gradient_levels,
        level_means=result.level_means,
    )


def _summarise_gradients(gradients: dict[str, Any]) -> GradientSummary | None:
    """The comparison of gradients in a few numbers, at the last point that was measured; None without one."""
    points = gradients.get("points") or {}
    if not points:
        return None
    point = points.get("moved") or points["start"]
    names = ("angle", "norm_ratio", "between_batches_angle", "update_angle", "update_norm_ratio")
    values = {name: Estimate(*(point[name].get(part) for part in ("mean", "low", "high"))) for name in names}
    return GradientSummary(int(gradients.get("batches") or 0), **values)
