"""What of a measure goes with a piece's level range: `python -m eisbach.studies.barrier_heard.level` reads this study's
records and prints `level.json`, of the change that is heard; with the word `remembered`, that study's, of block
strength. Exploratory: asked after looking."""

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
from eisbach.studies.judging import Draws, as_row, over_draws
from eisbach.types import Record

RANGE = "level_range"
QUIET = 15.0
"""dB of level range: pieces under it are taken by themselves."""
ARMS = ("recurrence", "memory", "oracle", "development", "clip-and-level")
ASKED = {
    "barrier_heard": (CHANGE, [(arm, "plain") for arm in ARMS]),
    "remembered": ("block_strength", [
        *((arm, "plain") for arm in ("memory", "recurrence", "development", "oracle")),
        ("memory", "development"), ("memory", "recurrence"),
    ]),
}  # fmt: skip
"""Measure, and the arms that are compared, by study."""


def by_level(records: Sequence[Record], study: str = "barrier_heard") -> dict[str, object]:
    """Differences of the study's measure between arms.

    Returns
    -------
    dict
        `rank`: Spearman's correlation of measure and level range over all pieces; `slope` and `slope_of_plain`: of the
        measure a dB, by least squares over all pieces and over plain training's alone. By arm (and the other one, where
        that is not plain training): `as_heard`; `level_out` and `level_out_by_plain`, with either slope's share taken
        out of each piece; `under_15_db`, of the pieces under that level range alone, each arm's own, and `pieces` of
        them in the two. Each with its 95% interval and the p of the sign-flip test over draws, uncorrected.

    Raises
    ------
    UserError
        A piece has no level range or no value.
    """
    from scipy.stats import spearmanr

    measure, pairs = ASKED[study]
    if any(not isinstance(row.get(name), float) for row in records for name in (RANGE, measure)):
        raise UserError(f"every piece needs {measure} and {RANGE}; name a folder with the records of the study.")
    level, values = (np.array([row[name] for row in records], dtype=float) for name in (RANGE, measure))
    plain = np.array([row["arm"] == "plain" for row in records])
    slopes = [float(np.polyfit(level[rows], values[rows], 1)[0]) for rows in (level > -np.inf, plain)]
    heard, pooled, by_plain = (
        Draws([{**row, measure: float(value - slope * db)}
               for row, value, db in zip(records, values, level, strict=True)], study)
        for slope in (0.0, *slopes)
    )  # fmt: skip
    narrow = [row for row, db in zip(records, level, strict=True) if db < QUIET]
    counts = {arm: sum(row["arm"] == arm for row in narrow) for pair in pairs for arm in pair}
    return {
        "rank": round(float(spearmanr(level, values).statistic), 3),
        "slope": round(slopes[0], 5),
        "slope_of_plain": round(slopes[1], 5),
        **{
            arm if other == "plain" else f"{arm} - {other}": {
                "as_heard": as_row(heard.effect(arm, measure, other=other)),
                "level_out": as_row(pooled.effect(arm, measure, other=other)),
                "level_out_by_plain": as_row(by_plain.effect(arm, measure, other=other)),
                "under_15_db": as_row(_unpaired(Draws(narrow, study), arm, other, measure)),
                "pieces": [counts[arm], counts[other]],
            }
            for arm, other in pairs
        },
    }


def _unpaired(draws: Draws, arm: str, other: str, measure: str) -> Effect:
    """Of the arms' means by draw: pieces have no partners where each side is chosen by what it plays."""
    ours, theirs = (draws.by_draw(name, measure) for name in (arm, other))
    differences = np.array([ours[draw] - theirs[draw] for draw in sorted(ours.keys() & theirs.keys())])
    return over_draws(arm, measure, differences)


if __name__ == "__main__":
    study = sys.argv[1] if len(sys.argv) > 1 else "barrier_heard"
    try:
        if study not in ASKED:
            raise UserError(f"this is asked of {' and '.join(ASKED)}; got {study!r}.")
        here = Path(__file__).parents[1] / study / "records"
        print(json.dumps(by_level(load_records(here / "records.parquet"), study), indent=1))
    except UserError as error:
        sys.exit(f"eisbach: {error}")
