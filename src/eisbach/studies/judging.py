"""What the judges of several studies share: verdicts from intervals, and the arms of an experiment by trained model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eisbach.errors import UserError
from eisbach.experiments.measures import known_metrics
from eisbach.experiments.recipes import load_spec
from eisbach.statistics.comparison import Comparison
from eisbach.statistics.metric_info import choose_metrics
from eisbach.statistics.records import load_records
from eisbach.statistics.results import Results, evaluate
from eisbach.studies.contract import ClaimResult, Effect, Verdict

ALPHA = 0.05


def verdict(supported: bool, refuted: bool) -> Verdict:
    """'inconclusive' where neither holds; both at once is a fault of the rule."""
    if supported and refuted:
        raise ValueError("a claim cannot be supported and refuted")
    return "supported" if supported else "refuted" if refuted else "inconclusive"


def low(effect: Effect) -> float:
    """The lower end of an effect's interval; minus infinity without one, which decides nothing."""
    return -math.inf if effect.low is None else effect.low


def high(effect: Effect) -> float:
    """The upper end of an effect's interval; infinity without one."""
    return math.inf if effect.high is None else effect.high


def not_run(key: str, note: str = "") -> ClaimResult:
    """A claim that the records say nothing of."""
    return ClaimResult(key=key, verdict="not run", note=note)


def judged(
    key: str, effects: Sequence[Effect], *, supported: bool, refuted: bool = False, note: str = ""
) -> ClaimResult:
    """A claim with its effects; the first is the one that the verdict is read from."""
    return ClaimResult(key=key, verdict=verdict(supported, refuted), effects=list(effects), note=note)


class Arms:
    """The arms of an experiment's records, compared with its baseline.

    Parameters
    ----------
    folder : Path
        Holds `records.parquet`.
    recipe : str
        The study whose recipe says which arm is the baseline and which measures are primary.
    """

    def __init__(self, folder: Path, recipe: str) -> None:
        spec = load_spec(recipe)
        self.records = load_records(folder / "records.parquet")
        here = {str(row["arm"]) for row in self.records}
        known = choose_metrics(known_metrics(self.records), primary=spec.primary_metrics)
        metrics = [info for info in known if info.primary]
        self._labels = {info.name: info.label for info in metrics}
        self.results: Results = evaluate(
            self.records, metrics, spec.baseline, arms=[arm for arm in spec.arms if arm in here],
            oracle=spec.oracle if spec.oracle in here else None,
        )  # fmt: skip

    def comparison(self, arm: str, metric: str, *, checkpoints: bool = False) -> Comparison:
        """An arm against the baseline; of these very checkpoints (the unit is the prompt) where asked and there is a
        choice."""
        rows = self.results.checkpoint_comparisons if checkpoints else []
        for comparison in rows or self.results.comparisons:
            if (comparison.arm, comparison.metric) == (arm, metric):
                return comparison
        raise UserError(f"the records compare no arm '{arm}' by {metric}.")

    def effect(self, arm: str, metric: str, unit: str, *, scale: float = 1.0, checkpoints: bool = False) -> Effect:
        """The difference from the baseline as an effect, times `scale` (100 for shares in points)."""
        comparison = self.comparison(arm, metric, checkpoints=checkpoints)
        ends = comparison.shown_interval
        return Effect(
            name=f"{self._labels[metric]}, {arm} − {comparison.baseline} ({comparison.unit}s)",
            value=scale * comparison.difference,
            low=None if ends is None else scale * ends[0],
            high=None if ends is None else scale * ends[1],
            unit=unit,
            p=comparison.decisive_p,
            n=comparison.n_units,
        )


def interval_effect(name: str, value: float, ends: Any, unit: str = "", **more: Any) -> Effect:
    """An effect from a value and a pair of ends, or None in the pair's place."""
    low, high = (None, None) if ends is None or None in tuple(ends) else ends
    return Effect(name=name, value=value, low=low, high=high, unit=unit, **more)
