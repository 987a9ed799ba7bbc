"""What an experiment found, in one JSON file: flat share by arm, every comparison, the recovered share of the oracle's gain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from eisbach.experiments.metric_info import MetricInfo, choose_metrics, known_metrics
from eisbach.experiments.recovered import RecoveredShare, recovered_share
from eisbach.experiments.spec import ExperimentSpec
from eisbach.experiments.statistics import Comparison, compare_all
from eisbach.experiments.verdicts import overall_verdict, recovered_sentence, verdict
from eisbach.types import Record

FLAT = "is_flat"
"""The column that says whether the flatness judge calls a clip flat."""


@dataclass(frozen=True)
class Summary:
    """Everything that a page or a script needs beside the records.

    Attributes
    ----------
    verdict : str
        One sentence for the whole, by the first primary metric.
    arms : dict
        By arm: label, clips, share_flat, and the mean of every metric.
    metrics : list of MetricInfo
        Primary ones first, with the declared directions.
    comparisons : list of Comparison
        Every arm against the baseline by every metric, corrected.
    recovered : list of RecoveredShare
        By arm and primary metric; empty without an oracle.
    sentences : list of str
        The verdict of each primary comparison and recovered share.
    notes : list of str
    """

    verdict: str
    arms: dict[str, dict[str, Any]]
    metrics: list[MetricInfo]
    comparisons: list[Comparison]
    recovered: list[RecoveredShare] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes null."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def summarise(spec: ExperimentSpec, records: Sequence[Record]) -> Summary:
    """The summary of an experiment's records.

    Raises
    ------
    UserError
        A declared primary metric was not measured.
    """
    metrics = choose_metrics(known_metrics(records), primary=spec.primary_metrics)
    titles = {name: arm.label for name, arm in spec.arms.items()}
    comparisons = compare_all(records, metrics, spec.baseline, list(spec.arms))
    recovered = []
    if spec.oracle is not None:
        candidates = [name for name in spec.arms if name not in (spec.baseline, spec.oracle)]
        recovered = [
            recovered_share(records, info.name, spec.baseline, spec.oracle, arm)
            for arm in candidates
            for info in metrics
            if info.primary
        ]
    primary = {info.name: info for info in metrics if info.primary}
    sentences = [verdict(one, primary[one.metric], titles) for one in comparisons if one.metric in primary]
    sentences += [recovered_sentence(one, titles) for one in recovered if one.metric == metrics[0].name]
    apart = [] if spec.oracle is None else [spec.oracle]
    return Summary(
        verdict=overall_verdict(comparisons, metrics[0], titles, apart=apart),
        arms={name: _arm_row(spec, name, metrics, records) for name in spec.arms},
        metrics=metrics,
        comparisons=comparisons,
        recovered=recovered,
        sentences=sentences,
        notes=list(spec.notes),
    )


def summary_lines(spec: ExperimentSpec, summary: Summary) -> list[str]:
    """For a terminal: one line an arm with its flat share, and the verdict."""
    width = max(len(arm.label) for arm in spec.arms.values())
    lines = []
    for name, row in summary.arms.items():
        share = row["share_flat"]
        shown = "  ?" if share is None else f"{100 * share:3.0f}%"
        lines.append(f"{spec.arms[name].label:<{width}}  {shown} flat  ({row['clips']} clips)")
    return [*lines, summary.verdict]


def _arm_row(
    spec: ExperimentSpec, name: str, metrics: Sequence[MetricInfo], records: Sequence[Record]
) -> dict[str, Any]:
    rows = [row for row in records if row["arm"] == name]
    means = {info.name: _mean(rows, info.name) for info in metrics}
    return {
        "label": spec.arms[name].label,
        "explanation": spec.arms[name].explanation,
        "clips": len(rows),
        "share_flat": _mean(rows, FLAT),
        "means": means,
    }


def _mean(rows: Sequence[Record], column: str) -> float | None:
    values = [float(value) for row in rows if isinstance(value := row.get(column), (bool, int, float))]
    return sum(values) / len(values) if values else None


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
