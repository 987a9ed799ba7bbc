"""Judges whether prompts tell pieces apart: more than after plain training, and more than in the untrained base."""

from __future__ import annotations

from pathlib import Path

from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult
from eisbach.studies.judging import Draws, decided, not_run, within_margin

ARMS = {"eq5": "batch-50", "per-sample": "sample-100", "development": "development"}
MARGIN = 0.05
"""A smaller difference of an ICC is none."""
HEARD = "musicnn_icc"
BASE = "base"


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet`; "not run" where there is none, or an arm is missing."""
    if not (folder / "records.parquet").is_file():
        return [not_run(f"{claim}-{name}") for name in ARMS for claim in ("distinct", "not-by-prompt-alone")]
    draws = Draws(load_records(folder / "records.parquet"), "barrier_characters")
    results = []
    for name, arm in ARMS.items():
        distinct, alone = f"distinct-{name}", f"not-by-prompt-alone-{name}"
        if not (draws.has("plain") and draws.has(arm) and draws.has(BASE)):
            results += [not_run(distinct), not_run(alone)]
            continue
        same = draws.equivalence(arm, HEARD, MARGIN, other="plain")
        results.append(decided(distinct, draws.primary(arm), "higher", same))
        from_base = draws.beside_untrained(arm, BASE)
        same = within_margin(HEARD, draws.from_untrained(arm, HEARD, BASE), MARGIN)
        results.append(decided(alone, [*from_base, *draws.beside_untrained("plain", BASE)], "higher", same))
    return results
