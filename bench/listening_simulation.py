"""Simulated listeners: how often intervals of a listening test cover the truth, and how often it is wrong.

    python bench/listening_simulation.py [--runs 400]

Listeners and prompts differ in how far they lean to an arm (normal, on the log-odds scale), some votes are 'no
difference'. The truth is the share of votes that all listeners would give on all prompts. Writes
bench/results/listening_simulation.json and prints its table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from eisbach.statistics.preferences import Vote, preferences

TIES = 0.2
CASES = [  # log odds, spread over listeners, over prompts, listeners, prompts
    (0.0, 0.0, 0.0, 8, 12),
    (0.0, 0.7, 0.7, 4, 8),
    (0.0, 0.7, 0.7, 8, 12),
    (0.0, 1.0, 1.0, 20, 24),
    (0.5, 0.7, 0.7, 8, 12),
    (0.5, 0.7, 0.7, 20, 24),
    (1.0, 0.7, 0.7, 8, 12),
    (1.0, 0.7, 0.7, 20, 24),
]


def simulate(case: tuple[float, float, float, int, int], runs: int, seed: int) -> dict[str, float]:
    """Coverage and share of decided tests of one case."""
    odds, by_listener, by_prompt, listeners, prompts = case
    rng = np.random.default_rng(seed)
    far = rng.normal(odds, np.hypot(by_listener, by_prompt), 1_000_000)
    truth = (1 - TIES) * float(np.mean(1 / (1 + np.exp(-far)))) + TIES / 2
    covered = decided = wrong = 0
    for _ in range(runs):
        taste, material = rng.normal(0, by_listener, listeners), rng.normal(0, by_prompt, prompts)
        votes = []
        for i in range(listeners):
            for j in range(prompts):
                chosen = float(rng.random() < 1 / (1 + np.exp(-(odds + taste[i] + material[j]))))
                votes.append(Vote(str(i), str(j), "arm", "baseline", 0.5 if rng.random() < TIES else chosen))
        (found,) = preferences(votes, "baseline", rng, 199)
        covered += float(found.low or 0.0) <= truth <= float(found.high or 1.0)
        decided += found.decided
        wrong += found.decided and (found.share < 0.5) == (odds > 0 or odds == 0)
    return {
        "log_odds": odds,
        "spread_listeners": by_listener,
        "spread_prompts": by_prompt,
        "listeners": listeners,
        "prompts": prompts,
        "true_share": round(truth, 3),
        "coverage": covered / runs,
        "decided": decided / runs,
        "decided_for_the_other": wrong / runs if odds else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("bench/results/listening_simulation.json"))
    options = parser.parse_args()
    rows = [simulate(case, options.runs, 11 + index) for index, case in enumerate(CASES)]
    options.out.write_text(json.dumps({"runs": options.runs, "no_difference": TIES, "cases": rows}, indent=2) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
