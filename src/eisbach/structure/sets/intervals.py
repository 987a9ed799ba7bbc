"""Intervals for statistics of sets, by deleting one unit at a time.

A bootstrap draws items twice; an item's twin lies at distance zero, which ruins nearest-neighbour measures and biases
kernel sums. The delete-one jackknife (Tukey 1958; Efron & Stein 1981) never repeats an item, needs no random numbers,
and deletes whole units: a prompt with all its seeds where there are prompts, otherwise a clip. The interval is ``value
+- t * se``, with as many degrees of freedom as units less strata. It covers the value expected *at this set size*: it
does not mend a bias of small sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from eisbach.errors import UserError

_EXACT = 64
"""Up to this many exchanges of labels are all tried rather than drawn."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval.

    Attributes
    ----------
    value : float
        NaN where it is undefined.
    low, high : float
        NaN with fewer than two units.
    n_units : int
        Independent units that the interval rests on.
    unit : str
        What they are: "prompt", "clip", "generation" …
    note : str
        What a reader has to know, or "".
    """

    value: float
    low: float
    high: float
    n_units: int
    unit: str
    note: str = ""


def jackknife(
    statistic: Callable[[np.ndarray], float],
    units: Sequence[object],
    *,
    strata: Sequence[object] | None = None,
    unit_name: str = "clip",
    level: float = 0.95,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    max_groups: int = 40,
) -> Estimate:
    """A statistic of items with its delete-one-unit interval.

    Parameters
    ----------
    statistic : callable (keep: np.ndarray of bool [shape=(items,)]) -> float
        Called once with every item and once a unit without its items; NaN where undefined.
    units : sequence [shape=(items,)]
        The unit of every item; items of one unit are deleted together.
    strata : sequence [shape=(items,)] or None
        Sets that were sampled independently (A and B): their variances are added. A unit that reaches into several
        strata counts in the first.
    level : float
        Coverage aimed at, inside (0, 1).
    bounds : (float, float)
        The statistic's range; the interval is cut to it.
    max_groups : int
        More units than this a stratum are dealt in turn into as many groups, which bounds the number of evaluations.

    Raises
    ------
    UserError
        No item, or a level outside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise UserError(f"the level of an interval must lie between 0 and 1, not {level}.")
    if not len(units):
        raise UserError("there is no item to compute an interval from.")
    home: dict[object, object] = {}
    for unit, stratum in zip(units, strata if strata is not None else [0] * len(units), strict=True):
        home.setdefault(unit, stratum)
    value = float(statistic(np.ones(len(units), dtype=bool)))
    variance, freedom, undefined = 0.0, 0, 0
    for stratum in dict.fromkeys(home.values()):
        without = _deletions(statistic, units, [unit for unit in home if home[unit] == stratum], max_groups)
        undefined += int(np.isnan(without).sum())
        without = without[np.isfinite(without)]
        if len(without) >= 2:
            variance += (len(without) - 1) / len(without) * float(np.sum((without - without.mean()) ** 2))
            freedom += len(without) - 1
    if freedom == 0 or not math.isfinite(value):
        note = "" if len(home) > 1 else f"one {unit_name}: no interval"
        return Estimate(value, math.nan, math.nan, len(home), unit_name, note)
    half = t_quantile(0.5 + level / 2.0, freedom) * math.sqrt(variance)
    low, high = max(bounds[0], value - half), min(bounds[1], value + half)
    note = f"undefined without {undefined} of the units" if undefined else ""
    return Estimate(value, low, high, len(home), unit_name, note)


def _deletions(
    statistic: Callable[[np.ndarray], float], units: Sequence[object], own: Sequence[object], max_groups: int
) -> np.ndarray:
    """The statistic without each unit of a stratum (or each group of units) in turn; empty where there is one only."""
    count = min(len(own), max_groups)
    if count < 2:
        return np.zeros(0)
    group = {unit: index % count for index, unit in enumerate(own)}
    member = np.array([group.get(unit, -1) for unit in units])
    return np.array([statistic(member != index) for index in range(count)])


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


def relabelling_p_value(
    statistic: Callable[[np.ndarray], float],
    in_first: np.ndarray,
    units: Sequence[object],
    rng: np.random.Generator,
    n_permutations: int = 199,
) -> tuple[float, float]:
    """One-sided p value of a distance between two sets, and its median under exchanged labels: what no difference
    reads.

    A unit (prompt) with items in both sets has its two sides swapped or not; units of one set only are dealt out anew,
    whole. p = (1 + exceedances) / (1 + permutations). With up to six shared prompts every exchange is tried; n prompts
    allow no p under 2 / 2^n.

    Parameters
    ----------
    statistic : callable (in_first: np.ndarray of bool [shape=(items,)]) -> float
    in_first : np.ndarray of bool [shape=(items,)]
        Which items belong to the first set.
    """
    observed = statistic(in_first)
    labels = {unit: index for index, unit in enumerate(dict.fromkeys(units))}
    code = np.array([labels[unit] for unit in units])
    has_first = np.bincount(code[in_first], minlength=len(labels)) > 0
    has_second = np.bincount(code[~in_first], minlength=len(labels)) > 0
    both = has_first & has_second
    if both.all() and 2 ** len(labels) <= max(
        n_permutations, _EXACT
    ):  # few prompts: every exchange, the observed one included
        flips = np.arange(2 ** len(labels))[:, None] >> np.arange(len(labels)) & 1
        values = np.array([statistic(in_first ^ flip.astype(bool)[code]) for flip in flips])
        return float(np.mean(values >= observed - 1e-12 * abs(observed))), float(np.median(values))
    single = np.flatnonzero(~both)
    drawn = []
    for _ in range(n_permutations):
        flipped = both & (rng.random(len(labels)) < 0.5)
        dealt = has_first.copy()
        dealt[single] = rng.permutation(has_first[single])
        drawn.append(statistic(np.where(both[code], in_first ^ flipped[code], dealt[code])))
    exceed = sum(value >= observed - 1e-12 * abs(observed) for value in drawn)
    return (1 + exceed) / (1 + n_permutations), float(np.median(drawn))
