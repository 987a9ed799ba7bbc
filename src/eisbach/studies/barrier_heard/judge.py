"""Judges the pieces of barrier_short and clip_and_level by how much a network that nobody here made hears them change,
over draws."""

from __future__ import annotations

from pathlib import Path

from eisbach.experiments.hearing import CHANGE
from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult
from eisbach.studies.judging import STANDING, Draws, decided, not_run, with_standing

MARGIN = 0.01
"""A tenth of the way from flat clips to music: a smaller difference is none."""
ARMS = {
    "eq5": "batch-50",
    "half": "sample-50",
    "per-sample": "sample-100",
    "recurrence": "recurrence",
    "development": "development",
    "memory": "memory",
    "clip-and-level": "clip-and-level",
    "labels": "oracle",
}
BESIDE = ("block_strength", STANDING, "is_flat")
"""By our own measures, of the same pieces; they decide nothing here, and their p is not corrected."""


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet`; "not run" where there is none, or an arm is missing."""
    if not (folder / "records.parquet").is_file():
        return [not_run(key) for key in ARMS]
    draws = Draws(with_standing(load_records(folder / "records.parquet")), "barrier_heard")
    return [_against_plain(key, arm, draws) if draws.has(arm) else not_run(key) for key, arm in ARMS.items()]


def _against_plain(key: str, arm: str, draws: Draws) -> ClaimResult:
    effects = [draws.effect(arm, metric) for metric in (CHANGE, *BESIDE)]
    return decided(key, effects, "higher", draws.equivalence(arm, CHANGE, MARGIN, other="plain"))
