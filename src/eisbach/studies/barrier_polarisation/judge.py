"""Judges whether a weight makes models sharp on common material and ignorant of rare material, over draws."""

from __future__ import annotations

from pathlib import Path

from eisbach.experiments.yardsticks import MODELS_FILE
from eisbach.files import read_jsonl
from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult
from eisbach.studies.judging import Draws, corrected, decided, not_run
from eisbach.types import Record

STUDY = "barrier_polarisation"
LOSS_MARGIN, BLOCK_MARGIN = 1.02, 0.02
"""A smaller ratio of losses, or difference of block strength, is none."""
WEIGHTS = {"per-sample": "sample-100", "development": "development"}
MEASURES = ("held_out_loss", "texture_frechet", "musicnn_frechet")
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
        if not (models.has(arm) and models.has("plain")):
            results += [not_run(key) for key in keys[weight]]
            continue
        results += [_ignorant(keys[weight][0], models, arm), _sharp(keys[weight][1], models, common, arm)]
    return results


def by_model(rows: list[Record]) -> list[Record]:
    """A row a model: each measure on common and on rare material, and how many times the one is the other."""
    found: dict[tuple[object, object], Record] = {}
    for row in rows:
        model = found.setdefault((row["arm"], row["train_seed"]), {key: row[key] for key in ("arm", "train_seed")})
        model |= {f"{measure} on {row['yardstick']}": row.get(measure) for measure in MEASURES}
    for model in found.values():
        for measure in MEASURES:
            rare, common = (model.get(f"{measure} on {group}") for group in ("rare", "common"))
            if isinstance(rare, float) and isinstance(common, float) and common > 0:
                model[f"{measure}{_RARE}"] = rare / common
    return list(found.values())


def _ignorant(key: str, models: Draws, arm: str) -> ClaimResult:
    """How many times plain training's the arm's ratio of rare to common is."""
    effects = corrected([models.ratio(arm, f"{measure}{_RARE}", "plain") for measure in MEASURES])
    first = f"{MEASURES[0]}{_RARE}"
    beside = [models.ratio(arm, f"{MEASURES[0]} on {group}", "plain") for group in ("rare", "common")]
    same = models.equal_ratio(arm, first, LOSS_MARGIN, "plain")
    return decided(key, [*effects, *beside], "higher", same, none=1.0)


def _sharp(key: str, models: Draws, common: Draws, arm: str) -> ClaimResult:
    blocks = common.effect(arm, "block_strength", other="plain")
    near = [models.ratio(arm, f"{measure} on common", "plain") for measure in MEASURES[:2]]
    same = common.equivalence(arm, "block_strength", BLOCK_MARGIN, other="plain")
    return decided(key, corrected([blocks, *near]), "higher", same)
