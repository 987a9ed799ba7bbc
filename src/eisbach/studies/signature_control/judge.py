"""Judges where an adapter's form is played: its arms above and below a noise level against everywhere and the base."""

from __future__ import annotations

from pathlib import Path

from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import ALPHA, Draws, judged, not_run, over_draws, shown, within_margin

MARGIN = 0.02
"""Block strength: a smaller difference is none."""
FORM, BASE = "block_strength", "untrained"
KEYS = ("high-is-enough-plain", "low-leaves-form-plain", "high-over-low-plain")


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet`; "not run" where there is none, or an arm is missing."""
    if not (folder / "records.parquet").is_file():
        return [not_run(key) for key in KEYS]
    draws = Draws(load_records(folder / "records.parquet"), "signature_control")
    if not all(draws.has(arm) for arm in draws.spec.arms):
        return [not_run(key) for key in KEYS]
    return [
        _enough("high-is-enough-plain", draws, "plain"),
        _left_alone("low-leaves-form-plain", draws, "plain-low"),
        _more_above("high-over-low-plain", draws, "plain"),
    ]


def _enough(key: str, draws: Draws, arm: str) -> ClaimResult:
    effects = draws.led_by(FORM, f"{arm}-high", other=arm)
    same = draws.equivalence(f"{arm}-high", FORM, MARGIN, other=arm) < ALPHA
    return _equal(key, effects, same)


def _left_alone(key: str, draws: Draws, arm: str) -> ClaimResult:
    effects = draws.beside_untrained(arm, BASE, first=FORM)
    same = within_margin(FORM, draws.from_untrained(arm, FORM, BASE), MARGIN) < ALPHA
    return _equal(key, effects, same)


def _equal(key: str, effects: list[Effect], same: bool) -> ClaimResult:
    """Supported by equivalence; a difference that is shown and yet within the margin is none that matters."""
    return judged(key, effects, supported=same, refuted=not same and shown(effects[0]))


def _more_above(key: str, draws: Draws, arm: str) -> ClaimResult:
    whole = over_draws(draws.named(FORM, arm, BASE), FORM, draws.from_untrained(arm, FORM, BASE))
    differences = draws.differences(f"{arm}-high", FORM, f"{arm}-low")
    effect = over_draws(draws.named(FORM, f"{arm}-high", f"{arm}-low"), FORM, differences)
    along = shown(effect) and (effect.value > 0) == (whole.value > 0)
    against = shown(effect) and not along
    none = within_margin(FORM, differences, MARGIN) < ALPHA
    changed = shown(whole)
    return judged(
        key, [effect, whole], supported=changed and along, refuted=changed and (against or (none and not along))
    )
