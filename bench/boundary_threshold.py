"""The threshold of section boundaries on joined recordings: ``python bench/boundary_threshold.py --help``.

With the committed weights, F of the hit rate at 0.5 and 3 s for every threshold: on joins of the recordings' train
split (on which a threshold may be chosen), and for the threshold in force on joins of the held-out split, whose albums
and composers are others. The joins are those of the study `boundaries`. Only joins are known: a boundary that a
recording has of its own counts as false. A piece that is measured already is kept in ``--keep``.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.files import write_json
from eisbach.output_folder import Finished
from eisbach.progress import Progress
from eisbach.structure.features import extract_features
from eisbach.structure.novelty import boundary_evidence
from eisbach.structure.sections import boundary_model, copied_stretches, pick_boundaries, probability_of
from eisbach.studies.boundaries.run import DEVELOPMENT_SEEDS, RECORDINGS, hit_rates, interval, piece_of

THRESHOLDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.84, 0.88, 0.9, 0.92, 0.94, 0.96)


def rates(seed: int, recordings: list[str]) -> dict[str, list[float]]:
    """Threshold → hit rates at 0.5 and 3 s, boundaries found and true ones of one piece."""
    model, piece = boundary_model(), piece_of(RECORDINGS, seed, recordings)
    features = extract_features(piece.waveform)
    times, evidence, names = boundary_evidence(features)
    weights = np.array([model["weights"][name] for name in names])
    copies = copied_stretches(features, len(times))
    probability = probability_of(evidence, names, weights, float(model["bias"]), copies)
    made = {}
    for threshold in THRESHOLDS:
        found = times[pick_boundaries(times, probability, features.duration, threshold)]
        made[str(threshold)] = [*hit_rates(found, piece.edges), float(len(found)), float(len(piece.edges) - 2)]
    return made


def table(rows: list[dict[str, list[float]]], thresholds: tuple[float, ...]) -> dict[str, Any]:
    """Hit rates with 95% intervals over pieces, and boundaries a piece, by threshold."""
    made = {}
    for threshold in thresholds:
        values = np.array([row[str(threshold)] for row in rows])
        made[str(threshold)] = {
            "f_0.5s": interval(values[:, 0].tolist()), "f_3s": interval(values[:, 1].tolist()),
            "found": round(float(values[:, 2].mean()), 2), "true": round(float(values[:, 3].mean()), 2),
        }  # fmt: skip
    return made


def main() -> None:
    """Measures what is missing, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", nargs="+", required=True, help="manifests of bench/recordings.py")
    parser.add_argument("--train", type=int, default=36, help="joined pieces of the train split")
    parser.add_argument("--held-out", type=int, default=24, help="and of the held-out split")
    parser.add_argument("--keep", type=Path, default=Path("runs/boundary_threshold.jsonl"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "boundary_threshold.json")
    args = parser.parse_args()
    done, in_force = Finished(args.keep), float(boundary_model()["threshold"])
    sides: dict[str, list[dict[str, list[float]]]] = {"train": [], "held_out": []}
    with Progress(args.train + args.held_out, "joined recordings") as bar:
        for side, count, first in (("train", args.train, DEVELOPMENT_SEEDS), ("held_out", args.held_out, 0)):
            for seed in range(first, first + count):
                sides[side].append(done.get(str(seed), partial(rates, seed, args.recordings)))
                bar.advance()
    train = table(sides["train"], THRESHOLDS)
    best = max(THRESHOLDS, key=lambda t: train[str(t)]["f_0.5s"]["mean"] + train[str(t)]["f_3s"]["mean"])
    gain = [float(np.mean(row[str(best)][:2]) - np.mean(row[str(in_force)][:2])) for row in sides["train"]]
    write_json(args.out, {
        "pieces": {side: len(rows) for side, rows in sides.items()},
        "threshold_in_force": in_force,
        "best_on_train": best,
        "gain_of_the_best_on_train": interval(gain),
        "train": train,
        "held_out": table(sides["held_out"], (in_force, best)),
        "goal": {"f_0.5s": 0.80, "f_3s": 0.88},
    })  # fmt: skip


if __name__ == "__main__":
    main()
