"""Judges what the takes of a prompt share: boundaries and details across seeds, over draws."""

from __future__ import annotations

from pathlib import Path

from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult
from eisbach.studies.judging import Draws, decided, judged, not_run

ARMS = {"eq5": "batch-50", "per-sample": "sample-100", "development": "development"}
MARGIN = 0.05
"""A smaller difference of alignment or of diversity is none."""
BOUNDARIES, ONSETS, NOTES = "boundary_alignment", "detail_diversity", "note_diversity"
BESIDE = "boundary_alignment_prompts"
"""Stands beside the alignment and decides nothing."""
_NO_NOTES = "The notes were not heard (onnxruntime was not installed), so onsets alone decide."


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet`; "not run" where there is none, or an arm is missing."""
    keys = [f"{claim}-{name}" for name in ARMS for claim in ("boundaries-align", "details-differ")]
    if not (folder / "records.parquet").is_file():
        return [not_run(key) for key in keys]
    draws = Draws(load_records(folder / "records.parquet"), "barrier_seeds")
    results = []
    for name, arm in ARMS.items():
        if not (draws.has("plain") and draws.has(arm)):
            results += [not_run(f"boundaries-align-{name}"), not_run(f"details-differ-{name}")]
            continue
        effects = draws.primary(arm)
        if len(draws.differences(arm, BESIDE, "plain")):
            effects.append(draws.effect(arm, BESIDE))
        same = draws.equivalence(arm, BOUNDARIES, MARGIN, other="plain")
        results.append(decided(f"boundaries-align-{name}", effects, "higher", same))
        results.append(_details(f"details-differ-{name}", draws, arm))
    return results


def _details(key: str, draws: Draws, arm: str) -> ClaimResult:
    effects = draws.primary(arm, first=ONSETS)
    by_onsets = decided(key, effects, "higher", draws.equivalence(arm, ONSETS, MARGIN, other="plain"))
    heard = NOTES in draws.measured()
    agreed = not heard or draws.effect(arm, NOTES).value >= 0
    supported = by_onsets.verdict == "supported" and agreed
    refuted = by_onsets.verdict == "refuted"
    return judged(key, effects, supported=supported, refuted=refuted, note="" if heard else _NO_NOTES)
