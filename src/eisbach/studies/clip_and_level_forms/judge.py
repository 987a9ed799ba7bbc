"""Judges the two next best forms of clip and level by its bar."""

from __future__ import annotations

from pathlib import Path

from eisbach.studies.clip_and_level.judge import by_the_bar
from eisbach.studies.contract import ClaimResult

ARMS = {"above-lower": "above-lower", "recurrence-remembered": "recurrence-memory"}


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet`; "not run" where there is none."""
    return by_the_bar(folder, ARMS, "clip_and_level_forms")
