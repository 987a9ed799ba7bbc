"""What a probe means, in plain sentences in order of importance, and a setting to try.

Every sentence names the numbers it rests on. Thresholds are constants with a reason; nothing here computes statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eisbach.diagnostics.probe import wording
from eisbach.diagnostics.probe.association import Estimate
from eisbach.diagnostics.probe.cause import Cause, find_cause, strongest
from eisbach.diagnostics.probe.cause_findings import cause_findings, gain_findings, preference
from eisbach.diagnostics.probe.explain import ACTS_CV, Explanation, GradientSummary
from eisbach.diagnostics.probe.findings import Finding, label_findings, said_share
from eisbach.diagnostics.probe.recommend import Recommendation, recommend
from eisbach.diagnostics.probe.result import plain

CONSTANT_SD = 0.1
"""Weights whose logarithm has a smaller standard deviation than this differ by under 10%: less than chance does to a gradient."""
MOSTLY_LEVEL = 0.5
"""Above this share of the variance, a sample weighting is a noise-level weighting first of all."""
PARTLY_LEVEL = 0.2
"""From this share on it is worth saying that the weighting also shifts effort between noise levels."""


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
        return [one.text for one in self.findings]

    @property
    def codes(self) -> list[str]:
        """The findings' codes."""
        return [one.code for one in self.findings]

    def to_json(self) -> dict[str, Any]:
        """Plain mappings, lists and numbers."""
        values: dict[str, Any] = plain(
            {
                "headline": self.headline,
                "findings": [vars(one) for one in self.findings],
                "recommendation": {**vars(self.recommendation), "yaml": self.recommendation.yaml},
            }
        )
        return values


def verdict(explanation: Explanation) -> Verdict:
    """The verdict on a weighting: what it does here, where, what it follows, and a setting to try."""
    cause = find_cause(explanation)
    effect = _effect(explanation)
    findings = [
        *_few(explanation),
        effect,
        *_level_share(explanation, effect),
        *cause_findings(explanation, cause, effect),
        *gain_findings(explanation, cause),
        *label_findings(explanation.separations),
        *_gradients(explanation, effect),
        *_predictions(explanation),
    ]
    return Verdict(_headline(explanation, effect, cause), findings, recommend(explanation, cause, effect.code))


def _few(explanation: Explanation) -> list[Finding]:
    if explanation.enough_clips:
        return []
    text = (
        f"Only {wording.count(explanation.clips, 'clip')} were probed: not enough clips for intervals, or to say what the weights "
        "follow; what is said here describes these clips and no others."
    )
    return [Finding("few_clips", text.replace("Only 1 clip were", "Only 1 clip was"), {"clips": explanation.clips})]


def _effect(explanation: Explanation) -> Finding:
    """Whether, and where, the weighting makes one clip count more than another."""
    setup, batches = explanation.setup, explanation.batches
    if not explanation.has_sample_weight:
        return _without_sample_weight(explanation)
    variance = explanation.variance
    numbers: dict[str, Any] = {
        "acts_at": explanation.acts_at,
        "largest_cv": max((one.cv.value or 0.0 for one in explanation.levels), default=0.0),
        "ess_share": None if batches is None else batches.ess_share,
        "step_cv": None if batches is None else batches.step_cv,
        "sd_log_weight": None if variance is None else variance.sd,
    }
    if setup.get("reduction") == "batch":
        text = "This weighting is a constant here: with reduction 'batch' (the paper's Eq. 5) every clip of a step gets the same factor"
        if batches is not None and batches.step_cv is not None:
            text += f", and from step to step that factor varies by {wording.percent(batches.step_cv)}"
        return Finding("constant", text + _update(explanation.gradients) + ".", numbers)
    if explanation.acts_at:
        strongest = max(explanation.levels, key=lambda one: one.cv.value or 0.0)
        text = (
            f"It acts {wording.where(explanation.acts_at, [one.t for one in explanation.levels])}: there the weights of different "
            f"clips vary by up to {wording.percent(strongest.cv.value)} ({_interval(strongest.cv)}, at t = {strongest.t:g})"
        )
        return Finding("acts", text + _batch_ess(explanation) + ".", numbers)
    largest = max(explanation.levels, key=lambda one: one.cv.value or 0.0)
    undiluted = max((one.cv_sample_weight.value or 0.0 for one in explanation.levels), default=0.0)
    moves_levels = variance is not None and variance.sd >= CONSTANT_SD
    text = (
        f"Between clips this weighting is {'nearly ' if not moves_levels else ''}a constant here: at any one noise level their weights "
        f"vary by at most {wording.percent(largest.cv.value)}"
    )
    if undiluted >= ACTS_CV and float(setup.get("strength", 1.0)) < 1:
        text += f" (by {wording.percent(undiluted)} before strength {float(setup['strength']):g} dilutes them)"
    numbers["largest_cv_undiluted"] = undiluted
    text += _batch_ess(explanation) + _update(explanation.gradients)
    return Finding("constant", text + ".", numbers)


def _without_sample_weight(explanation: Explanation) -> Finding:
    name = explanation.setup.get("noise_level", "none")
    if name in ("none", "constant"):
        text = "There is no weighting here: every clip counts alike at every noise level."
        return Finding("no_weighting", text)
    means = {one.t: one.columns["weight"].mean.value for one in explanation.levels}
    known = {t: value for t, value in means.items() if value is not None}
    text = f"This is a noise-level weighting alone ({name}): at one noise level every clip counts alike"
    if known:
        top, bottom = max(known, key=lambda t: known[t]), min(known, key=lambda t: known[t])
        text += (
            f"; its weight is largest at t = {top:g} ({wording.weight(known[top])}) and smallest at t = {bottom:g} "
            f"({wording.weight(known[bottom])})"
        )
    return Finding(
        "noise_level_only", text + _batch_ess(explanation) + _update(explanation.gradients) + ".", {"means": known}
    )


def _batch_ess(explanation: Explanation) -> str:
    batches = explanation.batches
    if batches is None or batches.ess_share is None or batches.batch_size < 2:
        return ""
    return (
        f"; a training batch of {batches.batch_size} counts like {batches.ess_share * batches.batch_size:.1f} equal samples "
        f"({wording.percent(batches.ess_share)})"
    )


def _update(gradients: GradientSummary | None) -> str:
    """What is left of the difference after the optimiser's normalisation, for a sentence that already has its subject."""
    if gradients is None:
        return ""
    clipped = gradients.clipped_update_angle is not None
    angle = gradients.clipped_update_angle if clipped else gradients.update_angle
    ratio = gradients.clipped_update_ratio if clipped else gradients.update_ratio
    if angle is None or ratio is None:
        return ""
    text = f"; under AdamW the update is {wording.number(ratio)} times the plain one and {wording.degrees(angle)} away from it"
    if gradients.between_batches_angle is not None:
        text += f", where the gradients of two batches are {wording.degrees(gradients.between_batches_angle)} apart"
    return text


def _level_share(explanation: Explanation, effect: Finding) -> list[Finding]:
    """Whether a sample weighting is a noise-level weighting in disguise."""
    if not explanation.has_sample_weight or len(explanation.levels) < 2:
        return []
    trained = explanation.setup.get("reduction") != "batch"
    variance = explanation.variance if trained else explanation.sample_variance
    if variance is None or variance.level.value is None or variance.sd < CONSTANT_SD:
        return []
    share = variance.level
    if (share.value or 0.0) < PARTLY_LEVEL:
        return []
    means = [(t, mean) for t, mean in explanation.level_means if mean is not None]
    course = ""
    if len(means) > 1:
        (first, a), (last, b) = means[0], means[-1]
        course = f"; its mean goes from {wording.weight(a or 0.0)} at t = {first:g} to {wording.weight(b or 0.0)} at t = {last:g}"
    mostly = (share.value or 0.0) >= MOSTLY_LEVEL
    what = "the weight's variance" if trained else "the sample weight's variance (before it is averaged over the batch)"
    text = (
        f"It is {'mostly' if mostly else 'also'} a noise-level weight: {said_share(share)} of {what} lies between noise levels and "
        f"{wording.percent(variance.clip.value)} between clips{course}."
    )
    numbers = {
        "level": vars(share),
        "clip": vars(variance.clip),
        "remainder": vars(variance.remainder),
        "sd": variance.sd,
    }
    return [Finding("noise_level", text, numbers)]


def _gradients(explanation: Explanation, effect: Finding) -> list[Finding]:
    gradients = explanation.gradients
    if gradients is None or effect.code in ("constant", "noise_level_only", "no_weighting") or gradients.angle is None:
        return []
    text = f"It turns a batch's gradient by {wording.degrees(gradients.angle)}"
    if gradients.norm_ratio is not None:
        text += f" and scales it to {wording.percent(gradients.norm_ratio)}"
    text += _update(gradients)
    if gradients.halves_angle is not None:
        text += f" (and the two halves of a batch {wording.degrees(gradients.halves_angle)})"
    return [Finding("gradients", text + ".", vars(gradients))]


def _predictions(explanation: Explanation) -> list[Finding]:
    order = sorted(explanation.predictions, key=lambda one: -one.number)
    return [
        Finding(
            f"prediction_{one.number}",
            f"Prediction {one.number} of the barrier paper ({one.claim}) is {one.outcome} here: {one.because}.",
            vars(one),
        )
        for one in order
    ]


def _headline(explanation: Explanation, effect: Finding, cause: Cause) -> str:
    drivers = explanation.drivers
    if effect.code == "no_weighting":
        return "There is no weighting here."
    if effect.code == "noise_level_only":
        return "This is a noise-level weighting alone: it prefers no clip to another."
    lead = strongest(drivers, "loudness")
    follows = {
        "loudness": f"prefers {preference(lead).partition(' (')[0]}",
        "structure": "follows structure, not loudness",
        "both": "follows both loudness and structure",
        "confounded": "follows loudness or structure, which cannot be told apart here",
        "undecided": "follows something that these clips are too few to name",
        "neither": "follows neither loudness nor structure",
    }.get(cause, "")
    level = explanation.variance
    mostly = level is not None and level.sd >= CONSTANT_SD and (level.level.value or 0.0) >= MOSTLY_LEVEL
    if effect.code == "acts":
        levels = [one.t for one in explanation.levels]
        text = f"It acts {wording.where(explanation.acts_at, levels)}"
        if mostly:
            text += ", is mostly a noise-level weight,"
        return f"{text} and {follows}." if follows else f"{text.rstrip(',')}."
    if mostly:
        text = "It is a noise-level weight: between clips it is nearly a constant"
    else:
        text = "This weighting is a constant here"
    follows = follows.replace("prefers ", "follows loudness, in favour of ")
    return f"{text}; what little it differs between clips {follows}." if follows else f"{text}."


def _interval(one: Estimate) -> str:
    if one.low is None or one.high is None:
        return "no interval"
    return f"95% {wording.percent(one.low)} to {wording.percent(one.high)}"
