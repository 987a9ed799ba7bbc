"""Does a weighting lower a toy network's error at equal steps? Ratios over training seeds, paired, with intervals.

Declared before looking, from the ERD paper's claim: the ERD arm is *lower* than each baseline in three primary measures

- ``excess``: E|f - E[y | x_t]|^2 over the Bayes floor, unweighted, averaged over t uniform, in the target's own unit;
- ``likelihood_gap``: the same errors restated in the noise and integrated over log-SNR, in nats, whatever target was
  trained;
- ``sliced_wasserstein``: distance of generated points to the data.

The unit is the trained network. Arms of one seed share initial weights and every draw, so seeds are pairs; compared are
differences of logarithms, shown as ratios. p comes from the exact sign-flip test (two-sided: harm is reported as well),
Holm's correction runs over the targets and baselines of one path, measure and arm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from eisbach.errors import UserError
from eisbach.statistics.effect_size import mean_moments, t_interval
from eisbach.statistics.resampling import holm, sign_flip_test

PRIMARY = ("excess", "likelihood_gap", "sliced_wasserstein")
BANDS = ("excess_0_0.2", "excess_0.2_0.4", "excess_0.4_0.6", "excess_0.6_0.8", "excess_0.8_1")
EXTRA = ("coverage_error", "outliers")

Outcome = Literal["lower", "higher", "identical", "inconclusive", "too few"]


@dataclass(frozen=True)
class Ratio:
    """One arm against one baseline, one path, one target, one measure.

    Attributes
    ----------
    path, target, measure, arm, baseline : str
    seeds : int
        Pairs of trained networks.
    mean, baseline_mean : float
        Geometric means.
    ratio : float
        exp of the mean difference of logarithms; below 1 the arm is better.
    interval : (float, float) or None
        95% t interval of the ratio over seeds.
    wins : int
        Seeds in which the arm is lower.
    p, p_adjusted : float or None
        Sign-flip test, raw and after Holm's correction; None where it was not tested (bands of noise level).
    outcome : {"lower", "higher", "identical", "inconclusive", "too few"}
        "identical": the two weights are one function there, so one training stands under both names.
    """

    path: str
    target: str
    measure: str
    arm: str
    baseline: str
    seeds: int
    mean: float
    baseline_mean: float
    ratio: float
    interval: tuple[float, float] | None
    wins: int
    p: float | None
    p_adjusted: float | None
    outcome: Outcome

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN as None."""
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in asdict(self).items()
        }


def compare_weightings(
    rows: Sequence[Mapping[str, Any]],
    arms: Sequence[str],
    baselines: Sequence[str],
    *,
    measures: Sequence[str] = PRIMARY,
    bands: Sequence[str] = BANDS,
    alpha: float = 0.05,
) -> list[Ratio]:
    """Every arm against every baseline, by path, target and measure.

    Parameters
    ----------
    rows : sequence of mapping
        One a trained network: path, target, arm, seed, same_as and the measures (None where a network diverged).
    measures : sequence of str
        Tested and corrected.
    bands : sequence of str
        Shown with intervals, not tested.

    Raises
    ------
    UserError
        An arm or baseline that the rows do not hold.
    """
    known = {str(row["arm"]) for row in rows}
    for name in [*arms, *baselines]:
        if name not in known:
            raise UserError(f"the rows hold no arm '{name}'; they hold {', '.join(sorted(known)) or 'none'}.")
    cells = list(dict.fromkeys((str(row["path"]), str(row["target"])) for row in rows))
    ratios: list[Ratio] = []
    for arm in arms:
        for measure in (*measures, *bands):
            for path, target in cells:
                for baseline in baselines:
                    if baseline != arm:
                        ratios.append(_compare(rows, path, target, measure, arm, baseline, measure in measures))
    return _correct(ratios, alpha)


def _compare(
    rows: Sequence[Mapping[str, Any]], path: str, target: str, measure: str, arm: str, baseline: str, tested: bool
) -> Ratio:
    here = [row for row in rows if row["path"] == path and row["target"] == target]
    sides: dict[str, dict[Any, float]] = {}
    alias: dict[str, Any] = {}
    for name in (arm, baseline):
        own = [row for row in here if row["arm"] == name]
        alias[name] = own[0]["same_as"] if own else name
        sides[name] = {
            row["seed"]: float(row[measure]) for row in own if row.get(measure) is not None and row[measure] > 0
        }
    seeds = sorted(sides[arm].keys() & sides[baseline].keys())
    first, second = (np.log([sides[name][seed] for seed in seeds]) for name in (arm, baseline))
    difference = first - second
    outcome: Outcome = "inconclusive"
    interval, p = None, None
    if alias[arm] == alias[baseline]:
        outcome = "identical"
    elif len(seeds) < 2:
        outcome = "too few"
    else:
        ends = t_interval(mean_moments(difference), 0.95)
        interval = None if ends is None else (math.exp(ends[0]), math.exp(ends[1]))
        if tested:
            p = sign_flip_test(difference, np.random.default_rng(0))[0]
    mean, base = (math.exp(side.mean()) if seeds else math.nan for side in (first, second))
    wins = int((difference < 0).sum())
    return Ratio(
        path, target, measure, arm, baseline, len(seeds), mean, base, mean / base, interval, wins, p, None, outcome
    )


def _correct(ratios: list[Ratio], alpha: float) -> list[Ratio]:
    groups: dict[tuple[str, str, str], list[int]] = {}
    for index, ratio in enumerate(ratios):
        if ratio.p is not None:
            groups.setdefault((ratio.path, ratio.measure, ratio.arm), []).append(index)
    for members in groups.values():
        for i, value in zip(members, holm([ratios[i].p or 0.0 for i in members]), strict=True):
            outcome: Outcome = "inconclusive"
            if value < alpha:
                outcome = "lower" if ratios[i].ratio < 1 else "higher"
            ratios[i] = replace(ratios[i], p_adjusted=value, outcome=outcome)
    return ratios


def tally(ratios: Sequence[Ratio], arm: str, measure: str, baseline: str | None = None) -> dict[str, int]:
    """How often the arm came out lower, higher, identical or unclear, over paths, targets and baselines."""
    chosen = [
        ratio
        for ratio in ratios
        if ratio.arm == arm and ratio.measure == measure and baseline in (None, ratio.baseline)
    ]
    counts = dict.fromkeys(("lower", "higher", "identical", "inconclusive", "too few"), 0)
    for ratio in chosen:
        counts[ratio.outcome] += 1
    return counts


def arm_means(rows: Sequence[Mapping[str, Any]], measures: Sequence[str]) -> list[dict[str, Any]]:
    """Mean over seeds of each measure by path, target and arm, with the number of seeds that have it."""
    keys = list(dict.fromkeys((row["path"], row["target"], row["arm"]) for row in rows))
    table = []
    for path, target, arm in keys:
        own = [row for row in rows if (row["path"], row["target"], row["arm"]) == (path, target, arm)]
        entry: dict[str, Any] = {"path": path, "target": target, "arm": arm, "seeds": len(own)}
        for measure in measures:
            values = [float(row[measure]) for row in own if row.get(measure) is not None]
            entry[measure] = float(np.mean(values)) if values else None
        table.append(entry)
    return table
