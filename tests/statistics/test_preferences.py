"""Votes between pairs: known strengths come back, intervals cover, and nothing is found where nothing is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eisbach.statistics.preferences import Vote, preferences, share_for, strengths


def _votes(
    rng: np.random.Generator,
    strength: dict[str, float],
    listeners: int,
    prompts: int,
    *,
    spread: float = 0.0,
    ties: float = 0.0,
) -> list[Vote]:
    """Every listener judges every pair of arms on every prompt; both differ in how much they care."""
    arms = sorted(strength)
    pairs = [(a, b) for i, a in enumerate(arms) for b in arms[i + 1 :]]
    taste = rng.normal(0.0, spread, (listeners, len(pairs)))
    material = rng.normal(0.0, spread, (prompts, len(pairs)))
    votes = []
    for listener in range(listeners):
        for prompt in range(prompts):
            for index, (a, b) in enumerate(pairs):
                odds = strength[a] - strength[b] + taste[listener, index] + material[prompt, index]
                share = 0.5 if rng.random() < ties else float(rng.random() < 1.0 / (1.0 + math.exp(-odds)))
                votes.append(Vote(f"l{listener}", f"p{prompt}", a, b, share))
    return votes


def test_two_arms_are_the_share_of_their_votes():
    wins = np.array([[0.0, 300.0], [100.0, 0.0]])
    theta = strengths(wins)
    assert 1.0 / (1.0 + math.exp(-(theta[0] - theta[1]))) == pytest.approx(0.75, abs=1e-3)


def test_strengths_of_four_arms_come_back_through_a_chain_of_meetings():
    # a meets b, b meets c, c meets d, and never otherwise: strengths hang together through the chain.
    true = np.array([0.9, 0.3, -0.2, -1.0])
    wins = np.zeros((4, 4))
    for i in range(3):
        p = 1.0 / (1.0 + math.exp(-(true[i] - true[i + 1])))
        wins[i, i + 1], wins[i + 1, i] = 1e5 * p, 1e5 * (1 - p)
    assert strengths(wins) == pytest.approx(true - true.mean(), abs=1e-3)


def test_an_arm_without_meetings_is_in_the_middle_and_unanimity_stays_finite():
    theta = strengths(np.array([[0.0, 7.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert np.isfinite(theta).all()
    assert theta[0] > theta[2] > theta[1]


def test_an_interval_covers_and_finds_nothing_where_nothing_is():
    rng = np.random.default_rng(4)
    runs = 60
    decided = covered = 0
    for _ in range(runs):
        votes = _votes(rng, {"a": 0.0, "b": 0.0}, 8, 10, spread=0.7, ties=0.2)
        (found,) = preferences(votes, "a", rng, 99)
        decided += found.decided
        covered += found.low <= 0.5 <= found.high
    assert decided + covered == runs  # one question asked in two ways
    assert decided <= 8  # 3 expected; 8 or more has probability .01 at 5%


def test_a_clear_preference_is_decided_and_a_faint_one_says_what_is_missing():
    rng = np.random.default_rng(1)
    clear = preferences(_votes(rng, {"base": 0.0, "new": 1.5}, 10, 12, spread=0.3), "base", rng, 199)[0]
    assert clear.decided
    assert clear.share > 0.7
    assert clear.more_listeners == 0
    faint = preferences(_votes(rng, {"base": 0.0, "new": 0.25}, 4, 30, spread=0.1), "base", rng, 199)[0]
    if not faint.decided:
        assert faint.more_listeners is None or faint.more_listeners > 0


def test_prompts_that_differ_among_themselves_cannot_be_outvoted():
    """Half of the prompts go one way, half the other: no number of listeners tells the arms apart."""
    votes = [
        Vote(f"l{listener}", f"p{prompt}", "a", "b", float(prompt % 2)) for listener in range(30) for prompt in range(6)
    ]
    (found,) = preferences(votes, "b", np.random.default_rng(0), 199)
    assert not found.decided
    assert found.more_listeners is None


def test_one_listener_speaks_for_nobody_else():
    votes = [Vote("l", f"p{prompt}", "a", "b", 1.0) for prompt in range(20)]
    (found,) = preferences(votes, "b", np.random.default_rng(0), 49)
    assert found.low is None
    assert not found.decided


def test_no_difference_counts_half_and_a_stranger_is_refused():
    votes = [Vote(f"l{i}", f"p{j}", "a", "b", 0.5) for i in range(4) for j in range(5)]
    (found,) = preferences(votes, "b", np.random.default_rng(0), 49)
    assert found.share == pytest.approx(0.5)
    assert found.no_difference == found.votes == 20
    with pytest.raises(ValueError, match="no vote is about 'c'"):
        preferences(votes, "c", np.random.default_rng(0), 49)


def test_agreement_with_a_number_is_found_and_unrelated_numbers_are_not():
    rng = np.random.default_rng(2)
    votes = _votes(rng, {"a": 0.0, "b": 0.0}, 8, 12, ties=0.2)
    told = [2.0 * vote.share - 1.0 for vote in votes]
    share, low, high, count = share_for(told, votes, rng, 99)
    assert share == 1.0
    assert count == sum(vote.share != 0.5 for vote in votes)
    share, low, high, _ = share_for(rng.normal(size=len(votes)).tolist(), votes, rng, 199)
    assert low < 0.5 < high
    assert math.isnan(share_for([float("nan")] * len(votes), votes, rng, 9)[0])
