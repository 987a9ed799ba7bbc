"""What a probe means, in a headline and a few sentences, and a setting to try. Every sentence keeps its numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from eisbach.diagnostics.probe.explain import Explanation, GradientSummary, Recommendation, hears_loudness, recommend
from eisbach.diagnostics.probe.intervals import column_name, degrees, number, percent, said, said_percent, where
from eisbach.diagnostics.probe.levels import LevelSummary
from eisbach.diagnostics.probe.predictions import Separation
from eisbach.diagnostics.probe.result import plain

_CONSTANT_SD = 0.1
"""Weights whose logarithm has a smaller sd than this differ by under 10%: less than chance does to a gradient."""
_MOSTLY_LEVEL = 0.5
"""Above this share of the variance, a sample weighting is a noise-level weighting first of all."""
_PARTLY_LEVEL = 0.2
"""From this share on it is worth saying that the weighting also shifts effort between noise levels."""


@dataclass(frozen=True)
class Finding:
    """One sentence.

    Attributes
    ----------
    code : str
        What it is about: "few_clips", "no_weighting", "noise_level_only", "constant", "acts", "noise_level",
        "loudness", "gain", "correlation", "labels", "gradients", "prediction_1", "prediction_5".
    text : str
    numbers : dict
        What the sentence rests on.
    """

    code: str
    text: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What a probe means.

    Attributes
    ----------
    headline : str
        One sentence.
    findings : list of Finding
        Most important first.
    recommendation : Recommendation
    """

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
        values: dict[str, Any] = plain(
            {
                "headline": self.headline,
                "findings": [vars(finding) for finding in self.findings],
                "recommendation": {**vars(self.recommendation), "yaml": self.recommendation.yaml},
            }
        )
        return values


def verdict(explanation: Explanation) -> Verdict:
    """The verdict on a weighting: what it does here, where and for whom, and a setting to try."""
    effect = _effect(explanation)
    findings = [
        *_few_clips(explanation),
        effect,
        *_level_share(explanation),
        *_loudness(explanation),
        *_labels(explanation),
        *_gradients(explanation, effect),
        *_predictions(explanation),
    ]
    return Verdict(_headline(explanation, effect), findings, recommend(explanation))


def _few_clips(explanation: Explanation) -> list[Finding]:
    if explanation.enough_clips:
        return []
    text = f"Too few clips for intervals ({explanation.clips}): what follows describes these clips and no others."
    return [Finding("few_clips", text, {"clips": explanation.clips})]


def _effect(explanation: Explanation) -> Finding:
    """Whether, and where, the weighting makes one clip count more than another."""
    setup, batches = explanation.setup, explanation.batches
    if not explanation.has_sample_weight:
        return _without_sample_weight(explanation)
    largest = max(explanation.levels, key=lambda level: level.cv.value or 0.0)
    undiluted = max(level.cv_sample_weight.value or 0.0 for level in explanation.levels)
    numbers = {
        "acts_at": explanation.acts_at,
        "largest_cv": largest.cv.value,
        "largest_cv_undiluted": undiluted,
        "ess_share": None if batches is None else batches.ess_share,
        "step_cv": None if batches is None else batches.step_cv,
    }
    if setup.get("reduction") == "batch":
        text = "Reduction 'batch' (the barrier paper's Eq. 5) gives every clip of a step the same factor"
        if batches is not None and batches.step_cv is not None:
            text += f", which varies by {percent(batches.step_cv)} from step to step"
        return Finding("constant", f"{text}{_update(explanation.gradients)}.", numbers)
    if explanation.acts_at:
        text = f"Weights of different clips vary by up to {said_percent(largest.cv)}, at t = {largest.t:g}"
        return Finding("acts", f"{text}{_batch_ess(explanation)}.", numbers)
    text = f"At any one noise level the weights of different clips vary by at most {percent(largest.cv.value)}"
    if explanation.sample_acts_at and float(setup.get("strength", 1.0)) < 1:
        text += f" (by {percent(undiluted)} before strength {float(setup['strength']):g} dilutes them)"
    return Finding("constant", f"{text}{_batch_ess(explanation)}{_update(explanation.gradients)}.", numbers)


def _without_sample_weight(explanation: Explanation) -> Finding:
    name = explanation.setup.get("noise_level", "none")
    if name in ("none", "constant"):
        return Finding("no_weighting", "Every clip counts alike at every noise level.")

    def mean(level: LevelSummary) -> float:
        return level.columns["weight"].mean.value or 0.0

    top, bottom = max(explanation.levels, key=mean), min(explanation.levels, key=mean)
    text = (
        f"At one noise level every clip counts alike; the weight ({name}) is largest at t = {top.t:g} "
        f"({mean(top):.3g}) and "
        f"smallest at t = {bottom.t:g} ({mean(bottom):.3g})"
    )
    means = {level.t: mean(level) for level in explanation.levels}
    return Finding(
        "noise_level_only", f"{text}{_batch_ess(explanation)}{_update(explanation.gradients)}.", {"means": means}
    )


def _batch_ess(explanation: Explanation) -> str:
    batches = explanation.batches
    if batches is None or batches.ess_share is None or batches.batch_size < 2:
        return ""
    return f"; a batch of {batches.batch_size} counts like {batches.ess_share * batches.batch_size:.1f} equal samples"


def _update(gradients: GradientSummary | None) -> str:
    """What is left of the difference after the optimiser's normalisation, as a further part of a sentence."""
    if gradients is None or gradients.update_angle is None:
        return ""
    text = f"; under AdamW the update is {number(gradients.update_norm_ratio)} times the plain one and "
    text += f"{degrees(gradients.update_angle)} away from it"
    if gradients.between_batches_angle is not None:
        text += f" (gradients of two batches: {degrees(gradients.between_batches_angle)})"
    return text


def _level_share(explanation: Explanation) -> list[Finding]:
    """Whether a sample weighting is a noise-level weighting in disguise."""
    averaged = explanation.setup.get("reduction") == "batch"
    variance = explanation.sample_variance if averaged else explanation.variance
    if not explanation.has_sample_weight or variance is None or variance.sd < _CONSTANT_SD:
        return []
    share = variance.level.value or 0.0
    if len(explanation.levels) < 2 or share < _PARTLY_LEVEL:
        return []
    text = (
        f"It is {'mostly' if share >= _MOSTLY_LEVEL else 'also'} a noise-level weight: {said_percent(variance.level)} "
        "of the "
        f"variance of {'the sample weight' if averaged else 'ln weight'} lies between noise levels, "
        f"{percent(variance.clip.value)} between clips"
    )
    means = [(t, mean) for t, mean in explanation.level_means if t is not None and mean is not None]
    if len(means) > 1:
        text += (
            f"; its mean goes from {means[0][1]:.3g} at t = {means[0][0]:g} to {means[-1][1]:.3g} at t = "
            f"{means[-1][0]:g}"
        )
    return [
        Finding(
            "noise_level", text + ".", {"level": vars(variance.level), "clip": vars(variance.clip), "sd": variance.sd}
        )
    ]


def _loudness(explanation: Explanation) -> list[Finding]:
    """What turning clips up does to their weights, and what else goes with them."""
    findings = []
    gain = explanation.gain
    if gain is not None and gain.per_step.value is not None:
        text = f"Turning a clip up by 6 dB multiplies its weight by {said(gain.per_step)} ({gain.clips} clips)"
        if gain.share.value is not None:
            text += f"; the clips' differences in loudness make {said_percent(gain.share)} of those in weight"
        numbers = {"per_6_db": vars(gain.per_step), "share": vars(gain.share), "clips": gain.clips}
        findings.append(Finding("loudness" if hears_loudness(explanation) else "gain", text + ".", numbers))
    if explanation.correlations:
        first = explanation.correlations[0]
        text = (
            f"Of what was measured, the weight goes most with {column_name(first.column)} (rank correlation "
            f"{said(first.spearman)})."
        )
        findings.append(Finding("correlation", text, {first.column: vars(first.spearman)}))
    return findings


def _labels(explanation: Explanation) -> list[Finding]:
    """How well the weight tells labels apart, and up to which noise level."""
    pairs = explanation.separations
    if not pairs:
        return []
    against = f"AUC of the weight for {pairs[0].label} '{pairs[0].positive}' against each other"
    numbers = {pair.negative: [[t, vars(area)] for t, area in pair.levels] for pair in pairs}
    return [Finding("labels", f"{against}: {'; '.join(map(_said_auc, pairs))}.", numbers)]


def _said_auc(pair: Separation) -> str:
    from_chance = [(abs(area.value - 0.5), t, area) for t, area in pair.levels if area.value is not None]
    if pair.few or not from_chance:
        return f"{pair.negative} too few clips ({min(pair.n_positive, pair.n_negative)})"
    if pair.told_up_to is not None:
        t, area = pair.told_up_to
        return f"{pair.negative} told apart up to t = {t:g}, {said(area)} there"
    _, t, area = max(from_chance, key=lambda level: level[0])
    return f"{pair.negative} {said(area)} at t = {t:g}, where it differs most from chance (0.5)"


def _gradients(explanation: Explanation, effect: Finding) -> list[Finding]:
    gradients = explanation.gradients
    if gradients is None or effect.code != "acts" or gradients.angle is None:
        return []
    text = f"It turns a batch's gradient by {degrees(gradients.angle)} and scales it to {percent(gradients.norm_ratio)}"
    return [Finding("gradients", f"{text}{_update(gradients)}.", vars(gradients))]


def _predictions(explanation: Explanation) -> list[Finding]:
    return [
        Finding(
            f"prediction_{prediction.number}",
            f"The barrier paper's prediction {prediction.number} ({prediction.claim}) is {prediction.outcome} here: "
            f"{prediction.because}.",
            vars(prediction),
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
    else:
        text = (
            "It is a noise-level weight: between clips it is nearly a constant"
            if mostly
            else "This weighting is a constant here"
        )
    return f"{text}; it weighs by loudness." if hears_loudness(explanation) else f"{text}."
