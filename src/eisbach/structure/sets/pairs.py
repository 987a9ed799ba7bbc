"""Distances between two sets of embedded clips, as rows with intervals and p values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from eisbach.errors import UserError
from eisbach.structure.sets import distances
from eisbach.structure.sets.intervals import jackknife, relabelling_p_value
from eisbach.structure.sets.table import SET_METRICS, SetRow, make_row

_Statistic = Callable[[np.ndarray, np.ndarray], float]
_SUBSETS = 10  # draws that bring a larger set to the size of the smaller
_FRECHET_CLIPS = 10  # clips a dimension under which covariances are shrunk
_MAX_GROUPS = 24


def distance_rows(
    first: np.ndarray, second: np.ndarray, units: Sequence[str], embedding: str, names: Sequence[str], *,
    k: int, level: float, n_permutations: int, seed: int, notes: list[str],
) -> list[SetRow]:  # fmt: skip
    """One row a distance; what cannot be computed is left out and said in `notes`.

    Parameters
    ----------
    first, second : np.ndarray [shape=(n, d) and (m, d)]
        Finite embeddings; the first is the reference of precision, recall, density and coverage.
    units : sequence of str [shape=(n + m,)]
        The unit of every clip of both sets; a prompt that both share is one unit.
    """
    pooled = np.concatenate([first, second])
    side = np.arange(len(pooled)) < len(first)
    if len(first) != len(second):
        notes.append(
            f"the sets hold {len(first)} and {len(second)} clips; distances that depend on the size are means over "
            f"{_SUBSETS} equal-size subsets."
        )
    rng = np.random.default_rng([seed, 1])
    unit_name = "prompt" if len(set(units)) < len(pooled) else "clip"
    rows = []
    for metric, statistic in _statistics(pooled, side, embedding, k, seed, notes).items():
        about = SET_METRICS[metric]
        try:
            statistic(side, ~side)
        except UserError as error:
            notes.append(f"{embedding}: no {about.label.lower()}: {error}")
            continue
        estimate = jackknife(
            _without(statistic, side), units, strata=side.tolist(), unit_name=unit_name, level=level,
            bounds=about.range,
            max_groups=_MAX_GROUPS,
        )  # fmt: skip
        p = reference = None
        if n_permutations and metric in ("frechet", "kernel_gaussian", "kernel_polynomial"):
            p, reference = relabelling_p_value(_of_labels(statistic), side, units, rng, n_permutations)
        rows.append(make_row(metric, estimate, f"{names[0]} vs {names[1]}", embedding, p, reference))
    return rows


def _statistics(
    pooled: np.ndarray, side: np.ndarray, embedding: str, k: int, seed: int, notes: list[str]
) -> dict[str, _Statistic]:
    # one shift and one factor for both sets: what a polynomial kernel needs, and no distance between items notices
    centred = pooled - pooled.mean(axis=0)
    spread = float(np.sqrt(np.mean(centred**2)))
    scaled = centred / spread if spread > 0.0 else centred
    bandwidth = distances.median_distance(pooled) or None
    enough = _FRECHET_CLIPS * pooled.shape[1]
    shrink = min(side.sum(), (~side).sum()) < enough
    if shrink:
        notes.append(
            f"Fréchet distances on {embedding} use shrunk covariances (fewer than {enough} clips a set) and are biased "
            "upward: read them beside their reference."
        )
    equal = _equal_sizes(pooled, seed)
    return {
        "frechet": equal(lambda x, y: distances.frechet_distance(x, y, shrink=shrink)),
        "kernel_gaussian": _masked(pooled, lambda x, y: distances.kernel_distance(x, y, bandwidth=bandwidth)),
        "kernel_polynomial": _masked(scaled, lambda x, y: distances.kernel_distance(x, y, "polynomial")),
        "precision": equal(lambda x, y: distances.precision_recall(x, y, k).precision),
        "recall": equal(lambda x, y: distances.precision_recall(x, y, k).recall),
        "density": equal(lambda x, y: distances.density_coverage(x, y, k).density),
        "coverage": equal(lambda x, y: distances.density_coverage(x, y, k).coverage),
    }


def _masked(rows: np.ndarray, function: _Statistic) -> _Statistic:
    return lambda left, right: function(rows[left], rows[right])


def _equal_sizes(rows: np.ndarray, seed: int) -> Callable[[_Statistic], _Statistic]:
    """Turns a function of two arrays into one of two masks that always sees sets of equal size."""

    def wrap(function: _Statistic) -> _Statistic:
        def statistic(left: np.ndarray, right: np.ndarray) -> float:
            x, y = rows[left], rows[right]
            if len(x) == len(y):
                return function(x, y)
            size, rng = min(len(x), len(y)), np.random.default_rng([seed, 2])
            draws = [
                function(x[rng.choice(len(x), size, replace=False)], y[rng.choice(len(y), size, replace=False)])
                for _ in range(_SUBSETS)
            ]
            return float(np.mean(draws))

        return statistic

    return wrap


def _without(function: _Statistic, side: np.ndarray) -> Callable[[np.ndarray], float]:
    def statistic(keep: np.ndarray) -> float:
        try:
            return function(side & keep, ~side & keep)
        except UserError:  # too few are left without this unit; the jackknife counts it
            return math.nan

    return statistic


def _of_labels(function: _Statistic) -> Callable[[np.ndarray], float]:
    return lambda left: function(left, ~left)
