"""Judges whether a weight still gains beside curation, Min-SNR and ERD: 2 × 2, over draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult
from eisbach.studies.judging import STANDING, Draws, decided, not_run, with_standing, within_note

WEIGHTS = {"per-sample": "sample-100", "recurrence": "recurrence"}
PARTNERS = {"curation": ("oracle", 2.5), "min-snr": ("min-snr", 5.0), "erd": ("erd", 5.0)}
"""An arm, and points of pieces that stand: within them, and within half of what the arm alone leaves, both are alike.
Curation leaves but 5 points. A difference that is shown counts, however small."""


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet`; "not run" where there is none, or an arm is missing."""
    cells = [(weight, partner) for weight in WEIGHTS for partner in PARTNERS]
    if not (folder / "records.parquet").is_file():
        return [not_run(_key(weight, partner)) for weight, partner in cells]
    draws = Draws(with_standing(load_records(folder / "records.parquet")), "barrier_complements")
    return [_design(draws, weight, partner) for weight, partner in cells]


def _key(weight: str, partner: str) -> str:
    return f"adds-to-{partner}-{weight}"


def _design(draws: Draws, weight: str, partner: str) -> ClaimResult:
    """One 2 × 2: plain, the weight, the partner, both. The first effect decides; then come the interactions, the gains
    beside the partner by the other measures, all gains without it, and what the partner does without and with it."""
    arm, (base, margin) = WEIGHTS[weight], PARTNERS[partner]
    both = f"{base}-{arm}"
    played = [set(draws.by_draw(name, STANDING)) for name in ("plain", arm, base, both)]
    if not all(played):
        return not_run(_key(weight, partner))
    if any(of_arm != played[0] for of_arm in played):
        return not_run(_key(weight, partner), "Its four arms were not played in the same draws.")
    first, *beside = draws.led_by(STANDING, both, other=base)
    interactions = draws.interaction((both, base), (arm, "plain"), first=STANDING)
    cells = [draws.effect(base, STANDING), draws.effect(both, STANDING, other=arm)]
    effects = [first, *interactions, *beside, *draws.led_by(STANDING, arm), *cells]
    margin = draws.margin_beside(base, margin)
    same = draws.equivalence(both, STANDING, margin, other=base)
    left = 100.0 * np.mean(list(draws.by_draw(base, STANDING).values()))
    note = f"{draws.arm_label(base)} alone leaves {left:.1f}% of its pieces standing."
    return decided(_key(weight, partner), effects, "lower", same, f"{note} {within_note(margin, same, 'points')}")
