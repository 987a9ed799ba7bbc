"""Does every structure metric follow its ladder?

Each metric on its ladder of synthetic pieces of known structure, one ladder a seed (another timbre, pitch, rhythm), and
where there is one on a second ladder with other instruments, tempi and lengths. Rank correlation with the truth, signed
so that 1 is right: mean and least over the seeds, and of all rungs of all seeds pooled, which no ladder can win whose
readings depend more on the timbre than on the structure. The paper's quantities as printed stand beside: that a ladder
orders one does not undo the ground truth that contradicts it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from eisbach.progress import Progress
from eisbach.structure import METRICS
from eisbach.structure.features import extract_features
from eisbach.structure.metrics import Metric
from eisbach.studies.finished import Finished
from eisbach.studies.ground_truth.ladders import LADDERS, VARIED_LADDERS, Ladder

GOAL = 0.95


def climb(metric: Metric, ladder: Ladder, seeds: int) -> dict[str, Any]:
    """Readings and rank correlations of a metric on a ladder, over the seeds."""
    sign = 1.0 if ladder.rising else -1.0
    readings = np.array(
        [[metric.function(extract_features(ladder.piece(v, seed))) for v in ladder.values] for seed in range(seeds)]
    )
    each = [sign * spearmanr(ladder.values, row, nan_policy="omit").statistic for row in readings]
    pooled = sign * spearmanr(np.tile(ladder.values, seeds), readings.ravel(), nan_policy="omit").statistic
    return {
        "truth": ladder.values,
        "median_reading": [round(float(v), 4) for v in np.nanmedian(readings, axis=0)],
        "undefined": int(np.isnan(readings).sum()),
        "mean": round(float(np.nanmean(each)), 4),
        "least": round(float(np.nanmin(each)), 4),
        "pooled": round(float(pooled), 4),
    }


def check_ladders(seeds: int, done: Finished, quiet: bool = False) -> dict[str, Any]:
    """Every metric on its ladders, by metric, and the primary metrics whose mean is below the goal on one."""
    report: dict[str, Any] = {}
    with Progress(len(METRICS), "ladders", quiet=quiet) as bar:
        for name, metric in METRICS.items():
            ladders = {"first": LADDERS[name], **({"varied": VARIED_LADDERS[name]} if name in VARIED_LADDERS else {})}
            report[name] = {
                "primary": metric.primary,
                "as_printed": metric.as_printed,
                "unit": metric.unit,
                "ladders": {
                    which: done.get(f"ladder {name} {which}", partial(climb, metric, ladder, seeds))
                    for which, ladder in ladders.items()
                },
            }
            bar.advance(note=name)
    below = [
        f"{name} ({which})"
        for name, entry in report.items()
        for which, ladder in entry["ladders"].items()
        if entry["primary"] and ladder["mean"] < GOAL
    ]
    return {"seeds": seeds, "metrics": report, "primary_below_goal": below}
