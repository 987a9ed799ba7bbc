"""The table of arms: what each arm gave by each metric, and how sure the difference from the baseline is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eisbach.report.wording import format_difference, format_interval, format_p, format_value
from eisbach.statistics.comparison import ArmSummary, Comparison
from eisbach.statistics.metric_info import MetricInfo

MARKS = {
    "better": "▲ better",
    "worse": "▼ worse",
    "higher": "▲ higher",
    "lower": "▼ lower",
    "no difference": "= alike",
    "inconclusive": "? not clear",
    "too few": "– too few",
    "not comparable": "– no verdict",
}
"""What each verdict looks like in a table: a sign and a word, so that colour is never needed."""

MARK_MEANINGS = (
    ("▲ better, ▼ worse", "a difference was shown (corrected p below 0.05)"),
    ("▲ higher, ▼ lower", "the same, for a measure where neither direction is good in itself"),
    ("= alike", "a difference of any size that matters was ruled out"),
    ("? not clear", "neither a difference nor its absence could be shown"),
    ("– too few", "too few pieces for any test"),
    ("– no verdict", "the sets differ in length, which decides most measures"),
)


@dataclass(frozen=True)
class Cell:
    """One arm by one metric, in words.

    Attributes
    ----------
    value : str
        The arm's mean.
    difference, interval, p, mark, verdict : str
        Against the baseline; empty for the baseline itself.
    """

    value: str
    difference: str = ""
    interval: str = ""
    p: str = ""
    mark: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Row:
    """One arm: its label, whether it is the baseline, the number of its clips, and a cell a metric."""

    arm: str
    label: str
    baseline: bool
    n_clips: int
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """Rows are arms, columns are metrics."""

    metrics: list[MetricInfo]
    rows: list[Row]


def arms_table(
    metrics: Sequence[MetricInfo],
    arms: Sequence[str],
    summaries: Mapping[tuple[str, str], ArmSummary],
    comparisons: Sequence[Comparison],
    labels: Mapping[str, str] | None = None,
    n_clips: Mapping[str, int] | None = None,
) -> Table:
    """The table of `arms` by `metrics`.

    Parameters
    ----------
    summaries : mapping of (arm, metric) to ArmSummary
    comparisons : sequence of Comparison
        Arms without one are baselines.
    n_clips : mapping of str to int or None
        Clips of each arm; None takes the largest number that any metric has.
    """
    found = {(one.arm, one.metric): one for one in comparisons}
    compared = {one.arm for one in comparisons}
    names, counts = labels or {}, n_clips or {}
    rows = []
    for arm in arms:
        cells = [_cell(info, summaries[arm, info.name], found.get((arm, info.name))) for info in metrics]
        count = counts.get(arm, max((summaries[arm, info.name].n_clips for info in metrics), default=0))
        rows.append(Row(arm, names.get(arm, arm), arm not in compared, count, cells))
    return Table(list(metrics), rows)


def _cell(info: MetricInfo, summary: ArmSummary, comparison: Comparison | None) -> Cell:
    value = format_value(info, summary.mean)
    if comparison is None:
        return Cell(value)
    return Cell(
        value,
        format_difference(info, comparison.difference),
        format_interval(info, comparison.shown_interval),
        format_p(comparison.decisive_p),
        MARKS[comparison.verdict],
        comparison.verdict,
    )


def to_markdown(table: Table) -> str:
    """The table as Markdown, for documents and the terminal."""
    head = "| arm | clips | " + " | ".join(_column(info) for info in table.metrics) + " |"
    lines = [head, "|---|---:|" + "---|" * len(table.metrics)]
    for row in table.rows:
        cells = [
            cell.value if not cell.mark else f"{cell.value} ({cell.difference}; {cell.interval}; {cell.p}) {cell.mark}"
            for cell in row.cells
        ]
        lines.append(f"| {row.label} | {row.n_clips} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _column(info: MetricInfo) -> str:
    return info.label + (f" ({info.unit})" if info.unit else "")
