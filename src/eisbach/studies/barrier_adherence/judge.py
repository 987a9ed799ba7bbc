"""Judges whether prompts are followed: at the paper's λ against plain training, and as a trend over λ, over draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import (
    ALPHA,
    Draws,
    corrected,
    decided,
    judged,
    not_above,
    not_run,
    over_draws,
    within_margin,
)

LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0)
REDUCTIONS = {"eq5": "batch", "per-sample": "sample"}
RANK = "tag_rank"
MARGIN = 0.02
"""Of the tag rank: one place among fifty tags."""


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet`; "not run" where there is none, or an arm is missing."""
    keys = [f"{claim}-{name}" for name in REDUCTIONS for claim in ("no-better-adherence", "less-controllable")]
    if not (folder / "records.parquet").is_file():
        return [not_run(key) for key in keys]
    draws = Draws(load_records(folder / "records.parquet"), "barrier_adherence")
    results = []
    for name, reduction in REDUCTIONS.items():
        arms = ["plain", *(f"{reduction}-{100 * strength:g}" for strength in LAMBDAS[1:])]
        if not all(draws.has(arm) for arm in arms):
            results += [not_run(f"no-better-adherence-{name}"), not_run(f"less-controllable-{name}")]
            continue
        results += [_no_better(f"no-better-adherence-{name}", draws, arms[2]),
                    _trend(f"less-controllable-{name}", draws, arms)]  # fmt: skip
    return results


def _no_better(key: str, draws: Draws, arm: str) -> ClaimResult:
    effects = draws.primary(arm)
    wanted = draws.spec.primary_metrics
    better = any(
        effect.p is not None and effect.p < ALPHA and (effect.value > 0) == (wanted[metric] == "higher")
        for metric, effect in zip(draws.measured(), effects, strict=True)
    )
    below = not_above(draws.differences(arm, RANK, "plain"), MARGIN) < ALPHA
    return judged(key, effects, supported=below and not better, refuted=better)


def _trend(key: str, draws: Draws, arms: list[str]) -> ClaimResult:
    """A line over λ, draw by draw: what changes from λ 0 to 1."""
    slopes = {metric: slopes_of(draws, arms, metric) for metric in draws.measured()}
    effects: list[Effect] = corrected([
        over_draws(f"{draws.label(metric)}: change from λ 0 to 1", metric, values) for metric, values in slopes.items()
    ])  # fmt: skip
    return decided(key, effects, "lower", within_margin(RANK, slopes[RANK], MARGIN))


def slopes_of(draws: Draws, arms: list[str], metric: str) -> np.ndarray:
    """The slope over λ of a measure, one a draw that has every arm."""
    values = [draws.by_draw(arm, metric) for arm in arms]
    common = sorted(set.intersection(*(set(each) for each in values)))
    table = np.array([[each[draw] for each in values] for draw in common]).reshape(len(common), len(arms))
    slopes: np.ndarray = np.polynomial.polynomial.polyfit(LAMBDAS, table.T, 1)[1]
    return slopes
