"""Judges the stopping rule against four rivals, from the scores of every clip of every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta

from eisbach.files import read_json
from eisbach.statistics.effect_size import mean_moments, t_interval
from eisbach.statistics.resampling import holm, random_stream, sign_flip_test
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import ALPHA, high, interval_effect, judged, low, not_run
from eisbach.studies.stop_rule.replays import count_stops
from eisbach.training.config import StopConfig
from eisbach.training.stopping import rule_of, scores_of, standings

KEYS = ("little-regret", "few-false-stops", "half-the-clips", "better-than-rivals")
CHOSEN = StopConfig()
"""As `stop: true` has it."""
GAIN = CHOSEN.margin / CHOSEN.patience
"""A checkpoint: by the margin from the best one to the first that is tested against it."""
BAR, HALF = 5.0, 50.0
"""Per cent."""
REPLAYS = 125
"""Of each training."""
_SMOOTHING = 0.8  # share of the smoothed training loss that stays from one logged step to the next


@dataclass(frozen=True)
class Training:
    """What one training shows.

    Attributes
    ----------
    draw : int
    truth : np.ndarray [shape=(checkpoints, prompts)]
        Mean scores of the clips that no rule has chosen by.
    choices : dict
        The place that each way chooses.
    stopped_at : int or None
        The place at which the rule stopped it.
    looked_at, played : float
        Clips that the rule looked at, and clips that the training had played when it ended, in per cent of all.
    seen : np.ndarray [shape=(checkpoints, seeds, prompts)]
        What the rule may look at, of the checkpoints that could be measured.
    by_seed : np.ndarray [shape=(checkpoints, seeds, prompts)]
        The truth before its mean over seeds.
    """

    draw: int
    truth: np.ndarray
    choices: dict[str, int]
    stopped_at: int | None = None
    looked_at: float = 100.0
    played: float = 100.0
    seen: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0)))
    by_seed: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0)))

    @cached_property
    def levels(self) -> np.ndarray:
        """Mean score of each checkpoint."""
        return np.asarray(self.truth.mean(axis=1))

    def regret(self, place: int) -> float:
        """How far a checkpoint's score is from the best one's. Too high: of noisy means the lowest is a lucky one."""
        return float(self.levels[place] - self.levels.min())

    def leads(self, place: int | None, first: int = 0) -> np.ndarray:
        """By how much the best checkpoint from `first` on leads the one at `place`, or the worst one, on each prompt
        [shape=(prompts,)].

        Best and worst are found by half of the prompts, which have no say on the others: the mean over all halves
        without this prompt. So nobody's luck counts, and as the best one found may not be the best, it is too low.
        """
        finding = _halves(self.truth.shape[1])
        found_by = finding.astype(float) @ self.truth[first:].T  # halves × checkpoints
        behind = self.truth[first + found_by.argmax(axis=1)] if place is None else self.truth[place]
        leads = behind - self.truth[first + found_by.argmin(axis=1)]  # halves × prompts
        return np.asarray(np.average(leads, axis=0, weights=~finding))

    def lead_in_other_noise(self, place: int, finders: int) -> float:
        """By how much the best checkpoint leads the one at `place` where all prompts of `finders` seeds find it and
        those of the other seeds measure both: the mean over all choices of the seeds."""
        seeds = range(self.by_seed.shape[1])
        leads = []
        for finding in combinations(seeds, finders):
            best = int(self.by_seed[:, list(finding)].mean(axis=(1, 2)).argmin())
            measured = self.by_seed[:, [seed for seed in seeds if seed not in finding]].mean(axis=(1, 2))
            leads.append(measured[place] - measured[best])
        return float(np.mean(leads))

    def false_stop(self, bar: float) -> bool:
        """Whether it was stopped though a later checkpoint leads the chosen one: by more than the bar, and over the
        prompts by more than chance: where later ones are as good, the bar alone would call four stops in ten false."""
        if self.stopped_at is None or self.stopped_at + 1 >= len(self.levels):
            return False
        leads = self.leads(self.choices["rule"], self.stopped_at + 1)
        p, _ = sign_flip_test(leads, random_stream(0, "false stop"))
        return float(leads.mean()) > bar and p < ALPHA


@lru_cache(maxsize=4)
def _halves(prompts: int) -> np.ndarray:
    """Which prompts are in each half that they have [shape=(halves, prompts), bool]."""
    return np.array([np.isin(range(prompts), half) for half in combinations(range(prompts), prompts // 2)])


@dataclass(frozen=True)
class Scale:
    """What differences of scores are shares of: one range for all trainings, for that of a single one is mostly noise.

    Attributes
    ----------
    range : Effect
        By how much the best checkpoint leads the worst one (`Training.leads`), in points of the score. A range of noisy
        means would be wide where training changes nothing, and every regret a small share of it; this one is then none.
    """

    range: Effect

    @property
    def known(self) -> bool:
        """Whether checkpoints differ at all; if not, differences are points of the score."""
        return low(self.range) > 0

    @property
    def bar(self) -> float:
        """As a difference of scores; 0 without a range, so that every lead which is shown counts."""
        return BAR / self._times if self.known else 0.0

    @property
    def _times(self) -> float:
        return 100.0 * (100.0 / self.range.value if self.known else 1.0)

    def share(self, name: str, trainings: list[Training], differences: list[float]) -> Effect:
        """The mean over sets of differences of scores, with its interval."""
        by_set = self._times * _over_sets(trainings, differences)
        return _mean(name, by_set, "% of the range" if self.known else "points")


def scale_of(trainings: list[Training]) -> Scale:
    """The range of these trainings."""
    by_set = _over_sets(trainings, [100.0 * float(one.leads(None).mean()) for one in trainings])
    return Scale(_mean("range over checkpoints, best and worst one found by other prompts", by_set, "points"))


_RIVALS = ("last", "held-out loss", "training loss", "fixed step")


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `stop_rule.json`; "not run" where there is none."""
    if not (folder / "stop_rule.json").is_file():
        return [not_run(key) for key in KEYS]
    rows = read_json(folder / "stop_rule.json", "records")["trainings"]
    trainings = [_training(row) for row in rows]
    _fix_steps(trainings)
    scale = scale_of(trainings)
    before = 100.0 * float(np.mean([row["before"]["memorised"] for row in rows]))
    note = f"Before any training {before:.0f}% of pieces are nearer to clips that train than to others; chance is 50%."
    return [
        _regret(trainings, scale, note), _false_stops(trainings, scale), _clips(trainings), _rivals(trainings, scale),
    ]  # fmt: skip


def _training(row: dict[str, Any]) -> Training:
    scores = np.asarray(row["scores"], dtype=np.float64)  # checkpoints × seeds × prompts
    checkpoints, seeds, prompts = scores.shape
    rule = rule_of(CHOSEN)
    tables = {
        place: table
        for place, values in enumerate(row["flat"])
        if (table := scores_of(values, CHOSEN, (prompts, seeds))) is not None
    }
    end = standings(tables, seeds, rule)[-1] if tables else None
    stopped_at = end.step if end is not None and end.stop else None
    choices = {
        "rule": end.best if end is not None else checkpoints - 1,
        "last": checkpoints - 1,
        "held-out loss": int(np.argmin(row["held_out_loss"])),
        "training loss": _smoothed_place(row["loss"], row["steps"]),
    }
    return Training(
        row["draw"],
        # The pilot's clips choose the rule's checkpoint, and would flatter it; so they judge nobody.
        scores[:, rule.pilot :].mean(axis=1),
        choices,
        stopped_at,
        100.0 * (end.decision.clips if end is not None else 0) / scores.size,
        100.0 * (1 + (checkpoints - 1 if stopped_at is None else stopped_at)) / checkpoints,
        np.array(list(tables.values())),
        scores[:, rule.pilot :],
    )


def _smoothed_place(losses: list[list[float]], steps: list[int]) -> int:
    """The checkpoint at which the smoothed training loss is lowest."""
    at: dict[int, float] = {}
    level = None
    for step, loss in losses:
        level = loss if level is None else _SMOOTHING * level + (1 - _SMOOTHING) * loss
        at[int(step)] = level
    values = [min((abs(step - seen), value) for seen, value in at.items())[1] for step in steps]
    return int(np.argmin(values))


def _fix_steps(trainings: list[Training]) -> None:
    """The fixed step of a set is the one with the least regret on all other sets: nobody knows more beforehand."""
    for one in trainings:
        others = [other for other in trainings if other.draw != one.draw] or trainings
        places = range(min(len(other.levels) for other in others))
        means = [np.mean([other.regret(place) for other in others]) for place in places]
        one.choices["fixed step"] = int(np.argmin(means))


def _over_sets(trainings: list[Training], values: list[float]) -> np.ndarray:
    """Means by set, in the sets' order."""
    draws = sorted({one.draw for one in trainings})
    return np.array([
        np.mean([value for one, value in zip(trainings, values, strict=True) if one.draw == d]) for d in draws
    ])  # fmt: skip


def _mean(name: str, by_set: np.ndarray, unit: str) -> Effect:
    return interval_effect(name, float(by_set.mean()), t_interval(mean_moments(by_set), 0.95), unit, n=len(by_set))


def _regret(trainings: list[Training], scale: Scale, note: str = "") -> ClaimResult:
    values = [float(one.leads(one.choices["rule"]).mean()) for one in trainings]
    least = scale.share("regret of the checkpoint by rule, the best one found by other prompts", trainings, values)
    noisy = []
    for way in ("rule", *_RIVALS):
        values = [one.regret(one.choices[way]) for one in trainings]
        noisy.append(
            scale.share(f"regret of the checkpoint by {way}, the best one found by the same prompts", trainings, values)
        )
    for finders in range(1, max((one.by_seed.shape[1] for one in trainings), default=0)):
        values = [one.lead_in_other_noise(one.choices["rule"], finders) for one in trainings]
        by = "one seed" if finders == 1 else f"{finders} seeds"
        name = f"regret of the checkpoint by rule, the best one found by {by} of all prompts (added after looking)"
        noisy.append(scale.share(name, trainings, values))
    unknown = "" if scale.known else " Checkpoints are not shown to differ, so that there is no range."
    return judged(
        "little-regret", [least, *noisy, scale.range], supported=scale.known and high(least) < BAR,
        refuted=scale.known and low(least) > BAR, note=f"{note}{unknown}".strip(),
    )  # fmt: skip


def _false_stops(trainings: list[Training], scale: Scale) -> ClaimResult:
    seen, rule = [one.seen for one in trainings if len(one.seen)], rule_of(CHOSEN)
    replays = REPLAYS * len(seen)
    gaining, still = (count_stops(seen, rule, REPLAYS, random_stream(0, str(gain)), gain) for gain in (GAIN, 0.0))
    false = sum(one.false_stop(scale.bar) for one in trainings)
    effects = [
        _counted("replays that gain by the margin and were stopped", sum(gaining), replays),
        _counted("replays that neither gain nor lose and were stopped", sum(still), replays),
        _counted("trainings stopped before a checkpoint that is shown to be better", false, len(trainings)),
    ]
    refuting = [effect for effect in (effects[0], effects[2]) if low(effect) > BAR]
    blocking = [effect for effect in effects[:2] if high(effect) >= BAR]
    effects.sort(key=lambda effect: (effect not in refuting, effect not in blocking))
    stops = [one.stopped_at + 1 < len(one.levels) for one in trainings if one.stopped_at is not None]
    said = f"{len(stops)} of {len(trainings)} trainings were stopped, {stops.count(True)} before the last checkpoint"
    return judged(
        "few-false-stops", effects, refuted=bool(refuting), supported=not refuting and not blocking,
        note=f"{said}; of one training's {REPLAYS} replays at most {max(gaining, default=0)} that gain and "
        f"{max(still, default=0)} that do not."
        + ("" if any(stops) else " What stops nothing stops nothing falsely: that it is of use is not shown."),
    )  # fmt: skip


def _counted(name: str, false: int, n: int) -> Effect:
    """A share of n with its exact interval."""
    ends = (
        100.0 * float(beta.ppf(0.025, false, n - false + 1)) if false else 0.0,
        100.0 * float(beta.ppf(0.975, false + 1, n - false)) if false < n else 100.0,
    )
    return interval_effect(name, 100.0 * false / n if n else 0.0, ends, "%", n=n)


def _clips(trainings: list[Training]) -> ClaimResult:
    played, looked_at = (
        _mean(name, _over_sets(trainings, values), "%")
        for name, values in (
            ("clips that had been played when it ended", [one.played for one in trainings]),
            ("clips that the rule looked at", [one.looked_at for one in trainings]),
        )
    )
    return judged("half-the-clips", [played, looked_at], supported=high(played) < HALF, refuted=low(played) > HALF)


def _rivals(trainings: list[Training], scale: Scale) -> ClaimResult:
    effects = []
    for name in _RIVALS:
        values = [one.regret(one.choices["rule"]) - one.regret(one.choices[name]) for one in trainings]
        effect = scale.share(f"regret, rule − {name}", trainings, values)
        p, _ = sign_flip_test(_over_sets(trainings, values), random_stream(0, name))
        effects.append(effect.model_copy(update={"p": p}))
    corrected = holm([1.0 if effect.p is None else effect.p for effect in effects])
    effects = [effect.model_copy(update={"p": p}) for effect, p in zip(effects, corrected, strict=True)]
    shown = [effect for effect in effects if effect.p is not None and effect.p < ALPHA]
    # In front, what decides: a rival that is shown to be better, or else the one that is least told apart.
    effects.sort(key=lambda effect: (not (effect in shown and effect.value > 0), -(effect.p or 0.0)))
    return judged(
        "better-than-rivals", effects, supported=len(shown) == len(_RIVALS) and all(e.value < 0 for e in shown),
        refuted=any(effect.value > 0 for effect in shown),
    )  # fmt: skip
