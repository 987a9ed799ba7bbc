"""An experiment's answer in sentences: for its page, for `summary.json` and for a terminal."""

from __future__ import annotations

from typing import Any

from eisbach.experiments.run import SUMMARY_FILE, ExperimentResult
from eisbach.files import write_json
from eisbach.report.wording import overall_verdict, verdict


def summary_with_words(result: ExperimentResult) -> dict[str, Any]:
    """The summary as plain values, led by the verdict and a sentence for every arm, by the first primary metric."""
    spec, results = result.spec, result.summary.results
    headline = results.metrics[0]
    phrases = {name: arm.phrase or arm.label for name, arm in spec.arms.items()}
    apart = [] if spec.oracle is None else [spec.oracle]
    return {
        "verdict": overall_verdict(results.comparisons, headline, phrases, apart=apart),
        "sentences": [verdict(each, headline, phrases) for each in results.comparisons if each.metric == headline.name],
        **result.summary.to_json(),
    }


def write_summary(result: ExperimentResult) -> None:
    """Writes the summary with its sentences over the numbers alone that the run left in `summary.json`."""
    write_json(result.folder / SUMMARY_FILE, summary_with_words(result))


def summary_lines(result: ExperimentResult) -> list[str]:
    """For a terminal: one line an arm with its share of flat pieces, then the verdict."""
    labels = {name: arm.label for name, arm in result.spec.arms.items()}
    width = max(map(len, labels.values()))
    lines = []
    for name, row in result.summary.arms.items():
        shown = "  ?" if row["share_flat"] is None else f"{100 * row['share_flat']:3.0f}%"
        lines.append(f"{labels[name]:<{width}}  {shown} flat  ({row['clips']} clips)")
    return [*lines, str(summary_with_words(result)["verdict"])]
