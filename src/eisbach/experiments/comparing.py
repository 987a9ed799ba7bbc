"""Records of analysed clips as sets to compare: what differs, by how much, and what so few clips can show."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from eisbach.errors import UserError
from eisbach.experiments.conditions import condition_notes, duplicate_notes, length_faults, power_notes
from eisbach.experiments.matching import AUTO, match_sets
from eisbach.experiments.measures import known_metrics
from eisbach.experiments.reference import Reference, beside_reference
from eisbach.experiments.sets import short_names
from eisbach.statistics.comparison import Comparison, withhold
from eisbach.statistics.metric_info import MetricInfo, choose_metrics
from eisbach.statistics.records import validate_records
from eisbach.statistics.results import ArmSummary, Nearness, Results, evaluate, plain_json, summarise_arm
from eisbach.structure.metrics import METRICS
from eisbach.types import Record

_GATHERED = 20_000_000  # values that the bootstrap of unmatched sets may hold at once


@dataclass(frozen=True)
class Sets:
    """Sets of clips and what the statistics say about them.

    Attributes
    ----------
    names : list of str
        What the sets are called; the first is the reference.
    records : list of Record
        With `arm` (the set's name), `prompt_id`, `seed` and `train_seed` as the statistics read them; the analysis' own
        `id`, `group` and labels beside them.
    metrics, printed : list of MetricInfo
        What is compared; `printed` are the paper's own quantities that ground truth contradicts.
    summaries : dict of (set, metric) to ArmSummary
    spreads : dict of (set, metric) to float or None
        Standard deviation over clips; None for fewer than two.
    results : Results or None
        None for a single set.
    how : str
        One or two sentences on how clips were matched and what counts as one.
    notes : list of str
        What a reader must know before trusting a difference.
    by : str
        What matched the clips: 'prompt', 'name', 'none' or labels.
    refused : dict of str to str
        Sets that get no verdict, and why.
    nearness : Nearness or None
        How near each set lies to a reference, where one was given; it then decides in place of `results`.
    """

    names: list[str]
    records: list[Record]
    metrics: list[MetricInfo]
    printed: list[MetricInfo]
    summaries: dict[tuple[str, str], ArmSummary]
    spreads: dict[tuple[str, str], float | None]
    results: Results | None
    how: str
    notes: list[str]
    by: str = "none"
    refused: dict[str, str] = field(default_factory=dict)
    nearness: Nearness | None = None

    @property
    def paired(self) -> bool:
        """Whether any set was matched with the reference clip by clip."""
        return self.results is not None and self.results.paired

    @property
    def primary(self) -> list[MetricInfo]:
        """The measures that decide; the first of all where none was declared."""
        return [info for info in self.metrics if info.primary] or self.metrics[:1]

    def comparison(self, name: str, metric: str) -> Comparison | None:
        """A set against the reference by one metric."""
        return None if self.results is None else self.results.comparison(name, metric)

    def clips(self, name: str) -> int:
        """How many clips a set has."""
        return sum(row["arm"] == name for row in self.records)

    def to_json(self) -> dict[str, Any]:
        """Plain values: the sets, their means, and every comparison with its interval, effect size and p."""
        means = {
            name: {
                info.name: {
                    "mean": _number(self.summaries[name, info.name].mean),
                    "sd": self.spreads[name, info.name],
                    "n": self.summaries[name, info.name].n_clips,
                }
                for info in (*self.metrics, *self.printed)
            }
            for name in self.names
        }
        printed = {info.name: METRICS[info.name].contradicted_by for info in self.printed}
        return {
            "sets": {name: self.clips(name) for name in self.names},
            "reference": self.names[0],
            "matched_by": self.by,
            "matching": self.how,
            "refused": self.refused,
            "notes": self.notes,
            "means": means,
            "contradicted_by_ground_truth": printed,
            "statistics": None if self.results is None else self.results.to_json(),
            "nearness": None if self.nearness is None else plain_json(self.nearness.to_json()),
        }


def compare_sets(
    records: Sequence[Record],
    *,
    pair: str = AUTO,
    baseline: str | None = None,
    oracle: str | None = None,
    metrics: Sequence[str] = (),
    primary: Sequence[str] | Mapping[str, Literal["higher", "lower"] | None] = (),
    names: Mapping[str, str] | None = None,
    side_by_side: bool = False,
    reference: Reference | None = None,
    rows: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    seed: int = 0,
) -> Sets:
    """The sets that records fall into by `group`, compared with the first of them (or with `baseline`).

    Sets whose clips differ in length get numbers and no verdict (`Sets.refused` says why): most measures grow with it.

    Parameters
    ----------
    records : sequence of Record
        Of `structure.analyze_files`, with the keys `id` and `group` and whatever labels the manifests had.
    pair, names, side_by_side
        How clips are matched, as `matching.match_sets` takes them.
    baseline, oracle : str or None
        A set's name or group: what the others are compared with, and the upper bound whose gain is the yardstick of the
        recovered shares.
    metrics : sequence of str
        What to compare; all unless named.
    primary : sequence of str, or mapping to 'higher', 'lower' or None
        What decides, declared before looking. A direction makes the verdict 'better' or 'worse'; without one it is
        'higher' or 'lower', because a description takes no side.
    reference, rows : Reference or None, mapping or None
        Music that the sets are held against, and the rows of their clips by embedding and path.

    Raises
    ------
    UserError
        An unknown baseline, oracle or metric, or labels that the clips lack or that match nothing.

    Examples
    --------
    >>> rows = [
    ...     {"id": f"p{n}", "group": group, "path": f"{group}/{n}.flac", "prompt_id": f"p{n}", "seed": "0",
    ...      "duration": 30.0, "block_strength": 0.1 + 0.01 * n + gain + 0.001 * (n % 3)}
    ...     for group, gain in (("plain", 0.0), ("barrier", 0.05))
    ...     for n in range(8)
    ... ]
    >>> sets = compare_sets(rows, baseline="plain", metrics=["block_strength"])
    >>> found = sets.comparison("barrier", "block_strength")
    >>> round(found.difference, 3), found.verdict, sets.by
    (0.05, 'higher', 'prompt')
    """
    by_set = sets_of(records, baseline, oracle=oracle)
    order = list(by_set)
    oracle = None if oracle is None else _named_set("--oracle", oracle, by_set)
    matching = match_sets(by_set, pair, names=names, side_by_side=side_by_side)
    checked = validate_records(matching.rows, "the analysed clips")
    known = [
        replace(info, better=None)
        for info in known_metrics(checked)
        if info.name in METRICS or info.name in ("is_flat", "flat_probability")
    ]
    chosen = choose_metrics(known, metrics, primary)
    printed = [info for info in chosen if info.name in METRICS and METRICS[info.name].as_printed]
    shown = [info for info in chosen if info not in printed]
    refused = length_faults(checked, order, matching.unmatched)
    results = None
    if len(order) > 1:
        largest = max(Counter(str(row["arm"]) for row in checked).values())
        results = evaluate(
            checked, [*shown, *printed], order[0], arms=order, oracle=oracle, unmatched=matching.unmatched, seed=seed,
            paired=len(matching.unmatched) < len(order) - 1, n_resamples=min(9_999, max(999, _GATHERED // largest)),
        )  # fmt: skip
        results = _withheld(results, refused)
        summaries = results.summaries
    else:
        summaries = {(order[0], info.name): summarise_arm(checked, info.name, order[0], seed=seed) for info in chosen}
    spreads = {(name, info.name): _spread(checked, name, info.name) for name in order for info in chosen}
    notes = [*power_notes(results, refused), *condition_notes(checked, lengths=not refused), *duplicate_notes(checked)]
    if not known:
        notes.insert(0, "No metric is defined for any of these clips: they need at least a few seconds of sound each.")
    near = None
    if reference is not None:
        near = beside_reference(
            checked, reference, shown, order, rows=rows, unmatched=matching.unmatched, refused=refused, seed=seed
        )
        notes = [*near.notes, *notes]
    return Sets(
        order, checked, shown, printed, summaries, spreads, results, matching.how, notes, matching.by, refused, near
    )


def sets_of_results(records: Sequence[Record], results: Results, how: str, nearness: Nearness | None = None) -> Sets:
    """An experiment's arms as sets, for the page: its records and statistics, and how its clips are matched."""
    printed = [info for info in results.metrics if info.name in METRICS and METRICS[info.name].as_printed]
    shown = [info for info in results.metrics if info not in printed]
    spreads = {key: _spread(records, *key) for key in results.summaries}
    by = "prompt" if results.paired else "none"
    return Sets(
        results.arms, list(records), shown, printed, results.summaries, spreads, results, how, [], by, {}, nearness
    )


def sets_of(
    records: Sequence[Record], baseline: str | None = None, *, oracle: str | None = None
) -> dict[str, list[Record]]:
    """The records by the short name of their set, the baseline's first.

    Raises
    ------
    UserError
        No set is called like the baseline or the oracle, or they are the same.
    """
    short = short_names(list(dict.fromkeys(str(row["group"]) for row in records)))
    by_set: dict[str, list[Record]] = {name: [] for name in short.values()}
    for row in records:
        by_set[short[str(row["group"])]].append(row)
    first = next(iter(by_set)) if baseline is None else _named_set("--baseline", baseline, by_set)
    if oracle is not None and _named_set("--oracle", oracle, by_set) == first:
        raise UserError(f"--oracle and the baseline are both '{first}'; they must be different sets.")
    return {first: by_set[first], **by_set}


def _named_set(role: str, name: str, by_set: Mapping[str, Sequence[Record]]) -> str:
    """The set that a person's word means: its short name or its group."""
    for known, rows in by_set.items():
        if name in (known, str(rows[0]["group"])):
            return known
    raise UserError(f"{role} is '{name}', which is not among the sets {', '.join(by_set)}; name one of them.")


def _withheld(results: Results, refused: Mapping[str, str]) -> Results:
    """The results without verdicts on sets that cannot be compared; their numbers stay, recovered shares of them go."""
    return replace(
        results,
        comparisons=withhold(results.comparisons, refused),
        checkpoint_comparisons=withhold(results.checkpoint_comparisons, refused),
        recovered=[share for share in results.recovered if not {share.arm, share.oracle} & refused.keys()],
    )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _spread(records: Sequence[Record], name: str, metric: str) -> float | None:
    values = [float(row[metric]) for row in records if row["arm"] == name and row.get(metric) is not None]  # type: ignore[arg-type]
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
