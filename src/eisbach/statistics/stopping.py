"""When to stop a training by what its checkpoints play: evidence that going on gains nothing, valid however often it is
looked at.

Every checkpoint plays the same prompts from the same noise, so that checkpoints are compared within (prompt, seed)
pairs. The seeds are split: the *pilot* says which checkpoint is best so far; the *reserve* is looked at only when
checkpoints after the best one have come, and tests whether they are better than it by at least a margin. As the
reserve had no say in which checkpoint was called best, the test is not fooled by that choice; as each test may use its
share of alpha only (`anytime.spending`), all the tests of a run together stop one that still gains, by the margin and
more, with probability at most alpha.

A seed is drawn for all prompts at once, and evidence is looked at after whole seeds: then it holds for these very
prompts too, whose means differ (a bet's expected wealth over a seed's clips is at most that of equal means).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eisbach.errors import UserError
from eisbach.statistics.anytime import log_e_process, spending

Score = Callable[[int, int], np.ndarray]
"""(checkpoint, number of the seed) -> scores of its clips over the prompts [shape=(P,)], in [0, 1], lower is better."""


@dataclass(frozen=True)
class StopRule:
    """The rule's settings.

    Attributes
    ----------
    alpha : float
        Probability of stopping a training that still gains by the margin.
    margin : float
        A smaller gain, in the score's unit, is none.
    patience : int
        Checkpoints after the best one before a test, and between tests; at least `window`.
    window : int
        Checkpoints that are averaged, on both sides of a comparison.
    pilot : int
        Seeds of the pilot.
    """

    alpha: float = 0.05
    margin: float = 0.02
    patience: int = 3
    window: int = 2
    pilot: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1 or not 0 <= self.margin < 1:
            raise UserError(f"alpha is {self.alpha} and margin {self.margin}; give numbers between 0 and 1.")
        if self.window < 1 or self.patience < self.window or self.pilot < 1:
            raise UserError(
                f"patience is {self.patience}, window {self.window} and pilot {self.pilot}; all are at least 1, and "
                "patience is at least window, or both sides of a test would share a checkpoint."
            )

    def can_stop(self, seeds: int, prompts: int) -> bool:
        """Whether the reserve of so many clips could ever be enough for the first test."""
        worst = np.ones(prompts * max(0, seeds - self.pilot))
        needed = math.log(1 / spending(self.alpha, 1))
        return bool(len(worst) and log_e_process(worst, -self.margin)[-1] >= needed)


@dataclass(frozen=True)
class StopDecision:
    """Where a training stands after its newest checkpoint.

    Attributes
    ----------
    stop : bool
    best : int
        Place of the best checkpoint so far, counted from 0: the last of the window with the lowest score.
    tests : int
        Tests so far.
    gain : float or None
        Mean by which the newest window is better than the best one in the reserve of the last test; None without one.
    log_evidence, needed : float or None
        Of the last test, in nats, that going on gains less than the margin, and what it takes.
    clips : int
        Clips that were looked at, each counted once.
    """

    stop: bool
    best: int
    tests: int
    gain: float | None
    log_evidence: float | None
    needed: float | None
    clips: int


def decide(score: Score, checkpoints: int, seeds: int, rule: StopRule | None = None) -> list[StopDecision]:
    """The decision after each checkpoint, up to the first that stops.

    Parameters
    ----------
    score : callable
        Is asked for a clip only when the rule looks at it.
    checkpoints, seeds : int
        How many there are; the first `rule.pilot` seeds are the pilot.

    Raises
    ------
    UserError
        No seed is left for the reserve, or scores beyond [0, 1].
    """
    rule = rule or StopRule()
    if seeds <= rule.pilot:
        raise UserError(
            f"{seeds} seeds arrived and {rule.pilot} of them are the pilot's; the reserve needs at least one more."
        )
    clips = _Clips(score)
    decisions: list[StopDecision] = []
    levels: list[float] = []
    tests = 0
    last: tuple[float | None, float | None, float | None] = (None, None, None)
    for place in range(checkpoints):
        levels.append(float(np.mean([clips(place, seed) for seed in range(rule.pilot)])))
        best = _best(levels, rule.window)
        stop = False
        if place > best and (place - best) % rule.patience == 0:
            tests += 1
            needed = math.log(1 / spending(rule.alpha, tests))
            gains, evidence = _test(clips, place, best, seeds, needed, rule)
            stop, last = evidence >= needed, (float(np.mean(gains)), evidence, needed)
        decisions.append(StopDecision(stop, best, tests, *last, clips.count))
        if stop:
            break
    return decisions


def _best(levels: Sequence[float], window: int) -> int:
    """The end of the window with the lowest mean; the earlier one of two equals. What it is changes to newer
    checkpoints only: windows end where they are, so those behind never change."""
    means = [float(np.mean(levels[max(0, end - window + 1) : end + 1])) for end in range(len(levels))]
    return int(np.argmin(means))


def _test(clips: _Clips, place: int, best: int, seeds: int, needed: float, rule: StopRule) -> tuple[np.ndarray, float]:
    """Gains of the newest window over the best one [shape=(n,)], seed by seed until decided, and the log evidence that
    their mean is below the margin."""
    newest = range(place - rule.window + 1, place + 1)
    known = range(max(0, best - rule.window + 1), best + 1)
    gains = np.zeros(0)
    evidence = 0.0
    for seed in range(rule.pilot, seeds):
        before, after = (np.mean([clips(p, seed) for p in side], axis=0) for side in (known, newest))
        gains = np.concatenate([gains, before - after])
        # 'the gain is at least the margin' is 'minus the gain is at most minus the margin'
        evidence = float(log_e_process(-gains, -rule.margin)[-1])
        if evidence >= needed:
            break
    return gains, evidence


class _Clips:
    """Scores, each asked for once."""

    def __init__(self, score: Score) -> None:
        self._score = score
        self._known: dict[tuple[int, int], np.ndarray] = {}

    def __call__(self, place: int, seed: int) -> np.ndarray:
        if (place, seed) not in self._known:
            values = np.asarray(self._score(place, seed), dtype=np.float64).reshape(-1)
            if not (len(values) and np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
                raise UserError(
                    f"the scores of checkpoint {place} and seed {seed} must be numbers from 0 to 1; a clip that could "
                    "not be measured (under 8 s, for flatness) has none."
                )
            self._known[place, seed] = values
        return self._known[place, seed]

    @property
    def count(self) -> int:
        """Clips that were asked for."""
        return sum(len(values) for values in self._known.values())


def score_of(value: float, better: str, bounds: tuple[float, float]) -> float:
    """A measure as a score: 0 is its good end, 1 its bad one, what lies beyond counts as the end.

    >>> score_of(15.0, "higher", (0.0, 20.0))
    0.25
    """
    low, high = bounds
    share = min(1.0, max(0.0, (value - low) / (high - low)))
    return share if better == "lower" else 1.0 - share


def table_score(table: Mapping[tuple[int, int], Sequence[float]]) -> Score:
    """Scores that are all known, by (checkpoint, seed)."""
    return lambda place, seed: np.asarray(table[place, seed], dtype=np.float64)
