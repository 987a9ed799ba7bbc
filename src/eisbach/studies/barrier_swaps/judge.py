"""Judges the magnitudes of two barriers under plain directions against those of another plain training, over draws."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult
from eisbach.studies.judging import ALPHA, STANDING, Draws, decided, judged, not_run, shown, with_standing

BLOCKS = "block_strength"
MARGINS = {STANDING: 5.0, BLOCKS: 0.02}
"""Points, and block strength: a smaller difference is none."""
OTHER = "magnitude-batch-50"
"""Plain directions under the magnitudes of Eq. 5's training, which is plain training."""
CLAIMS = {
    "development-own": ("magnitude-development", STANDING),
    "recurrence-own": ("magnitude-recurrence", STANDING),
    "recurrence-blocks": ("magnitude-recurrence", BLOCKS),
}
ALONE = "swapping-alone"


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet`; "not run" where there is none, or an arm is missing."""
    keys = (*CLAIMS, ALONE)
    if not (folder / "records.parquet").is_file():
        return [not_run(key) for key in keys]
    draws = Draws(with_standing(load_records(folder / "records.parquet")), "barrier_swaps")
    if not all(draws.has(arm) for arm in draws.spec.arms):
        return [not_run(key) for key in keys]
    same = draws.equivalence(OTHER, STANDING, MARGINS[STANDING], other="plain") < ALPHA
    effects = draws.led_by(STANDING, OTHER, other="plain")
    alone = judged(ALONE, effects, supported=same, refuted=not same and shown(effects[0]))
    return [*(_own(key, draws, arm, metric) for key, (arm, metric) in CLAIMS.items()), alone]


def _own(key: str, draws: Draws, arm: str, metric: str) -> ClaimResult:
    wanted: Literal["higher", "lower"] = "lower" if metric == STANDING else "higher"
    same = draws.equivalence(arm, metric, MARGINS[metric], other=OTHER)
    return decided(key, draws.led_by(metric, arm, other=OTHER), wanted, same)
