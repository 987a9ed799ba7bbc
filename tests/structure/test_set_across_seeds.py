"""What varies across seeds: ladders with known truth, invariances, and sets that cannot be judged."""

from __future__ import annotations

import math

import mir_eval
import numpy as np
import pytest
from scipy.stats import spearmanr

from eisbach.errors import UserError
from eisbach.structure.features import extract_features
from eisbach.structure.sets.alignment import boundary_alignment, hit_rate, hits
from eisbach.structure.sets.differentiation import distance_icc, mean_distance
from eisbach.structure.sets.onset_details import (
    OnsetEvents,
    detail_diversity,
    edit_distance,
    onset_events,
    pair_diversity,
)
from eisbach.studies.ground_truth import sets as ladders


def test_hits_are_mir_evals():
    rng = np.random.default_rng(0)
    for _ in range(300):
        a, b = (np.sort(rng.uniform(0.5, 39.5, rng.integers(1, 9))) for _ in range(2))
        for window in (0.5, 3.0):
            assert hits(a, b, window) == len(mir_eval.util.match_events(a, b, window))
            intervals = [np.array(list(zip([0, *t], [*t, 40], strict=True))) for t in (a, b)]
            assert hit_rate(a, b, window) == pytest.approx(
                mir_eval.segment.detection(*intervals, window=window, trim=True)[2]
            )


@pytest.mark.parametrize("chance", ["shift", "prompts"])
@pytest.mark.parametrize(("window", "jitters"), [(3.0, (0.0, 1.0, 2.0, 3.0, 5.0)), (0.5, (0.0, 0.25, 0.5, 1.0, 2.0))])
def test_alignment_falls_with_jitter_to_chance(window, jitters, chance):
    values = [
        boundary_alignment(*ladders.jittered_boundaries(j, 1), window=window, chance=chance).value for j in jitters
    ]
    assert values[0] == 1.0
    assert spearmanr(jitters, values).statistic <= -0.95
    assert values[-1] < 0.25
    unrelated = [
        boundary_alignment(*ladders.jittered_boundaries(math.inf, seed), window=window, chance=chance).value
        for seed in range(4)
    ]
    assert abs(np.mean(unrelated)) < 0.03


def test_only_other_prompts_unmask_a_habit_that_all_clips_share():
    habit = [np.array([10.0, 30.0, 45.0])] * 8
    prompts = [0, 0, 1, 1, 2, 2, 3, 3]
    assert boundary_alignment(habit, [60.0] * 8, prompts, chance="shift").value == 1.0
    found = boundary_alignment(habit, [60.0] * 8, prompts, chance="prompts")
    assert math.isnan(found.value)  # chance leaves no room: prompts add nothing that could be measured
    assert "no two takes" in found.note


def test_alignment_reports_prompts_without_boundaries_and_intervals_over_prompts():
    none = np.zeros(0)
    rows = [np.array([5.0]), np.array([5.2]), none, none, np.array([9.0]), np.array([20.0])]
    found = boundary_alignment(rows, [30.0] * 6, [0, 0, 1, 1, 2, 2])
    assert found.n_units == 2
    assert "1 prompt(s) without comparable boundaries" in found.note
    assert found.low < found.value < found.high
    one = boundary_alignment(rows[:2], [30.0] * 2, [0, 0])
    assert math.isnan(one.low)
    assert "one prompt" in one.note


def test_icc_recovers_the_share_of_variance_and_distances_their_size():
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    for share in shares:
        values = [distance_icc(*ladders.separated_rows(share, seed)) for seed in range(4)]
        assert np.mean([value.value for value in values]) == pytest.approx(share, abs=0.04)
        assert all(value.low <= value.value <= value.high <= 1.0 for value in values)
    rows, prompts = ladders.separated_rows(0.5, 9)
    distance = np.sqrt(np.mean((rows[:, None] - rows[None]) ** 2, axis=2))
    apart = np.array(prompts)[:, None] != np.array(prompts)[None]
    assert mean_distance(rows, prompts).value == pytest.approx(np.sqrt(np.mean(distance[apart] ** 2)))
    other = ~np.eye(len(rows), dtype=bool)
    assert mean_distance(rows).value == pytest.approx(np.sqrt(np.mean(distance[other] ** 2)))


def test_icc_interval_covers_the_truth_about_as_often_as_it_says():
    found = [distance_icc(*ladders.separated_rows(0.5, seed, d=8)) for seed in range(150)]
    assert 0.88 <= np.mean([value.low <= 0.5 <= value.high for value in found]) <= 0.99


def _events(notes, **options):
    return onset_events(extract_features(ladders.render(notes, 3, **options)))


def _diversity_of_pairs(change):
    """Two takes of each of three pieces, the second changed."""
    events, prompts = [], []
    for seed in range(3):
        notes = ladders.random_notes(seed, 12.0)
        events += [_events(notes), _events(change(notes, seed))]
        prompts += [seed, seed]
    return detail_diversity(events, prompts)


@pytest.mark.whole
def test_detail_diversity_rises_with_substitutions_and_jitter():
    shares, shifts = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0), (0.0, 0.01, 0.03, 0.1, 0.2)
    replaced = [_diversity_of_pairs(lambda notes, seed, s=s: ladders.substitute(notes, s, seed)) for s in shares]
    moved = [_diversity_of_pairs(lambda notes, seed, s=s: ladders.jitter(notes, s, seed)) for s in shifts]
    assert replaced[0].value == moved[0].value == 0.0
    assert spearmanr(shares, [found.value for found in replaced]).statistic >= 0.95
    assert spearmanr(shifts, [found.value for found in moved]).statistic >= 0.95
    assert replaced[3].low < replaced[3].value < replaced[3].high
    unrelated = _diversity_of_pairs(lambda notes, seed: ladders.random_notes(seed + 70, 12.0))
    assert 0.9 < unrelated.value < 1.35


def test_detail_diversity_ignores_gain_and_hardly_hears_tempo():
    notes = ladders.random_notes(5, 15.0)
    take = _events(notes)
    assert pair_diversity(take, _events(notes, gain=0.02)) < 0.02
    assert pair_diversity(take, _events(notes, tempo=1.2)) < 0.15


def test_edit_distance_is_the_textbook_recursion():
    rng = np.random.default_rng(2)
    costs = rng.random((3, 7, 11))
    for one, found in zip(costs, edit_distance(costs), strict=True):
        table = 0.5 * np.add.outer(np.arange(8), np.arange(12))
        for i in range(7):
            for j in range(11):
                table[i + 1, j + 1] = min(table[i, j] + one[i, j], table[i, j + 1] + 0.5, table[i + 1, j] + 0.5)
        assert found == pytest.approx(table[-1, -1] / 9.0)


def test_an_even_pulse_has_no_detail():
    pulse = OnsetEvents(np.arange(20) * 0.5, np.tile(np.eye(32)[3], (20, 1)))
    few = OnsetEvents(np.arange(4) * 0.5, np.eye(32)[:4])
    found = detail_diversity([pulse, pulse, few, few], ["a", "a", "b", "b"])
    assert math.isnan(found.value)
    assert "no two takes" in found.note


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: boundary_alignment([np.ones(1)] * 2, [9.0, 9.0], ["a", "b"]),
            "none of the 2 prompt\\(s\\) has two takes",
        ),
        (lambda: boundary_alignment([np.ones(1)] * 2, [9.0, 30.0], ["a", "a"]), "last from 9.0 to 30.0 s"),
        (lambda: boundary_alignment([np.array([np.nan])] * 2, [9.0] * 2, ["a", "a"]), "must be finite"),
        (lambda: boundary_alignment([np.array([20.0])] * 2, [9.0] * 2, ["a", "a"]), "outside its clip of 9.00"),
        (lambda: boundary_alignment([np.ones(1)] * 2, [9.0] * 2, ["a", "a"], window=0.0), "must be positive"),
        (lambda: boundary_alignment([np.ones(1)] * 2, [9.0] * 2, ["a", "a"], chance="luck"), "no chance level 'luck'"),
        (lambda: boundary_alignment([np.ones(1)] * 2, [9.0] * 2, ["a", "a"], chance="prompts"), "at least two prompts"),
        (lambda: boundary_alignment([np.ones(1)] * 3, [9.0] * 2, ["a", "a"]), "do not match"),
        (lambda: distance_icc(np.eye(3), ["a", "b", "c"]), "none of the 3 prompt\\(s\\) has two takes"),
        (lambda: distance_icc(np.eye(3), ["a", "a", "a"]), "belong to one prompt"),
        (lambda: distance_icc(np.eye(3), ["a", None, "b"]), "name no prompt"),
        (lambda: mean_distance(np.full((3, 2), np.inf)), "not finite"),
        (lambda: mean_distance(np.zeros((1, 2))), "at least 2"),
        (
            lambda: detail_diversity([OnsetEvents(np.ones(2), np.ones((1, 32)))] * 2, ["a", "a"]),
            "2 onsets but 1 attacks",
        ),
        (lambda: detail_diversity([OnsetEvents(np.array([2.0, 1.0]), np.ones((2, 32)))] * 2, ["a"] * 2), "ascending"),
        (lambda: detail_diversity([], ["a"]), "0 clips came with 1 prompts"),
    ],
)
def test_sets_that_cannot_be_judged_are_said(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_identical_clips_have_no_icc_but_a_distance():
    rows = np.ones((4, 3))
    found = distance_icc(rows, ["a", "a", "b", "b"])
    assert math.isnan(found.value)
    assert found.note == "all clips are identical"
    assert mean_distance(rows).value == 0.0
