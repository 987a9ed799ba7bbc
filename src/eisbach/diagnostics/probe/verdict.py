"""What a probe means, in a headline and a few sentences, and a setting to try.

A sentence keeps its point estimates; their intervals stand in the page's tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eisbach.diagnostics.probe.explain import ACTS_CV, Explanation, GradientSummary
from eisbach.diagnostics.probe.grid import degrees, number, percent, where
from eisbach.diagnostics.probe.predictions import TELLS_AUC, Separation
from eisbach.diagnostics.probe.result import plain

_CONSTANT_SD = 0.1
"""Weights whose logarithm has a smaller sd than this differ by under 10%: less than chance does to a gradient."""
_MOSTLY_LEVEL, _PARTLY_LEVEL = 0.5, 0.2
"""Shares of the variance from which a sample weighting is a noise-level weighting first of all, or also one."""


@dataclass(frozen=True)
class Finding:
    """One sentence, and what it is about: "few_clips", "no_weighting", "noise_level_only", "constant", "acts",
    "noise_level", "loudness", "gain", "labels", "gradients", "prediction_1" or "prediction_5"."""

    code: str
    text: str


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


@dataclass(frozen=True)
class Verdict:
    """What a probe means: one sentence, then findings (the most important first), and a setting to try."""

    headline: str
    findings: list[Finding]
    recommendation: Recommendation

    @property
    def sentences(self) -> list[str]:
        """The findings' texts."""
        return [finding.text for finding in self.findings]

    @property
    def codes(self) -> list[str]:
        """The findings' codes."""
        return [finding.code for finding in self.findings]

    def to_json(self) -> dict[str, Any]:
        """Plain mappings, lists and numbers."""
        advice = {**vars(self.recommendation), "yaml": self.recommendation.yaml}
        findings = [vars(finding) for finding in self.findings]
        values: dict[str, Any] = plain({"headline": self.headline, "findings": findings, "recommendation": advice})
        return values


def verdict(explanation: Explanation) -> Verdict:
    """The verdict on a weighting: what it does here, where and for whom, and a setting to try."""
    effect = _effect(explanation)
    findings = [
        _few_clips(explanation),
        effect,
        _level_share(explanation),
        _loudness(explanation),
        _labels(explanation.separations),
        _gradients(explanation.gradients) if effect.code == "acts" else None,
        *_predictions(explanation),
    ]
    shown = [finding for finding in findings if finding is not None]
    return Verdict(_headline(explanation, effect), shown, _recommend(explanation))


def _few_clips(explanation: Explanation) -> Finding | None:
    if explanation.enough_clips:
        return None
    return Finding(
        "few_clips",
        f"Too few clips for intervals ({explanation.clips}): what follows describes these clips and no others.",
    )


def _effect(explanation: Explanation) -> Finding:
    """Whether, and where, the weighting makes one clip count more than another."""
    setup, batches = explanation.setup, explanation.batches
    if not explanation.has_sample_weight:
        return _without_sample_weight(explanation)
    largest = max(explanation.levels, key=lambda level: level.cv.value or 0.0)
    if setup.get("reduction") == "batch":
        text = "Reduction 'batch' (the barrier paper's Eq. 5) gives every clip of a step the same factor"
        if batches is not None and batches.step_cv is not None:
            text += f", which varies by {percent(batches.step_cv)} from step to step"
        return Finding("constant", f"{text}{_update(explanation.gradients)}.")
    if explanation.acts_at:
        text = f"Weights of different clips vary by up to {percent(largest.cv.value)}, at t = {largest.t:g}"
        return Finding("acts", f"{text}{_batch_ess(explanation)}.")
    text = f"At any one noise level the weights of different clips vary by at most {percent(largest.cv.value)}"
    if explanation.sample_acts_at and float(setup.get("strength", 1.0)) < 1:
        undiluted = max(level.cv_sample_weight.value or 0.0 for level in explanation.levels)
        text += f" (by {percent(undiluted)} before strength {float(setup['strength']):g} dilutes them)"
    return Finding("constant", f"{text}{_batch_ess(explanation)}{_update(explanation.gradients)}.")


def _without_sample_weight(explanation: Explanation) -> Finding:
    name = explanation.setup.get("noise_level", "none")
    if name in ("none", "constant"):
        return Finding("no_weighting", "Every clip counts alike at every noise level.")
    means = {level.t: level.columns["weight"].mean.value or 0.0 for level in explanation.levels}
    top, bottom = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    text = (
        f"At one noise level every clip counts alike; the weight ({name}) is largest at t = {top:g} "
        f"({means[top]:.3g}) and smallest at t = {bottom:g} ({means[bottom]:.3g})"
    )
    return Finding("noise_level_only", f"{text}{_batch_ess(explanation)}{_update(explanation.gradients)}.")


def _batch_ess(explanation: Explanation) -> str:
    batches = explanation.batches
    if batches is None or batches.ess_share is None or batches.batch_size < 2:
        return ""
    return f"; a batch of {batches.batch_size} counts like {batches.ess_share * batches.batch_size:.1f} equal samples"


def _update(gradients: GradientSummary | None) -> str:
    """What is left of the difference after the optimiser's normalisation, as a further part of a sentence."""
    if gradients is None or gradients.update_angle.value is None:
        return ""
    text = f"; under AdamW the update is {number(gradients.update_norm_ratio.value)} times the plain one and "
    text += f"{degrees(gradients.update_angle.value)} away from it"
    if gradients.between_batches_angle.value is not None:
        text += f" (gradients of two batches: {degrees(gradients.between_batches_angle.value)})"
    return text


def _level_share(explanation: Explanation) -> Finding | None:
    """Whether a sample weighting is a noise-level weighting in disguise."""
    averaged = explanation.setup.get("reduction") == "batch"
    variance = explanation.sample_variance if averaged else explanation.variance
    if not explanation.has_sample_weight or variance is None or variance.sd < _CONSTANT_SD:
        return None
    share = variance.level.value or 0.0
    if len(explanation.levels) < 2 or share < _PARTLY_LEVEL:
        return None
    text = (
        f"It is {'mostly' if share >= _MOSTLY_LEVEL else 'also'} a noise-level weight: {percent(share)} of the "
        f"variance of {'the sample weight' if averaged else 'ln weight'} lies between noise levels, "
        f"{percent(variance.clip.value)} between clips"
    )
    means = [(t, mean) for t, mean in explanation.level_means if t is not None and mean is not None]
    if len(means) > 1:
        (first, start), (last, end) = means[0], means[-1]
        text += f"; its mean goes from {start:.3g} at t = {first:g} to {end:.3g} at t = {last:g}"
    return Finding("noise_level", text + ".")


def _loudness(explanation: Explanation) -> Finding | None:
    """What turning clips up does to their weights."""
    gain = explanation.gain
    if gain is None or gain.per_step.value is None:
        return None
    text = f"Turning a clip up by 6 dB multiplies its weight by {number(gain.per_step.value)} ({gain.clips} clips)"
    if gain.share.value is not None:
        text += f"; the clips' differences in loudness make {percent(gain.share.value)} of those in weight"
    return Finding("loudness" if hears_loudness(explanation) else "gain", text + ".")


def _labels(pairs: Sequence[Separation]) -> Finding | None:
    """Which labels the weight tells apart, and up to which noise level."""
    if not pairs:
        return None
    against = f"By AUC the weight tells {pairs[0].label} '{pairs[0].positive}' from others (at {TELLS_AUC:g} or more)"
    return Finding("labels", f"{against}: {'; '.join(map(_said_auc, pairs))}.")


def _said_auc(pair: Separation) -> str:
    known = [(t, area.value) for t, area in pair.levels if area.value is not None]
    if pair.few or not known:
        return f"{pair.negative}, too few clips ({min(pair.n_positive, pair.n_negative)})"
    if pair.told_up_to is not None:
        return f"{pair.negative} up to t = {pair.told_up_to:g}"
    t, farthest = max(known, key=lambda level: abs(level[1] - 0.5))
    return f"{pair.negative} not (farthest from chance at t = {t:g}, {number(farthest)})"


def _gradients(gradients: GradientSummary | None) -> Finding | None:
    if gradients is None or gradients.angle.value is None:
        return None
    turned, scaled = degrees(gradients.angle.value), percent(gradients.norm_ratio.value)
    text = f"It turns a batch's gradient by {turned} and scales it to {scaled}{_update(gradients)}."
    return Finding("gradients", text)


def _predictions(explanation: Explanation) -> list[Finding]:
    return [
        Finding(
            f"prediction_{prediction.number}",
            f"The barrier paper's prediction {prediction.number} is {prediction.outcome} here: that {prediction.claim} "
            "(" + "; ".join(f"{name}: {number(value.value)}" for name, value in prediction.measures) + ").",
        )
        for prediction in explanation.predictions
    ]


def _headline(explanation: Explanation, effect: Finding) -> str:
    if effect.code == "no_weighting":
        return "There is no weighting here."
    if effect.code == "noise_level_only":
        return "This is a noise-level weighting alone: it prefers no clip to another."
    variance = explanation.variance
    mostly = variance is not None and variance.sd >= _CONSTANT_SD and (variance.level.value or 0.0) >= _MOSTLY_LEVEL
    if effect.code == "acts":
        text = f"It acts {where(explanation.acts_at, [level.t for level in explanation.levels])}"
        text += " and is mostly a noise-level weight" if mostly else ""
    elif mostly:
        text = "It is a noise-level weight: between clips it is nearly a constant"
    else:
        text = "This weighting is a constant here"
    return f"{text}; it weighs by loudness." if hears_loudness(explanation) else f"{text}."


# --- a setting to try


_HEARS_LOUDNESS, _SURELY = 0.5, 0.25
"""A weighting goes by loudness where turning clips up, by experiment, makes half of the difference between them, and
the interval of that share lies above a quarter."""
_USEFUL_AUC = 0.6
"""Above the last noise level with this AUC (for the best kind) a weight is chance, and a gate is worth its key."""
_LEVEL_SHARE, _LEVEL_SD = 0.2, 0.05
"""Dividing by the level's mean is advised from this share of the variance on, where it moves weights by 5% or more."""
_GATE_WIDTH = 0.1
_MEAN_ONE = 0.1  # mean weights farther from 1 than this change the step size too: clipping and weight decay notice
_LEVEL_TABLES = ("level_means", "gate_below", "gate_above", "gate_width")


def hears_loudness(explanation: Explanation) -> bool:
    """Whether the experiment shows that the clips' differences in loudness make most of those in weight."""
    gain = explanation.gain
    return gain is not None and (gain.share.value or 0.0) >= _HEARS_LOUDNESS and gain.share.above(_SURELY)


def _recommend(explanation: Explanation) -> Recommendation:
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
    if not reasons:
        reasons.append("Nothing to change by what this probe can see: train with it, and measure what was generated.")
    if replaced:
        reasons.append("Probe that setting before training with it.")
    changes = {key: value for key, value in after.items() if value != before[key]}
    return Recommendation(after, " ".join(reasons), changes, replaced)


def _another_statistic(explanation: Explanation, after: dict[str, Any], reasons: list[str]) -> bool:
    """Another belief where this one reads loudness, or no weighting where it reads nothing; whether that was
    changed."""
    options, entropy = after["options"], after["sample"] == "entropy_barrier"
    loud, flat = hears_loudness(explanation), not explanation.sample_acts_at
    if not (loud or flat):
        return False
    if not entropy:
        if loud:
            reasons.append("It weighs by loudness: bring the clips to equal loudness before training.")
        else:
            after.update(sample="none", reduction="sample", normalisation="none", options={})
            reasons.append("Even undiluted it weighs all clips nearly alike, so leave it out.")
        return False
    if loud and options.get("energy", "raw") == "raw":
        options["energy"] = "relative"
        reasons.append("It weighs by loudness, and 'energy: relative' takes the gain out of the entropy barrier.")
    else:
        from eisbach.weighting.build import RECOMMENDED_WEIGHTING

        after.update(RECOMMENDED_WEIGHTING, options=dict(RECOMMENDED_WEIGHTING["options"]))
        fault = "It weighs by loudness although its energies ignore gain"
        if not loud:
            fault = "Even undiluted it weighs all clips nearly alike (sample: none gives the same result at no cost)"
        reasons.append(f"{fault}; the recommended weighting asks for development instead.")
        return True
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
    if variance is None or share < _LEVEL_SHARE or variance.sd * share**0.5 < _LEVEL_SD:
        return
    if "level_means" not in after["options"] and len(means) == len(explanation.level_means) > 1:
        after["options"]["level_means"] = means
        reasons.append(
            "Dividing by each noise level's mean weight keeps it from being a noise-level weighting as well."
        )


def _gate(explanation: Explanation, after: dict[str, Any], reasons: list[str]) -> None:
    """A gate above the last noise level at which some kind is told from developing material."""
    pairs = [pair for pair in explanation.separations if pair.label in ("kind", "flat") and not pair.few]
    useful = [t for pair in pairs for t, area in pair.levels if (area.value or 0.0) >= _USEFUL_AUC]
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
            "and weight decay, at the scale of unweighted training."
        )
