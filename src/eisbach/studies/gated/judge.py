"""Judges the gated barrier beside the ungated one, over trained models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.experiments.recipes import load_spec
from eisbach.files import read_json
from eisbach.statistics.records import load_records
from eisbach.statistics.resampling import label_permutation_test
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import ALPHA, high, interval_effect, judged, low, not_run

MARGIN = 5.0
"""Points of flat pieces: a smaller difference is none."""
METRICS = {"is_flat": "points", "block_strength": "", "level_range": "dB", "flux_gini": "", "textural_vendi": ""}
LABELS = {
    "is_flat": "share of flat pieces", "block_strength": "block strength", "level_range": "level range",
    "flux_gini": "flux Gini", "textural_vendi": "textural states",
}  # fmt: skip

Means = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Metric to arm to training seed to the mean over the model's clips."""


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet` where a run left it, or from the means by model in `gated.json`."""
    means = _means(folder)
    flat = _difference(means, "is_flat", "gated", "clips")
    if flat is None:
        return [not_run("gate-costs-nothing"), not_run("gate-gains")]
    others = [_difference(means, metric, "gated", "clips") for metric in METRICS if metric != "is_flat"]
    effects = [flat, *(effect for effect in others if effect is not None)]
    plain = _difference(means, "is_flat", "gated", "plain")
    effects += [] if plain is None else [plain]
    shown = flat.p is not None and flat.p < ALPHA
    inside = low(flat) > -MARGIN and high(flat) < MARGIN
    return [
        judged("gate-costs-nothing", effects, supported=inside, refuted=shown and flat.value > 0 and not inside),
        judged(
            "gate-gains",
            effects,
            supported=shown and flat.value < 0,
            refuted=low(flat) > -MARGIN and not (shown and flat.value < 0),
        ),
    ]


def _means(folder: Path) -> Means:
    if not (folder / "records.parquet").is_file():
        report = read_json(folder / "gated.json", "records")
        return {metric: entry["by_model"] for metric, entry in report["metrics"].items()}
    records = load_records(folder / "records.parquet")
    means: dict[str, dict[str, dict[str, float]]] = {}
    for metric in METRICS:
        for arm in load_spec("gated").arms:
            rows: dict[str, list[Any]] = {}
            for row in records:
                if row["arm"] == arm and row.get(metric) is not None:
                    rows.setdefault(str(row["train_seed"]), []).append(row[metric])
            means.setdefault(metric, {})[arm] = {seed: float(np.mean(values)) for seed, values in rows.items()}
    return means


def _difference(means: Means, metric: str, arm: str, other: str) -> Effect | None:
    """Mean over models of one arm minus another's: bootstrap interval over models, exact permutation p."""
    a, b = (np.array(list(means[metric].get(name, {}).values())) for name in (arm, other))
    if not len(a) or not len(b):
        return None
    rng = np.random.default_rng(0)
    draws = [rng.choice(a, len(a)).mean() - rng.choice(b, len(b)).mean() for _ in range(9999)]
    scale = 100.0 if metric == "is_flat" else 1.0
    ends = None if min(len(a), len(b)) < 2 else [scale * float(end) for end in np.percentile(draws, [2.5, 97.5])]
    p = label_permutation_test(a, b, np.random.default_rng(0))[0]
    value = scale * float(a.mean() - b.mean())
    arms = load_spec("gated").arms
    name = f"{LABELS[metric]}: {arms[arm].label} − {arms[other].label}"
    return interval_effect(name, value, ends, METRICS[metric], p=p, n=min(len(a), len(b)))
