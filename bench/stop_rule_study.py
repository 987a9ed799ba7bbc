"""What the study `stop_rule` can show: its judge on simulated studies whose truth is known.

    python bench/stop_rule_study.py [--studies 60]

Eight sets of two trainings, ten checkpoints of eight prompts and four seeds, as the study has them. Of a clip's three
parts flatness follows a course, memorising grows and distance stays. Each part is 1 / (1 + exp(−x)), x normal, of what
stays with the clip from checkpoint to checkpoint and what does not (`stop_rule.py`). Courses of flatness:

- turns: better by 15 to 35 points up to the third to eighth checkpoint, then worse by 10 to 40;
- plateau: the same and then as good;
- gains: better to its end, by 20 to 40 points.

True regret is of the mean scores that were simulated. Besides the rule a way that always ships the best checkpoint is
judged, and one that ships a checkpoint that is worse by about 30% of the range.

Writes bench/results/stop_rule_study.json and prints its table.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from stop_rule import NEW, OWN, PROMPTS, offsets

from eisbach.studies.stop_rule import judge
from eisbach.studies.stop_rule.judge import Training, scale_of

SETS, TRAININGS, CHECKPOINTS, SEEDS = 8, 2, 10, 4
COURSES = ("turns", "plateau", "gains")
LATER = 6
"""The place from which checkpoints come after a stop."""


def course_of(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Mean flatness of the checkpoints of one training."""
    places, best = np.arange(CHECKPOINTS), int(rng.integers(2, 8))
    depth, rise = rng.uniform(0.15, 0.35), rng.uniform(0.1, 0.4)
    if kind == "gains":
        return np.linspace(0.6, rng.uniform(0.2, 0.4), CHECKPOINTS)
    after = 0.6 - depth + (rise if kind == "turns" else 0.0)
    return np.interp(places, [0, best, CHECKPOINTS - 1], [0.6, 0.6 - depth, after])


GRID, MEANS = offsets()


def clips_of(levels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scores of clips [shape=(checkpoints, seeds, prompts)] around these means."""
    own = rng.normal(0, OWN, (1, SEEDS, PROMPTS))
    new = rng.normal(0, NEW, (len(levels), SEEDS, PROMPTS))
    return 1 / (1 + np.exp(-(np.interp(levels, MEANS, GRID)[:, None, None] + own + new)))


def simulate(flat: np.ndarray, memorised: float, rng: np.random.Generator, draw: int) -> tuple[Training, np.ndarray]:
    """One training as the judge reads it, and its true mean scores; `memorised` is where memorising ends."""
    levels = np.stack([flat, np.linspace(0.5, memorised, CHECKPOINTS), np.full(CHECKPOINTS, 0.4)])
    parts = [clips_of(level, rng) for level in levels]
    steps = list(range(CHECKPOINTS))
    row = {
        "draw": draw, "scores": np.mean(parts, axis=0), "steps": steps, "loss": [[step, 1.0] for step in steps],
        "flat": parts[0].transpose(0, 2, 1).reshape(CHECKPOINTS, -1).tolist(), "held_out_loss": steps,
    }  # fmt: skip
    return judge._training(row), levels.mean(axis=0)


def judged(trainings: list[Training], truths: list[np.ndarray]) -> dict[str, float]:
    """What the judge says of the rule's choices, and how far they truly are from the best ones."""
    result = judge._regret(trainings, scale_of(trainings))
    halves, noisy = result.effects[:2]
    true = np.mean([truth[one.choices["rule"]] - truth.min() for one, truth in zip(trainings, truths, strict=True)])
    return {
        "true": 100 * float(true / np.mean([np.ptp(truth) for truth in truths])),
        "by halves": halves.value, "to each side": ((halves.high or 0) - (halves.low or 0)) / 2, "noisy": noisy.value,
        "supported": 100.0 * (result.verdict == "supported"), "refuted": 100.0 * (result.verdict == "refuted"),
    }  # fmt: skip


def studies_of(kind: str, studies: int, rng: np.random.Generator) -> dict[str, Any]:
    """Means over studies, by way of choosing, and what the rule costs."""
    ways: dict[str, list[dict[str, float]]] = {"rule": [], "best": [], "30% worse": []}
    played, stopped, rivals = [], [], []
    for _ in range(studies):
        draws = np.repeat(range(SETS), TRAININGS)
        pairs = [simulate(course_of(kind, rng), rng.uniform(0.5, 0.7), rng, int(draw)) for draw in draws]
        trainings, truths = [one for one, _ in pairs], [truth for _, truth in pairs]
        judge._fix_steps(trainings)
        best = [int(truth.argmin()) for truth in truths]
        worse = [int(np.abs((truth - truth.min()) / np.ptp(truth) - 0.3).argmin()) for truth in truths]
        for way, places in (("rule", None), ("best", best), ("30% worse", worse)):
            chosen = trainings if places is None else [
                replace(one, choices={**one.choices, "rule": place})
                for one, place in zip(trainings, places, strict=True)
            ]  # fmt: skip
            ways[way].append(judged(chosen, truths))
        played.append(np.mean([one.played for one in trainings]))
        stopped.append(100 * np.mean([one.stopped_at is not None for one in trainings]))
        last = judge._rivals(trainings, scale_of(trainings)).effects[0]
        rivals.append(100.0 * (last.p is not None and last.p < judge.ALPHA and last.value < 0))
    means = {way: {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} for way, rows in ways.items()}
    costs = {"played": played, "stopped": stopped, "better than the last": rivals}
    return {"ways": means, **{key: float(np.mean(values)) for key, values in costs.items()}}


def false_stops(studies: int, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Share of stopped trainings that count as falsely stopped, by how much better later checkpoints are in points of
    flatness, three of which are one of the score; and by the bar alone."""
    shares = {}
    for gain in (0.0, 0.1, 0.2, 0.3):
        flat = np.concatenate([np.linspace(0.6, 0.4, 4), [0.6, 0.6], np.full(CHECKPOINTS - LATER, 0.4 - gain)])
        counted, by_bar = [], []
        for _ in range(10 * studies):
            one, truth = simulate(flat, 0.5, rng, 0)
            one = replace(one, choices={"rule": 3}, stopped_at=LATER - 1)
            bar = judge.BAR / 100 * float(np.ptp(truth))
            counted.append(one.false_stop(bar))
            by_bar.append(one.leads(3, LATER).mean() > bar)
        shares[f"{100 * gain:g} points"] = {"counted": 100 * np.mean(counted), "by the bar": 100 * np.mean(by_bar)}
    return {key: {name: float(value) for name, value in row.items()} for key, row in shares.items()}


def main() -> None:
    """Simulates, writes and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, default=60)
    studies = parser.parse_args().studies
    started, rng = time.process_time(), np.random.default_rng(0)
    courses = {kind: studies_of(kind, studies, rng) for kind in COURSES}
    report = {"studies": studies, "courses": courses, "false stops": false_stops(studies, rng)}
    file = Path(__file__).parent / "results" / "stop_rule_study.json"
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{time.process_time() - started:.0f} s of CPU; of {studies} studies, regret in % of the range:")
    for kind, row in courses.items():
        for way, values in row["ways"].items():
            print(kind, way, *(f"{key} {value:.0f}" for key, value in values.items()), sep="\t")
        print(kind, *(f"{key} {row[key]:.0f}%" for key in ("played", "stopped", "better than the last")), sep="\t")
    for gain, shares in report["false stops"].items():
        print(f"stops before checkpoints better by {gain}", *(f"{k} {v:.1f}%" for k, v in shares.items()), sep="\t")


if __name__ == "__main__":
    main()
