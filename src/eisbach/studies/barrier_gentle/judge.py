"""Judges whether weights gain where training learns, by what stands still, over draws."""

from __future__ import annotations

from pathlib import Path

from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult
from eisbach.studies.judging import STANDING, Draws, decided, not_run, with_standing, within_margin, within_note

MARGIN = 5.0
"""Points of pieces that stand: within them, and within half of what the other side leaves, both are alike."""
BESIDE = ("block_strength", "level_range", "flux_gini")
ARMS = {
    "recurrence-where-it-learns": "recurrence",
    "per-sample-where-it-learns": "sample-100",
    "labels-where-it-learns": "oracle",
}
_ILL = "falls-ill-where-it-learns"
_UNTRAINED = "untrained"


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet`; "not run" where there is none, or an arm is missing."""
    if not (folder / "records.parquet").is_file():
        return [not_run(key) for key in (*ARMS, _ILL)]
    draws = Draws(with_standing(load_records(folder / "records.parquet")), "barrier_gentle")
    plain = draws.has("plain")
    against = [
        _against_plain(key, arm, draws) if plain and draws.has(arm) else not_run(key) for key, arm in ARMS.items()
    ]
    return [*against, _falls_ill(draws) if plain and draws.has(_UNTRAINED) else not_run(_ILL)]


def _against_plain(key: str, arm: str, draws: Draws) -> ClaimResult:
    effects = [draws.effect(arm, STANDING), *draws.effects(arm, BESIDE), draws.effect(arm, "is_flat")]
    margin = draws.margin_beside("plain", MARGIN)
    same = draws.equivalence(arm, STANDING, margin, other="plain")
    return decided(key, [*effects, *draws.printed(arm)], "lower", same, within_note(margin, same, "points"))


def _falls_ill(draws: Draws) -> ClaimResult:
    """Plain training beside the base, which has one value of each measure."""
    effects = draws.beside_untrained("plain", _UNTRAINED, first=STANDING)
    margin = draws.margin_beside(_UNTRAINED, MARGIN)
    same = within_margin(STANDING, draws.from_untrained("plain", STANDING, _UNTRAINED), margin)
    return decided(_ILL, effects, "higher", same, within_note(margin, same, "points"))
