import itertools

import numpy as np
import pytest
import scipy.stats

from eisbach.statistics.resampling import (
    bca_interval,
    cluster_bootstrap,
    crossed_means,
    jackknife_means,
    label_permutation_test,
    sign_flip_test,
)


def one_level(values):
    """Clips of one arm, one seed a prompt, as the bootstrap wants them."""
    return np.asarray(values, dtype=float)[None, None, :, None]


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_sign_flip_is_exact_and_equals_enumeration_and_scipy(n):
    rng = np.random.default_rng(n)
    differences = rng.normal(0.4, 1.0, n)
    p, floor = sign_flip_test(differences, rng)
    flips = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=n)]
    assert p == pytest.approx(np.mean(np.array(flips) >= abs(differences.sum()) - 1e-12))
    if n > 1:
        theirs = scipy.stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
        )
        assert p == pytest.approx(theirs.pvalue)
    assert floor == pytest.approx(min(1.0, 2 / 2**n))


def test_sign_flip_counts_ties_of_binary_data():
    differences = np.array([-1.0, -1.0, -0.5, 0.0, 0.0, -0.5, -1.0, 0.0])
    p, _ = sign_flip_test(differences, np.random.default_rng(0))
    assert p == pytest.approx(2 / 2**5)  # only the all-alike signs of the five that are not zero
    assert sign_flip_test(np.zeros(6), np.random.default_rng(0))[0] == 1.0


def test_monte_carlo_sign_flip_is_near_the_t_test_never_zero_and_repeatable():
    differences = np.random.default_rng(3).normal(0.35, 1.0, 40)
    p, floor = sign_flip_test(differences, np.random.default_rng(1), n_resamples=19_999)
    assert p == pytest.approx(scipy.stats.ttest_1samp(differences, 0).pvalue, abs=0.012)
    assert floor == pytest.approx(1 / 20_000)
    assert sign_flip_test(differences, np.random.default_rng(1))[0] == p
    assert sign_flip_test(np.ones(30), np.random.default_rng(1), 999)[0] == pytest.approx(1 / 1000)


@pytest.mark.parametrize("sizes", [(5, 5), (3, 6), (1, 4), (1, 1)])
def test_label_permutation_is_exact_and_equals_scipy(sizes):
    rng = np.random.default_rng(sum(sizes))
    a, b = rng.normal(0, 1, sizes[0]), rng.normal(1, 1, sizes[1])
    p, floor = label_permutation_test(a, b, rng)
    pooled, total = np.concatenate([a, b]), sum(sizes)
    differences = []
    for chosen in itertools.combinations(range(total), sizes[0]):
        mask = np.isin(np.arange(total), chosen)
        differences.append(abs(pooled[mask].mean() - pooled[~mask].mean()))
    assert p == pytest.approx(np.mean(np.array(differences) >= abs(a.mean() - b.mean()) - 1e-12))
    assert p >= floor
    if sizes == (5, 5):
        theirs = scipy.stats.permutation_test((a, b), lambda x, y: x.mean() - y.mean(), n_resamples=np.inf)
        assert p == pytest.approx(theirs.pvalue)
        assert floor == pytest.approx(2 / 252)  # five against five is the least that can reach p < .01


def test_large_label_permutation_is_near_the_t_test():
    rng = np.random.default_rng(8)
    a, b = rng.normal(0, 1, 30), rng.normal(0.6, 1, 35)
    p, _ = label_permutation_test(a, b, np.random.default_rng(0))
    assert p == pytest.approx(scipy.stats.ttest_ind(a, b).pvalue, abs=0.01)


def test_bca_of_one_level_equals_scipy():
    values = np.random.default_rng(2).exponential(1.0, 25)  # skewed, so that bias and acceleration matter
    cells = one_level(values)
    replicates = cluster_bootstrap(cells, np.random.default_rng(0), 40_000)[:, 0]
    low, high = bca_interval(values.mean(), replicates, jackknife_means(cells)[:, 0])
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=40_000, method="BCa", rng=np.random.default_rng(1))
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.012)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.02)
    plain = np.quantile(replicates, [0.025, 0.975])
    assert high - plain[1] > 0.02  # and it is not the percentile interval


def test_bca_of_a_constant_is_that_constant():
    cells = one_level([0.25] * 6)
    replicates = cluster_bootstrap(cells, np.random.default_rng(0), 500)[:, 0]
    assert bca_interval(0.25, replicates, jackknife_means(cells)[:, 0]) == (0.25, 0.25)


def test_bootstrap_spread_of_prompts_and_seeds_matches_theory():
    rng = np.random.default_rng(4)
    prompts, seeds = 12, 4
    values = rng.normal(0, 1, (prompts, 1)) + rng.normal(0, 0.8, (prompts, seeds))
    replicates = cluster_bootstrap(values[None, None], np.random.default_rng(0), 20_000)[:, 0]
    # two-stage resampling: variance of the prompts' means plus the mean variance within prompts
    expected = np.var(values.mean(axis=1)) / prompts + np.var(values, axis=1).mean() / (prompts * seeds)
    assert replicates.var() == pytest.approx(expected, rel=0.04)


def test_bootstrap_spread_of_crossed_models_and_prompts_matches_theory():
    models, prompts = 6, 9
    by_model = np.random.default_rng(0).normal(0, 1, (models, 1))
    by_prompt = np.random.default_rng(1).normal(0, 1, (1, prompts))
    values = (by_model + by_prompt)[None, :, :, None]
    replicates = cluster_bootstrap(values, np.random.default_rng(0), 20_000)[:, 0]
    assert replicates.var() == pytest.approx(by_model.var() / models + by_prompt.var() / prompts, rel=0.04)


def test_gaps_do_not_count_and_arms_share_every_draw():
    values = np.full((2, 1, 3, 2), np.nan)
    values[0, 0, 0], values[0, 0, 1, 0], values[0, 0, 2] = [1.0, 3.0], 5.0, [2.0, 2.0]
    values[1] = values[0] + 7.0
    np.testing.assert_allclose(crossed_means(values), [(2 + 5 + 2) / 3, (2 + 5 + 2) / 3 + 7])
    replicates = cluster_bootstrap(values, np.random.default_rng(0), 2_000)
    np.testing.assert_allclose(replicates[:, 1] - replicates[:, 0], 7.0)
    assert replicates[:, 0].min() >= 1.0
    assert replicates[:, 0].max() <= 5.0
    np.testing.assert_allclose(jackknife_means(values)[:, 0], [3.5, 2.0, 3.5])


def test_a_model_that_lacks_prompts_leaves_the_bootstrap_finite():
    values = np.random.default_rng(0).normal(0, 1, (1, 3, 4, 2))
    values[0, 0, 1:] = np.nan
    replicates = cluster_bootstrap(values, np.random.default_rng(0), 3_000)
    assert np.isfinite(replicates).all()
    assert len(replicates) > 2_900
