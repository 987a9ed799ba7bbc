"""What a probe means, in plain sentences in order of importance, and a setting to try.

Every sentence names the numbers it rests on. Thresholds are constants with a reason; nothing here computes statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from eisbach.diagnostics.probe import wording
from eisbach.diagnostics.probe.association import Estimate
from eisbach.diagnostics.probe.drivers import Driver, Drivers
from eisbach.diagnostics.probe.explain import ACTS_CV, Explanation, GradientSummary
from eisbach.diagnostics.probe.findings import Finding, label_findings, said_interval
from eisbach.diagnostics.probe.recommend import Recommendation, recommend
from eisbach.diagnostics.probe.result import plain

CONSTANT_SD = 0.1
"""Weights whose logarithm has a smaller standard deviation than this differ by under 10%: less than chance does to a gradient."""
MOSTLY_LEVEL = 0.5
"""Above this share of the variance, a sample weighting is a noise-level weighting first of all."""
PARTLY_LEVEL = 0.2
"""From this share on it is worth saying that the weighting also shifts effort between noise levels."""
EXPLAINS = 0.25
"""A group explains the clips' weights from this share of their rank variance on (a correlation of 0.5)."""
ADDS = 0.15
"""A group says something of its own where it adds this much to the other, with an interval that excludes 0."""
GO_TOGETHER = 0.5
"""Loudness and structure go together where half of what the weaker one explains is explained by the other as well."""
TURNED = 0.5
"""Loudness is the cause where turning clips up, by experiment, makes half of the difference between them."""
UNMOVED = 0.1
"""Loudness is out of the question where the experiment makes under a tenth of it, interval and all."""
HEARS_LEVEL = 1.02
"""A factor on the weight of 6 dB more that is nearer to 1 than this is not worth a sentence of its own."""

Cause = Literal["none", "loudness", "structure", "both", "confounded", "undecided", "neither", "unknown"]


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
        *_cause(explanation, cause, effect),
        *_gain(explanation, cause),
        *label_findings(explanation.separations),
        *_gradients(explanation, effect),
        *_predictions(explanation),
    ]
    return Verdict(_headline(explanation, effect, cause), findings, recommend(explanation, cause, effect.code))


def find_cause(explanation: Explanation) -> Cause:
    """What the differences between clips follow, as far as these clips can tell.

    Loudness and structure are each asked what they add to the other: structure that merely follows loudness adds nothing
    to it. Where both explain the weights and neither adds anything, these clips cannot tell them apart. The experiment on
    loudness can: it overrules what merely goes together.
    """
    drivers = explanation.drivers
    if not explanation.has_sample_weight:
        return "none"
    if not drivers.enough:
        return "unknown"
    observed, turned = _observed_cause(drivers), explanation.gain
    if turned is None or turned.share.value is None:
        return observed
    if turned.share.value >= TURNED and turned.share.above(EXPLAINS):
        return "both" if observed in ("structure", "both") else "loudness"
    if observed == "confounded" and turned.share.below(UNMOVED):
        return "structure"
    return observed


def _observed_cause(drivers: Drivers) -> Cause:
    """The cause as far as it shows in which clips weigh more."""
    shares = drivers.shares
    loud, structured = _explains(shares.loudness), _explains(shares.structure)
    if shares.loudness.value is None or shares.structure.value is None:
        # Structure was not measured, or does not differ between the clips; or every clip is equally loud.
        return "loudness" if loud else "structure" if structured else "neither"
    together = _explains(shares.both)
    if not (loud or structured or together):
        return "neither"
    first, second = _adds(shares.loudness_only), _adds(shares.structure_only)
    if first and second:
        return "both"
    if first:
        return "loudness"
    if second:
        return "structure"
    # Neither adds anything for certain: one of them may still be out of the question altogether.
    if loud and not structured and (shares.structure.value or 0.0) < EXPLAINS / 2:
        return "loudness"
    if structured and not loud and (shares.loudness.value or 0.0) < EXPLAINS / 2:
        return "structure"
    together_they_go = min(shares.loudness.value, shares.structure.value) * GO_TOGETHER
    return "confounded" if (shares.shared.value or 0.0) >= together_they_go > 0 else "undecided"


def _explains(share: Estimate) -> bool:
    return share.value is not None and share.value >= EXPLAINS and share.above(0)


def _adds(share: Estimate) -> bool:
    return share.value is not None and share.value >= ADDS and share.above(0)


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
        f"It is {'mostly' if mostly else 'also'} a noise-level weight: {_percent(share)} of {what} lies between noise levels and "
        f"{wording.percent(variance.clip.value)} between clips{course}."
    )
    numbers = {
        "level": vars(share),
        "clip": vars(variance.clip),
        "remainder": vars(variance.remainder),
        "sd": variance.sd,
    }
    return [Finding("noise_level", text, numbers)]


def _cause(explanation: Explanation, cause: Cause, effect: Finding) -> list[Finding]:
    """What the clips' weights follow."""
    drivers = explanation.drivers
    found: list[Finding] = []
    if cause in ("none", "unknown"):
        return found
    shares = drivers.shares
    numbers = {name: vars(value) for name, value in vars(shares).items()}
    little = "What little it differs between clips" if effect.code == "constant" else "The difference between clips"
    lead = strongest(drivers, "loudness")
    rich = strongest(drivers, "structure")
    if cause == "loudness":
        numbers["driver"] = None if lead is None else lead.name
        small = "small " if effect.code == "constant" else ""
        text = f"It prefers {_preference(lead)}: loudness explains {_percent(shares.loudness)} of the {small}difference between clips, "
        text += _beyond(drivers)
        found.append(Finding("loudness", text, numbers))
    elif cause == "structure":
        numbers["driver"] = None if rich is None else rich.name
        text = f"{little} follows structure and not loudness: structure explains {_percent(shares.structure)} of it"
        text += _lead_by(rich)
        if drivers.loudness_same:
            text += "; all clips are equally loud, so a preference for loud ones could not be seen here"
        elif shares.loudness_only.value is not None:
            text += f"; loudness adds {_percent(shares.loudness_only)} to that"
        found.append(Finding("structure", text + ".", numbers))
    elif cause == "both":
        text = (
            f"{little} follows loudness and structure, each for itself: loudness alone explains {_percent(shares.loudness)} of it, "
            f"structure alone {_percent(shares.structure)}{_lead_by(rich)}, and both together {_percent(shares.both)}; it prefers "
            f"{_preference(lead)}."
        )
        found.append(Finding("both", text, numbers))
    elif cause == "confounded":
        text = (
            f"Whether it follows loudness or structure cannot be told apart here: loudness explains {_percent(shares.loudness)} of the "
            f"difference between clips and structure {_percent(shares.structure)}, but they go together in these clips, and beyond "
            f"the other loudness adds {_percent(shares.loudness_only)} and structure {_percent(shares.structure_only)}; probe clips "
            "that were brought to equal loudness."
        )
        found.append(Finding("confounded", text, numbers))
    elif cause == "undecided":
        text = (
            f"What it follows cannot be said from {drivers.clips} clips: loudness explains {_percent(shares.loudness)} of the difference "
            f"between clips, structure {_percent(shares.structure)}, both together {_percent(shares.both)}; probe more clips (--clips)."
        )
        found.append(Finding("undecided", text, numbers))
    else:
        measured = shares.both if shares.both.value is not None else shares.loudness
        what = (
            "Neither loudness nor structure explains"
            if shares.structure.value is not None
            else "Loudness does not explain"
        )
        text = f"{what} which clips weigh more ({_percent(measured)} of the difference between them)"
        found.append(Finding("unexplained", text + _otherwise(drivers) + ".", numbers))
    if drivers.loudness_same and cause != "structure":
        text = "All clips are equally loud, so a preference for loud or quiet ones cannot be seen here; probe clips as they are delivered."
        found.append(Finding("same_loudness", text))
    return found


def _gain(explanation: Explanation, cause: Cause) -> list[Finding]:
    """What the experiment on loudness said."""
    gain = explanation.gain
    if gain is None or gain.per_step.value is None:
        return []
    per_step, share = gain.per_step, gain.share
    numbers = {"per_6_db": vars(per_step), "share": vars(share), "clips": gain.clips, "levels": gain.levels}
    measured = f"(measured on {wording.count(gain.clips, 'clip')}, through the codec and the model)"
    certain = per_step.above(1) or per_step.below(1)
    if not certain or 1 / HEARS_LEVEL < (per_step.value or 1.0) < HEARS_LEVEL:
        text = f"Turning a clip up by 6 dB leaves its weight about where it is: times {_factor(per_step)} {measured}"
        if cause in ("loudness", "both"):
            text += "; what it follows goes with loudness in these clips and is not the level itself"
    else:
        text = f"Turning a clip up by 6 dB multiplies its weight by {_factor(per_step)} {measured}"
        if share.value is not None:
            text += f"; their differences in loudness alone would make {_percent(share)} of the difference between these clips"
    return [Finding("gain", text + ".", numbers)]


def _factor(one: Estimate) -> str:
    if one.value is None or one.low is None or one.high is None:
        return wording.weight(one.value or 1.0)
    return f"{one.value:.3g} (95% {one.low:.3g} to {one.high:.3g})"


def strongest(drivers: Drivers, group: str) -> Driver | None:
    """The candidate of a group that explains most; None where none could be tested."""
    members = [one for one in drivers.candidates if one.group == group and one.spearman.value is not None]
    return max(members, key=lambda one: (one.share or 0.0, abs(one.spearman.value or 0.0)), default=None)


def _preference(lead: Driver | None) -> str:
    """'loud clips (rank correlation with latent level 0.9)', or what else the relation's shape says."""
    if lead is None or lead.spearman.value is None:
        return "clips by their loudness"
    rho, bends = lead.spearman.value, lead.bends or 0.0
    name = wording.column(lead.name)
    if abs(bends) > abs(rho):
        shape = "the loudest and the quietest clips" if bends > 0 else "clips of middling loudness"
        return f"{shape} (rank correlation with the squared rank of {name} {wording.number(bends)})"
    return f"{'loud' if rho > 0 else 'quiet'} clips (rank correlation with {name} {said_interval(lead.spearman)})"


def _beyond(drivers: Drivers) -> str:
    shares = drivers.shares
    if shares.structure_only.value is not None:
        return f"structure only {_percent(shares.structure_only)} beyond it."
    if any(one.group == "structure" and one.same for one in drivers.candidates):
        return "and the clips do not differ in structure."
    return "and structure was not measured, so it could not be set against it."


def _lead_by(rich: Driver | None) -> str:
    if rich is None or rich.spearman.value is None:
        return ""
    rho, bends = rich.spearman, rich.bends or 0.0
    if abs(bends) > abs(rho.value or 0.0):
        return f" (most of all {wording.column(rich.name)}, {'both ends weighing more' if bends > 0 else 'the middle weighing more'})"
    return f" (most of all {wording.column(rich.name)}, rank correlation {said_interval(rho)})"


def _otherwise(drivers: Drivers) -> str:
    """The energy of the prediction or the loss, where one of them does explain the weights."""
    for share, what, group in (
        (drivers.shares.energy, "the energy of the prediction does", "energy"),
        (drivers.shares.loss, "the loss does", "loss"),
    ):
        lead = strongest(drivers, group)
        if _explains(share) and lead is not None:
            return f"; {what} ({_percent(share)}; rank correlation with {wording.column(lead.name)} {said_interval(lead.spearman)})"
    return ""


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
        "loudness": f"prefers {_preference(lead).partition(' (')[0]}",
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


def _percent(one: Estimate) -> str:
    if one.low is None or one.high is None:
        return wording.percent(one.value)
    return f"{wording.percent(one.value)} (95% {100 * one.low:.0f} to {100 * one.high:.0f})"
