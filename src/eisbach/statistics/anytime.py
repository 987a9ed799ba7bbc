"""Evidence that may be looked at after every clip: e-processes and confidence sequences for the mean of bounded values.

A test whose p is looked at again and again, until it is small, raises false alarms; these do not. An e-process is the
wealth of a gambler who bets against a null hypothesis in a game that is fair under it: by Ville's inequality it ever
exceeds 1/α with probability at most α, so one may stop whenever one likes (Waudby-Smith & Ramdas, "Estimating means of
bounded random variables by betting", JRSS-B 2024, §4).

The bets here are a fixed mixture of constant ones. Each constant bet λ has the wealth Π (1 + λ (x_i − m)), which does
not depend on the order of the values, and which no single bet has to be tuned for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eisbach.errors import UserError

_SMALLEST = 0.06
_STEADY = 0.98  # a bet of 1 could lose everything in one value
_NATS = 3.0  # evidence at 5%
_GRID = 201


def log_e_process(
    values: Sequence[float] | np.ndarray,
    null: float = 0.0,
    *,
    low: float = -1.0,
    high: float = 1.0,
    horizon: int | None = None,
) -> np.ndarray:
    """Log evidence after each value, in nats, against 'the mean is at most `null`'.

    Parameters
    ----------
    values : array [shape=(n,)]
        In [low, high]. Each has, given the ones before it, a mean of at most `null` under the hypothesis; for
        differences of pairs this holds when the pairs are drawn alike.
    null : float in (low, high)
    horizon : int or None
        How many values there can be, if that is known beforehand and few: then no stake goes to small bets, which would
        need more of them.

    Returns
    -------
    np.ndarray [shape=(n,)]
        Under the hypothesis it ever reaches log(1/α) with probability at most α.

    Raises
    ------
    UserError
        Values beyond their bounds, or a null that is not between them.

    Examples
    --------
    >>> evidence = log_e_process([0.4, 0.1, 0.5, 0.3, 0.6, 0.2])
    >>> bool(evidence[-1] > evidence[0] > 0)
    True
    >>> bool(log_e_process([-0.2] * 6)[-1] < 0)
    True
    """
    return _log_mixtures(_checked(values, null, low, high), np.array([null]), low, _bets(horizon))[:, 0]


def _bets(horizon: int | None) -> np.ndarray:
    """The bets, about twice apart, as shares of the largest. A bet λ that is right for its values (λ = mean / variance)
    earns n λ² variance / 2 in n of them, and the variance is at most 1: in few values a small one earns too little."""
    least = _SMALLEST if horizon is None else min(1.0, max(_SMALLEST, math.sqrt(2 * _NATS / max(1, horizon))))
    return np.geomspace(1.0, least, 1 + round(-math.log2(least)))[::-1]  # one bet is the largest


def _log_mixtures(values: np.ndarray, nulls: np.ndarray, low: float, bets: np.ndarray) -> np.ndarray:
    """Log of the mean wealth of the constant bets after each value, against each null [shape=(n, nulls)]. The largest
    bet is all that no value can ruin, 1 / (null − low)."""
    stakes = _STEADY / (nulls - low)[:, None] * bets
    wealths = np.cumsum(np.log1p(stakes * (values[:, None] - nulls)[:, :, None]), axis=0)
    return np.asarray(np.logaddexp.reduce(wealths, axis=2) - math.log(len(bets)))


def confidence_sequence(
    values: Sequence[float] | np.ndarray, alpha: float = 0.05, *, low: float = -1.0, high: float = 1.0
) -> np.ndarray:
    """Intervals for the mean after each value, all of which hold it at once with probability at least 1 − alpha.

    Returns
    -------
    np.ndarray [shape=(n, 2)]
        Never wider than the one before; `low` and `high` until something is known.

    Examples
    --------
    >>> ends = confidence_sequence([0.5, 0.4, 0.6, 0.5] * 20)
    >>> bool(0 < ends[-1, 0] < 0.5 < ends[-1, 1])
    True
    """
    if not 0 < alpha < 1:
        raise UserError(f"alpha is {alpha}; give a probability between 0 and 1.")
    checked = _checked(values, (low + high) / 2, low, high)
    ends = np.tile([low, high], (len(checked), 1)).astype(float)
    # Half of alpha for each side: an end stands at the farthest mean that its gamblers have ruled out. Evidence against
    # 'at most m' falls with m, so that a grid of means loses a step of width and no certainty.
    means = np.linspace(low, high, _GRID)[1:-1]
    limit = math.log(2.0 / alpha)
    bets = _bets(None)
    above, below = _log_mixtures(checked, means, low, bets), _log_mixtures(-checked, -means, -high, bets)
    for index in range(len(checked)):
        ruled_low, ruled_high = means[above[index] >= limit], means[below[index] >= limit]
        if len(ruled_low):
            ends[index, 0] = ruled_low.max()
        if len(ruled_high):
            ends[index, 1] = ruled_high.min()
    ends[:, 0] = np.maximum.accumulate(ends[:, 0])
    ends[:, 1] = np.minimum.accumulate(ends[:, 1])
    crossed = ends[:, 0] > ends[:, 1]  # happens with probability below alpha; an interval stays one
    ends[crossed] = ends[crossed].mean(axis=1, keepdims=True)
    return ends


def spending(alpha: float, number: int) -> float:
    """The share of alpha that the test of this number, counted from 1, may use: all of them together use alpha.

    >>> round(sum(spending(0.05, number) for number in range(1, 10_000)), 3)
    0.05
    """
    return alpha * 6.0 / (math.pi * number) ** 2


def _checked(values: Sequence[float] | np.ndarray, null: float, low: float, high: float) -> np.ndarray:
    checked = np.asarray(values, dtype=np.float64).reshape(-1)
    if not low < null < high:
        raise UserError(f"a mean of {null:g} is not between the bounds {low:g} and {high:g} of the values.")
    if len(checked) and not (np.isfinite(checked).all() and checked.min() >= low and checked.max() <= high):
        raise UserError(
            f"values from {np.min(checked):g} to {np.max(checked):g} arrived, and they must lie in [{low:g}, {high:g}]."
        )
    return checked


# --- when to stop a training: evidence that going on gains less than a margin, valid however often it is looked at


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
        Checkpoints that are averaged, on both sides of a comparison. Two of them take twice the clips of one, and find
        no more with as many.
    pilot : int
        Seeds of the pilot.
    """

    alpha: float = 0.05
    margin: float = 0.02
    patience: int = 3
    window: int = 1
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
        return bool(len(worst) and log_e_process(worst, -self.margin, horizon=len(worst))[-1] >= needed)


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
    """Gains of the newest window over the best one [shape=(n,)], and the log evidence that their mean is below the
    margin.

    Seed by seed, until the evidence is enough, or speaks for going on: such a test hardly ever turns, and would cost
    the whole reserve of a training that is fine. One may give up whenever one likes; it can only make stops rarer.
    """
    newest = range(place - rule.window + 1, place + 1)
    known = range(max(0, best - rule.window + 1), best + 1)
    gains = np.zeros(0)
    evidence = 0.0
    for seed in range(rule.pilot, seeds):
        before, after = (np.mean([clips(p, seed) for p in side], axis=0) for side in (known, newest))
        gains = np.concatenate([gains, before - after])
        # 'the gain is at least the margin' is 'minus the gain is at most minus the margin'
        reserve = len(before) * (seeds - rule.pilot)
        evidence = float(log_e_process(-gains, -rule.margin, horizon=reserve)[-1])
        if evidence >= needed or evidence < 0:
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
