"""Does every structure metric follow its ladder? ``python bench/structure_ladders.py --seeds 12``

Each metric on its ladder of synthetic pieces of known structure, one ladder a seed (another timbre, pitch, rhythm), and where there is one on a
second ladder with other instruments, tempi and lengths. Rank correlation with the truth, signed so that 1 is right: mean and least over the
seeds, and of all rungs of all seeds pooled, which no ladder can win whose readings depend more on the timbre than on the structure. A
primary metric whose mean is below 0.95 on a ladder makes the command fail. The paper's quantities as printed stand beside: that a ladder orders one does not undo
the ground truth that contradicts it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from eisbach.files import write_json
from eisbach.progress import Progress
from eisbach.structure import METRICS
from eisbach.structure.features import extract_features
from eisbach.structure.metrics import Metric
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/structure_ladders.json")
    args = parser.parse_args()
    report: dict[str, Any] = {}
    with Progress(len(METRICS), "ladders") as bar:
        for name, metric in METRICS.items():
            ladders = {"first": LADDERS[name], **({"varied": VARIED_LADDERS[name]} if name in VARIED_LADDERS else {})}
            report[name] = {
                "primary": metric.primary,
                "as_printed": metric.as_printed,
                "unit": metric.unit,
                "ladders": {which: climb(metric, ladder, args.seeds) for which, ladder in ladders.items()},
            }
            bar.advance(note=name)
    failed = [
        f"{name} ({which})"
        for name, entry in report.items()
        for which, ladder in entry["ladders"].items()
        if entry["primary"] and ladder["mean"] < GOAL
    ]
    write_json(args.out, {"seeds": args.seeds, "metrics": report, "primary_below_goal": failed})
    print(f"{'metric':34s}   mean  least pooled")
    for name, entry in report.items():
        mark = "†" if entry["as_printed"] else "*" if entry["primary"] else " "
        for which, one in entry["ladders"].items():
            print(f"{mark} {name + ' ' + which:32s} {one['mean']:6.3f} {one['least']:6.2f} {one['pooled']:6.2f}")
    print("* primary; † as printed in the paper. Primary below goal:", ", ".join(failed) or "none")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
