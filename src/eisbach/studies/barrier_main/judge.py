"""Judges every arm against plain training, over draws."""

from __future__ import annotations

from pathlib import Path

from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult
from eisbach.studies.judging import ALPHA, Draws, judged, not_run

MARGIN = 10.0
"""Points of flat pieces: a smaller difference is none."""
ARMS = {
    "eq5": "batch-50",
    "per-sample": "sample-100",
    "development": "development",
}


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet`; "not run" where there is none."""
    if not (folder / "records.parquet").is_file():
        return [not_run(key) for key in ARMS]
    draws = Draws(load_records(folder / "records.parquet"), "barrier_main")
    results = []
    for key, arm in ARMS.items():
        if not draws.has(arm):
            results.append(not_run(key))
            continue
        effects = draws.primary(arm)
        flat = effects[0]
        effects += draws.printed(arm)  # beside, and decide nothing
        shown = flat.p is not None and flat.p < ALPHA
        same = draws.equivalence(arm, "is_flat", MARGIN, other="plain") < ALPHA
        supported = shown and flat.value < 0
        results.append(judged(key, effects, supported=supported, refuted=not supported and (same or shown)))
    return results
