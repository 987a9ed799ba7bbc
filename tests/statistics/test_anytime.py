"""Evidence that may be looked at after every value: its false alarms, its power, its intervals, and what it refuses."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from eisbach.errors import UserError
from eisbach.statistics.anytime import (
    StopRule,
    confidence_sequence,
    decide,
    log_e_process,
    score_of,
    spending,
    table_score,
)

NULLS = {
    "coins": ([-1.0, 1.0], [0.5, 0.5]),
    "rare gains": ([-1 / 9, 1.0], [0.9, 0.1]),
    "rare losses": ([1 / 9, -1.0], [0.9, 0.1]),
    "three": ([-0.6, 0.0, 0.3], [0.25, 0.25, 0.5]),
}
"""Values and probabilities with mean 0."""
SIMULATIONS, LENGTH, ALPHA = 500, 150, 0.05


def most(alarms: int, simulations: int = SIMULATIONS, level: float = ALPHA) -> bool:
    """Whether so many alarms are within four standard errors above a level: a valid test passes but for one run in
    30,000."""
    return alarms / simulations <= level + 4 * math.sqrt(level * (1 - level) / simulations)


@pytest.mark.parametrize("name", NULLS)
def test_looking_after_every_value_raises_no_more_false_alarms_than_alpha(name: str) -> None:
    values, chances = NULLS[name]
    rng = np.random.default_rng(1)
    draws = rng.choice(values, (SIMULATIONS, LENGTH), p=chances)
    alarms = sum(log_e_process(row).max() >= math.log(1 / ALPHA) for row in draws)
    assert most(alarms)


def test_a_test_that_is_not_made_for_it_fails_the_same_way_of_looking() -> None:
    """The simulation can fail: t tests looked at after every value raise alarms far beyond alpha."""
    draws = np.random.default_rng(1).choice([-1.0, 1.0], (SIMULATIONS, LENGTH))
    counts = np.arange(1, LENGTH + 1)
    means = draws.cumsum(axis=1) / counts
    z = (means / np.sqrt((1.0001 - means**2) / counts))[:, 10:]
    assert not most(int((z.max(axis=1) > 1.645).sum()))


def test_what_is_expected_of_a_wealth_is_at_most_one_exactly() -> None:
    """All 2^8 orders of a coin, summed: no simulation."""
    for null, chance in ((0.0, 0.5), (0.2, 0.6)):
        for horizon in (None, 8):
            total = 0.0
            for row in itertools.product([-1.0, 1.0], repeat=8):
                share = np.prod([chance if value > 0 else 1 - chance for value in row])
                total += share * math.exp(log_e_process(row, null, horizon=horizon)[-1])
            assert total == pytest.approx(1.0, abs=1e-9)  # fair, neither more nor less


def test_a_difference_is_found_in_a_number_of_values_that_is_near_what_it_takes() -> None:
    rng = np.random.default_rng(2)
    for mean, spread, enough in ((0.3, 0.2, 26), (0.2, 0.35, 65)):
        draws = np.clip(rng.normal(mean, spread, (100, enough)), -1, 1)
        assert np.mean([log_e_process(row).max() >= math.log(20) for row in draws]) >= 0.8


@pytest.mark.parametrize("name", NULLS)
@pytest.mark.parametrize("horizon", [24, 100])
def test_bets_for_few_values_raise_no_more_false_alarms_either(name: str, horizon: int) -> None:
    values, chances = NULLS[name]
    draws = np.random.default_rng(1).choice(values, (SIMULATIONS, LENGTH), p=chances)
    assert most(sum(log_e_process(row, horizon=horizon).max() >= math.log(1 / ALPHA) for row in draws))


def test_bets_for_few_values_find_more_in_them() -> None:
    draws = np.clip(np.random.default_rng(2).normal(0.25, 0.3, (200, 24)), -1, 1)
    shares = [
        np.mean([log_e_process(row, horizon=horizon).max() >= 3.5 for row in draws]) for horizon in (24, 100, None)
    ]
    assert shares[0] > shares[1] > shares[2]
    assert shares[0] > shares[2] + 0.1
    assert log_e_process([1.0], horizon=1)[-1] == pytest.approx(math.log(1.98))  # one value: all on one bet


def test_evidence_does_not_depend_on_the_order_of_values() -> None:
    values = np.random.default_rng(3).uniform(-0.5, 0.8, 40)
    assert log_e_process(values)[-1] == pytest.approx(log_e_process(values[::-1])[-1])
    assert log_e_process([]).shape == (0,)


def test_confidence_sequences_hold_the_mean_at_all_times_at_once_and_narrow() -> None:
    rng = np.random.default_rng(4)
    misses = 0
    for _ in range(30):
        values = rng.choice([-0.2, 0.5, 1.0], 80, p=[0.6, 0.3, 0.1])
        ends = confidence_sequence(values, 0.1)
        misses += bool((ends[:, 0] > 0.13).any() or (ends[:, 1] < 0.13).any())
        assert (np.diff(ends[:, 0]) >= 0).all()
        assert (np.diff(ends[:, 1]) <= 0).all()
    assert most(misses, 30, 0.1)
    assert ends[-1, 1] - ends[-1, 0] < 1.0


def test_other_bounds_are_the_same_question_in_other_units() -> None:
    values = np.random.default_rng(5).uniform(0.2, 0.9, 30)
    whole = log_e_process(values, 0.3, low=0.0, high=1.0)
    assert whole == pytest.approx(log_e_process(10 * values - 5, -2.0, low=-5.0, high=5.0))


def test_alpha_is_spent_once() -> None:
    assert sum(spending(0.05, number) for number in range(1, 100_000)) == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: log_e_process([0.1, 1.2]), r"must lie in \[-1, 1\]"),
        (lambda: log_e_process([math.nan]), "must lie in"),
        (lambda: log_e_process([0.1], 1.0), "not between the bounds"),
        (lambda: confidence_sequence([0.1], 0.0), "alpha is 0"),
        (lambda: StopRule(patience=1, window=2), "patience is at least window"),
        (lambda: StopRule(alpha=0), "numbers between 0 and 1"),
        (lambda: decide(lambda *_: np.zeros(2), 3, 1), "reserve needs at least one more"),
        (lambda: decide(lambda *_: np.full(2, 1.5), 3, 2), "numbers from 0 to 1"),
        (lambda: decide(lambda *_: np.full(2, np.nan), 3, 2), "could not be measured"),
    ],
)
def test_what_cannot_be_is_said(act, message) -> None:
    with pytest.raises(UserError, match=message):
        act()


# --- the rule


def world(rng: np.random.Generator, levels: np.ndarray, prompts: int = 8, seeds: int = 4) -> np.ndarray:
    """Scores [shape=(checkpoints, seeds, prompts)] around levels: prompts differ, and a pair stays like itself from
    checkpoint to checkpoint."""
    own = rng.normal(0, 0.1, (1, 1, prompts)) + rng.normal(0, 0.1, (1, seeds, prompts))
    noise = rng.normal(0, 0.15, (len(levels), seeds, prompts))
    return np.clip(levels[:, None, None] + own + noise, 0, 1)


def play(table: np.ndarray, rule: StopRule):
    return decide(lambda place, seed: table[place, seed], len(table), table.shape[1], rule)


def test_a_training_that_goes_bad_is_stopped_and_its_best_checkpoint_named() -> None:
    rng, rule = np.random.default_rng(6), StopRule()
    levels = np.concatenate([np.linspace(0.6, 0.2, 5), np.linspace(0.3, 0.9, 10)])
    ends = [play(world(rng, levels), rule)[-1] for _ in range(40)]
    assert np.mean([end.stop for end in ends]) >= 0.8
    assert np.mean([abs(levels[end.best] - 0.2) < 0.15 for end in ends]) >= 0.9
    assert np.mean([end.clips for end in ends]) < 0.6 * 15 * 32


@pytest.mark.parametrize("gain", [0.0, 0.02])
def test_a_training_that_gains_by_the_margin_is_rarely_stopped_however_often_it_is_looked_at(gain: float) -> None:
    """The null at its border: every window is better than the one before by just the margin (or by none, with none)."""
    rng = np.random.default_rng(7)
    rule = StopRule(margin=gain, patience=2, window=1)
    levels = 0.7 - gain * np.arange(12)
    stops = sum(play(world(rng, levels), rule)[-1].stop for _ in range(60))
    assert most(stops, 60)


def test_the_choice_of_the_best_does_not_fool_the_test() -> None:
    """Nothing changes, and the best checkpoint is the luckiest one: with one seed for both the choice and the test, its
    luck would read as later ones being worse."""
    rng = np.random.default_rng(8)
    rule = StopRule(margin=0.0, patience=2, window=1)
    tables = [world(rng, np.full(10, 0.5)) for _ in range(60)]
    assert most(sum(play(table, rule)[-1].stop for table in tables), 60)
    same, split = [], []
    for table in tables:
        for chosen, tested, worse in ((table[:, 1:], table[:, 1:], same), (table[:, :1], table[:, 1:], split)):
            best = int(chosen.mean(axis=(1, 2)).argmin())
            worse.append(float(np.delete(tested, best, 0).mean() - tested[best].mean()))
    assert min(same) > 0  # the luckiest on the same clips: every later one looks worse
    assert abs(np.mean(split)) < 0.01


def binary(rng: np.random.Generator, chances: np.ndarray) -> np.ndarray:
    return (rng.random(np.broadcast_shapes(chances.shape, (10, 4, 8))) < chances).astype(float)


def at_the_border(shape: str, rng: np.random.Generator, fall: np.ndarray) -> np.ndarray:
    """Scores [shape=(10, 4, 8)] of a training whose mean falls by `fall` [shape=(10, 1, 1)]."""
    if shape == "pairs alike":  # a pair's own level, the same at all checkpoints, is nine tenths of its spread
        return np.clip(0.5 - fall + rng.uniform(-0.3, 0.3, (1, 4, 8)) + rng.uniform(-0.1, 0.1, (10, 4, 8)), 0, 1)
    if shape == "coins":
        return binary(rng, 0.5 - fall)
    if shape == "rare gains":  # nearly all clips are bad, and what is gained comes from a few that turn good
        return binary(rng, 0.95 - fall)
    if shape == "prompts apart":  # half of the prompts gain much, and the others lose much; their mean falls
        return binary(rng, 0.5 - fall + np.linspace(-0.4, 0.4, 10)[:, None, None] * np.tile([1, -1], 4))
    # drifting: a pair wanders from checkpoint to checkpoint, and comes back
    steps = np.cumsum(rng.choice([-0.08, 0.08], (10, 4, 8)), axis=0)
    return np.clip(0.5 - fall + np.abs((steps + 0.3) % 1.2 - 0.6) - 0.3, 0, 1)


SHAPES = [
    "coins",
    *(pytest.param(shape, marks=pytest.mark.whole) for shape in ("rare gains", "prompts apart")),
    *(pytest.param(shape, marks=pytest.mark.slow) for shape in ("pairs alike", "drifting")),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_at_the_border_of_the_null_at_most_alpha_of_trainings_are_stopped(shape: str) -> None:
    """2,000 trainings whose newest checkpoint is better than the one `patience` before it by just the margin."""
    rng, rule = np.random.default_rng(9), StopRule()
    fall = (rule.margin / rule.patience * np.arange(10))[:, None, None]
    stops = sum(play(at_the_border(shape, rng, fall), rule)[-1].stop for _ in range(2000))
    assert most(stops, 2000)


def test_a_test_that_speaks_for_going_on_is_given_up_after_a_seed() -> None:
    """The pilot is misled: its best checkpoint is no better than the newer ones in the reserve."""
    table = {(place, seed): [0.1 if (place, seed) == (0, 0) else 0.5] * 8 for place in range(4) for seed in range(4)}
    end = decide(table_score(table), 4, 4, StopRule(margin=0.0))[-1]
    assert (end.stop, end.tests, end.clips) == (False, 1, 4 * 8 + 3 * 2 * 8)  # at no evidence it goes on looking
    table |= {(3, seed): [0.4] * 8 for seed in range(1, 4)}
    end = decide(table_score(table), 4, 4, StopRule(margin=0.0))[-1]
    assert (end.stop, end.clips) == (False, 4 * 8 + 2 * 8)


def test_only_clips_that_decide_are_asked_for() -> None:
    asked: list[tuple[int, int]] = []
    falling = np.linspace(0.8, 0.2, 12)

    def score(place: int, seed: int) -> np.ndarray:
        asked.append((place, seed))
        return np.full(8, falling[place])

    decisions = decide(score, 12, 4)
    assert {seed for _, seed in asked} == {0}  # while it gains, the pilot alone
    assert len(asked) == len(set(asked)) == 12
    assert decisions[-1].clips == 96
    assert [decision.best for decision in decisions] == list(range(12))
    assert not any(decision.stop for decision in decisions)


def test_a_decision_says_what_it_rests_on() -> None:
    table = {(place, seed): [0.1 if place == 1 else 0.9] * 12 for place in range(8) for seed in range(3)}
    rule = StopRule(window=1, patience=2)
    end = decide(table_score(table), 8, 3, rule)[-1]
    assert (end.stop, end.best, end.tests) == (True, 1, 1)
    assert end.gain == pytest.approx(-0.8)
    assert end.log_evidence is not None
    assert end.needed == pytest.approx(math.log(1 / spending(0.05, 1)))
    assert end.log_evidence >= end.needed
    assert rule.can_stop(3, 12)
    assert not rule.can_stop(2, 4)


def test_measures_become_scores() -> None:
    assert [score_of(value, "lower", (0, 1)) for value in (0.0, 0.3, 2.0)] == [0.0, 0.3, 1.0]
    assert score_of(5.0, "higher", (0, 20)) == 0.75
