"""Judges, for each target domain, whether a weight's models lie farther from it than plain training's, over draws."""

from __future__ import annotations

from pathlib import Path

from eisbach.experiments.yardsticks import MODELS_FILE
from eisbach.files import read_jsonl
from eisbach.statistics.records import load_records
from eisbach.studies.barrier_falsification.run import KINDS, RECIPE
from eisbach.studies.contract import ClaimResult
from eisbach.studies.judging import ALPHA, Draws, corrected, judged, not_run

MARGIN = 1.1
"""Ratio of distances: a smaller one, or one above its inverse, is no difference."""
WEIGHTS = {"per-sample": "sample-100", "development": "development"}
MEASURES = ("texture_frechet", "musicnn_frechet")
BESIDE = ("texture_kernel", "musicnn_kernel")


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `models.jsonl` and `records.parquet` of each domain; "not run" where there are none."""
    return [result for domain in KINDS for result in _domain(folder / domain, domain)]


def _domain(folder: Path, domain: str) -> list[ClaimResult]:
    keys = {f"fails-on-{domain}-{weight}": arm for weight, arm in WEIGHTS.items()}
    if not (folder / MODELS_FILE).is_file():
        return [not_run(key) for key in keys]
    models = Draws(read_jsonl(folder / MODELS_FILE), str(RECIPE))
    clips = Draws(load_records(folder / "records.parquet"), str(RECIPE))
    results = []
    for key, arm in keys.items():
        if not (models.has(arm) and models.has("plain")):
            results.append(not_run(key))
            continue
        effects = corrected([models.ratio(arm, measure, "plain") for measure in MEASURES])
        texture, heard = effects
        farther, nearer = ([(effect.p or 0.0) < ALPHA and (effect.value > 1) == up for effect in (texture, heard)]
                           for up in (True, False))  # fmt: skip
        supported = farther[0] and not nearer[1]
        same = models.equal_ratio(arm, MEASURES[0], MARGIN, "plain") < ALPHA
        beside = [models.effect(arm, measure, other="plain") for measure in BESIDE if models.has_measure(arm, measure)]
        effects += [*beside, clips.effect(arm, "is_flat", other="plain")]
        results.append(judged(key, effects, supported=supported, refuted=not supported and (same or nearer[0])))
    return results
