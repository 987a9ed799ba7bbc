"""Distances to a reference: against SciPy, unbiased, and a verdict that cries wolf in one case of 20."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance as scipy_wasserstein

from eisbach.errors import UserError
from eisbach.statistics.distance import Kernel, wasserstein_distance
from eisbach.statistics.nearness import compare_to_reference
from eisbach.statistics.records import MetricInfo
from eisbach.statistics.sets import KERNEL
from eisbach.structure.sets.distances import kernel_distance

LEVEL = MetricInfo("level", "level", primary=True)
FLAT = MetricInfo("flat", "flat", primary=True, share=True)


def clips(arm, values, column="level", seeds=1):
    return [
        {"arm": arm, "prompt_id": f"p{n // seeds}", "seed": n % seeds, "path": f"{arm}/{n}.flac", column: value}
        for n, value in enumerate(values)
    ]


def music(values, column="level", units=None):
    return [
        {
            "path": f"music/{n}.flac",
            column: value,
            **({} if units is None else {"unit": f"u{n * units // len(values)}"}),
        }
        for n, value in enumerate(values)
    ]


def near(rng, shifts, n=32, m=40, **options):
    rows = [row for arm, shift in zip("ab", shifts, strict=True) for row in clips(arm, rng.normal(shift, 1.0, n))]
    options = {"unmatched": ["b"], "n_resamples": 399} | options
    return compare_to_reference(rows, music(rng.normal(0.0, 1.0, m)), [LEVEL], ["a", "b"], **options)


@pytest.mark.parametrize(("n", "m"), [(1, 4), (7, 7), (20, 33)])
def test_the_distance_is_scipys_in_the_references_deviations(n, m):
    rng = np.random.default_rng(n)
    ours, theirs = rng.normal(1.0, 2.0, n).round(1), rng.normal(0.0, 3.0, m).round(1)
    expected = scipy_wasserstein(ours, theirs) / np.std(theirs, ddof=1)
    assert wasserstein_distance(ours, theirs) == pytest.approx(expected, rel=1e-12)


def test_a_shift_reads_its_size_in_deviations_whatever_the_unit():
    base = np.random.default_rng(0).normal(size=400)
    for gain in (1.0, -1000.0):
        assert wasserstein_distance((base + 1.0) * gain, base * gain) == pytest.approx(1 / base.std(ddof=1), rel=1e-9)


def test_weighted_kernel_distances_are_the_unbiased_ones():
    rng = np.random.default_rng(1)
    rows, reference = rng.normal(size=(9, 5)), rng.normal(0.5, 1.0, size=(12, 5))
    squared = ((reference[:, None] - reference[None]) ** 2).sum(-1)[np.triu_indices(12, 1)]
    found = Kernel(rows, reference)(np.ones((1, 9)), np.ones((1, 12)))[0]
    assert found == pytest.approx(kernel_distance(rows, reference, bandwidth=np.sqrt(np.median(squared))), abs=1e-12)


def test_draws_of_the_reference_are_no_nearer_and_read_about_nothing():
    rng = np.random.default_rng(2)
    cases = [near(rng, (0.0, 0.0), seed=case) for case in range(60)]
    verdicts = [each.comparison("b", "level").verdict for each in cases]
    assert verdicts.count("no nearer") >= 54  # 57 are expected; under 54 has p = 0.03 at a level of 5%
    own = [each.distance("b", "level") for each in cases]
    assert np.mean([each.value for each in own]) < 0.2 < np.mean([each.raw for each in own])
    assert np.mean([each.raw for each in own]) == pytest.approx(np.mean([each.itself for each in own]), rel=0.15)
    assert np.mean([each.interval[0] == 0.0 for each in own]) > 0.85


@pytest.mark.parametrize("unmatched", [["b"], []])
def test_a_set_one_deviation_away_is_found_from_both_sides(unmatched):
    rng = np.random.default_rng(3)
    for shifts, word in (((0.0, 1.0), "farther"), ((1.0, 0.0), "nearer")):
        cases = [near(rng, shifts, unmatched=unmatched, seed=case) for case in range(12)]
        assert [each.comparison("b", "level").verdict for each in cases].count(word) >= 9
        value = [each.distance("b" if word == "farther" else "a", "level").value for each in cases]
        assert np.mean(value) == pytest.approx(1.0, abs=0.25)


def test_flat_pieces_count_beyond_the_references_own():
    rows = clips("a", [True] * 8 + [False] * 8, "flat") + clips("b", [True] * 2 + [False] * 14, "flat")
    found = compare_to_reference(rows, music([True] * 5 + [False] * 15, "flat"), [FLAT], ["a", "b"], unmatched=["b"])
    assert found.distance("a", "flat").raw == pytest.approx(0.25)
    assert found.distance("b", "flat").value == 0.0  # fewer than the reference: none beyond


def test_embeddings_are_compared_by_path_and_trained_models_are_units():
    rng = np.random.default_rng(4)
    rows = [
        {"arm": arm, "train_seed": model, "prompt_id": f"p{p}", "seed": 0, "path": f"{arm}{model}{p}", "level": 0.0}
        for arm in "ab"
        for model in range(5)
        for p in range(4)
    ]
    reference = music([0.0] * 12)
    vectors = {row["path"]: rng.normal(3.0 if row.get("arm") == "a" else 0.0, 1.0, 6) for row in [*rows, *reference]}
    found = compare_to_reference(rows, reference, [], ["a", "b"], embeddings={"ear": vectors})
    compared = found.comparison("b", KERNEL + "ear")
    assert (compared.unit, compared.n_units, compared.verdict) == ("trained model", 5, "nearer")
    assert compared.p == pytest.approx(2 / 252)


def test_stretches_of_one_recording_make_the_reference_less_certain():
    values = np.repeat(np.random.default_rng(5).normal(size=8), 4)
    rows = clips("a", np.random.default_rng(6).normal(1.0, 1.0, 24))
    alone, together = (
        compare_to_reference(rows, music(values, units=units), [LEVEL], ["a"]).distance("a", "level").interval
        for units in (None, 8)
    )
    assert together[1] - together[0] >= 0.8 * (alone[1] - alone[0])


def test_a_reference_of_three_clips_is_refused_and_one_arm_stands_alone():
    with pytest.raises(UserError, match="holds 3 clips"):
        compare_to_reference(clips("a", [1.0, 2.0]), music([1.0, 2.0, 3.0]), [LEVEL], ["a"])
    found = compare_to_reference(clips("a", [1.0, 2.0]), music([1.0, 2.0, 3.0, 4.0]), [LEVEL], ["a"])
    assert found.comparisons == []
    assert found.distance("a", "level").interval is not None
