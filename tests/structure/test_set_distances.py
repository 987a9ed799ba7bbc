"""Set distances against closed forms and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from eisbach.errors import UserError
from eisbach.structure.sets import distances
from eisbach.structure.sets.distances import (
    density_coverage,
    frechet_distance,
    frechet_infinity,
    kernel_distance,
    nearest,
    precision_recall,
    vendi_score,
)


def _pair(n=120, m=90, d=6, shift=0.7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), 1.3 * rng.normal(size=(m, d)) + shift


@pytest.mark.parametrize("d", [6, 200])  # more items than dimensions, and fewer
def test_frechet_equals_the_matrix_square_root(d):
    a, b = _pair(40, 30, d)
    ca, cb = np.cov(a.T), np.cov(b.T)
    gap = a.mean(0) - b.mean(0)
    eigenvalues = scipy.linalg.eigvals(ca @ cb)
    expected = gap @ gap + np.trace(ca) + np.trace(cb) - 2 * np.sqrt(np.maximum(eigenvalues.real, 0)).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_frechet_of_known_gaussians_without_the_bias_of_small_sets():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(600, 4)), 2.0 * rng.normal(size=(600, 4)) + 1.0
    truth = 4 * 1.0 + 4 * (1 - 2) ** 2
    assert frechet_distance(a, b) == pytest.approx(truth, rel=0.1)
    small = [frechet_distance(rng.normal(size=(30, 4)), rng.normal(size=(30, 4))) for _ in range(40)]
    assert np.mean(small) > 0.2  # the truth is 0
    found = frechet_infinity(rng.normal(size=(300, 4)), rng.normal(size=(300, 4)), rng)
    assert abs(found.value) < 0.05 < found.slope
    assert found.sizes[-1] == 300


def test_identical_clips_have_a_distance():
    a = np.ones((5, 3))
    assert frechet_distance(a, a) == 0.0
    assert frechet_distance(a, a + 2.0) == pytest.approx(12.0)
    assert precision_recall(a, a, 2) == distances.PrecisionRecall(1.0, 1.0)
    assert precision_recall(a, a + 2.0, 2) == distances.PrecisionRecall(0.0, 0.0)
    with pytest.raises(UserError, match="identical"):
        kernel_distance(a, a)
    assert kernel_distance(a, a, bandwidth=1.0) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("kernel", ["gaussian", "polynomial"])
def test_kernel_distance_is_the_double_sum(kernel, monkeypatch):
    a, b = _pair(25, 17)
    functions = {
        "gaussian": lambda x, y: np.exp(-np.sum((x - y) ** 2) / (2 * 1.7**2)),
        "polynomial": lambda x, y: (x @ y / len(x) + 1) ** 3,
    }
    f = functions[kernel]
    expected = (
        sum(f(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j) / (25 * 24)
        + sum(f(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j) / (17 * 16)
        - 2 * np.mean([[f(x, y) for y in b] for x in a])
    )
    assert kernel_distance(a, b, kernel, bandwidth=1.7) == pytest.approx(expected, abs=1e-10)
    monkeypatch.setattr(distances, "_BLOCK_VALUES", 40)  # many blocks, same number
    assert kernel_distance(a, b, kernel, bandwidth=1.7) == pytest.approx(expected, abs=1e-10)


def test_gaussian_kernel_distance_of_gaussians_has_a_closed_form_and_no_bias():
    d, s, shift = 3, 1.5, 0.8
    ratio = (s**2 / (s**2 + 2)) ** (d / 2)
    truth = 2 * ratio * (1 - np.exp(-d * shift**2 / (2 * (s**2 + 2))))
    rng = np.random.default_rng(2)
    far = [kernel_distance(rng.normal(size=(60, d)), rng.normal(size=(60, d)) + shift, bandwidth=s) for _ in range(60)]
    near = [kernel_distance(rng.normal(size=(10, d)), rng.normal(size=(14, d)), bandwidth=s) for _ in range(400)]
    assert np.mean(far) == pytest.approx(truth, rel=0.08)
    assert abs(np.mean(near)) < 3 * np.std(near) / 20
    assert min(near) < 0


def test_neighbour_measures_equal_brute_force(monkeypatch):
    monkeypatch.setattr(distances, "_BLOCK_VALUES", 500)
    real, fake = _pair(70, 50)
    k = 4

    def pairs(x, y):
        return np.linalg.norm(x[:, None] - y[None], axis=2)

    def radius(x):
        return np.sort(pairs(x, x), axis=1)[:, k]

    in_real = pairs(fake, real) <= radius(real)[None]
    in_fake = pairs(real, fake) <= radius(fake)[None]
    found = precision_recall(real, fake, k)
    assert (found.precision, found.recall) == (in_real.any(1).mean(), in_fake.any(1).mean())
    other = density_coverage(real, fake, k)
    assert other.density == pytest.approx(in_real.sum() / (k * 50))
    assert other.coverage == in_real.any(0).mean()
    distance, index = nearest(fake, real)
    np.testing.assert_allclose(distance, pairs(fake, real).min(1))
    np.testing.assert_array_equal(index, pairs(fake, real).argmin(1))


def test_an_outlier_among_the_real_inflates_precision_but_not_density():
    rng = np.random.default_rng(3)
    real, fake = rng.normal(size=(100, 2)), rng.normal(size=(100, 2)) + 6.0
    with_outlier = np.vstack([real, [[12.0, 12.0]]])
    assert precision_recall(real, fake).precision < 0.1
    assert precision_recall(with_outlier, fake).precision > 0.6
    assert density_coverage(with_outlier, fake).density < 0.3


def test_losing_modes_costs_recall_and_coverage_not_precision():
    rng = np.random.default_rng(4)
    modes = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], dtype=float)
    real = (modes[:, None] + rng.normal(size=(4, 40, 2))).reshape(-1, 2)
    coverage, recall = [], []
    for kept in (1, 2, 3, 4):
        fake = (modes[np.arange(160) % kept] + rng.normal(size=(160, 2))).reshape(-1, 2)
        assert precision_recall(real, fake).precision > 0.85
        coverage.append(density_coverage(real, fake).coverage)
        recall.append(precision_recall(real, fake).recall)
    np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1.0], atol=0.08)
    np.testing.assert_allclose(recall, [0.25, 0.5, 0.75, 1.0], atol=0.08)


def test_vendi_counts_directions_and_clusters():
    assert vendi_score(np.repeat(np.eye(7), 5, axis=0)) == pytest.approx(7.0)
    clusters = np.repeat(100.0 * np.arange(4)[:, None], 6, axis=0)
    assert vendi_score(clusters, "gaussian", bandwidth=1.0) == pytest.approx(4.0)
    assert vendi_score(np.ones((9, 3))) == pytest.approx(1.0)
    rows = np.random.default_rng(5).normal(size=(12, 5))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    p = np.linalg.eigvalsh(unit @ unit.T / 12)
    p = p[p > 1e-12]
    assert vendi_score(rows) == pytest.approx(np.exp(-np.sum(p * np.log(p))))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frechet_distance(np.zeros((1, 3)), np.zeros((4, 3))), "first set holds 1 item"),
        (lambda: frechet_distance(np.zeros((4, 3)), np.zeros((4, 2))), "3 dimensions and the second set 2"),
        (
            lambda: kernel_distance(np.full((4, 3), np.nan), np.zeros((4, 3))),
            "4 row\\(s\\) of the first set are not finite",
        ),
        (lambda: kernel_distance(np.zeros(4), np.zeros((4, 3))), "shape \\(4,\\)"),
        (lambda: kernel_distance(np.eye(3), np.eye(3), "cubic"), "no kernel 'cubic'"),
        (lambda: kernel_distance(np.eye(3), np.eye(3), bandwidth=0.0), "positive"),
        (lambda: precision_recall(np.eye(3), np.eye(5, 3), 3), "k = 3 neighbours cannot be found among 3 real"),
        (lambda: density_coverage(np.eye(3), np.eye(5, 3), 0), "k = 0"),
        (lambda: frechet_infinity(np.eye(8), np.eye(8), np.random.default_rng(0)), "needs at least 24"),
        (lambda: vendi_score(np.zeros((2, 2))), "no direction"),
        (lambda: vendi_score(np.eye(2), "gaussian"), "positive bandwidth"),
    ],
)
def test_what_cannot_be_compared_is_said(call, message):
    with pytest.raises(UserError, match=message):
        call()
