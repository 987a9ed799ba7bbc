"""Judges each way of keeping flat clips from deciding form by the declared bar, against the oracle, over draws."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from eisbach.experiments.hearing import CHANGE
from eisbach.experiments.yardsticks import HELD_OUT, TRAINED
from eisbach.statistics.effect_size import mean_moments, t_interval
from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult
from eisbach.studies.judging import ALPHA, STANDING, Draws, high, interval_effect, judged, low, not_run, with_standing
from eisbach.types import Record

FLAT_MARGIN, COPIED_MARGIN = 5.0, 5.0
"""Points."""
_NEARER = 0.9
"""Share of the oracle's distance to unseen music that must not be reached."""
ARMS = {
    "remembered-above": "clip-and-level",
    "remembered-everywhere": "memory",
    "labels-above": "oracle-above",
    "in-step": "development",
}


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet`; "not run" where there is none."""
    return by_the_bar(folder, ARMS, "clip_and_level")


def by_the_bar(folder: Path, arms: Mapping[str, str], recipe: str) -> list[ClaimResult]:
    """The claim of each key: its arm meets the bar; "not run" where there are no records of it or of the oracle."""
    if not (folder / "records.parquet").is_file():
        return [not_run(key) for key in arms]
    draws = Draws(_with_copies(folder), recipe)
    return [
        _bar(key, arm, draws) if draws.has(arm) and draws.has("oracle") else not_run(key) for key, arm in arms.items()
    ]


def _with_copies(folder: Path) -> list[Record]:
    """The records with whether a clip is nearer to what trained than to what is held out."""
    rows = []
    for row in with_standing(load_records(folder / "records.parquet")):
        near, far = row.get(TRAINED), row.get(HELD_OUT)
        rows.append({**row, "copied": None if near is None or far is None else float(float(near) < float(far))})
    return rows


def _bar(key: str, arm: str, draws: Draws) -> ClaimResult:
    flat = draws.effect(arm, STANDING, other="oracle")
    ours, oracle = draws.by_draw(arm, HELD_OUT), draws.by_draw("oracle", HELD_OUT)
    margins = np.array([ours[draw] - _NEARER * oracle[draw] for draw in sorted(ours.keys() & oracle.keys())])
    ends = t_interval(mean_moments(margins), 0.95)
    name = draws.named(HELD_OUT, arm, "oracle", f"− {_NEARER:g} ×")
    near = interval_effect(name, float(margins.mean()), ends, "dB", n=len(margins))
    copies = draws.effect(arm, "copied", other="oracle")
    supported = (
        draws.equivalence(arm, STANDING, FLAT_MARGIN, other="oracle") < ALPHA
        and high(near) < 0
        and high(copies) < COPIED_MARGIN
    )
    refuted = low(flat) > FLAT_MARGIN or low(near) > 0 or low(copies) > COPIED_MARGIN
    beside = [
        draws.effect(arm, metric, other="oracle")
        for metric in ("is_flat", "block_strength", CHANGE)
        if draws.has_measure(arm, metric)
    ]
    return judged(key, [flat, near, copies, *beside], supported=supported, refuted=refuted)
