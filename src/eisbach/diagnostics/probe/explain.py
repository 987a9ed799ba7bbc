"""From a probe's rows to numbers with intervals: what the weighting does, where, and for whom; and a setting to try.

Pure: the same result gives the same explanation, and nothing is read or written. The clip is the unit of every
interval.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eisbach.diagnostics.probe.intervals import MIN_CLIPS, RESAMPLES, resample_clips
from eisbach.diagnostics.probe.levels import (
    BatchSummary,
    LevelSummary,
    VarianceShares,
    decompose,
    make_grid,
    summarise_batches,
    summarise_levels,
    trained_part,
)
from eisbach.diagnostics.probe.loudness import Correlation, GainEffect, correlations, gain_effect
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
    """The weighted gradient against the plain one, means over batches; None where nothing was measured. Degrees.

    Attributes
    ----------
    point : str
        "start", or "moved" where a fresh adapter was first moved off its start by a few plain steps.
    batches : int
    angle, norm_ratio : float or None
        Between the gradients of one batch.
    between_batches_angle : float or None
        Between the plain gradients of two batches: what chance alone does.
    update_angle, update_norm_ratio : float or None
        Between AdamW's updates, clipped as the recipe clips, over the last third of the batches.
    """

    point: str
    batches: int
    angle: float | None
    norm_ratio: float | None
    between_batches_angle: float | None
    update_angle: float | None
    update_norm_ratio: float | None


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
    acts_at : list of float
        Noise levels at which clips get weights that differ by `ACTS_CV` or more, as trained.
    sample_acts_at : list of float
        The same for the sample weight before strength, gate and level means.
    variance : VarianceShares or None
        Of ln of the weight as trained, without the noise-level weight.
    sample_variance : VarianceShares or None
        Of ln of the sample weight.
    batches : BatchSummary or None
    gain : GainEffect or None
        What turning clips up and down did to their sample weights.
    correlations : list of Correlation
        What else goes with the sample weight's differences between clips, strongest first.
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
    correlations: list[Correlation]
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
    seed : int
        Of the bootstrap.
    resamples : int
        Of the bootstrap.

    Raises
    ------
    UserError
        No rows, or a label that does not exist or has not two values.
    """
    rng = np.random.default_rng(seed)
    grid = make_grid(result.rows)
    enough = grid.n_clips >= MIN_CLIPS
    draws = resample_clips(grid.n_clips, rng, resamples) if enough else None
    sampled = str(result.setup.get("sample", "none")) != "none"
    by_batch = sampled and result.setup.get("reduction") == "batch"
    trained = trained_part(grid)
    if by_batch:  # one number a step: within a step no clip weighs more than another
        trained = np.where(np.isfinite(trained), 1.0, np.nan)
    sample = grid.cells("sample_weight")
    levels = summarise_levels(grid, trained, draws)
    belief_loss = belief_and_loss(grid, rng, resamples) if sampled else None
    gradient_levels = list(result.gradients.get("levels") or [])
    predictions = [belief_correctness(belief_loss), stratification(grid, gradient_levels, draws) if sampled else None]
    return Explanation(
        setup=result.setup,
        clips=grid.n_clips,
        enough_clips=enough,
        has_sample_weight=sampled,
        levels=levels,
        acts_at=[level.t for level in levels if (level.cv.value or 0.0) >= ACTS_CV],
        sample_acts_at=[level.t for level in levels if (level.cv_sample_weight.value or 0.0) >= ACTS_CV],
        variance=decompose(trained, draws),
        sample_variance=decompose(sample, draws) if sampled else None,
        batches=summarise_batches(result.batches),
        gain=gain_effect(result.gain, grid, sample) if sampled else None,
        correlations=correlations(grid, sample, rng, resamples) if sampled else [],
        separations=separate(grid, label, rng, resamples) if sampled or label is not None else [],
        belief_loss=belief_loss,
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
    name = "moved" if "moved" in points else "start"
    means = ("angle", "norm_ratio", "between_batches_angle", "update_angle", "update_norm_ratio")
    return GradientSummary(
        name, int(gradients.get("batches") or 0), **{key: points[name][key]["mean"] for key in means}
    )


# --- a setting to try


_USEFUL_AUC = 0.6
"""Above the last noise level with this AUC (for the best kind) a weight is chance, and a gate is worth its key."""
LEVEL_SHARE, LEVEL_SD = 0.2, 0.05
"""Dividing by the level's mean is advised from this share of the variance on, where it moves weights by 5% or more."""
_HEARS_LOUDNESS = 0.5
"""A weighting goes by loudness where turning clips up, by experiment, makes half of the difference between them."""
_SURELY = 0.25  # and its interval lies above this
_GATE_WIDTH = 0.1
_MEAN_ONE = 0.1  # mean weights farther from 1 than this change the step size too: clipping and weight decay notice
_LEVEL_TABLES = ("level_means", "gate_below", "gate_above", "gate_width")


@dataclass(frozen=True)
class Recommendation:
    """A setting to try.

    Attributes
    ----------
    weighting : dict
        The recipe's whole `weighting` group.
    reason : str
    changes : dict
        The keys that differ from what was probed, with their new values.
    probe_again : bool
        Whether the changed weighting has to be probed before more can be said about it.
    """

    weighting: dict[str, Any]
    reason: str
    changes: dict[str, Any]
    probe_again: bool

    @property
    def yaml(self) -> str:
        """The group as YAML, to paste into a recipe."""
        import yaml

        return str(yaml.safe_dump({"weighting": self.weighting}, sort_keys=False, default_flow_style=None, width=100))


def hears_loudness(explanation: Explanation) -> bool:
    """Whether the experiment shows that the clips' differences in loudness make most of those in weight."""
    gain = explanation.gain
    return gain is not None and (gain.share.value or 0.0) >= _HEARS_LOUDNESS and gain.share.above(_SURELY)


def recommend(explanation: Explanation) -> Recommendation:
    """A setting to try, for the weighting that was probed."""
    setup = explanation.setup
    before: dict[str, Any] = {
        "sample": setup.get("sample", "none"),
        "noise_level": setup.get("noise_level", "none"),
        "reduction": setup.get("reduction", "sample"),
        "normalisation": setup.get("normalisation", "none"),
        "strength": float(setup.get("strength", 0.5)),
        "options": dict(setup.get("weighting_options") or {}),
    }
    if not explanation.has_sample_weight:
        reason = "A noise-level weighting is judged by what the trained model does, not by a probe."
        if before["noise_level"] in ("none", "constant"):
            reason = "Name a weighting, for example sample: recommended, and probe it."
        return Recommendation(before, reason, {}, False)
    after = {**before, "options": dict(before["options"])}
    reasons: list[str] = []
    replaced = _another_statistic(explanation, after, reasons)
    if after["sample"] != "none":
        _each_sample(explanation, after, reasons, replaced)
        if not replaced:
            _level_means(explanation, after, reasons)
            _gate(explanation, after, reasons)
        _mean_one(explanation, after, reasons)
    changes = {key: value for key, value in after.items() if value != before[key]}
    if not reasons:
        reasons.append("Nothing to change by what this probe can see: train with it, and measure what was generated.")
    if replaced:
        reasons.append("Probe that setting before training with it.")
    return Recommendation(after, " ".join(reasons), changes, replaced)


def _another_statistic(explanation: Explanation, after: dict[str, Any], reasons: list[str]) -> bool:
    """Another belief where this one reads loudness, or no weighting where it reads nothing; whether that was
    changed."""
    options, entropy = after["options"], after["sample"] == "entropy_barrier"
    loud, flat = hears_loudness(explanation), not explanation.sample_acts_at
    if loud and entropy and options.get("energy", "raw") == "raw":
        options["energy"] = "relative"
        reasons.append("It weighs by loudness, and 'energy: relative' takes the gain out of the entropy barrier.")
    elif loud and not entropy:
        reasons.append("It weighs by loudness: bring the clips to equal loudness before training.")
        return False
    elif (loud or flat) and entropy:
        from eisbach.weighting.build import RECOMMENDED_WEIGHTING

        after.update(RECOMMENDED_WEIGHTING, options=dict(RECOMMENDED_WEIGHTING["options"]))
        fault = "It weighs by loudness although its energies ignore gain"
        if not loud:
            fault = "Even undiluted it weighs all clips nearly alike (sample: none gives the same result at no cost)"
        reasons.append(f"{fault}; the recommended weighting asks for development instead.")
        return True
    else:
        if flat:
            after.update(sample="none", reduction="sample", normalisation="none", options={})
            reasons.append("Even undiluted it weighs all clips nearly alike, so leave it out.")
        return False
    for key in _LEVEL_TABLES:  # a gate or level means of another statistic say nothing about the new one
        after["options"].pop(key, None)
    return True


def _each_sample(explanation: Explanation, after: dict[str, Any], reasons: list[str], replaced: bool) -> None:
    """A weight a clip instead of one a step, at a strength that can be seen."""
    if after["reduction"] == "batch":
        after["reduction"] = "sample"
        reasons.append("Reduction 'batch' cannot favour one clip over another; 'sample' can.")
    strength = after["strength"]
    if replaced or strength >= 1 or not explanation.sample_acts_at or "level_means" in after["options"]:
        return
    # The cv of (1 - strength) + strength w, from the mean and cv of w.
    diluted = 0.0
    for level in explanation.levels:
        mean, cv = level.columns["sample_weight"].mean.value or 0.0, level.cv_sample_weight.value or 0.0
        diluted = max(diluted, strength * mean * cv / ((1 - strength) + strength * mean))
    if diluted < ACTS_CV:
        after["strength"] = 1.0
        reasons.append(
            f"At strength {strength:g} the constant part drowns weights this small; at 1 they act as measured."
        )


def _level_means(explanation: Explanation, after: dict[str, Any], reasons: list[str]) -> None:
    """The mean weight of each level, from this very probe."""
    variance = explanation.sample_variance
    means = [[t, float(f"{mean:.4g}")] for t, mean in explanation.level_means if t is not None and mean]
    share = 0.0 if variance is None else variance.level.value or 0.0
    if variance is None or share < LEVEL_SHARE or variance.sd * share**0.5 < LEVEL_SD:
        return
    if "level_means" not in after["options"] and len(means) == len(explanation.level_means) > 1:
        after["options"]["level_means"] = means
        reasons.append(
            "Dividing by each noise level's mean weight keeps it from being a noise-level weighting as well."
        )


def _gate(explanation: Explanation, after: dict[str, Any], reasons: list[str]) -> None:
    """A gate above the last noise level at which some kind is told from developing material."""
    useful = [
        t
        for pair in explanation.separations
        if pair.label in ("kind", "flat") and not pair.few
        for t, area in pair.levels
        if (area.value or 0.0) >= _USEFUL_AUC
    ]
    last = max(useful, default=None)
    above = next((level.t for level in explanation.levels if last is not None and level.t > last), None)
    if last is None or above is None or "gate_below" in after["options"]:
        return
    below = round((last + above) / 2, 3)
    after["options"].update(gate_below=below, gate_width=round(min(_GATE_WIDTH, below), 3))
    reasons.append(
        f"Above t = {last:g} it tells no kind from developing material (AUC under {_USEFUL_AUC:g}): gated off."
    )


def _mean_one(explanation: Explanation, after: dict[str, Any], reasons: list[str]) -> None:
    """Weights of mean 1, so that a sample weighting does not also change the step size."""
    batches = explanation.batches
    own_scale = after["normalisation"] == "none" and after["reduction"] == "sample" and after["noise_level"] == "none"
    if not own_scale or "level_means" in after["options"]:  # divided by level means, weights average 1 already
        return
    if batches is not None and batches.mean_weight is not None and abs(batches.mean_weight - 1) > _MEAN_ONE:
        after["normalisation"] = "mean1"
        reasons.append(
            f"As probed the weights average {batches.mean_weight:.2g}; 'mean1' keeps the loss, and with it clipping "
            "and "
            "weight decay, at the scale of unweighted training."
        )
