"""Judges the stopping rule against four rivals, from the scores of every clip of every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta

from eisbach.files import read_json
from eisbach.statistics.anytime import StopRule, decide
from eisbach.statistics.effect_size import mean_moments, t_interval
from eisbach.statistics.resampling import holm, random_stream, sign_flip_test
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import ALPHA, high, interval_effect, judged, low, not_run

KEYS = ("little-regret", "few-false-stops", "half-the-clips", "better-than-rivals")
RULE = StopRule()
"""As `stop: true` has it."""
BAR, HALF = 5.0, 50.0
"""Per cent."""
_SMOOTHING = 0.8  # share of the smoothed training loss that stays from one logged step to the next


@dataclass(frozen=True)
class Training:
    """What one training shows: `truth` is each checkpoint's mean score, `choices` the place each way chooses."""

    draw: int
    truth: np.ndarray
    choices: dict[str, int]
    stopped_at: int | None
    clips: float

    def regret(self, place: int) -> float:
        """How far a checkpoint is from the best one, in per cent of the range; 0 where all are equal."""
        reach = float(np.ptp(self.truth))
        return 100.0 * float(self.truth[place] - self.truth.min()) / reach if reach > 0 else 0.0

    @property
    def false_stop(self) -> bool:
        """Whether it was stopped though a later checkpoint is better than the chosen one by more than the bar."""
        if self.stopped_at is None or self.stopped_at + 1 >= len(self.truth):
            return False
        gain = float(self.truth[self.choices["rule"]] - self.truth[self.stopped_at + 1 :].min())
        return 100.0 * gain > BAR * float(np.ptp(self.truth))


_RIVALS = ("last", "held-out loss", "training loss", "fixed step")


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `stop_rule.json`; "not run" where there is none."""
    if not (folder / "stop_rule.json").is_file():
        return [not_run(key) for key in KEYS]
    rows = read_json(folder / "stop_rule.json", "records")["trainings"]
    trainings = [_training(row) for row in rows]
    _fix_steps(trainings)
    return [_regret(trainings), _false_stops(trainings), _clips(trainings), _rivals(trainings)]


def _training(row: dict[str, Any]) -> Training:
    scores = np.asarray(row["scores"], dtype=np.float64)  # checkpoints × seeds × prompts
    end = decide(lambda place, seed: scores[place, seed], len(scores), scores.shape[1], RULE)
    choices = {
        "rule": end[-1].best,
        "last": len(scores) - 1,
        "held-out loss": int(np.argmin(row["held_out_loss"])),
        "training loss": _smoothed_place(row["loss"], row["steps"]),
    }
    truth = scores.mean(axis=(1, 2))
    return Training(
        row["draw"], truth, choices, len(end) - 1 if end[-1].stop else None, 100.0 * end[-1].clips / scores.size
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
        places = range(min(len(other.truth) for other in others))
        means = [np.mean([other.regret(place) for other in others]) for place in places]
        one.choices["fixed step"] = int(np.argmin(means))


def _over_sets(trainings: list[Training], values: list[float]) -> np.ndarray:
    """Means by set, in the sets' order."""
    draws = sorted({one.draw for one in trainings})
    return np.array([
        np.mean([value for one, value in zip(trainings, values, strict=True) if one.draw == d]) for d in draws
    ])  # fmt: skip


def _share(name: str, trainings: list[Training], values: list[float]) -> Effect:
    by_set = _over_sets(trainings, values)
    return interval_effect(name, float(by_set.mean()), t_interval(mean_moments(by_set), 0.95), "%", n=len(by_set))


def _regret(trainings: list[Training]) -> ClaimResult:
    effects = [
        _share(f"regret of the checkpoint by {name}", trainings, [one.regret(one.choices[name]) for one in trainings])
        for name in ("rule", *_RIVALS)
    ]
    return judged("little-regret", effects, supported=high(effects[0]) < BAR, refuted=low(effects[0]) > BAR)


def _false_stops(trainings: list[Training]) -> ClaimResult:
    n, false = len(trainings), sum(one.false_stop for one in trainings)
    ends = (
        100.0 * float(beta.ppf(0.025, false, n - false + 1)) if false else 0.0,
        100.0 * float(beta.ppf(0.975, false + 1, n - false)) if false < n else 100.0,
    )
    effect = interval_effect("trainings stopped that would still have gained", 100.0 * false / n, ends, "%", n=n)
    stopped = sum(one.stopped_at is not None for one in trainings)
    return judged(
        "few-false-stops", [effect], supported=high(effect) < BAR, refuted=low(effect) > BAR,
        note=f"{stopped} of {n} trainings were stopped.",
    )  # fmt: skip


def _clips(trainings: list[Training]) -> ClaimResult:
    effect = _share("clips that were looked at", trainings, [one.clips for one in trainings])
    return judged("half-the-clips", [effect], supported=high(effect) < HALF, refuted=low(effect) > HALF)


def _rivals(trainings: list[Training]) -> ClaimResult:
    effects = []
    for name in _RIVALS:
        values = [one.regret(one.choices["rule"]) - one.regret(one.choices[name]) for one in trainings]
        effect = _share(f"regret, rule − {name}", trainings, values)
        p, _ = sign_flip_test(_over_sets(trainings, values), random_stream(0, name))
        effects.append(effect.model_copy(update={"p": p}))
    corrected = holm([1.0 if effect.p is None else effect.p for effect in effects])
    effects = [effect.model_copy(update={"p": p}) for effect, p in zip(effects, corrected, strict=True)]
    shown = [effect for effect in effects if effect.p is not None and effect.p < ALPHA]
    return judged(
        "better-than-rivals", effects, supported=len(shown) == len(_RIVALS) and all(e.value < 0 for e in shown),
        refuted=any(effect.value > 0 for effect in shown),
    )  # fmt: skip
