"""Inter-sample differentiation: how far clips lie from one another, and whether prompts or seeds make the difference.

Conventions: a clip is a row of an embedding; the distance of two clips is the root of the mean squared difference over
dimensions, so that for textures it is in dB. *Distance-ICC*: with W the mean squared distance of clips of one prompt
(averaged over prompts) and B that of clips of different prompts (averaged over pairs of prompts), ``1 - W / B``. In a
one-way model with variance between and within prompts, W = 2 within and B = 2 (between + within), so the ratio
estimates between / (between + within): 1 = only the prompt decides, 0 = prompts do not matter, negative = by chance, at
most slightly. W and B are unbiased at any number of seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from eisbach.errors import UserError
from eisbach.structure.sets.alignment import takes_of
from eisbach.structure.sets.distances import as_rows
from eisbach.structure.sets.intervals import Estimate, jackknife

RANGE = (-math.inf, 1.0)


def mean_distance(rows: np.ndarray, prompts: Sequence[object] | None = None, *, level: float = 0.95) -> Estimate:
    """Root mean squared distance between clips, in units of the embedding, >= 0.

    Parameters
    ----------
    rows : np.ndarray [shape=(n, d)]
        At least two clips.
    prompts : sequence or None
        The prompt of every clip: only clips of different prompts are compared, and the interval is over prompts. None:
        all clips, and the interval is over clips.

    Raises
    ------
    UserError
        Fewer than two clips or prompts, non-finite values.
    """
    rows = as_rows(rows, "given", 2)
    units = list(range(len(rows))) if prompts is None else _checked(prompts, len(rows))
    table = _Table(rows, units)
    return jackknife(
        lambda keep: math.sqrt(table.between(keep)),
        units, unit_name="clip" if prompts is None else "prompt", level=level, bounds=(0.0, math.inf),
    )  # fmt: skip


def distance_icc(rows: np.ndarray, prompts: Sequence[object], *, level: float = 0.95) -> Estimate:
    """Share of the squared distance between clips that prompts account for, at most 1; interval over prompts.

    Raises
    ------
    UserError
        Fewer than two prompts, no prompt with two seeds, non-finite values.
    """
    rows = as_rows(rows, "given", 2)
    units = _checked(prompts, len(rows))
    takes_of(units)
    table = _Table(rows, units)

    def icc(keep: np.ndarray) -> float:
        within, between = table.within(keep), table.between(keep)
        return 1.0 - within / between if between > 0.0 else math.nan

    estimate = jackknife(icc, units, unit_name="prompt", level=level, bounds=RANGE)
    if math.isnan(estimate.value):
        return Estimate(
            estimate.value, estimate.low, estimate.high, estimate.n_units, estimate.unit, "all clips are identical"
        )
    return estimate


def prompt_iccs(rows: np.ndarray, prompts: Sequence[object]) -> dict[object, float]:
    """Of every prompt with at least two seeds, 1 - W / B with its own W and the B of all prompts: `distance_icc` is
    their mean. NaN where all clips are identical; errors as there."""
    rows = as_rows(rows, "given", 2)
    units = _checked(prompts, len(rows))
    table = _Table(rows, units)
    between = table.between(np.ones(len(rows), dtype=bool))
    values = {}
    for prompt, takes in takes_of(units).items():
        own = np.zeros(len(rows), dtype=bool)
        own[takes] = True
        values[prompt] = 1.0 - table.within(own) / between if between > 0.0 else math.nan
    return values


def _checked(prompts: Sequence[object], n: int) -> list[object]:
    if len(prompts) != n:
        raise UserError(f"{n} clips came with {len(prompts)} prompts; give one prompt a clip.")
    if any(prompt is None for prompt in prompts):
        raise UserError("some clips name no prompt; comparing prompts needs one for every clip.")
    if len(set(prompts)) < 2:
        raise UserError(f"all {n} clips belong to one prompt; comparing prompts needs at least two.")
    return list(prompts)


class _Table:
    """Mean squared distances between and within units, from each unit's sums: no clip x clip matrix is held."""

    def __init__(self, rows: np.ndarray, units: Sequence[object]) -> None:
        order = list(dict.fromkeys(units))
        self._unit = np.array([order.index(unit) for unit in units])
        centred = rows - rows.mean(axis=0)
        indicator = np.eye(len(order))[self._unit]
        self._count = indicator.sum(axis=0)
        self._mean = (indicator.T @ centred) / self._count[:, None]
        spread = np.einsum("ij,ij->i", centred, centred)
        self._square = (indicator.T @ spread) / self._count
        self._d = rows.shape[1]

    def _kept(self, keep: np.ndarray) -> np.ndarray:
        return np.unique(self._unit[keep])

    def between(self, keep: np.ndarray) -> float:
        """Over pairs of different kept units, each pair of units weighing alike."""
        kept = self._kept(keep)
        if len(kept) < 2:
            return math.nan
        mean, square, k = self._mean[kept], self._square[kept], len(kept)
        total = mean.sum(axis=0)
        cross = float(total @ total - np.sum(mean**2))  # sum over i != j of mean_i . mean_j
        return max(0.0, 2.0 * (float(square.sum()) * (k - 1) - cross) / (k * (k - 1))) / self._d

    def within(self, keep: np.ndarray) -> float:
        """Over pairs of items of one unit, averaged over the kept units with at least two."""
        kept = self._kept(keep)
        kept = kept[self._count[kept] > 1]
        if len(kept) == 0:
            return math.nan
        n = self._count[kept]
        variance = (self._square[kept] - np.sum(self._mean[kept] ** 2, axis=1)) * n / (n - 1)
        return float(np.maximum(2.0 * variance, 0.0).mean()) / self._d
