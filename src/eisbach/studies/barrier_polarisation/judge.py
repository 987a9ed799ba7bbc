"""Judges whether a weight makes models sharp on common material and ignorant of rare material, over draws."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from eisbach.experiments.yardsticks import MODELS_FILE
from eisbach.files import read_jsonl
from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import Draws, as_ratio, corrected, decided, high, low, not_run, over_draws
from eisbach.types import Record

STUDY = "barrier_polarisation"
SHARE_OF_LEARNED, BLOCK_MARGIN = 0.2, 0.02
"""A loss that lies nearer to plain training's than a fifth of what that learned about rare clips, or a smaller
difference of block strength, is no difference."""
WEIGHTS = {"per-sample": "sample-100", "development": "development"}
LOSS, WEIGHT = "held_out_loss", "mean_weight"
BESIDE = ("texture_frechet", "musicnn_frechet")
_RARE = " on rare / on common"


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `models.jsonl` and `records.parquet`; "not run" where there are none, or an arm is missing."""
    keys = {weight: (f"ignorant-of-rare-{weight}", f"sharp-on-common-{weight}") for weight in WEIGHTS}
    if not (folder / MODELS_FILE).is_file():
        return [not_run(key) for pair in keys.values() for key in pair]
    models = Draws(by_model(read_jsonl(folder / MODELS_FILE)), STUDY)
    records = load_records(folder / "records.parquet")
    common = Draws([row for row in records if row["prompt_id"] in models.spec.yardsticks["common"].prompts], STUDY)
    results = []
    for weight, arm in WEIGHTS.items():
        if not all(models.has(name) for name in (arm, "plain", "untrained")):
            results += [not_run(key) for key in keys[weight]]
            continue
        results += [_ignorant(keys[weight][0], models, arm), _sharp(keys[weight][1], models, common, arm)]
    return results


def by_model(rows: list[Record]) -> list[Record]:
    """A row a model: each measure on common and on rare material, and how many times the one is the other."""
    found: dict[tuple[object, object], Record] = {}
    for row in rows:
        model = found.setdefault((row["arm"], row["train_seed"]), {key: row[key] for key in ("arm", "train_seed")})
        model |= {f"{measure} on {row['yardstick']}": row.get(measure) for measure in (LOSS, WEIGHT, *BESIDE)}
    for model in found.values():
        for measure in (LOSS, WEIGHT, *BESIDE):
            rare, common = (model.get(f"{measure} on {group}") for group in ("rare", "common"))
            if isinstance(rare, float) and isinstance(common, float) and common > 0:
                model[f"{measure}{_RARE}"] = rare / common
    return list(found.values())


def learned(models: Draws, group: str) -> Effect:
    """How many times the base's loss plain training's is on held-out clips of a group."""
    metric = f"{LOSS} on {group}"
    (base,) = models.by_draw("untrained", metric).values()
    logs = np.array([math.log(value / base) for value in models.by_draw("plain", metric).values()])
    return as_ratio(over_draws(models.named(metric, "plain", "untrained", "/"), metric, logs))


def _ignorant(key: str, models: Draws, arm: str) -> ClaimResult:
    """How many times plain training's the arm's ratio of rare to common is, by the loss, which decides alone."""
    first = models.ratio(arm, f"{LOSS}{_RARE}", "plain")
    beside = corrected([models.ratio(arm, f"{measure}{_RARE}", "plain") for measure in BESIDE])
    groups = [models.ratio(arm, f"{LOSS} on {group}", "plain") for group in ("rare", "common")]
    changed = [learned(models, group) for group in ("rare", "common")]
    weighed = [models.ratio(arm, f"{WEIGHT}{_RARE}", "plain")] if models.has_measure(arm, f"{WEIGHT}{_RARE}") else []
    same, note = (
        1.0,
        "Plain training is not shown to change the loss on rare clips, so that nothing can be equal to it.",
    )
    if not low(changed[0]) <= 1.0 <= high(changed[0]):
        margin = math.exp(SHARE_OF_LEARNED * abs(math.log(changed[0].value)))
        same = models.equal_ratio(arm, f"{LOSS}{_RARE}", margin, "plain")
        note = f"Equivalent is a ratio within 1/{margin:.4f} to {margin:.4f}, a fifth of what plain training changed."
    return decided(key, [first, *groups, *changed, *weighed, *beside], "higher", same, note=note, none=1.0)


def _sharp(key: str, models: Draws, common: Draws, arm: str) -> ClaimResult:
    """By the blocks of common pieces, which decide alone."""
    blocks = common.effect(arm, "block_strength", other="plain")
    near = [models.ratio(arm, f"{measure} on common", "plain") for measure in (LOSS, BESIDE[0])]
    same = common.equivalence(arm, "block_strength", BLOCK_MARGIN, other="plain")
    return decided(key, [blocks, *corrected(near)], "higher", same)
