"""Judges whether the barrier's gain depends on the adapter: a difference of differences, over draws."""

from __future__ import annotations

from pathlib import Path

from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult
from eisbach.studies.judging import ALPHA, Draws, judged, not_run

MARGIN = 10.0
"""Points of flat pieces: a smaller difference of gains is none."""
ARMS = {
    "needs-dora-eq5": "batch-50",
    "needs-dora-per-sample": "sample-100",
    "needs-dora-development": "development",
}


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet`; "not run" where there is none."""
    if not (folder / "records.parquet").is_file():
        return [not_run(key) for key in ARMS]
    draws = Draws(load_records(folder / "records.parquet"), "barrier_dora")
    results = []
    for key, arm in ARMS.items():
        if not all(draws.has(name) for name in ("plain", arm, "lora-plain", f"lora-{arm}")):
            results.append(not_run(key))
            continue
        gains = (arm, "plain"), (f"lora-{arm}", "lora-plain")
        effects = [*draws.interaction(*gains), *draws.primary(arm), *draws.primary(f"lora-{arm}", other="lora-plain")]
        flat = effects[0]
        shown = flat.p is not None and flat.p < ALPHA
        same = draws.equal_gains(*gains, "is_flat", MARGIN) < ALPHA
        supported = shown and flat.value < 0
        results.append(judged(key, effects, supported=supported, refuted=not supported and (same or shown)))
    return results
