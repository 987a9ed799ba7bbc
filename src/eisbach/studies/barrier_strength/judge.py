"""Judges the strength of the paper's barrier: where a parabola over λ has its least, and what λ 1 does, over draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eisbach.statistics.effect_size import mean_moments, t_interval
from eisbach.statistics.records import load_records
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import (
    ALPHA,
    STANDING,
    Draws,
    decided,
    high,
    interval_effect,
    judged,
    low,
    not_run,
    with_standing,
)

MARGIN = 5.0
"""Points of pieces that stand: a smaller difference is none."""
LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0)
PREDICTED = (0.3, 0.7)
REDUCTIONS = {"eq5": "batch", "per-sample": "sample"}


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `records.parquet`; "not run" where there is none, or an arm is missing."""
    keys = [f"{claim}-{name}" for name in REDUCTIONS for claim in ("optimum", "collapse")]
    if not (folder / "records.parquet").is_file():
        return [not_run(key) for key in keys]
    draws = Draws(with_standing(load_records(folder / "records.parquet")), "barrier_strength")
    results = []
    for name, reduction in REDUCTIONS.items():
        arms = ["plain", *(f"{reduction}-{100 * strength:g}" for strength in LAMBDAS[1:])]
        if not all(draws.has(arm) for arm in arms):
            results += [not_run(f"optimum-{name}"), not_run(f"collapse-{name}")]
            continue
        results += [_optimum(f"optimum-{name}", draws, arms), _collapse(f"collapse-{name}", draws, arms)]
    return results


def _optimum(key: str, draws: Draws, arms: list[str]) -> ClaimResult:
    """From a parabola of the differences from λ 0, in points of pieces that stand."""
    table = 100.0 * np.stack([draws.differences(arm, STANDING, "plain") for arm in arms], axis=1)
    fits = np.polynomial.polynomial.polyfit(LAMBDAS, table.T, 2).T  # (draws, 3): constant, slope, curvature
    curvature = interval_effect(
        "curvature of what stands over λ", float(fits[:, 2].mean()), t_interval(mean_moments(fits[:, 2]), 0.95),
        "points", n=len(fits),
    )  # fmt: skip
    effects = [curvature, _least(fits)]
    others = [draws.equivalence(arm, STANDING, MARGIN, other="plain") < ALPHA for arm in arms[1:]]
    least = effects[1]
    supported = low(curvature) > 0 and low(least) >= PREDICTED[0] and high(least) <= PREDICTED[1]
    elsewhere = high(least) < PREDICTED[0] or low(least) > PREDICTED[1] or high(curvature) < 0
    return judged(key, effects, supported=supported, refuted=not supported and (elsewhere or all(others)))


def _least(fits: np.ndarray) -> Effect:
    """λ of the fewest pieces that stand by the mean parabola, with a percentile bootstrap over draws."""

    def least(means: np.ndarray) -> np.ndarray:
        """Of each row's parabola: the first of its ends, 0 and 1, and its vertex that is lowest."""
        _, slope, curvature = means.T[:, :, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            vertex = np.where(curvature > 0, -slope / (2 * curvature), np.nan)
        places = np.concatenate([np.broadcast_to([0.0, 1.0], (len(means), 2)), vertex], axis=1)
        height = np.where((places >= 0) & (places <= 1), slope * places + curvature * places**2, np.inf)
        return places[np.arange(len(means)), np.argmin(height, axis=1)]

    rng = np.random.default_rng(0)
    drawn = least(fits[rng.integers(len(fits), size=(4999, len(fits)))].mean(axis=1))
    ends = None if len(fits) < 2 else tuple(float(end) for end in np.quantile(drawn, (0.025, 0.975)))
    return interval_effect(
        "λ of the fewest pieces that stand", float(least(fits.mean(axis=0)[None])[0]), ends, "", n=len(fits)
    )


def _collapse(key: str, draws: Draws, arms: list[str]) -> ClaimResult:
    """More pieces stand at λ 1 than at 0.5."""
    effects = draws.led_by(STANDING, arms[4], other=arms[2])
    return decided(key, effects, "higher", draws.equivalence(arms[4], STANDING, MARGIN, other=arms[2]))
