"""Verdicts with their uncertainty: one arm against the baseline, by metric, paired by prompt wherever it can be.

The unit of inference is the prompt, with its seeds inside, for one pair of checkpoints; with several training seeds
it is the trained model, because only models that were trained anew say anything of a method. `docs/statistics.md`
explains each choice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from eisbach.errors import UserError
from eisbach.statistics.effect_size import (
    Moments,
    crossed_moments,
    equivalence_p,
    hedges_g,
    mean_moments,
    pair_improvement,
    t_interval,
    unpaired_improvement,
    unvaried_share_equivalence_p,
    unvaried_share_interval,
)
from eisbach.statistics.paired import PairedCells, arm_values, pair_cells, pool_models
from eisbach.statistics.records import MetricInfo
from eisbach.statistics.resampling import (
    bca_interval,
    benjamini_hochberg,
    cluster_bootstrap,
    crossed_means,
    holm,
    jackknife_means,
    label_permutation_test,
    random_stream,
    sign_flip_test,
)
from eisbach.types import Record

Interval = tuple[float, float]
_Unit = Literal["auto", "trained model", "draw", "prompt"]
Verdict = Literal[
    "better", "worse", "higher", "lower", "no difference", "inconclusive", "too few", "not comparable",
    "nearer", "farther", "no nearer",
]  # fmt: skip

FEW_UNITS = 16
"""Below this many units the bootstrap interval is too narrow (docs/statistics.md): the t interval is the one shown."""

_MARGIN_SD = 0.5


@dataclass(frozen=True)
class Comparison:
    """One arm against the baseline by one metric; differences are arm minus baseline.

    Attributes
    ----------
    arm, baseline, metric : str
    unit : str
        'prompt', 'trained model', 'draw' or, for unpaired folders, 'clip'.
    n_units : int
        Units (pairs of them when `paired`); for unpaired arms the smaller side.
    n_clips : int
        Clips of the arm that were used.
    unmatched : int
        Clips of both arms that could not be used: no partner, or no value.
    paired : bool
    mean, baseline_mean, difference : float
        Means over units. NaN when there is nothing to compare.
    interval : (float, float) or None
        95% BCa cluster bootstrap of the difference; None with fewer than two units.
    t_interval : (float, float) or None
        95% t interval over units (over trained models and prompts together when the model is the unit).
    p, p_floor : float or None
        Two-sided permutation p value, and the smallest that so few units could have given.
    p_adjusted : float or None
        After correction (Holm over the primary metrics, Benjamini-Hochberg over the rest) when `adjust` was called.
    test : str
        How p was found.
    g : float or None
        Hedges g of the units' differences (unpaired: of the clips).
    p_improvement : float or None
        Share of matched pairs in which the arm is better (ties count half); for a metric without direction: higher.
    p_equivalence, margin : float or None
        TOST p value of 'differs by less than margin', and that margin.
    verdict : str
        'better' or 'worse' ('higher' or 'lower' where no direction was declared), 'no difference' (equivalence
        shown), 'inconclusive' (neither a difference nor its absence shown), 'too few' (no test possible) or 'not
        comparable' (`withhold`: the sides differ in something else that decides the measure). Of distances to a
        reference (`nearness`): 'nearer', 'farther' or 'no nearer' (neither shown).
    n_baseline_clips : int or None
        Clips of the baseline, where nothing pairs them with the arm's.
    shown_interval : (float, float) or None
        The interval to quote: the bootstrap's, or the t interval below `FEW_UNITS` units.
    """

    arm: str
    baseline: str
    metric: str
    unit: str
    n_units: int
    n_clips: int
    unmatched: int
    paired: bool
    mean: float
    baseline_mean: float
    difference: float
    interval: Interval | None = None
    t_interval: Interval | None = None
    p: float | None = None
    p_floor: float | None = None
    p_adjusted: float | None = None
    test: str = ""
    g: float | None = None
    p_improvement: float | None = None
    p_equivalence: float | None = None
    margin: float | None = None
    verdict: Verdict = "too few"
    n_baseline_clips: int | None = None
    shown_interval: Interval | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shown_interval", self.t_interval if self.n_units < FEW_UNITS else self.interval)

    @property
    def decisive_p(self) -> float | None:
        """The corrected p value where there is one, otherwise the raw one."""
        return self.p if self.p_adjusted is None else self.p_adjusted


def compare_arms(
    records: Sequence[Record],
    metric: str | MetricInfo,
    baseline: str,
    arm: str,
    *,
    unit: _Unit = "auto",
    seed: int = 0,
    n_resamples: int = 9_999,
    alpha: float = 0.05,
) -> Comparison:
    """`arm` against `baseline` by one metric, paired by (train_seed, prompt_id, seed).

    Parameters
    ----------
    metric : str or MetricInfo
        A column; with a `MetricInfo` the verdict knows which direction is better.
    unit : 'auto', 'trained model', 'draw' or 'prompt'
        'auto' takes the trained model when both arms have several training seeds; 'draw' is the same and pairs the
        models of one seed, where each seed drew a training set of its own; 'prompt' asks about these very checkpoints
        (their clips averaged by prompt) and says nothing of other trainings.
    seed : int
        Makes the resampling reproducible; metrics and arms get streams of their own.

    Raises
    ------
    UserError
        An arm or a metric that the records do not hold, or a unit that they cannot give.

    Examples
    --------
    Ten prompts, played by both arms:

    >>> rows = [
    ...     {"arm": arm, "prompt_id": f"p{n}", "seed": 0, "path": f"{arm}/{n}.flac", "level": n + gain + 0.1 * (n % 3)}
    ...     for arm, gain in (("plain", 0.0), ("new", 2.0))
    ...     for n in range(10)
    ... ]
    >>> found = compare_arms(rows, MetricInfo("level", "level", better="higher"), "plain", "new")
    >>> round(found.difference, 3), found.n_units, found.unit, found.verdict
    (2.0, 10, 'prompt', 'better')
    """
    info = metric if isinstance(metric, MetricInfo) else MetricInfo(metric, metric)
    cells = pair_cells(records, info.name, [baseline, arm], redrawn=unit == "draw")
    if unit == "prompt":
        cells = pool_models(cells)
    elif unit == "trained model" and len(cells.models) < 2:
        raise UserError("the unit 'trained model' needs at least two training seeds; use unit 'prompt'.")
    if not cells.values.size or cells.matched == 0:
        return _nothing(cells, info.name, baseline, arm)
    rng = random_stream(seed, info.name, baseline, arm)
    units = cells.unit_means()
    differences = units[1] - units[0]
    means = crossed_means(cells.values)
    result = Comparison(
        arm, baseline, info.name, cells.unit, len(differences), cells.matched, cells.unmatched, True,
        float(means[1]), float(means[0]), float(means[1] - means[0]),
        p_improvement=pair_improvement(cells.values[0], cells.values[1], info.better),
    )  # fmt: skip
    if result.n_units < 2:
        return result
    return _tested(result, cells, info, rng, n_resamples, alpha)


def _tested(
    result: Comparison, cells: PairedCells, info: MetricInfo, rng: np.random.Generator, n_resamples: int, alpha: float
) -> Comparison:
    """The comparison with p, intervals, effect size and verdict; the order of draws decides the numbers."""
    units = cells.unit_means()
    differences = units[1] - units[0]
    if cells.dealt:
        p, floor = label_permutation_test(units[0], units[1], rng)
        test = "permutation of trained models between the arms"
    else:
        p, floor = sign_flip_test(differences, rng)
        test = f"sign-flip permutation by {cells.unit}"
    replicates = cluster_bootstrap(cells.values, rng, n_resamples)
    left_out = jackknife_means(cells.values)
    interval = bca_interval(
        result.difference, replicates[:, 1] - replicates[:, 0], left_out[:, 1] - left_out[:, 0], 1 - alpha
    )
    margin = _margin(info, cells.values[0][np.isfinite(cells.values[0])])
    by_cell = cells.cell_means()[1] - cells.cell_means()[0]
    moments = crossed_moments(by_cell) if cells.unit == "trained model" else mean_moments(differences)
    result = replace(
        result, interval=interval, t_interval=t_interval(moments, 1 - alpha), p=p, p_floor=floor, test=test,
        g=hedges_g(differences), margin=margin, p_equivalence=equivalence_p(moments, margin),
    )  # fmt: skip
    result = _of_shares(result, info, moments, alpha)
    return replace(result, verdict=_verdict(result, info, alpha))


def compare_unpaired(
    records: Sequence[Record],
    metric: str | MetricInfo,
    baseline: str,
    arm: str,
    *,
    seed: int = 0,
    n_resamples: int = 9_999,
    alpha: float = 0.05,
) -> Comparison:
    """`arm` against `baseline` by one metric when nothing pairs their clips: every clip is a unit of its own.

    Permutation of labels, BCa bootstrap of both sides, Welch's t interval, Hedges g with the pooled deviation, and
    the share of all (arm, baseline) pairs of clips in which the arm is better.
    """
    info = metric if isinstance(metric, MetricInfo) else MetricInfo(metric, metric)
    sides = [np.array(list(arm_values(records, info.name, name).values())) for name in (baseline, arm)]
    base, other = sides
    rows = sum(row.get("arm") in (baseline, arm) for row in records)
    means = [float(side.mean()) if side.size else float("nan") for side in sides]
    result = Comparison(
        arm, baseline, info.name, "clip", min(len(base), len(other)), len(other), rows - len(base) - len(other), False,
        means[1], means[0], means[1] - means[0],
        p_improvement=unpaired_improvement(base, other, info.better), n_baseline_clips=len(base),
    )  # fmt: skip
    if result.n_units < 2:
        return result
    rng = random_stream(seed, info.name, baseline, arm)
    p, floor = label_permutation_test(base, other, rng)
    drawn = [side[rng.integers(0, len(side), size=(n_resamples, len(side)))].mean(axis=1) for side in sides]
    left_out = np.concatenate(
        [
            means[1] - (base.sum() - base) / (len(base) - 1),
            (other.sum() - other) / (len(other) - 1) - means[0],
        ]
    )
    margin = _margin(info, base)
    moments = mean_moments(other, base)
    result = replace(
        result, interval=bca_interval(result.difference, drawn[1] - drawn[0], left_out, 1 - alpha),
        t_interval=t_interval(moments, 1 - alpha), p=p, p_floor=floor, test="permutation of clips between the arms",
        g=hedges_g(other, base), margin=margin, p_equivalence=equivalence_p(moments, margin),
    )  # fmt: skip
    result = _of_shares(result, info, moments, alpha)
    return replace(result, verdict=_verdict(result, info, alpha))


def compare_all(
    records: Sequence[Record],
    metrics: Sequence[MetricInfo],
    baseline: str,
    arms: Iterable[str],
    *,
    paired: bool = True,
    unmatched: Collection[str] = (),
    unit: _Unit = "auto",
    seed: int = 0,
    n_resamples: int = 9_999,
    alpha: float = 0.05,
) -> list[Comparison]:
    """Every arm against the baseline by every metric, corrected for looking several times (`adjust`).

    Parameters
    ----------
    paired : bool
        Match clips by prompt and seed; False compares all arms as unmatched groups.
    unmatched : collection of str
        Arms that are compared as unmatched groups although the others are paired.
    """
    results = []
    for arm in arms:
        if arm == baseline:
            continue
        for info in metrics:
            options: dict[str, Any] = {"seed": seed, "n_resamples": n_resamples, "alpha": alpha}
            if paired and arm not in unmatched:
                results.append(compare_arms(records, info, baseline, arm, unit=unit, **options))
            else:
                results.append(compare_unpaired(records, info, baseline, arm, **options))
    return adjust(results, metrics, alpha=alpha)


def adjust(
    comparisons: Sequence[Comparison], metrics: Sequence[MetricInfo], *, alpha: float = 0.05
) -> list[Comparison]:
    """The comparisons with `p_adjusted` and the verdicts that follow from it.

    Within each arm, Holm over the declared primary metrics (the chance of any false 'difference' stays under alpha)
    and Benjamini-Hochberg over the rest (their expected share of false ones does).
    """
    info_of = {info.name: info for info in metrics}
    results = list(comparisons)
    groups: dict[tuple[str, bool], list[int]] = {}
    for index, comparison in enumerate(results):
        if comparison.p is not None:
            info = info_of.get(comparison.metric, MetricInfo(comparison.metric, comparison.metric))
            groups.setdefault((comparison.arm, info.primary), []).append(index)
    for (_, primary), members in groups.items():
        raw = [p for index in members if (p := results[index].p) is not None]
        for index, value in zip(members, (holm if primary else benjamini_hochberg)(raw), strict=True):
            changed = replace(results[index], p_adjusted=value)
            info = info_of.get(changed.metric, MetricInfo(changed.metric, changed.metric))
            results[index] = replace(changed, verdict=_verdict(changed, info, alpha))
    return results


def withhold(comparisons: Sequence[Comparison], arms: Collection[str]) -> list[Comparison]:
    """The comparisons, those of `arms` with the verdict 'not comparable'; their numbers stay."""
    return [replace(each, verdict="not comparable") if each.arm in arms else each for each in comparisons]


def _verdict(comparison: Comparison, info: MetricInfo, alpha: float) -> Verdict:
    p = comparison.decisive_p
    if p is None:
        return "too few"
    interval = comparison.shown_interval
    holds_zero = interval is not None and interval[0] <= 0 <= interval[1]
    if p < alpha and comparison.difference != 0 and not holds_zero:  # both the test and the interval have to say so
        up = comparison.difference > 0
        if info.better is None:
            return "higher" if up else "lower"
        if info.better == "nearer":
            return "farther" if up else "nearer"
        return "better" if up == (info.better == "higher") else "worse"
    if info.better == "nearer":
        return "no nearer"
    if comparison.p_equivalence is not None and comparison.p_equivalence < alpha:
        return "no difference"
    if comparison.t_interval == (0.0, 0.0):  # every unit came out equal to the last digit
        return "no difference"
    return "inconclusive"


def _of_shares(comparison: Comparison, info: MetricInfo, moments: Moments | None, alpha: float) -> Comparison:
    """What Student's t does not know of shares: their difference lies within -1 and 1, and units that all came out
    alike are few, not exact."""
    if not info.share or comparison.t_interval is None or moments is None:
        return comparison
    low, high = comparison.t_interval
    if moments.error == 0:
        low, high = unvaried_share_interval(moments.mean, comparison.n_units, 1 - alpha)
        same = unvaried_share_equivalence_p(moments.mean, comparison.n_units, comparison.margin)
        interval = (max(-1.0, low), min(1.0, high))  # resamples of equal units are equal: the bootstrap knows no better
        return replace(comparison, p_equivalence=same, interval=interval, t_interval=interval)
    return replace(comparison, t_interval=(max(-1.0, low), min(1.0, high)))


def _margin(info: MetricInfo, baseline_clips: np.ndarray) -> float | None:
    if info.margin is not None:
        return info.margin
    spread = float(np.std(baseline_clips, ddof=1)) if len(baseline_clips) > 1 else 0.0
    return _MARGIN_SD * spread if spread > 0 else None


def _nothing(cells: PairedCells, metric: str, baseline: str, arm: str) -> Comparison:
    nan = float("nan")
    return Comparison(arm, baseline, metric, cells.unit, 0, 0, cells.unmatched, True, nan, nan, nan)
