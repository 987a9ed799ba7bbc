"""What an experiment found, in numbers: flat share by arm, every comparison, recovered shares of the oracle's gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np

from eisbach.experiments.measures import FLAT, known_metrics
from eisbach.experiments.reference import Reference, beside_reference
from eisbach.experiments.spec import ExperimentSpec
from eisbach.statistics.records import choose_metrics
from eisbach.statistics.results import Nearness, RecoveredShare, Results, evaluate, plain_json, recovered_share
from eisbach.types import Record


@dataclass(frozen=True)
class Summary:
    """An experiment's answer; `report.experiment.page` says it in sentences.

    Attributes
    ----------
    arms : dict
        By arm: label, explanation, clips and share_flat (None where nothing could be judged).
    results : Results
        Means, comparisons and recovered shares by the first primary metric.
    recovered : list of RecoveredShare
        By arm, for every primary metric; empty without an oracle.
    notes : list of str
    nearness : Nearness or None
        How near each arm lies to the reference; it decides where there is one.
    """

    arms: dict[str, dict[str, Any]]
    results: Results
    recovered: list[RecoveredShare]
    notes: list[str]
    nearness: Nearness | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is undefined is None."""
        value = {
            "arms": self.arms,
            "recovered": [asdict(share) for share in self.recovered],
            "notes": self.notes,
            "nearness": None if self.nearness is None else self.nearness.to_json(),
            "results": self.results.to_json(),
        }
        return cast(dict[str, Any], plain_json(value))


def summarise(
    spec: ExperimentSpec,
    records: Sequence[Record],
    reference: Reference | None = None,
    rows: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> Summary:
    """The summary of an experiment's records.

    Raises
    ------
    UserError
        A declared primary metric was not measured.
    """
    metrics = choose_metrics(known_metrics(records), primary=spec.primary_metrics)
    if spec.reference is not None:  # distances decide: the plain differences only describe
        metrics = [replace(info, better=None) for info in metrics]
    results = evaluate(records, metrics, spec.baseline, arms=list(spec.arms), oracle=spec.oracle)
    near, order = None, [spec.baseline, *(name for name in spec.arms if name != spec.baseline)]
    if reference is not None:
        ours = [info for info in metrics if not info.contradicted_by]
        near = beside_reference(records, reference, ours, order, rows=rows)
    return Summary(
        arms={name: _arm_row(spec, name, records) for name in spec.arms},
        results=results,
        recovered=_recovered(spec, records, results),
        notes=[*([] if near is None else near.notes), *spec.notes],
        nearness=near,
    )


def _recovered(spec: ExperimentSpec, records: Sequence[Record], results: Results) -> list[RecoveredShare]:
    if spec.oracle is None:
        return []
    candidates = [name for name in spec.arms if name not in (spec.baseline, spec.oracle)]
    return [
        recovered_share(records, info.name, spec.baseline, spec.oracle, arm)
        for info in results.metrics
        if info.primary
        for arm in candidates
    ]


def _arm_row(spec: ExperimentSpec, name: str, records: Sequence[Record]) -> dict[str, Any]:
    rows = [row for row in records if row["arm"] == name]
    judged = [bool(row[FLAT.name]) for row in rows if row.get(FLAT.name) is not None]
    return {
        "label": spec.arms[name].label,
        "explanation": spec.arms[name].explanation,
        "clips": len(rows),
        "share_flat": sum(judged) / len(judged) if judged else None,
    }
