"""What the judges of several studies share: verdicts from intervals, and the arms of an experiment by trained model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from eisbach.errors import UserError
from eisbach.experiments.measures import known_metrics
from eisbach.experiments.recipes import load_spec
from eisbach.statistics.comparison import Comparison
from eisbach.statistics.effect_size import equivalence_p, mean_moments, t_interval
from eisbach.statistics.records import choose_metrics, load_records
from eisbach.statistics.resampling import holm, random_stream, sign_flip_test
from eisbach.statistics.results import Results, evaluate
from eisbach.studies.contract import ClaimResult, Effect, Verdict
from eisbach.types import Record

ALPHA = 0.05
PRINTED = (
    "paper_block_scale", "paper_peak_to_valley", "paper_flux_sparsity", "paper_pca_coverage", "paper_dynamic_range",
)  # fmt: skip
"""The barrier paper's five dimensions (Table 2) as it prints them; ground truth contradicts some of them
(docs/structure.md)."""
STANDING = "standing"
"""A measure: the judge's probability that a piece stands still, loops or is a texture. Beside `is_flat` it leaves out
pieces whose parts are in no order, which the untrained base plays as well and of which no weight knows anything."""


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


def shown(effect: Effect) -> bool:
    """Whether an effect's test tells it from none."""
    return effect.p is not None and effect.p < ALPHA


def not_run(key: str, note: str = "") -> ClaimResult:
    """A claim that the records say nothing of."""
    return ClaimResult(key=key, verdict="not run", note=note)


def judged(
    key: str, effects: Sequence[Effect], *, supported: bool, refuted: bool = False, note: str = ""
) -> ClaimResult:
    """A claim with its effects; the first is the one that the verdict is read from."""
    return ClaimResult(key=key, verdict=verdict(supported, refuted), effects=list(effects), note=note)


def decided(
    key: str, effects: Sequence[Effect], wanted: Literal["higher", "lower"], same: float, note: str = "",
    none: float = 0.0,
) -> ClaimResult:  # fmt: skip
    """A claim that its first effect decides: supported where it is shown in the direction that is wanted, refuted where
    it is shown in the other one, or lies within its margin (`same`: p of the two one-sided tests). `none` is the value
    of no effect: 0, or 1 of a ratio."""
    first = effects[0]
    there = shown(first)
    supported = there and (first.value > none) == (wanted == "higher")
    return judged(key, effects, supported=supported, refuted=not supported and (there or same < ALPHA), note=note)


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
        self._spec = spec
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
        first, second = (self._spec.arms[name].label or name for name in (arm, comparison.baseline))
        return Effect(
            name=f"{self._labels[metric]}: {first} − {second} ({comparison.unit}s)",
            value=scale * comparison.difference,
            low=None if ends is None else scale * ends[0],
            high=None if ends is None else scale * ends[1],
            unit=unit,
            p=comparison.decisive_p,
            n=comparison.n_units,
        )


class Draws:
    """The arms of an experiment whose training seeds are draws, each with a set of its own: compared within the draws.

    The unit is the draw: a model's clips are averaged first, and an arm's difference from another is taken draw by
    draw, over the prompts and seeds for which both have a value (a clip without one is left out together with its
    partner). Its p is the exact sign-flip test's, its interval Student's.

    Parameters
    ----------
    records : sequence of Record
    recipe : str
        The study whose recipe names the arms, the baseline and the primary measures.
    """

    def __init__(self, records: Sequence[Record], recipe: str) -> None:
        self.spec = load_spec(recipe)
        self._values: dict[tuple[str, str], dict[int, _Clips]] = {}
        for row in records:
            arm, draw, clip = str(row["arm"]), int(row["train_seed"] or 0), (row.get("prompt_id"), row.get("seed"))
            for metric, value in row.items():
                if isinstance(value, int | float) and metric not in _KEYS and math.isfinite(value):
                    draws = self._values.setdefault((arm, metric), {})
                    draws.setdefault(draw, {}).setdefault(clip, []).append(float(value))
        columns = {name for row in records for name in row} - {*_KEYS}
        stems = {name.partition(" on ")[0] for name in columns}
        self._labels = {info.name: info.label for info in known_metrics([dict.fromkeys(stems, 0.0)])}

    def label(self, metric: str) -> str:
        """A measure in words; of one that is taken on several groups (`… on GROUP`), with the group."""
        measure, on, group = metric.partition(" on ")
        return f"{self._labels.get(measure, measure.replace('_', ' '))}{on}{group}"

    def arm_label(self, arm: str) -> str:
        """An arm as the recipe labels it."""
        known = self.spec.arms.get(arm)
        return (known.label if known is not None else None) or arm

    def named(self, metric: str, arm: str, other: str, sign: str = "−") -> str:
        """What an effect that compares two arms by a measure is called."""
        return f"{self.label(metric)}: {self.arm_label(arm)} {sign} {self.arm_label(other)}"

    def has(self, arm: str) -> bool:
        """Whether the records have clips of an arm."""
        return any(name == arm for name, _ in self._values)

    def has_measure(self, arm: str, metric: str) -> bool:
        """Whether the records have values of a measure for an arm."""
        return (arm, metric) in self._values

    def by_draw(self, arm: str, metric: str) -> dict[int, float]:
        """The mean over a model's clips, by draw."""
        return {draw: _mean(clips) for draw, clips in sorted(self._values.get((arm, metric), {}).items())}

    def differences(self, arm: str, metric: str, other: str) -> np.ndarray:
        """One a draw that has both arms, in the draws' order."""
        return np.array(list(self._differences(arm, other, metric).values()))

    def effect(self, arm: str, metric: str, *, other: str | None = None) -> Effect:
        """The difference from another arm (the baseline) as an effect; shares in points."""
        other = self.spec.baseline if other is None else other
        return over_draws(self.named(metric, arm, other), metric, self.differences(arm, metric, other))

    def primary(self, arm: str, *, other: str | None = None, first: str | None = None) -> list[Effect]:
        """An arm's differences by the primary measures that were taken, in their order (`first` in front), p corrected
        after Holm over them."""
        order = sorted(self.measured(), key=lambda metric: metric != first)
        return corrected([self.effect(arm, metric, other=other) for metric in order])

    def led_by(self, first: str, arm: str, *, other: str | None = None) -> list[Effect]:
        """An arm's differences: by `first`, which decides alone, then by the other primary measures, p corrected after
        Holm over those."""
        beside = [metric for metric in self.measured() if metric != first]
        return [self.effect(arm, first, other=other), *self.effects(arm, beside, other=other)]

    def effects(self, arm: str, metrics: Sequence[str], *, other: str | None = None) -> list[Effect]:
        """An arm's differences by these measures, p corrected after Holm over them."""
        return corrected([self.effect(arm, metric, other=other) for metric in metrics])

    def printed(self, arm: str) -> list[Effect]:
        """An arm's differences by the paper's five dimensions, where they were taken, p corrected after Holm."""
        return self.effects(arm, [metric for metric in PRINTED if self.has_measure(arm, metric)])

    def measured(self) -> list[str]:
        """The primary measures that the records hold."""
        here = {metric for _, metric in self._values}
        return [metric for metric in self.spec.primary_metrics if metric in here]

    def beside_untrained(self, arm: str, untrained: str, *, first: str | None = None) -> list[Effect]:
        """An arm's differences by the primary measures from a model without a draw, which has one value of each; p
        corrected after Holm. With `first`, by that in front, which decides alone, as in `led_by`."""

        def effect(metric: str) -> Effect:
            return over_draws(self.named(metric, arm, untrained), metric, self.from_untrained(arm, metric, untrained))

        beside = corrected([effect(metric) for metric in self.measured() if metric != first])
        return beside if first is None else [effect(first), *beside]

    def from_untrained(self, arm: str, metric: str, untrained: str) -> np.ndarray:
        """One difference a draw, in the draws' order."""
        (base,) = self._values[untrained, metric].values()
        drawn = sorted(self._values.get((arm, metric), {}).items())
        return np.array([ours - theirs for _, clips in drawn for ours, theirs in _both(clips, base)])

    def interaction(self, gain: tuple[str, str], other: tuple[str, str], *, first: str | None = None) -> list[Effect]:
        """How much more the first arm of `gain` differs from its second than those of `other` do, by the primary
        measures, p corrected after Holm; with `first`, by that in front, which decides alone, as in `led_by`."""
        pairs = [" − ".join(self.arm_label(arm) for arm in pair) for pair in (gain, other)]

        def effect(metric: str) -> Effect:
            name = f"{self.label(metric)}: ({pairs[0]}) − ({pairs[1]})"
            return over_draws(name, metric, self._gains(gain, other, metric))

        beside = corrected([effect(metric) for metric in self.measured() if metric != first])
        return beside if first is None else [effect(first), *beside]

    def equivalence(self, arm: str, metric: str, margin: float, *, other: str) -> float:
        """p of the two one-sided t tests that the difference (shares in points) lies within the margin; 1 for fewer
        than two draws."""
        return within_margin(metric, self.differences(arm, metric, other), margin)

    def margin_beside(self, other: str, most: float) -> float:
        """Points of pieces that stand within which an arm counts as `other`: `most`, and half of what that leaves."""
        return min(most, 50.0 * float(np.mean(list(self.by_draw(other, STANDING).values()))))

    def equal_gains(self, gain: tuple[str, str], other: tuple[str, str], metric: str, margin: float) -> float:
        """The same of the difference of two gains, as in `interaction`."""
        return within_margin(metric, self._gains(gain, other, metric), margin)

    def ratio(self, arm: str, metric: str, other: str) -> Effect:
        """How many times another arm's value: the geometric mean over draws, tested on the logarithm; values are above
        0."""
        name = self.named(metric, arm, other, "/")
        return as_ratio(over_draws(name, metric, self._log_ratios(arm, metric, other)))

    def equal_ratio(self, arm: str, metric: str, margin: float, other: str) -> float:
        """p of the two one-sided t tests that the ratio lies within 1 / `margin` to `margin`."""
        return within_margin(metric, self._log_ratios(arm, metric, other), math.log(margin))

    def _log_ratios(self, arm: str, metric: str, other: str) -> np.ndarray:
        return np.array([math.log(ours / theirs) for ours, theirs in self._pairs(arm, other, metric).values()])

    def _gains(self, gain: tuple[str, str], other: tuple[str, str], metric: str) -> np.ndarray:
        ours, theirs = self._differences(*gain, metric), self._differences(*other, metric)
        return np.array([ours[draw] - theirs[draw] for draw in sorted(ours.keys() & theirs.keys())])

    def _differences(self, arm: str, other: str, metric: str) -> dict[int, float]:
        return {draw: ours - theirs for draw, (ours, theirs) in self._pairs(arm, other, metric).items()}

    def _pairs(self, arm: str, other: str, metric: str) -> dict[int, tuple[float, float]]:
        """The means of both arms, by draw, over the clips for which both have a value."""
        ours, theirs = (self._values.get((name, metric), {}) for name in (arm, other))
        drawn = sorted(ours.keys() & theirs.keys())
        return {draw: pair for draw in drawn for pair in _both(ours[draw], theirs[draw])}


_Clips = dict[tuple[Any, Any], list[float]]
"""A model's values by prompt and generation seed."""


def _mean(clips: _Clips) -> float:
    return float(np.mean([value for values in clips.values() for value in values]))


def _both(ours: _Clips, theirs: _Clips) -> list[tuple[float, float]]:
    """The two means over the clips that both have; nothing where they share none."""
    shared = sorted(ours.keys() & theirs.keys(), key=str)
    means = [_mean({clip: side[clip] for clip in shared}) for side in (ours, theirs) if shared]
    return [(means[0], means[1])] if means else []


def with_standing(records: Sequence[Record]) -> list[Record]:
    """The records with `STANDING`, None where a clip was not judged."""
    rows: list[Record] = []
    for row in records:
        kinds = [row.get(f"flat_{kind}") for kind in ("still", "loop", "texture")]
        known = [float(kind) for kind in kinds if isinstance(kind, int | float)]
        rows.append({**row, STANDING: sum(known) if len(known) == len(kinds) else None})
    return rows


def over_draws(name: str, metric: str, differences: np.ndarray) -> Effect:
    """Differences (or slopes, or ratios' logarithms), one a draw, as an effect: the exact sign-flip test and Student's
    interval; shares in points."""
    if not len(differences):
        raise UserError(f"the records have no draw with both sides of '{name}'.")
    scaled = differences * (100.0 if metric in _SHARES else 1.0)
    p, _ = sign_flip_test(scaled, random_stream(0, name))
    ends = t_interval(mean_moments(scaled), 0.95)
    return interval_effect(name, float(scaled.mean()), ends, _unit(metric), p=p, n=len(scaled))


def as_row(effect: Effect) -> dict[str, float | None]:
    """An effect for a script's JSON: value, ends of its interval and p, to four places."""
    ends = {"value": effect.value, "low": effect.low, "high": effect.high, "p": effect.p}
    return {name: None if end is None else round(end, 4) for name, end in ends.items()}


def as_ratio(logarithm: Effect) -> Effect:
    """A mean of logarithms as a geometric mean."""
    ends = (None if end is None else math.exp(end) for end in (logarithm.low, logarithm.high))
    values = dict(zip(("value", "low", "high"), (math.exp(logarithm.value), *ends), strict=True))
    return logarithm.model_copy(update={**values, "unit": "ratio"})


def corrected(effects: Sequence[Effect]) -> list[Effect]:
    """The effects with their p corrected after Holm over all of them."""
    values = holm([1.0 if effect.p is None else effect.p for effect in effects])
    return [effect.model_copy(update={"p": p}) for effect, p in zip(effects, values, strict=True)]


def not_above(values: np.ndarray, margin: float) -> float:
    """p of the one-sided t test that the mean of one value a draw lies below `margin`; 1 for fewer than two draws."""
    from scipy.stats import t

    moments = mean_moments(values)
    if moments is None:
        return 1.0
    if moments.error == 0:
        return 0.0 if moments.mean < margin else 1.0
    return float(t.cdf((moments.mean - margin) / moments.error, moments.df))


def within_margin(metric: str, differences: np.ndarray, margin: float) -> float:
    """p of the two one-sided t tests that the mean of one value a draw (shares in points) lies within ± `margin`; 1
    for fewer than two draws."""
    p = equivalence_p(mean_moments(differences * (100.0 if metric in _SHARES else 1.0)), margin)
    return 1.0 if p is None else p


def within_note(margin: float, same: float, unit: str) -> str:
    """What `within_margin` found, in a sentence for a claim's note."""
    return f"Within {margin:.2g} {unit}: p = {same:.2g} (two one-sided tests)."


_KEYS = ("arm", "train_seed", "seed")
_SHARES = ("is_flat", "copied", STANDING)


@cache
def _unit(metric: str) -> str:
    """Of differences, in the units of the measures' own table; shares in points."""
    (info,) = known_metrics([{metric.partition(" on ")[0]: 0.0}])
    return "points" if metric in _SHARES else info.unit


def interval_effect(name: str, value: float, ends: Any, unit: str = "", **more: Any) -> Effect:
    """An effect from a value and a pair of ends, or None in the pair's place."""
    low, high = (None, None) if ends is None or None in tuple(ends) else ends
    return Effect(name=name, value=value, low=low, high=high, unit=unit, **more)
