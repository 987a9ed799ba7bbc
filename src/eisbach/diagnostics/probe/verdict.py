"""What a probe means: a headline, a few sentences, and a setting to try. Intervals stand in the page's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eisbach.diagnostics.probe.explain import ACTS_CV, Explanation
from eisbach.diagnostics.probe.grid import degrees, number, percent, where
from eisbach.diagnostics.probe.predictions import TELLS_AUC, Separation
from eisbach.diagnostics.probe.result import plain

_CONSTANT_SD = 0.1
"""Weights whose logarithm has a smaller sd than this differ by under 10%: less than chance does to a gradient."""
_MOSTLY_LEVEL, _PARTLY_LEVEL = 0.5, 0.2
"""Shares of the variance from which a sample weighting is a noise-level weighting first of all, or also one."""
_HEARS_LOUDNESS, _SURELY = 0.5, 0.25
"""A weighting goes by loudness where turning clips up, by experiment, makes half of the difference between them, and
the interval of that share lies above a quarter."""
_LEVEL_SD = 0.05
"""Dividing by the level's mean is advised where it moves weights by 5% or more."""
_MEAN_ONE = 0.1  # mean weights farther from 1 than this change the step size too: clipping and weight decay notice
_LEVEL_TABLES = ("level_means", "gate_below", "gate_above", "gate_width")


@dataclass(frozen=True)
class Finding:
    """One sentence, and what it is about: "few_clips", "no_weighting", "noise_level_only", "constant", "acts",
    "noise_level", "loudness", "gain" or "labels"."""

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
    code, text = _effect(explanation)
    findings = [Finding(code, f"{text}{_in_a_batch(explanation, code)}.")]
    if not explanation.enough_clips:
        few = f"Too few clips for intervals ({explanation.clips}): what follows describes these clips and no others."
        findings.insert(0, Finding("few_clips", few))
    others = _level_share(explanation), _memory(explanation), _loudness(explanation), _labels(explanation.separations)
    findings += [finding for finding in others if finding is not None]
    return Verdict(_headline(explanation, code), findings, _recommend(explanation))


def hears_loudness(explanation: Explanation) -> bool:
    """Whether the experiment shows that the clips' differences in loudness make most of those in weight."""
    gain = explanation.gain
    return gain is not None and (gain.share.value or 0.0) >= _HEARS_LOUDNESS and gain.share.above(_SURELY)


def _effect(explanation: Explanation) -> tuple[str, str]:
    """Whether, and where, the weighting makes one clip count more than another: a finding's code, and its beginning."""
    setup, levels = explanation.setup, explanation.levels
    if not explanation.has_sample_weight:
        name = setup.get("noise_level", "none")
        if name in ("none", "constant"):
            return "no_weighting", "Every clip counts alike at every noise level"
        means = {level.t: level.columns["weight"].mean.value or 0.0 for level in levels}
        top, bottom = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
        return "noise_level_only", (
            f"At one noise level every clip counts alike; the weight ({name}) is largest at t = {top:g} "
            f"({means[top]:.3g}) and smallest at t = {bottom:g} ({means[bottom]:.3g})"
        )
    if setup.get("reduction") == "batch":
        text = "Reduction 'batch' (the barrier paper's Eq. 5) gives every clip of a step the same factor"
        if explanation.batches is not None and explanation.batches.step_cv is not None:
            text += f", which varies by {percent(explanation.batches.step_cv)} from step to step"
        return "constant", text
    largest = max(levels, key=lambda level: level.cv.value or 0.0)
    if explanation.acts_at:
        return "acts", f"Weights of different clips vary by up to {percent(largest.cv.value)}, at t = {largest.t:g}"
    text = f"At any one noise level the weights of different clips vary by at most {percent(largest.cv.value)}"
    if explanation.sample_acts_at and float(setup.get("strength", 1.0)) < 1:
        undiluted = max(level.cv_sample_weight.value or 0.0 for level in levels)
        text += f" (by {percent(undiluted)} before strength {float(setup['strength']):g} dilutes them)"
    return "constant", text


def _in_a_batch(explanation: Explanation, code: str) -> str:
    """What is left of it in a batch, and after the optimiser's normalisation, as further parts of a sentence."""
    batches, gradients, text = explanation.batches, explanation.gradients, ""
    if code == "no_weighting":
        return text
    averaged = explanation.setup.get("reduction") == "batch" and explanation.has_sample_weight
    if not averaged and batches is not None and batches.ess_share is not None and batches.batch_size > 1:
        equal = batches.ess_share * batches.batch_size
        text += f"; a batch of {batches.batch_size} counts like {equal:.1f} equal samples"
    if gradients is not None and gradients.update_angle.value is not None:
        text += f"; under AdamW the update is {number(gradients.update_norm_ratio.value)} times the plain one and "
        text += f"{degrees(gradients.update_angle.value)} away from it"
        if gradients.between_batches_angle.value is not None:
            text += f" (gradients of two batches: {degrees(gradients.between_batches_angle.value)})"
    return text


def _level_share(explanation: Explanation) -> Finding | None:
    """Whether a sample weighting is a noise-level weighting in disguise."""
    averaged = explanation.setup.get("reduction") == "batch"
    variance = explanation.sample_variance if averaged else explanation.variance
    if not explanation.has_sample_weight or variance is None or variance.sd < _CONSTANT_SD or _remembers(explanation):
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


def _remembers(explanation: Explanation) -> Mapping[str, Any] | None:
    """The memory of clips that a training has with these settings."""
    return (explanation.setup.get("weighting_options") or {}).get("memory")


def _memory(explanation: Explanation) -> Finding | None:
    """That weights are judged here as each prediction gives them."""
    memory = _remembers(explanation)
    if memory is None:
        return None
    return Finding(
        "memory",
        "Here each prediction is judged by itself; a training remembers what it reads of a clip at t < "
        f"{memory['below']:g}, weighs the clip by that at other noise levels, too, and clips average 1 at each: it is "
        "no noise-level weight.",
    )


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


def _headline(explanation: Explanation, code: str) -> str:
    if code == "no_weighting":
        return "There is no weighting here."
    if code == "noise_level_only":
        return "This is a noise-level weighting alone: it prefers no clip to another."
    variance = explanation.variance
    mostly = variance is not None and variance.sd >= _CONSTANT_SD and (variance.level.value or 0.0) >= _MOSTLY_LEVEL
    mostly = mostly and not _remembers(explanation)
    text = "This weighting is a constant here"
    if code == "acts":
        text = f"It acts {where(explanation.acts_at, [level.t for level in explanation.levels])}"
        text += " and is mostly a noise-level weight" if mostly else ""
    elif mostly:
        text = "It is a noise-level weight: between clips it is nearly a constant"
    return f"{text}; it weighs by loudness." if hears_loudness(explanation) else f"{text}."


# --- a setting to try


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
    reasons, replaced = _other_statistic(explanation, after)
    if after["sample"] != "none":
        reasons += _scale(explanation, after, replaced)
    if not reasons:
        reasons.append("Nothing to change by what this probe can see: train with it, and measure what was generated.")
    if replaced:
        reasons.append("Probe that setting before training with it.")
    changes = {key: value for key, value in after.items() if value != before[key]}
    return Recommendation(after, " ".join(reasons), changes, replaced)


def _other_statistic(explanation: Explanation, after: dict[str, Any]) -> tuple[list[str], bool]:
    """Another belief where this one reads loudness, or no weighting where it reads nothing: reasons, and whether the
    statistic was replaced."""
    loud, flat = hears_loudness(explanation), not explanation.sample_acts_at
    if not (loud or flat):
        return [], False
    if after["sample"] != "entropy_barrier":
        if loud:
            return ["It weighs by loudness: bring the clips to equal loudness before training."], False
        after.update(sample="none", reduction="sample", normalisation="none", options={})
        return ["Even undiluted it weighs all clips nearly alike, so leave it out."], False
    if loud and after["options"].get("energy", "raw") == "raw":
        after["options"]["energy"] = "relative"
        for key in _LEVEL_TABLES:  # a gate or level means of another statistic say nothing about the new one
            after["options"].pop(key, None)
        return ["It weighs by loudness, and 'energy: relative' takes the gain out of the entropy barrier."], True
    from eisbach.weighting.build import RECOMMENDED_WEIGHTING

    after.update(RECOMMENDED_WEIGHTING, options=dict(RECOMMENDED_WEIGHTING["options"]))
    fault = "Even undiluted it weighs all clips nearly alike (sample: none gives the same result at no cost)"
    if loud:
        fault = "It weighs by loudness although its energies ignore gain"
    return [f"{fault}; the recommended weighting asks for form instead."], True


def _scale(explanation: Explanation, after: dict[str, Any], replaced: bool) -> list[str]:
    """A weight a clip at a strength that can be seen, free of the noise level, of mean 1; and why.

    With a memory the two last are so by themselves: clips average 1 at each noise level.
    """
    reasons = []
    if after["reduction"] == "batch":
        after["reduction"] = "sample"
        reasons.append("Reduction 'batch' cannot favour one clip over another; 'sample' can.")
    if not replaced and after["strength"] < 1 and _drowned(explanation, after):
        was, after["strength"] = after["strength"], 1.0
        reasons.append(f"At strength {was:g} the constant part drowns weights this small; at 1 they act as measured.")
    remembers = after["options"].get("memory") is not None
    if not replaced and not remembers and "level_means" not in after["options"] and _varies_by_level(explanation):
        means = [[t, float(f"{mean:.4g}")] for t, mean in explanation.level_means if t is not None and mean]
        if len(means) == len(explanation.level_means) > 1:
            after["options"]["level_means"] = means
            reasons.append(
                "Dividing by each noise level's mean weight keeps it from being a noise-level weighting as well."
            )
    mean = None if explanation.batches is None else explanation.batches.mean_weight
    own_scale = not remembers and after["normalisation"] == "none" and after["noise_level"] == "none"
    # Divided by level means, weights average 1 already.
    if own_scale and "level_means" not in after["options"] and mean is not None and abs(mean - 1) > _MEAN_ONE:
        after["normalisation"] = "mean1"
        reasons.append(
            f"As probed the weights average {mean:.2g}; 'mean1' keeps the loss, and with it clipping and weight "
            "decay, at the scale of unweighted training."
        )
    return reasons


def _drowned(explanation: Explanation, after: dict[str, Any]) -> bool:
    """Whether a weighting that would act does not at its strength s: the cv of (1 - s) + s w, from w's mean and cv."""
    if not explanation.sample_acts_at or "level_means" in after["options"]:
        return False
    strength, diluted = after["strength"], 0.0
    for level in explanation.levels:
        mean, cv = level.columns["sample_weight"].mean.value or 0.0, level.cv_sample_weight.value or 0.0
        mean = 1.0 if _remembers(explanation) else mean
        diluted = max(diluted, strength * mean * cv / ((1 - strength) + strength * mean))
    return diluted < ACTS_CV


def _varies_by_level(explanation: Explanation) -> bool:
    """Whether the noise level alone moves the sample weight by enough to be taken out."""
    variance = explanation.sample_variance
    share = 0.0 if variance is None else variance.level.value or 0.0
    return variance is not None and share >= _PARTLY_LEVEL and variance.sd * share**0.5 >= _LEVEL_SD
