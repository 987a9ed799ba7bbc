"""Sets of clips and what the statistics say about them: the record that pages and files of a comparison are made of."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from eisbach.statistics.comparison import Comparison, Interval
from eisbach.statistics.records import MetricInfo
from eisbach.statistics.results import ArmSummary, Results, plain_json
from eisbach.types import Record

KERNEL = "kernel_distance:"
"""What a distance on an embedding is called, before the embedding's name."""
_COLUMNS = (
    "metric", "unit", "primary", "set", "mean", "sd", "clips", "reference", "difference", "low", "high", "hedges_g",
    "p", "p_corrected", "unit_of_inference", "units", "verdict",
)  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """Where the reference lies by one measure.

    Attributes
    ----------
    metric : str
    clips : int
        Clips that have a value.
    mean, sd : float
    low, median, high : float
        10th, 50th and 90th percentile.
    points : list of float
        Every clip's value, for pictures.
    """

    metric: str
    clips: int
    mean: float
    sd: float
    low: float
    median: float
    high: float
    points: list[float] = field(repr=False, default_factory=list)


@dataclass(frozen=True)
class Distance:
    """How far one arm lies from the reference by one measure.

    Attributes
    ----------
    arm, metric : str
    value : float
        Corrected for the size of the sets, >= 0 (a kernel distance may be negative). In the reference's SDs; for a
        share the part beyond the reference's, in [0, 1]; for an embedding MMD².
    interval : (float, float) or None
        95% bootstrap over prompts and seeds (or clips) and over the reference's clips; None with fewer than two units.
    raw : float
        Before the correction.
    itself : float
        What the reference reads against itself, uncorrected: random halves, at the arm's number of clips.
    clips : int
    """

    arm: str
    metric: str
    value: float
    interval: Interval | None
    raw: float
    itself: float
    clips: int


@dataclass(frozen=True)
class Nearness:
    """Arms beside a reference.

    Attributes
    ----------
    label : str
        What sentences call the reference.
    clips : int
    metrics : list of MetricInfo
        Primary ones first; the distances on embeddings are last.
    spreads : dict of str to Spread
        By metric; none for embeddings.
    distances : list of Distance
        Every arm by every metric.
    comparisons : list of Comparison
        Every other arm against the baseline: `mean` and `baseline_mean` are distances, a negative difference is
        nearer. Verdicts are 'nearer', 'farther', 'no nearer', 'too few' or 'not comparable'. Empty for one arm.
    notes : list of str
    """

    label: str
    clips: int
    metrics: list[MetricInfo]
    spreads: dict[str, Spread]
    distances: list[Distance]
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def primary(self) -> list[MetricInfo]:
        """The measures that decide."""
        return [info for info in self.metrics if info.primary]

    def distance(self, arm: str, metric: str) -> Distance | None:
        """An arm's distance by one measure; None where it has none."""
        return next((each for each in self.distances if (each.arm, each.metric) == (arm, metric)), None)

    def comparison(self, arm: str, metric: str) -> Comparison | None:
        """An arm against the baseline by its distance; None for the baseline itself."""
        return next((each for each in self.comparisons if (each.arm, each.metric) == (arm, metric)), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the reference's single clips."""
        return {
            "label": self.label,
            "clips": self.clips,
            "primary": [info.name for info in self.primary],
            "spreads": {
                name: {key: value for key, value in asdict(spread).items() if key != "points"}
                for name, spread in self.spreads.items()
            },
            "distances": [asdict(each) for each in self.distances],
            "comparisons": [asdict(each) for each in self.comparisons],
            "notes": self.notes,
        }


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
        printed = {info.name: info.contradicted_by for info in self.printed}
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

    def to_csv(self) -> str:
        """Every set by every measure, a row each, with its difference from the reference."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for info in (*self.metrics, *self.printed):
            for name in self.names:
                summary, compared = self.summaries[name, info.name], self.comparison(name, info.name)
                row: list[Any] = [info.name, info.unit, info.primary, name, summary.mean]
                row += [self.spreads[name, info.name], summary.n_clips]
                if compared is not None:
                    row += [self.names[0], compared.difference, *(compared.shown_interval or (None, None)), compared.g]
                    row += [compared.p, compared.p_adjusted, compared.unit, compared.n_units, compared.verdict]
                writer.writerow(["" if value is None else value for value in row])
        return text.getvalue()


def sets_of_results(records: Sequence[Record], results: Results, how: str, nearness: Nearness | None = None) -> Sets:
    """An experiment's arms as sets: its records and statistics, and how its clips are matched."""
    printed = [info for info in results.metrics if info.contradicted_by]
    shown = [info for info in results.metrics if info not in printed]
    spreads = {key: spread(records, *key) for key in results.summaries}
    by = "prompt" if results.paired else "none"
    return Sets(
        results.arms, list(records), shown, printed, results.summaries, spreads, results, how, [], by, {}, nearness
    )


def spread(records: Sequence[Record], name: str, metric: str) -> float | None:
    """Standard deviation of a set's clips by a measure; None for fewer than two."""
    values = [float(row[metric]) for row in records if row["arm"] == name and row.get(metric) is not None]  # type: ignore[arg-type]
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
