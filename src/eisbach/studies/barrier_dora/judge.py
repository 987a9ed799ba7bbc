"""Judges whether the barrier's gain depends on the adapter, and which part of a DoRA adapter carries it, over draws."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import STANDING, Draws, decided, not_run, with_standing

LEVEL, COVERAGE = "level_range", "paper_pca_coverage"
MARGINS = {STANDING: 5.0, LEVEL: 1.0, COVERAGE: 3.0}
"""Points, dB and dB: a smaller difference is none."""
ARMS = {"eq5": "batch-50", "per-sample": "sample-100", "development": "development"}
COVERED = ("eq5", "per-sample")
OURS = "trajectory_coverage"
"""Our measure of what PCA coverage is meant to be; it stands beside it and decides nothing."""


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet`; "not run" where there is none, or an arm is missing."""
    draws = None
    if (folder / "records.parquet").is_file():
        draws = Draws(with_standing(load_records(folder / "records.parquet")), "barrier_dora")
    results = [_needs(f"needs-dora-{name}", draws, arm) for name, arm in ARMS.items()]
    results += [_covers(f"dora-covers-more-{name}", draws, ARMS[name]) for name in COVERED]
    for name, arm in ARMS.items():
        direction, magnitude = f"direction-{arm}", f"magnitude-{arm}"
        results += [
            _swap(f"direction-learns-structure-{name}", draws, direction, magnitude, STANDING),
            _swap(f"magnitude-learns-level-{name}", draws, magnitude, direction, LEVEL),
        ]
    return results


def _there(draws: Draws | None, *arms: str) -> bool:
    return draws is not None and all(draws.has(arm) for arm in arms)


def _needs(key: str, draws: Draws | None, arm: str) -> ClaimResult:
    """A difference of two gains."""
    if draws is None or not _there(draws, "plain", arm, "lora-plain", f"lora-{arm}"):
        return not_run(key)
    gains = (arm, "plain"), (f"lora-{arm}", "lora-plain")
    effects = draws.interaction(*gains, first=STANDING)
    effects += draws.led_by(STANDING, arm) + draws.led_by(STANDING, f"lora-{arm}", other="lora-plain")
    return decided(key, effects, "lower", draws.equal_gains(*gains, STANDING, MARGINS[STANDING]))


def _covers(key: str, draws: Draws | None, arm: str) -> ClaimResult:
    if draws is None or not _there(draws, arm, f"lora-{arm}"):
        return not_run(key)
    other = f"lora-{arm}"
    effects: list[Effect] = draws.led_by(COVERAGE, arm, other=other)
    if len(draws.differences(arm, OURS, other)):
        effects.append(draws.effect(arm, OURS, other=other))
    return decided(key, effects, "higher", draws.equivalence(arm, COVERAGE, MARGINS[COVERAGE], other=other))


def _swap(key: str, draws: Draws | None, arm: str, other: str, metric: str) -> ClaimResult:
    """One swap against the other, then each against plain training."""
    if draws is None or not _there(draws, arm, other, "plain"):
        return not_run(key)
    effects = draws.led_by(metric, arm, other=other)
    effects += [draws.effect(swap, metric, other="plain") for swap in (arm, other)]
    wanted: Literal["higher", "lower"] = "lower" if metric == STANDING else "higher"
    return decided(key, effects, wanted, draws.equivalence(arm, metric, MARGINS[metric], other=other))
