"""What the trainings of this study learnt, beside the untrained base: `python -m eisbach.studies.barrier_gentle.learnt`
reads its records and prints `learnt.json`. Exploratory: asked after looking."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eisbach.errors import UserError
from eisbach.files import read_jsonl
from eisbach.statistics.records import load_records
from eisbach.studies.judging import STANDING, Draws, as_row, over_draws, with_standing
from eisbach.types import Record

UNTRAINED = "untrained"
PIECES = (STANDING, "is_flat", "block_strength", "level_range", "flux_gini")
MODELS = ("held_out_loss", "musicnn_kernel", "musicnn_frechet", "texture_kernel", "texture_frechet")


def learnt(records: Sequence[Record], models: Sequence[Record]) -> dict[str, object]:
    """Differences of every trained arm from the base.

    Parameters
    ----------
    records : sequence of dict
        A row a piece, `records.parquet`.
    models : sequence of dict
        A row a model and yardstick, `models.jsonl`.

    Returns
    -------
    dict
        `pieces`, by measure, and each yardstick's name, by measure (held-out loss; distances of what is played from the
        held-out clips): the base's value (shares as shares), and by arm `value`, `low`, `high` and `p`: the difference
        from it (shares in points) with its 95% interval and the p of the sign-flip test over draws, uncorrected.
    """
    draws = Draws(with_standing(records), "barrier_gentle")
    arms = [arm for arm in dict.fromkeys(str(row["arm"]) for row in models) if arm != UNTRAINED]
    found: dict[str, object] = {
        "pieces": {
            metric: {
                "untrained": _mean(draws.by_draw(UNTRAINED, metric)),
                **{arm: as_row(over_draws(arm, metric, draws.from_untrained(arm, metric, UNTRAINED))) for arm in arms},
            }
            for metric in PIECES
        }
    }
    for yardstick in dict.fromkeys(str(row["yardstick"]) for row in models):
        rows = [row for row in models if row["yardstick"] == yardstick]
        found[yardstick] = {metric: _beside_base(rows, metric, arms) for metric in MODELS}
    return found


def _beside_base(rows: Sequence[Record], metric: str, arms: Sequence[str]) -> dict[str, object]:
    by_arm = {arm: np.array([row[metric] for row in rows if row["arm"] == arm], dtype=float)
              for arm in (UNTRAINED, *arms)}  # fmt: skip
    base = float(by_arm[UNTRAINED].mean())
    return {"untrained": round(base, 4), **{arm: as_row(over_draws(arm, metric, by_arm[arm] - base)) for arm in arms}}


def _mean(values: dict[int, float]) -> float:
    return round(float(np.mean(list(values.values()))), 4)


if __name__ == "__main__":
    here = Path(__file__).parent / "records"
    try:
        found = learnt(load_records(here / "records.parquet"), list(read_jsonl(here / "models.jsonl")))
    except UserError as error:
        sys.exit(f"eisbach: {error}")
    print(json.dumps(found, indent=1))
