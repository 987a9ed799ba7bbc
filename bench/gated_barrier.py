"""The gated barrier beside the ungated one: trains what is missing of the recipe `gated`, and joins recorded arms of the same recipe.

    python bench/gated_barrier.py --root runs/gated --arms gated --seeds 0 1 2 --recorded bench/results/levels/records.parquet

`levels` trains the arms `plain` and `clips` with the same settings, material, prompts and seeds, so its records stand for those of `gated`
and only the gated arm has to be trained. The unit is the trained model; a two-sided permutation test and a bootstrap compare means over
models, and a paired difference those seeds that both arms have. With few models the smallest possible p is large: read the interval.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from eisbach.data.manifest import load_manifest
from eisbach.experiments.cells import Cell, clips_of, run_cell
from eisbach.experiments.material import build_material, plan_material
from eisbach.experiments.recipes import load_spec
from eisbach.experiments.run import claim_folder, measure
from eisbach.files import write_json, write_jsonl


def by_model(records: list[dict[str, Any]], arm: str, metric: str) -> dict[int, float]:
    """Mean of a metric over each trained model's clips."""
    seeds = sorted({row["train_seed"] for row in records if row["arm"] == arm})
    return {
        seed: float(np.mean([row[metric] for row in records if row["arm"] == arm and row["train_seed"] == seed]))
        for seed in seeds
    }


def difference(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """Mean of a minus mean of b: bootstrap interval over models, exact two-sided permutation p."""
    rng = np.random.default_rng(0)
    draws = [rng.choice(a, len(a)).mean() - rng.choice(b, len(b)).mean() for _ in range(9999)]
    both, seen = np.concatenate([a, b]), abs(a.mean() - b.mean())
    splits = []
    for chosen in combinations(range(len(both)), len(a)):
        mask = np.zeros(len(both), dtype=bool)
        mask[list(chosen)] = True
        splits.append(abs(both[mask].mean() - both[~mask].mean()) >= seen - 1e-12)
    return {
        "difference": float(a.mean() - b.mean()),
        "interval": np.percentile(draws, [2.5, 97.5]).tolist(),
        "p": float(np.mean(splits)),
        "models": [len(a), len(b)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("runs/gated"))
    parser.add_argument("--arms", nargs="*", default=["gated"], help="arms to train here")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--recorded", type=Path, help="records.parquet of `levels`, for the arms not trained here")
    parser.add_argument("--only-finished", action="store_true", help="measure what is there and train nothing")
    parser.add_argument("--out", type=Path, default=Path("bench/results/gated.json"))
    options = parser.parse_args()
    spec = load_spec("gated", [f"out={options.root}"])
    if not options.only_finished:
        claim_folder(spec, options.root)
        build_material(spec, options.root, lambda key: nullcontext())
    manifest, cache = plan_material(spec, options.root)
    clips = []
    wanted = len(spec.generation.resolve_prompts()) * len(spec.generation.seeds)
    for arm in options.arms:
        for seed in options.seeds:
            cell = Cell(arm, seed, options.root, str(manifest), str(cache))
            if options.only_finished and len(list((cell.folder / "samples").glob("*.flac"))) < wanted:
                print(f"{cell.name} is not finished and is left out")
                continue
            if options.only_finished:
                clips += clips_of(cell, load_manifest(cell.folder / "samples"))
            else:
                clips += run_cell(spec, cell, lambda key: nullcontext())
    records: list[dict[str, Any]] = [dict(row) for row in measure(clips, options.root)]
    if options.recorded is not None:
        here = {row["arm"] for row in records}
        records += [
            row
            for row in pq.read_table(options.recorded).to_pylist()
            if row["arm"] in spec.arms and row["arm"] not in here
        ]
    versions = sorted({row["analysis_version"] for row in records})
    if len(versions) > 1:
        raise SystemExit(
            f"the records were measured by different versions of the analysis ({', '.join(versions)}), so they cannot be compared; check "
            "out the version of the recorded ones for this script, or train all arms here."
        )
    result: dict[str, Any] = {
        "analysis_version": versions[0],
        "recipe": "gated",
        "options": {arm: one.overrides["weighting"].get("options", {}) for arm, one in spec.arms.items()},
        "trained_here": sorted({(row["arm"], row["train_seed"]) for row in records[: len(clips)]}),
        "recorded": None if options.recorded is None else str(options.recorded),
        "metrics": {},
    }
    metrics = [*spec.primary_metrics, "textural_vendi", "flat_probability"]
    for metric in metrics:
        models = {arm: by_model(records, arm, metric) for arm in spec.arms}
        found: dict[str, Any] = {"by_model": models}
        for a, b in (("gated", "clips"), ("gated", "plain"), ("clips", "plain")):
            if models[a] and models[b]:
                found[f"{a} minus {b}"] = difference(
                    np.array(list(models[a].values())), np.array(list(models[b].values()))
                )
                shared = sorted(models[a].keys() & models[b].keys())
                found[f"{a} minus {b}"]["paired"] = [models[a][seed] - models[b][seed] for seed in shared]
        result["metrics"][metric] = found
        for key, one in found.items():
            if key != "by_model":
                print(
                    f"{metric}: {key}: {one['difference']:+.3f} ({one['interval'][0]:+.3f} to {one['interval'][1]:+.3f}), p = {one['p']:.3f}"
                )
    write_jsonl(options.root / "records.jsonl", records)
    write_json(options.out, result)


if __name__ == "__main__":
    main()
