"""Judges whether the barrier's gain depends on the adapter, and which part of a DoRA adapter carries it, over draws."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import ALPHA, STANDING, Draws, decided, judged, not_run, shown, with_standing

LEVEL, COVERAGE = "level_range", "paper_pca_coverage"
MARGINS = {STANDING: 5.0, LEVEL: 1.0, COVERAGE: 3.0}
"""Points, dB and dB: a smaller difference is none."""
ARMS = {"eq5": "batch-50", "per-sample": "sample-100", "development": "development", "recurrence": "recurrence"}
COVERED = ("eq5", "per-sample")
SWAPS = (
    ("direction", "recurrence", STANDING),
    ("direction", "development", STANDING),
    ("magnitude", "recurrence", LEVEL),
)
"""Which part is claimed to carry what: only of arms that change it."""
_CLAIMS = {STANDING: "direction-learns-structure", LEVEL: "magnitude-learns-level"}
OURS = "trajectory_coverage"
"""Our measure of what PCA coverage is meant to be; it stands beside it and decides nothing."""


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet`; "not run" where there is none, or an arm is missing."""
    draws = None
    if (folder / "records.parquet").is_file():
        draws = Draws(with_standing(load_records(folder / "records.parquet")), "barrier_dora")
    results = [_needs(f"needs-dora-{name}", draws, arm) for name, arm in ARMS.items()]
    results += [_covers(f"dora-covers-more-{name}", draws, ARMS[name]) for name in COVERED]
    results += [_swap(f"{_CLAIMS[metric]}-{arm}", draws, part, arm, metric) for part, arm, metric in SWAPS]
    return results


def _there(draws: Draws | None, *arms: str) -> bool:
    return draws is not None and all(draws.has(arm) for arm in arms)


def _needs(key: str, draws: Draws | None, arm: str) -> ClaimResult:
    """A difference of two gains."""
    if draws is None or not _there(draws, "plain", arm, "lora-plain", f"lora-{arm}"):
        return not_run(key)
    gains = (arm, "plain"), (f"lora-{arm}", "lora-plain")
    interaction, own = draws.interaction(*gains, first=STANDING), draws.led_by(STANDING, arm)
    effects = [*interaction, *own, *draws.led_by(STANDING, f"lora-{arm}", other="lora-plain")]
    same = draws.equal_gains(*gains, STANDING, MARGINS[STANDING])
    if shown(own[0]) and own[0].value < 0:
        return decided(key, effects, "lower", same)
    harms = shown(interaction[0]) and interaction[0].value > 0
    return judged(key, effects, supported=False, refuted=same < ALPHA or harms)


def _covers(key: str, draws: Draws | None, arm: str) -> ClaimResult:
    if draws is None or not _there(draws, arm, f"lora-{arm}"):
        return not_run(key)
    other = f"lora-{arm}"
    effects: list[Effect] = draws.led_by(COVERAGE, arm, other=other)
    if len(draws.differences(arm, OURS, other)):
        effects.append(draws.effect(arm, OURS, other=other))
    return decided(key, effects, "higher", draws.equivalence(arm, COVERAGE, MARGINS[COVERAGE], other=other))


def _swap(key: str, draws: Draws | None, part: str, arm: str, metric: str) -> ClaimResult:
    """The swap that has the part against the other one, in the direction that the whole adapter takes; inconclusive
    where the whole adapter changes nothing that is shown."""
    swap, other = f"{part}-{arm}", f"{'magnitude' if part == 'direction' else 'direction'}-{arm}"
    if draws is None or not _there(draws, swap, other, arm, "plain"):
        return not_run(key)
    whole = draws.effect(arm, metric, other="plain")
    effects = draws.led_by(metric, swap, other=other)
    effects += [whole, *(draws.effect(each, metric, other="plain") for each in (swap, other))]
    if not shown(whole):
        return judged(key, effects, supported=False)
    wanted: Literal["higher", "lower"] = "higher" if whole.value > 0 else "lower"
    return decided(key, effects, wanted, draws.equivalence(swap, metric, MARGINS[metric], other=other))
