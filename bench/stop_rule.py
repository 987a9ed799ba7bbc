"""How often `stop: true` stops a training, by the clips of its reserve and by what the training truly does.

    python bench/stop_rule.py [--runs 300]

A training gets better over four demos and then stays as good, or becomes worse by so much at once. A clip's score is a
probability of being flat: 1 / (1 + exp(−x)), x normal, with a part that stays with the clip from demo to demo (its
prompt and noise) and one that does not; together they spread about as the clips in the records of `barrier_short` do
(.26). The rule is the project's own, with eight prompts and its defaults; with larger margins a plateau is found
sooner.

Writes bench/results/stop_rule.json and prints its table.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np

from eisbach.statistics.anytime import StopRule, decide, log_e_process, spending

PROMPTS, BEFORE, AFTER = 8, 4, 9
OWN, NEW = 1.2, 0.8
"""Spread of x over clips, and of the same clip over demos."""
START, BEST = 0.55, 0.30
RESERVES = (24, 56, 120, 248, 504)
CASES = {  # how much worse it becomes, and the margin
    "plateau": (0.0, 0.02), "10 points worse": (0.1, 0.02), "20 points worse": (0.2, 0.02),
    "30 points worse": (0.3, 0.02), "plateau, margin .05": (0.0, 0.05), "plateau, margin .1": (0.0, 0.1),
}  # fmt: skip


def levels_of(effect: float) -> np.ndarray:
    """Mean scores of a training's demos [shape=(BEFORE + AFTER,)]."""
    return np.concatenate([np.linspace(START, BEST, BEFORE), np.full(AFTER, BEST + effect)])


def offsets() -> tuple[np.ndarray, np.ndarray]:
    """Means of x on a grid, and the mean scores that they give."""
    grid = np.linspace(-6, 3, 181)
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    scores = 1 / (1 + np.exp(-(grid[:, None] + math.hypot(OWN, NEW) * points)))
    return grid, scores @ weights / weights.sum()


def simulate(reserve: int, effect: float, rule: StopRule, runs: int, seed: int) -> dict[str, float]:
    """Shares of trainings that are stopped at the first check after the best demo, and within nine demos."""
    rng = np.random.default_rng(seed)
    seeds = rule.pilot + reserve // PROMPTS
    grid, means = offsets()
    centre = np.interp(levels_of(effect), means, grid)[:, None, None]
    first = ever = 0
    for _ in range(runs):
        own = rng.normal(0, OWN, (1, seeds, PROMPTS))
        table = 1 / (1 + np.exp(-(centre + own + rng.normal(0, NEW, (len(centre), seeds, PROMPTS)))))
        decisions = decide(lambda place, number, table=table: table[place, number], len(table), seeds, rule)
        ever += decisions[-1].stop
        first += decisions[-1].stop and decisions[-1].tests == 1
    return {"first check": first / runs, "nine demos": ever / runs}


def clips_of_a_plateau(rule: StopRule) -> list[int]:
    """Clips whose gain is exactly none that the first three tests take to stop: of a reserve of just so many, for which
    the bets are chosen."""
    limits = [math.log(1 / spending(rule.alpha, test)) for test in (1, 2, 3)]
    evidence = [float(log_e_process(np.zeros(n), -rule.margin, horizon=n)[-1]) for n in range(1, 600)]
    return [next(n for n, found in enumerate(evidence, 1) if found >= limit) for limit in limits]


def main() -> None:
    """Simulates, writes and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=300)
    runs = parser.parse_args().runs
    started = time.process_time()
    rows = []
    for number, (name, (effect, margin)) in enumerate(CASES.items()):
        for reserve in RESERVES:
            shares = simulate(reserve, effect, StopRule(margin=margin), runs, 1000 * number + reserve)
            rows.append({"reserve": reserve, "case": name, **shares})
    exact = {margin: clips_of_a_plateau(StopRule(margin=margin)) for margin in sorted({m for _, m in CASES.values()})}
    report = {
        "runs": runs,
        "prompts": PROMPTS,
        "rule": vars(StopRule()),
        "clips_without_gain": exact,
        "rows": rows,
    }
    file = Path(__file__).parent / "results" / "stop_rule.json"
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{time.process_time() - started:.0f} s; clips of exactly no gain, by margin, for tests 1 to 3: {exact}")
    print("reserve", *CASES, sep="\t")
    for reserve in RESERVES:
        cells = [row for row in rows if row["reserve"] == reserve]
        print(reserve, *(f"{row['first check']:.0%} / {row['nine demos']:.0%}" for row in cells), sep="\t")


if __name__ == "__main__":
    main()
