"""What of the change that is heard goes with a piece's level range: `python -m eisbach.studies.barrier_heard.level`
reads this study's records (or those in a FOLDER) and prints `level.json`. Exploratory: asked after looking."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eisbach.errors import UserError
from eisbach.experiments.hearing import CHANGE
from eisbach.statistics.records import load_records
from eisbach.studies.contract import Effect
from eisbach.studies.judging import Draws, over_draws
from eisbach.types import Record

RANGE = "level_range"
QUIET = 15.0
"""dB of level range: pieces under it are taken by themselves."""
ARMS = ("recurrence", "memory", "oracle", "development", "clip-and-level")


def by_level(records: Sequence[Record]) -> dict[str, object]:
    """Differences from plain training of the change heard, by arm.

    Returns
    -------
    dict
        `rank`: Spearman's correlation of change and level range over all pieces; `slope` and `slope_of_plain`: change
        a dB, by least squares over all pieces and over plain training's alone. By arm: `as_heard`; `level_out` and
        `level_out_by_plain`, with either slope's share taken out of each piece; `under_15_db`, of the pieces under that
        level range alone, each arm's own, and `pieces` of them in the arm and in plain training. Each with its 95%
        interval and the p of the sign-flip test over draws, uncorrected.

    Raises
    ------
    UserError
        A piece has no level range or no change.
    """
    from scipy.stats import spearmanr

    if any(not isinstance(row.get(name), float) for row in records for name in (RANGE, CHANGE)):
        raise UserError("every piece needs heard_change and level_range; name a folder with the records of the study.")
    level, change = (np.array([row[name] for row in records], dtype=float) for name in (RANGE, CHANGE))
    plain = np.array([row["arm"] == "plain" for row in records])
    slopes = [float(np.polyfit(level[rows], change[rows], 1)[0]) for rows in (level > -np.inf, plain)]
    heard, pooled, by_plain = (
        Draws([{**row, CHANGE: float(c - slope * db)} for row, c, db in zip(records, change, level, strict=True)],
              "barrier_heard")
        for slope in (0.0, *slopes)
    )  # fmt: skip
    narrow = [row for row, db in zip(records, level, strict=True) if db < QUIET]
    counts = {arm: sum(row["arm"] == arm for row in narrow) for arm in ("plain", *ARMS)}
    return {
        "rank": round(float(spearmanr(level, change).statistic), 3),
        "slope": round(slopes[0], 5),
        "slope_of_plain": round(slopes[1], 5),
        **{
            arm: {
                "as_heard": _shown(heard.effect(arm, CHANGE)),
                "level_out": _shown(pooled.effect(arm, CHANGE)),
                "level_out_by_plain": _shown(by_plain.effect(arm, CHANGE)),
                "under_15_db": _shown(_unpaired(Draws(narrow, "barrier_heard"), arm)),
                "pieces": [counts[arm], counts["plain"]],
            }
            for arm in ARMS
        },
    }


def _unpaired(draws: Draws, arm: str) -> Effect:
    """Of the arms' means by draw: pieces have no partners where each side is chosen by what it plays."""
    ours, theirs = (draws.by_draw(name, CHANGE) for name in (arm, "plain"))
    differences = np.array([ours[draw] - theirs[draw] for draw in sorted(ours.keys() & theirs.keys())])
    return over_draws(arm, CHANGE, differences)


def _shown(effect: Effect) -> dict[str, float | None]:
    ends = {"value": effect.value, "low": effect.low, "high": effect.high, "p": effect.p}
    return {name: None if end is None else round(end, 4) for name, end in ends.items()}


if __name__ == "__main__":
    here = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "records"
    try:
        print(json.dumps(by_level(load_records(here / "records.parquet")), indent=1))
    except UserError as error:
        sys.exit(f"eisbach: {error}")
