"""How near arms lie to a reference of real music, measure by measure, and whether one lies nearer than another.

The distance of an arm is the Wasserstein-1 distance between its clips' values and the reference's, in standard
deviations of the reference: a set that is like the reference but moved by one of its SDs is at distance 1. Of a yes or
no it is the share beyond the reference's own. Between rows of an embedding it is the kernel distance (unbiased MMD²).

**Small sets are never at distance 0**, so every distance is corrected: of a raw distance D with bootstrap replicates
D*, the corrected one is ``sqrt(2 D² - mean D*²)``, at least 0. For two draws of one law D* carries the sets' noise
twice where D carries it once, so that this is 0 on average; far from the reference it is D. `Distance.itself` states
what was corrected for: the raw reading of halves of the reference, at the arm's size.

*Nearer* is tested by dealing an arm's and the baseline's clips out anew (by prompt, trained model or clip, as in
`comparison`) with the reference held fixed: where the two are drawn alike, at most alpha of such tests say anything.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from eisbach.errors import UserError
from eisbach.statistics.comparison import Comparison, adjust
from eisbach.statistics.distance import Beyond, Kernel, Statistic, Wasserstein, corrected, tails
from eisbach.statistics.paired import PairedCells, metric_value, pair_cells
from eisbach.statistics.records import MetricInfo
from eisbach.statistics.resampling import chunk_sizes, cluster_weights, deals, random_stream
from eisbach.statistics.sets import KERNEL, Distance, Nearness, Spread
from eisbach.types import Record

_Deal = Literal["swap", "deal"]  # units change places in pairs, or are dealt out freely
_SPLITS = 200  # random halves of the reference
_LEAST = 4  # clips of a reference
_CELLS = 4_000_000  # values that resampling holds at once


def compare_to_reference(
    records: Sequence[Record],
    reference: Sequence[Record],
    metrics: Sequence[MetricInfo],
    arms: Sequence[str],
    *,
    label: str = "the reference",
    unmatched: Collection[str] = (),
    redrawn: bool = False,
    embeddings: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    seed: int = 0,
    n_resamples: int = 1_999,
    alpha: float = 0.05,
) -> Nearness:
    """Every arm's distance to the reference by every metric, and whether it is nearer than the first arm.

    Parameters
    ----------
    records, reference : sequence of Record
        The arms' clips, as `statistics.records` reads them; the reference's, with the same metric columns. Clips of the
        reference with one `unit` (excerpts of one file) are drawn together.
    metrics : sequence of MetricInfo
    arms : sequence of str
        The first is the baseline.
    unmatched : collection of str
        Arms whose clips nothing pairs with the baseline's.
    redrawn : bool
        Each training seed drew a training set of its own, so that the models of one seed are a pair.
    embeddings : mapping of str to mapping of str to row, or None
        By embedding, the row of each clip's path.

    Raises
    ------
    UserError
        A reference of fewer than four clips, or an arm that the records do not hold.

    Examples
    --------
    >>> rows = [
    ...     {"arm": arm, "prompt_id": f"p{n}", "seed": 0, "path": f"{arm}/{n}.flac", "level": n + gain}
    ...     for arm, gain in (("plain", 9.0), ("new", 1.0))
    ...     for n in range(10)
    ... ]
    >>> music = [{"path": f"{n}.flac", "level": float(n)} for n in range(10)]
    >>> near = compare_to_reference(rows, music, [MetricInfo("level", "level", primary=True)], ["plain", "new"])
    >>> round(near.distance("plain", "level").raw, 2), near.comparison("new", "level").verdict
    (2.97, 'nearer')
    """
    if len(reference) < _LEAST:
        raise UserError(
            f"the reference holds {len(reference)} clip{'' if len(reference) == 1 else 's'} that can be measured; give "
            f"at least {_LEAST}, better 16 and more."
        )
    infos, spreads, distances, comparisons = [], {}, [], []
    columns = [(info, None) for info in metrics]
    kernels = [(_kernel_info(name), rows) for name, rows in (embeddings or {}).items()]
    draws: dict[str, Any] = {"seed": seed, "n_resamples": n_resamples, "alpha": alpha}
    for info, rows in (*columns, *kernels):
        measured = _Measured(records, reference, info, rows, redrawn)
        if measured.clips < _LEAST:
            continue
        infos.append(replace(info, better="nearer"))
        if rows is None:
            spreads[info.name] = measured.spread()
        for arm in arms:
            if (own := measured.distance(arm, **draws)) is not None:
                distances.append(own)
        comparisons += [measured.compare(arms[0], arm, arm in unmatched, **draws) for arm in arms[1:]]
    near = Nearness(label, len(reference), infos, spreads, distances)
    return replace(near, comparisons=adjust([_settled(near, each) for each in comparisons], infos, alpha=alpha))


def _kernel_info(name: str) -> MetricInfo:
    return MetricInfo(
        KERNEL + name, f"kernel distance on {name}",
        meaning=f"How far the clips as a set lie from the reference in the embedding '{name}': unbiased MMD² with a "
        "Gaussian kernel; 0 for two draws of the same music.",
    )  # fmt: skip


def _settled(near: Nearness, comparison: Comparison) -> Comparison:
    """The comparison around the corrected distances that the page shows; the interval moves with them."""
    arm, base = (near.distance(name, comparison.metric) for name in (comparison.arm, comparison.baseline))
    if arm is None or base is None:
        return comparison
    difference = arm.value - base.value
    interval = comparison.interval
    if interval is not None:
        interval = (interval[0] + difference, interval[1] + difference)
    return replace(
        comparison, mean=arm.value, baseline_mean=base.value, difference=difference, interval=interval,
        t_interval=interval,
    )  # fmt: skip


class _Measured:
    """One measure of all records and of the reference."""

    def __init__(
        self, records: Sequence[Record], reference: Sequence[Record], info: MetricInfo,
        rows: Mapping[str, np.ndarray] | None, redrawn: bool,
    ) -> None:  # fmt: skip
        self.info, self._rows, self._name, self._redrawn = info, rows, info.name, redrawn
        if rows is None:
            self._records, values = list(records), [metric_value(row, info.name) for row in reference]
            self._theirs = np.array([value for value in values if value is not None])
        else:  # a clip's value is its place among the rows; the statistic looks them up
            paths = {path: index for index, path in enumerate(rows)}
            self._table = np.stack(list(rows.values())) if rows else np.zeros((0, 1))
            self._records = [{**row, self._name: paths.get(str(row["path"]))} for row in records]
            values = [None if (place := paths.get(str(row["path"]))) is None else float(place) for row in reference]
            self._theirs = self._table[[int(value) for value in values if value is not None]]
        units = [
            str(row.get("unit") or row["path"])
            for row, value in zip(reference, values, strict=True)
            if value is not None
        ]
        self._units = np.unique(units, return_inverse=True)[1] if units else np.zeros(0, dtype=int)
        self.clips = len(units)

    def spread(self) -> Spread:
        values = self._theirs
        low, median, high = (float(value) for value in np.quantile(values, [0.1, 0.5, 0.9]))
        return Spread(
            self._name, len(values), float(values.mean()), float(values.std(ddof=1)), low, median, high,
            [float(value) for value in values],
        )  # fmt: skip

    def distance(self, arm: str, *, seed: int, n_resamples: int, alpha: float) -> Distance | None:
        cells = self._cells([arm])
        if not cells.matched:
            return None
        values, weights = _flat(cells.values)
        statistic = self._statistic(values[0])
        raw = float(statistic(weights[None], np.ones((1, self.clips)))[0])
        rng = random_stream(seed, "nearness", self._name, arm)
        units = cells.values.shape[1] if cells.values.shape[1] > 1 else cells.values.shape[2]
        itself, usual = self._itself(cells.matched, units, random_stream(seed, "itself", self._name))
        if units < 2:
            return Distance(arm, self._name, raw, None, raw, itself, cells.matched)
        drawn, scales = [], []
        for own, theirs in self._resampled(cells.values, rng, n_resamples):
            drawn.append(statistic(own, theirs))
            scales.append(statistic.scale(theirs))
        replicates, yardsticks = np.concatenate(drawn), np.concatenate(scales)
        value, interval = corrected(raw, replicates, yardsticks, statistic.squares, tails(alpha, units))
        if not isinstance(statistic, Kernel):
            least = 0.0 if raw <= usual else max(0.0, interval[0])  # halves of the reference read as much
            value, interval = max(0.0, value), (least, max(0.0, interval[1]))
        return Distance(arm, self._name, value, interval, raw, itself, cells.matched)

    def compare(
        self, baseline: str, arm: str, unmatched: bool, *, seed: int, n_resamples: int, alpha: float
    ) -> Comparison:
        """Whether `arm` is nearer than the baseline; the interval is of the difference's deviations, around 0."""
        rng = random_stream(seed, "nearer", self._name, baseline, arm)
        sides = [self._cells([name]) for name in (baseline, arm)] if unmatched else [self._cells([baseline, arm])]
        nan = float("nan")
        unit = "clip" if unmatched else sides[0].unit
        result = Comparison(
            arm, baseline, self._name, unit, 0, sides[-1].matched, 0 if unmatched else sides[0].unmatched,
            not unmatched, nan, nan, nan,
        )  # fmt: skip
        if not all(side.matched for side in sides):
            return result
        blocks = [side.values[[0]] for side in sides] if unmatched else [sides[0].values[[0]], sides[0].values[[1]]]
        flat = [_flat(block) for block in blocks]
        statistic = self._statistic(np.concatenate([values[0] for values, _ in flat]))
        weights, units, groups = _dealt(blocks, flat, unmatched, sides[0])
        count = min(len(np.unique(own)) for own in units)
        result = replace(result, n_units=count)
        if count < 2:
            return result
        members, floor, exact = deals(groups, len(np.unique(units[0])), len(np.unique(units[1])), rng, n_resamples)
        places = np.concatenate([units[0], units[1] + (0 if groups == "swap" else len(np.unique(units[0])))])
        base_side = np.concatenate([np.zeros(len(units[0])), np.ones(len(units[1]))])
        spreads = self._dealt_differences(statistic, weights, members, places, base_side, groups)
        observed = self._dealt_differences(
            statistic, weights, _as_it_is(groups, units), places, base_side, groups
        )[0]  # fmt: skip
        hits = int(np.sum(np.abs(spreads) >= abs(observed) - 1e-10))
        p = hits / len(spreads) if exact else (hits + 1) / (len(spreads) + 1)
        drawn = self._drawn_differences(statistic, blocks, unmatched, rng, n_resamples)
        low, high = np.quantile(drawn - drawn.mean(), tails(alpha, count))
        return replace(
            result, interval=(float(low), float(high)), p=p, p_floor=floor,
            test=f"clips dealt out anew by {unit}, the reference held fixed",
        )  # fmt: skip

    def _cells(self, arms: list[str]) -> PairedCells:
        return pair_cells(self._records, self._name, arms, redrawn=self._redrawn)

    def _statistic(self, values: np.ndarray) -> Statistic:
        if self._rows is not None:
            return Kernel(self._table[values.astype(int)], self._theirs)
        return (Beyond if self.info.share else Wasserstein)(values, self._theirs)

    def _itself(self, clips: int, units: int, rng: np.random.Generator) -> tuple[float, float]:
        """The mean raw distance of random halves of the reference, restated at `clips` clips beside all of it; and what
        19 of 20 halves stay under, at `units` clips."""
        make = Kernel if self._rows is not None else Beyond if self.info.share else Wasserstein
        places = rng.permuted(np.broadcast_to(np.arange(self.clips), (_SPLITS, self.clips)), axis=1)
        first = (places < self.clips // 2).astype(float)
        readings = make(self._theirs, self._theirs)(first, 1.0 - first)
        if self._rows is not None:  # without bias at any size
            return float(np.mean(readings)), float(np.quantile(readings, 0.95))
        scales = [math.sqrt((1.0 / size + 1.0 / self.clips) * self.clips / 4.0) for size in (clips, units)]
        return float(np.mean(readings)) * scales[0], float(np.quantile(readings, 0.95)) * scales[1]

    def _resampled(self, values: np.ndarray, rng: np.random.Generator, n_resamples: int) -> Any:
        """Blocks of bootstrap weights over an arm's clips and over the reference's units."""
        present = np.isfinite(values[0])
        for size in chunk_sizes(n_resamples, present.sum() + self.clips):
            yield cluster_weights(present, rng, size)[:, present.reshape(-1)], self._reference_weights(rng, size)

    def _reference_weights(self, rng: np.random.Generator, size: int) -> np.ndarray:
        count = int(self._units.max()) + 1
        drawn = rng.multinomial(count, np.full(count, 1.0 / count), size=size)
        weights: np.ndarray = drawn[:, self._units].astype(float)
        return weights

    def _drawn_differences(
        self, statistic: Statistic, blocks: Sequence[np.ndarray], unmatched: bool, rng: np.random.Generator,
        n_resamples: int,
    ) -> np.ndarray:  # fmt: skip
        """Bootstrap replicates of the arm's distance less the baseline's; matched arms share every draw."""
        present = [np.isfinite(block[0]) for block in blocks]
        sizes = [int(each.sum()) for each in present]
        drawn = []
        for size in chunk_sizes(n_resamples, sum(sizes) + self.clips):
            own = [cluster_weights(present[0], rng, size)[:, present[0].reshape(-1)]]
            own.append(cluster_weights(present[1], rng, size)[:, present[1].reshape(-1)] if unmatched else own[0])
            theirs = np.ones((1, self.clips))  # held fixed, as in the test
            empty = [np.zeros((size, count)) for count in sizes]
            base = statistic(np.concatenate([own[0], empty[1]], axis=1), theirs)
            arm = statistic(np.concatenate([empty[0], own[1]], axis=1), theirs)
            drawn.append(arm - base)
        return np.concatenate(drawn)

    def _dealt_differences(
        self, statistic: Statistic, weights: np.ndarray, members: np.ndarray, places: np.ndarray,
        base_side: np.ndarray, groups: _Deal,
    ) -> np.ndarray:  # fmt: skip
        """The difference of distances for every deal of the units between the two arms."""
        theirs = np.ones((1, self.clips))
        out = []
        step = max(1, _CELLS // (len(places) + self.clips))
        for first in range(0, len(members), step):
            block = members[first : first + step][:, places].astype(float)
            in_arm = np.where(base_side[None] > 0, 1.0 - block, block) if groups == "swap" else block
            out.append(statistic(weights * in_arm, theirs) - statistic(weights * (1.0 - in_arm), theirs))
        return np.concatenate(out)


def _flat(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells [shape=(K, R, P, S)] as values [shape=(K, n)] with weights [shape=(n,)] that let every cell count alike."""
    present = np.isfinite(values[0])
    share = 1.0 / np.maximum(present.sum(axis=-1, keepdims=True), 1)
    weights = np.broadcast_to(share, present.shape)[present]
    return values[:, present], weights


def _dealt(
    blocks: Sequence[np.ndarray], flat: Sequence[tuple[np.ndarray, np.ndarray]], unmatched: bool, cells: PairedCells
) -> tuple[np.ndarray, list[np.ndarray], _Deal]:
    """Clips' weights, the unit of each (by arm), and whether units swap in pairs or are dealt out freely."""
    weights = np.concatenate([own for _, own in flat])
    if unmatched:
        return weights, [np.arange(len(own)) for _, own in flat], "deal"
    present = np.isfinite(blocks[0][0])
    models, prompts, _ = np.nonzero(present)
    by_model = len(cells.models) > 1
    units = np.unique(models if by_model else prompts, return_inverse=True)[1]
    return weights, [units, units], "deal" if cells.dealt else "swap"


def _as_it_is(groups: _Deal, units: Sequence[np.ndarray]) -> np.ndarray:
    """The deal that was observed, as one row of `resampling.deals`."""
    first, second = (len(np.unique(own)) for own in units)
    if groups == "swap":
        return np.zeros((1, first), dtype=bool)
    return np.concatenate([np.zeros(first, dtype=bool), np.ones(second, dtype=bool)])[None]
