"""Judges the levels experiment: the barrier's effect over trained models, and which of its two parts brings it."""

from __future__ import annotations

from pathlib import Path

from eisbach.studies.contract import ClaimResult
from eisbach.studies.judging import ALPHA, Arms, judged

_STRUCTURE = {"block_strength": "", "level_range": "dB", "flux_gini": ""}
"""Primary measures beside the share of flat pieces, with their units."""


def judge(folder: Path) -> list[ClaimResult]:
    """All claims from `records.parquet`; the unit is the trained model."""
    arms = Arms(folder, "levels")
    claims = []
    for key, arm in (("recurrence", "recurrence"), ("clips-alone", "clips")):
        effects = [arms.effect(arm, "is_flat", "points", scale=100)]
        effects += [arms.effect(arm, metric, unit) for metric, unit in _STRUCTURE.items()]
        flat = effects[0]
        shown = flat.p is not None and flat.p < ALPHA
        claims.append(judged(key, effects, supported=shown and flat.value < 0, refuted=shown and flat.value > 0))
    claims.append(_levels_alone(arms))
    return claims


def _levels_alone(arms: Arms) -> ClaimResult:
    effects = [arms.effect("noise", metric, unit) for metric, unit in _STRUCTURE.items()]
    effects.append(arms.effect("noise", "is_flat", "points", scale=100))
    comparisons = [arms.comparison("noise", metric) for metric in (*_STRUCTURE, "is_flat")]
    same = [comparison.p_equivalence is not None and comparison.p_equivalence < ALPHA for comparison in comparisons]
    other = [comparison.decisive_p is not None and comparison.decisive_p < ALPHA for comparison in comparisons]
    named = ", ".join(comparison.metric for comparison, equal in zip(comparisons, same, strict=True) if equal) or "none"
    tests = ", ".join(
        "–" if comparison.p_equivalence is None else f"{comparison.p_equivalence:.2g}" for comparison in comparisons
    )
    return judged(
        "levels-alone", effects, supported=all(same[:-1]) and not any(other), refuted=any(other),
        note="Equivalent to plain training (within half a standard deviation, flat pieces within 10 points): "
        f"{named}; p of equivalence {tests}.",
    )  # fmt: skip
