"""A setting to try, from what a probe measured: the recipe's `weighting` group with one or two keys changed, and
why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eisbach.diagnostics.probe.explain import ACTS_CV, Explanation

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
            reason = "Name a weighting, for example sample: recurrence_barrier, and probe it."
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
        from eisbach.weighting.sample import EntropyBarrier

        after["sample"] = "recurrence_barrier"
        after["options"] = {key: value for key, value in options.items() if key not in EntropyBarrier().options()}
        fault = "It weighs by loudness although its energies ignore gain"
        if not loud:
            fault = "Even undiluted it weighs all clips nearly alike (sample: none gives the same result at no cost)"
        reasons.append(f"{fault}; the recurrence barrier asks for development instead.")
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
