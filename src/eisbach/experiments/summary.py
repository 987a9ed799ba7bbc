"""What an experiment found, in one JSON file: flat share by arm, every comparison, recovered shares of the oracle's gain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eisbach.experiments.spec import ExperimentSpec
from eisbach.statistics.metric_info import FLAT, choose_metrics, known_metrics
from eisbach.statistics.recovered import RecoveredShare, recovered_share
from eisbach.statistics.results import Results, evaluate
from eisbach.statistics.verdicts import overall_verdict, verdict
from eisbach.types import Record


@dataclass(frozen=True)
class Summary:
    """An experiment's answer.

    Attributes
    ----------
    verdict : str
        One sentence for the whole, by the first primary metric.
    sentences : list of str
        Every arm against the baseline by the first primary metric.
    arms : dict
        By arm: label, clips and share_flat (None where nothing could be judged).
    results : Results
        Means, comparisons and recovered shares by the first primary metric.
    recovered : list of RecoveredShare
        By arm, for every primary metric; empty without an oracle.
    notes : list of str
    """

    verdict: str
    sentences: list[str]
    arms: dict[str, dict[str, Any]]
    results: Results
    recovered: list[RecoveredShare]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is undefined is None."""
        return {
            "verdict": self.verdict,
            "sentences": self.sentences,
            "arms": self.arms,
            "recovered": [_finite(asdict(one)) for one in self.recovered],
            "notes": self.notes,
            "results": self.results.to_json(),
        }


def summarise(spec: ExperimentSpec, records: Sequence[Record]) -> Summary:
    """The summary of an experiment's records.

    Raises
    ------
    UserError
        A declared primary metric was not measured.
    """
    metrics = choose_metrics(known_metrics(records), primary=spec.primary_metrics)
    results = evaluate(records, metrics, spec.baseline, arms=list(spec.arms), oracle=spec.oracle)
    phrases = {name: arm.phrase or arm.label for name, arm in spec.arms.items()}
    headline = metrics[0]
    return Summary(
        verdict=overall_verdict(
            results.comparisons, headline, phrases, apart=[] if spec.oracle is None else [spec.oracle]
        ),
        sentences=[verdict(one, headline, phrases) for one in results.comparisons if one.metric == headline.name],
        arms={name: _arm_row(spec, name, records) for name in spec.arms},
        results=results,
        recovered=_recovered(spec, records, results),
        notes=list(spec.notes),
    )


def summary_lines(spec: ExperimentSpec, summary: Summary) -> list[str]:
    """For a terminal: one line an arm with its share of flat pieces, then the verdict."""
    width = max(len(arm.label) for arm in spec.arms.values())
    lines = []
    for name, row in summary.arms.items():
        shown = "  ?" if row["share_flat"] is None else f"{100 * row['share_flat']:3.0f}%"
        lines.append(f"{spec.arms[name].label:<{width}}  {shown} flat  ({row['clips']} clips)")
    return [*lines, summary.verdict]


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


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
