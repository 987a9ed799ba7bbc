"""Judges a clip's remembered belief and the recurrence barrier against the belief of each step, over draws."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from eisbach.experiments.hearing import CHANGE
from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult
from eisbach.studies.judging import STANDING, Draws, decided, not_run, with_standing

BLOCKS = "block_strength"
STANDS_MARGIN, BLOCKS_MARGIN = 5.0, 0.02
"""Points, and block strength: a smaller difference is none."""
CLAIMS = {
    "stands-less": ("memory", STANDING, "plain"),
    "clearer-blocks": ("memory", BLOCKS, "plain"),
    "clearer-than-in-step": ("memory", BLOCKS, "development"),
    "recurrence-clearer-than-in-step": ("recurrence", BLOCKS, "development"),
}
BESIDE = {
    "stands-less": [("memory", STANDING, "development"), ("memory", STANDING, "recurrence")],
    "clearer-blocks": [("memory", BLOCKS, "recurrence")],
    "recurrence-clearer-than-in-step": [
        ("recurrence", BLOCKS, "plain"), ("recurrence", STANDING, "plain"), ("recurrence", STANDING, "development"),
    ],
}  # fmt: skip
"""What else the README's rule of the recommendation asks; it decides no claim."""


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet`; "not run" where there is none, or an arm is missing."""
    if not (folder / "records.parquet").is_file():
        return [not_run(key) for key in CLAIMS]
    draws = Draws(with_standing(load_records(folder / "records.parquet")), "remembered")
    return [
        _against(key, draws, arm, metric, other) if draws.has(arm) and draws.has(other) else not_run(key)
        for key, (arm, metric, other) in CLAIMS.items()
    ]


def _against(key: str, draws: Draws, arm: str, metric: str, other: str) -> ClaimResult:
    """The claim's measure decides; what the oracle gains stands beside it."""
    margin = STANDS_MARGIN if metric == STANDING else BLOCKS_MARGIN
    wanted: Literal["higher", "lower"] = "lower" if metric == STANDING else "higher"
    effects = [draws.effect(arm, metric, other=other)]
    if metric == STANDING:
        effects.append(draws.effect(arm, "is_flat", other=other))
    if draws.has_measure(arm, CHANGE):  # a second judge, which decides nothing here
        effects.append(draws.effect(arm, CHANGE, other=other))
    if draws.has("oracle"):
        effects.append(draws.effect("oracle", metric, other=other).model_copy(update={"p": None}))
    effects += [draws.effect(*pair, other=third) for *pair, third in BESIDE.get(key, ()) if draws.has(third)]
    return decided(key, effects, wanted, draws.equivalence(arm, metric, margin, other=other))
