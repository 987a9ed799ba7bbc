"""Judges whether a weight still gains beside curation, Min-SNR and ERD, and as much as without: 2 × 2, over draws."""

from __future__ import annotations

from pathlib import Path

from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult
from eisbach.studies.judging import ALPHA, STANDING, Draws, decided, judged, not_run, shown, with_standing

MARGIN = 5.0
"""Points of pieces that stand: a smaller difference, of two arms or of two gains, is none."""
WEIGHTS = {"per-sample": "sample-100", "development": "development"}
PARTNERS = {"curation": "oracle", "min-snr": "min-snr", "erd": "erd"}


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet`; "not run" where there is none, or an arm is missing."""
    cells = [(weight, partner) for weight in WEIGHTS for partner in PARTNERS]
    if not (folder / "records.parquet").is_file():
        return [not_run(key) for weight, partner in cells for key in _keys(weight, partner)]
    draws = Draws(with_standing(load_records(folder / "records.parquet")), "barrier_complements")
    return [result for weight, partner in cells for result in _design(draws, weight, partner)]


def _keys(weight: str, partner: str) -> tuple[str, str]:
    return f"adds-to-{partner}-{weight}", f"gains-alike-with-{partner}-{weight}"


def _design(draws: Draws, weight: str, partner: str) -> list[ClaimResult]:
    """The two claims of one 2 × 2: plain, the weight, the partner, both."""
    adds, alike = _keys(weight, partner)
    arm, base = WEIGHTS[weight], PARTNERS[partner]
    both = f"{base}-{arm}"
    if not all(draws.has(name) for name in ("plain", arm, base, both)):
        return [not_run(adds), not_run(alike)]
    gain = [*draws.led_by(STANDING, both, other=base), *draws.led_by(STANDING, arm)]
    gains = (both, base), (arm, "plain")
    interaction = draws.interaction(*gains, first=STANDING)
    equal = draws.equal_gains(*gains, STANDING, MARGIN) < ALPHA
    return [
        decided(adds, gain, "lower", draws.equivalence(both, STANDING, MARGIN, other=base)),
        judged(alike, interaction, supported=equal, refuted=shown(interaction[0]) and not equal),
    ]
