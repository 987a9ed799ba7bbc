import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.weightstats import DescrStatsW, ttost_ind

from eisbach.statistics.effect_size import (
    crossed_moments,
    equivalence_p,
    hedges_g,
    mean_moments,
    pair_improvement,
    t_interval,
    unpaired_improvement,
)

RNG = np.random.default_rng(11)
A, B = RNG.normal(0.0, 1.0, 12), RNG.normal(0.5, 1.4, 9)


def test_t_intervals_equal_scipy():
    ours = t_interval(mean_moments(A), 0.95)
    theirs = scipy.stats.ttest_1samp(A, 0).confidence_interval()
    assert ours == pytest.approx((theirs.low, theirs.high))
    welch = t_interval(mean_moments(A, B), 0.95)
    theirs = scipy.stats.ttest_ind(A, B, equal_var=False).confidence_interval()
    assert welch == pytest.approx((theirs.low, theirs.high))


def test_equivalence_equals_statsmodels():
    assert equivalence_p(mean_moments(A), 0.7) == pytest.approx(DescrStatsW(A).ttost_mean(-0.7, 0.7)[0])
    assert equivalence_p(mean_moments(A, B), 0.9) == pytest.approx(ttost_ind(A, B, -0.9, 0.9, usevar="unequal")[0])


def test_equivalence_needs_a_margin_and_closeness():
    assert equivalence_p(mean_moments(A), None) is None
    assert equivalence_p(mean_moments(A[:1]), 1.0) is None
    assert equivalence_p(mean_moments(np.zeros(4)), 0.1) == 0.0
    assert equivalence_p(mean_moments(np.ones(4)), 0.1) == 1.0


def test_hedges_g_is_unbiased_where_cohens_d_is_not():
    samples = np.random.default_rng(0).normal(0.5, 1.0, (20_000, 6))
    cohen = samples.mean(axis=1) / samples.std(axis=1, ddof=1)
    ours = np.array([hedges_g(sample) for sample in samples[:4_000]])
    assert cohen.mean() > 0.56
    assert ours.mean() == pytest.approx(0.5, abs=0.02)


def test_hedges_g_of_two_groups_has_the_known_correction():
    pooled = np.sqrt((11 * A.var(ddof=1) + 8 * B.var(ddof=1)) / 19)
    approximately = (1 - 3 / (4 * 19 - 1)) * (A.mean() - B.mean()) / pooled
    assert hedges_g(A, B) == pytest.approx(approximately, rel=1e-3)
    assert hedges_g(A, B) == pytest.approx(-hedges_g(B, A))


@pytest.mark.parametrize("sample", [np.array([1.0]), np.array([1.0, 2.0]), np.full(5, 3.0)])
def test_hedges_g_is_none_where_it_has_no_meaning(sample):
    assert hedges_g(sample) is None


def test_improvement_counts_pairs_and_halves_ties_prompt_by_prompt():
    nan = np.nan
    base = np.array([[[1.0, 1.0, 1.0, 1.0], [5.0, nan, nan, nan]]])
    arm = np.array([[[2.0, 0.0, 1.0, 3.0], [4.0, nan, nan, nan]]])
    assert pair_improvement(base, arm, "higher") == pytest.approx((2.5 / 4 + 0.0) / 2)
    assert pair_improvement(base, arm, "lower") == pytest.approx((1.5 / 4 + 1.0) / 2)
    assert pair_improvement(base, arm, None) == pair_improvement(base, arm, "higher")
    assert pair_improvement(base * nan, arm * nan, None) is None


def test_unpaired_improvement_is_mann_whitney():
    u = scipy.stats.mannwhitneyu(B, A).statistic
    assert unpaired_improvement(A, B, "higher") == pytest.approx(u / (len(A) * len(B)))
    assert unpaired_improvement(np.array([]), B, None) is None


def test_crossed_moments_without_noise_add_the_variances_of_both_factors():
    by_model = np.array([[0.0], [2.0], [1.0]])
    by_prompt = np.array([[0.0, 4.0, 1.0, 3.0]])
    found = crossed_moments(by_model + by_prompt)
    assert found.mean == pytest.approx(3.0)
    assert found.error**2 == pytest.approx(by_model.var(ddof=1) / 3 + by_prompt.var(ddof=1) / 4)


def test_crossed_interval_covers_new_models_and_new_prompts_where_models_alone_do_not():
    rng = np.random.default_rng(1)
    hits = {"crossed": 0, "models": 0}
    for _ in range(600):
        cells = rng.normal(0, 1, (1, 8)) + rng.normal(0, 0.5, (5, 1)) + rng.normal(0, 0.5, (5, 8))
        for name, moments in (("crossed", crossed_moments(cells)), ("models", mean_moments(cells.mean(axis=1)))):
            low, high = t_interval(moments, 0.95)
            hits[name] += low <= 0 <= high
    assert 0.925 <= hits["crossed"] / 600 <= 0.985
    assert hits["models"] / 600 < 0.88


def test_crossed_moments_fall_back_to_models_when_cells_are_missing():
    cells = RNG.normal(0, 1, (4, 3))
    cells[0, 1] = np.nan
    by_model = np.nanmean(cells, axis=1)
    assert crossed_moments(cells) == mean_moments(by_model)
    assert crossed_moments(cells[:1]) is None
