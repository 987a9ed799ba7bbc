"""Judges whether boundaries are sharper after 1,000 steps than after 500, and more so with the barrier, over draws."""

from __future__ import annotations

from pathlib import Path

from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult
from eisbach.studies.judging import ALPHA, Draws, judged, not_run

MARGIN = 0.02
"""Block strength: a smaller difference, of steps or of two gains, is none."""
ARMS = {
    "as-printed": ("batch-50", "plain"),
    "fast-eq5": ("fast-batch-50", "fast-plain"),
    "fast-per-sample": ("fast-sample-50", "fast-plain"),
}
"""By claim: the barrier's arm, and the plain one of the same rate."""
_FIRST = "block_strength"


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet`; "not run" where there is none, or an arm is missing."""
    if not (folder / "records.parquet").is_file():
        return [not_run(f"{claim}-{name}") for name in ARMS for claim in ("sharper", "more-than-plain")]
    draws = Draws(load_records(folder / "records.parquet"), "barrier_steps")
    return [result for name in ARMS for result in _claims(draws, name, *ARMS[name])]


def _claims(draws: Draws, name: str, arm: str, plain: str) -> list[ClaimResult]:
    sharper, more = f"sharper-{name}", f"more-than-plain-{name}"
    own, theirs = (arm, f"{arm}-500"), (plain, f"{plain}-500")
    if not all(draws.has(each) for each in (*own, *theirs)):
        return [not_run(sharper), not_run(more)]
    gain, interaction = draws.primary(arm, other=own[1]), draws.interaction(own, theirs)
    results = []
    for key, effects, same in (
        (sharper, gain, draws.equivalence(arm, _FIRST, MARGIN, other=own[1])),
        (more, interaction, draws.equal_gains(own, theirs, _FIRST, MARGIN)),
    ):
        shown = effects[0].p is not None and effects[0].p < ALPHA
        supported = shown and effects[0].value > 0
        beside = [] if key == sharper else [draws.effect(plain, _FIRST, other=theirs[1])]
        refuted = not supported and (same < ALPHA or shown)
        results.append(judged(key, [*effects, *beside], supported=supported, refuted=refuted))
    return results
