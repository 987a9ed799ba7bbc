"""Judges every arm against plain training by what stands still, over draws."""

from __future__ import annotations

from pathlib import Path

from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult
from eisbach.studies.judging import STANDING, Draws, decided, not_run, with_standing

MARGIN = 5.0
"""Points of pieces that stand: a smaller difference is none."""
BESIDE = ("block_strength", "level_range", "flux_gini")
"""Stand beside the first measure, corrected after Holm over themselves, and decide nothing; nor does the share of flat
pieces of any kind, with a p of its own, nor do the paper's five dimensions, corrected after Holm."""
ARMS = {
    "eq5": "batch-50",
    "per-sample": "sample-100",
    "half": "sample-50",
    "recurrence-over-draws": "recurrence",
    "development-over-draws": "development",
    "clip-and-level-over-draws": "clip-and-level",
    "labels-are-enough": "oracle",
}


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet`; "not run" where there is none, or an arm is missing."""
    if not (folder / "records.parquet").is_file():
        return [not_run(key) for key in ARMS]
    draws = Draws(with_standing(load_records(folder / "records.parquet")), "barrier_short")
    return [_against_plain(key, arm, draws) if draws.has(arm) else not_run(key) for key, arm in ARMS.items()]


def _against_plain(key: str, arm: str, draws: Draws) -> ClaimResult:
    same = draws.equivalence(arm, STANDING, MARGIN, other="plain")
    effects = [draws.effect(arm, STANDING), *draws.effects(arm, BESIDE), draws.effect(arm, "is_flat")]
    return decided(key, [*effects, *draws.printed(arm)], "lower", same)
