"""A setting to try, from what a probe found: the recipe's `weighting` group with one or two keys changed, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eisbach.diagnostics.probe.explain import ACTS_CV, Explanation

USEFUL_AUC = 0.6
"""Above the last noise level with this AUC (for the best kind) a weight is chance, and a gate is worth its key."""
LEVEL_SHARE, LEVEL_SD = 0.2, 0.05
"""Dividing by the level's mean is advised from this share of the variance on, where it moves weights by 5% or more."""
GATE_WIDTH = 0.1
MEAN_ONE = 0.1
"""Mean weights farther from 1 than this change the step size too: clipping and weight decay notice."""


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


def recommend(explanation: Explanation, cause: str, effect: str) -> Recommendation:
    """A setting to try.

    Parameters
    ----------
    cause : str
        From `verdict.find_cause`.
    effect : str
        Code of the first finding about the weighting: "acts", "constant", "noise_level_only" or "no_weighting".
    """
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
        reason = (
            "Nothing to change by what a probe can see: a noise-level weighting is judged by what the trained model does."
            if effect == "noise_level_only"
            else "There is nothing to recommend without a weighting; name one, for example sample: recurrence_barrier, and probe it."
        )
        return Recommendation(before, reason, {}, False)
    after = {**before, "options": dict(before["options"])}
    reasons: list[str] = []
    if effect == "constant":
        reasons.append("As it stands it changes nothing worth its cost.")
    changed = _another_statistic(explanation, cause, after, reasons)
    if after["sample"] != "none":
        _each_sample(explanation, after, reasons, changed)
        if not changed:
            _levels(explanation, after, reasons)
        _mean_one(explanation, after, reasons)
    changes = {key: value for key, value in after.items() if value != before[key]}
    if not reasons:
        reasons.append("Nothing to change by what this probe can see: train with it, and measure what was generated.")
    if changed:
        reasons.append("Probe that setting before training with it.")
    return Recommendation(after, " ".join(reasons), changes, changed)


def _another_statistic(explanation: Explanation, cause: str, after: dict[str, Any], reasons: list[str]) -> bool:
    """Another belief where this one reads loudness, or no weighting where it reads nothing; whether that was changed."""
    entropy = after["sample"] == "entropy_barrier"
    if cause in ("loudness", "confounded", "both"):
        why = {
            "loudness": "It weighs by loudness",
            "both": "It weighs by loudness as well as by structure",
            "confounded": "It may weigh by loudness",
        }[cause]
        if entropy and after["options"].get("energy", "raw") == "raw":
            after["options"]["energy"] = "relative"
            reasons.append(f"{why}, and 'energy: relative' takes the gain out of the entropy barrier.")
        elif entropy:
            _replace(after)
            reasons.append(
                f"{why} although its energies already ignore gain; the recurrence barrier asks for development instead."
            )
        else:
            reasons.append(f"{why} although it ignores gain: bring the clips to equal loudness before training.")
            return False
        _drop_level_tables(after)
        return True
    if not explanation.sample_acts_at:
        if entropy:
            _replace(after)
            reasons.append(
                "Even undiluted it weighs all clips nearly alike (sample: none gives the same result at no cost); the recurrence "
                "barrier spreads its weights wider."
            )
            _drop_level_tables(after)
            return True
        after.update(sample="none", reduction="sample", normalisation="none", options={})
        if after["noise_level"] != "none":
            after["options"] = {}
        reasons.append("Even undiluted it weighs all clips nearly alike, so leave it out.")
    return False


def _replace(after: dict[str, Any]) -> None:
    from eisbach.weighting.sample import EntropyBarrier

    gone = EntropyBarrier().options()
    after["sample"] = "recurrence_barrier"
    after["options"] = {key: value for key, value in after["options"].items() if key not in gone}


def _drop_level_tables(after: dict[str, Any]) -> None:
    """A gate or level means of another statistic say nothing about the new one."""
    for key in ("level_means", "gate_below", "gate_above", "gate_width"):
        after["options"].pop(key, None)


def _each_sample(explanation: Explanation, after: dict[str, Any], reasons: list[str], changed: bool) -> None:
    """A weight a clip instead of one a step, at a strength that can be seen."""
    if after["reduction"] == "batch":
        after["reduction"] = "sample"
        reasons.append("Reduction 'batch' cannot favour one clip over another; 'sample' can.")
    if changed or after["strength"] >= 1 or not explanation.sample_acts_at:
        return
    strength = after["strength"]

    def diluted(one: Any) -> float:
        mean = one.columns["sample_weight"].mean.value
        cv = one.cv_sample_weight.value
        if mean is None or cv is None or mean <= 0:
            return 0.0
        return float(strength * mean * cv / ((1 - strength) + strength * mean))

    if "level_means" not in after["options"] and max(diluted(one) for one in explanation.levels) < ACTS_CV:
        after["strength"] = 1.0
        reasons.append(
            f"At strength {strength:g} the constant part drowns weights this small; at strength 1 they act as they were measured."
        )


def _levels(explanation: Explanation, after: dict[str, Any], reasons: list[str]) -> None:
    """Level means and a gate, from this very probe."""
    variance = explanation.sample_variance
    means = [[float(t), float(mean)] for t, mean in explanation.level_means if t is not None and mean]
    share = None if variance is None else variance.level.value
    if (
        variance is not None
        and share is not None
        and share >= LEVEL_SHARE
        and variance.sd * share**0.5 >= LEVEL_SD
        and "level_means" not in after["options"]
        and len(means) == len(explanation.level_means) > 1
    ):
        after["options"]["level_means"] = [[t, float(f"{mean:.4g}")] for t, mean in means]
        reasons.append(
            "Dividing by the mean weight of each noise level (level_means) keeps it from being a noise-level weighting as well."
        )
    if "gate_below" in after["options"]:
        return
    useful = [t for t in (_last_useful(explanation),) if t is not None]
    levels = [one.t for one in explanation.levels]
    if useful and useful[0] < levels[-1]:
        above = next(t for t in levels if t > useful[0])
        after["options"]["gate_below"] = round((useful[0] + above) / 2, 3)
        after["options"]["gate_width"] = round(min(GATE_WIDTH, after["options"]["gate_below"]), 3)
        reasons.append(
            f"Above t = {useful[0]:g} it tells no kind from developing material (AUC under {USEFUL_AUC:g}), so it is gated off there."
        )


def _last_useful(explanation: Explanation) -> float | None:
    """The highest noise level at which some kind is told from developing material; None without labels or nowhere."""
    useful = [
        t
        for one in explanation.separations
        if one.label in ("kind", "flat") and min(one.n_positive, one.n_negative) >= 5
        for t, auc in one.levels
        if auc.value is not None and auc.value >= USEFUL_AUC
    ]
    return max(useful, default=None)


def _mean_one(explanation: Explanation, after: dict[str, Any], reasons: list[str]) -> None:
    """Weights of mean 1, so that a sample weighting does not also change the step size."""
    if after["normalisation"] != "none" or after["reduction"] != "sample" or after["noise_level"] != "none":
        return
    if "level_means" in after["options"]:  # those weights average 1 already
        return
    batches = explanation.batches
    if batches is None or batches.mean_weight is None or abs(batches.mean_weight - 1) <= MEAN_ONE:
        return
    after["normalisation"] = "mean1"
    reasons.append(
        f"As probed the weights average {batches.mean_weight:.2g}; 'mean1' keeps the loss, and with it clipping and weight decay, at the scale "
        "of unweighted training."
    )
