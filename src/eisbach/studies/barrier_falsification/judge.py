"""Judges, for each target domain, whether a weight's models lie farther from it than plain training's, over draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eisbach.experiments.yardsticks import MODELS_FILE
from eisbach.files import read_jsonl
from eisbach.statistics.records import load_records
from eisbach.studies.barrier_falsification.run import KINDS, RECIPE
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import ALPHA, Draws, judged, low, not_above, not_run, over_draws, shown

MARGIN = 0.1
"""Of plain training's distance: a smaller difference is none."""
WEIGHTS = {"per-sample": "sample-100", "development": "development"}
DISTANCE, HEARD = "texture_kernel", "musicnn_kernel"
BESIDE = ("texture_frechet", "musicnn_frechet")
"""As ratios to plain training's. Sets of 24 clips raise them by much and both arms alike, which draws a ratio to 1, so
that they decide nothing."""


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `models.jsonl` and `records.parquet` of each domain; "not run" where there are none."""
    return [result for domain in KINDS for result in _domain(folder / domain, domain)]


def _domain(folder: Path, domain: str) -> list[ClaimResult]:
    keys = {f"fails-on-{domain}-{weight}": arm for weight, arm in WEIGHTS.items()}
    if not (folder / MODELS_FILE).is_file():
        return [not_run(key) for key in keys]
    models = Draws(read_jsonl(folder / MODELS_FILE), str(RECIPE))
    clips = Draws(load_records(folder / "records.parquet"), str(RECIPE))
    return [
        _against_plain(key, arm, models, clips) if models.has(arm) and models.has("plain") else not_run(key)
        for key, arm in keys.items()
    ]


def _against_plain(key: str, arm: str, models: Draws, clips: Draws) -> ClaimResult:
    """The first effect decides; the second can only keep a claim from being supported. No p is corrected."""
    distance, heard = (models.effect(arm, measure, other="plain") for measure in (DISTANCE, HEARD))
    plain = _plain_distance(models)
    supported = shown(distance) and distance.value > 0 and not (shown(heard) and heard.value < 0)
    nearer = shown(distance) and distance.value < 0
    ratios = [models.ratio(arm, measure, "plain") for measure in BESIDE if models.has_measure(arm, measure)]
    return judged(
        key,
        [distance, heard, plain, *ratios, clips.effect(arm, "is_flat", other="plain")],
        supported=supported,
        refuted=not supported and (nearer or (low(plain) > 0 and as_far(models, arm) < ALPHA)),
    )


def _plain_distance(models: Draws) -> Effect:
    """Plain training's own distance: unbiased, so that it is 0 for models that play the domain itself, and a share of
    it is a margin only where it is shown to be more."""
    values = np.array(list(models.by_draw("plain", DISTANCE).values()))
    return over_draws(f"{models.label(DISTANCE)}: {models.arm_label('plain')}", DISTANCE, values)


def as_far(models: Draws, arm: str) -> float:
    """p of the two one-sided t tests that an arm's mean distance lies within `MARGIN` of plain training's mean.

    Tested are arm − 1.1 plain < 0 and arm − .9 plain > 0, draw by draw: the margin is a share of a mean that is itself
    estimated, and its error is in the tests.
    """
    differences, plain = models.differences(arm, DISTANCE, "plain"), models.by_draw("plain", DISTANCE)
    shared = np.array([plain[draw] for draw in sorted(plain.keys() & models.by_draw(arm, DISTANCE).keys())])
    share = MARGIN * shared
    return max(not_above(differences - share, 0.0), not_above(-differences - share, 0.0))
