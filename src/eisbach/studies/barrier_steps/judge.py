"""Judges whether boundaries are sharper after 1,000 steps than after 500, and more so with the barrier, over draws."""

from __future__ import annotations

from pathlib import Path

from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import ALPHA, Draws, judged, not_run, shown, within_note

MARGIN = 0.02
"""Block strength: a smaller difference, of steps or of two gains, is none, shown or not."""
ARMS = {
    "as-printed": ("batch-50", "plain"),
    "fast-eq5": ("fast-batch-50", "fast-plain"),
    "fast-per-sample": ("fast-sample-50", "fast-plain"),
}
"""By claim: the barrier's arm, and the plain one of the same rate."""
_FIRST = "block_strength"
"""Decides alone."""
_COVERAGE = ("trajectory_coverage", "paper_pca_coverage")
"""Figure 5 has them expand, too; they decide nothing."""
_UNTRAINED = "untrained"


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
    gain, *measures = draws.led_by(_FIRST, arm, other=own[1])
    beside = [
        *measures,
        *draws.effects(arm, [metric for metric in _COVERAGE if draws.has_measure(arm, metric)], other=own[1]),
        *(effect for each in own if draws.has(_UNTRAINED)
          for effect in draws.beside_untrained(each, _UNTRAINED, first=_FIRST)[:1]),
    ]  # fmt: skip
    first, *others = draws.interaction(own, theirs, first=_FIRST)
    gains, apart = [gain, draws.effect(plain, _FIRST, other=theirs[1])], first.value > MARGIN and gain.value <= 0
    return [
        _decided(sharper, [*gains, *beside], draws.equivalence(arm, _FIRST, MARGIN, other=own[1])),
        _decided(more, [first, *gains, *others], draws.equal_gains(own, theirs, _FIRST, MARGIN), blurs=apart),
    ]


def _decided(key: str, effects: list[Effect], same: float, *, blurs: bool = False) -> ClaimResult:
    """By the first effect. What is shown and still no more than the margin is nothing: two steps of one training from
    the same noise differ by so little that any drift is shown. Nor does an arm sharpen more that does not sharpen."""
    first = effects[0]
    note = within_note(MARGIN, same, "of block strength")
    return judged(
        key, effects, supported=shown(first) and first.value > MARGIN and not blurs,
        refuted=same < ALPHA or (shown(first) and first.value < 0),
        note=note + (" It blurs less than plain training and does not sharpen." if blurs else ""),
    )  # fmt: skip
