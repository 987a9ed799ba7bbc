"""Exact answers of a Gaussian mixture, against brute force that knows nothing of its formulas."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from eisbach.diagnostics.mixture import GaussianMixture, corners
from eisbach.diffusion.paths import get_path
from eisbach.diffusion.targets import TARGETS, convert
from eisbach.errors import UserError

PATHS = ("linear", "vp", "gvp", "edm")
FULL = torch.tensor([[[0.5, 0.2], [0.2, 0.3]], [[0.2, -0.1], [-0.1, 0.6]], [[0.4, 0.0], [0.0, 0.1]]])
SKEW = GaussianMixture([0.6, 0.3, 0.1], [[1.0, 0.0], [-1.0, 0.7], [0.2, -1.2]], FULL)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class BruteForce:
    """Moments given x_t on a grid of x0: Bayes' rule by plain sums, without component posteriors or Gaussian
    algebra."""

    def __init__(self, path: str, t: float, points: int = 321) -> None:
        level = torch.tensor(t, dtype=torch.float64)
        self.alpha, self.sigma = float(get_path(path).alpha(level)), float(get_path(path).sigma(level))
        self.axis = np.linspace(-5, 5, points)
        grid = np.stack(np.meshgrid(self.axis, self.axis, indexing="ij"), axis=-1)
        self.prior = sum(
            float(w) * multivariate_normal(m.numpy(), c.numpy()).pdf(grid)
            for w, m, c in zip(SKEW.weights, SKEW.means, FULL.double(), strict=True)
        )
        self.cell = (self.axis[1] - self.axis[0]) ** 2
        self.x0 = grid

    def posterior_mean(self, x_t: np.ndarray) -> tuple[np.ndarray, float]:
        """(E[x0 | x_t], p(x_t))."""
        squared = ((x_t - self.alpha * self.x0) ** 2).sum(-1)
        kernel = np.exp(-squared / (2 * self.sigma**2)) / (2 * np.pi * self.sigma**2) * self.prior
        density = kernel.sum() * self.cell
        return (kernel[..., None] * self.x0).sum((0, 1)) * self.cell / density, density


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("target", TARGETS)
def test_bayes_predictor_and_density_equal_brute_force_over_the_data(path: str, target: str) -> None:
    t = 0.55
    brute = BruteForce(path, t)
    for point in ([0.3, 0.4], [-0.8, 0.1], [1.5, -1.0]):
        x_t = torch.tensor([point], dtype=torch.float64)
        mean, density = brute.posterior_mean(np.array(point))
        expected = convert(path, "x0", target, torch.from_numpy(mean)[None], x_t, torch.tensor([t]).double())
        torch.testing.assert_close(SKEW.bayes_predict(path, target, x_t, t), expected, rtol=1e-6, atol=1e-7)
        assert float(SKEW.log_density(path, x_t, t)) == pytest.approx(np.log(density), abs=1e-7)


def test_posterior_equals_scipy() -> None:
    alpha, sigma = 0.5, 0.5
    x = torch.randn(5, 2, generator=gen(), dtype=torch.float64)
    joint = np.stack(
        [
            float(w)
            * multivariate_normal(alpha * m.numpy(), (alpha**2 * c + sigma**2 * torch.eye(2)).numpy()).pdf(x.numpy())
            for w, m, c in zip(SKEW.weights, SKEW.means, FULL.double(), strict=True)
        ],
        axis=1,
    )
    expected = joint / joint.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(SKEW.posterior("linear", x, 0.5).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("target", TARGETS)
def test_bayes_predictor_is_what_regression_finds(target: str) -> None:
    """E[y g(x_t)] = E[E[y | x_t] g(x_t)] for any g, over draws; the identity that defines a conditional mean."""
    drawn = SKEW.sample_noisy("gvp", 200_000, 0.4, gen(3))
    from eisbach.diffusion.targets import make_target

    y = make_target("gvp", target, drawn.x0, drawn.noise, drawn.t)
    error = y - SKEW.bayes_predict("gvp", target, drawn.x_t, 0.4)
    for g in (drawn.x_t[:, :1], drawn.x_t.square(), drawn.x_t.sin(), torch.ones(1, dtype=torch.float64)):
        product = error * g
        assert bool((product.mean(0).abs() < 5 * product.std(0) / 200_000**0.5).all())


@pytest.mark.parametrize(("path", "target"), list(itertools.product(PATHS, TARGETS)))
def test_both_ends_are_finite_and_are_the_limits(path: str, target: str) -> None:
    mixture = corners()
    x = 3 * torch.randn(40, 2, generator=gen(1), dtype=torch.float64)
    for end, near in ((0.0, 1e-14), (1.0, 1 - 1e-12)):
        here = mixture.bayes_predict(path, target, x, end)
        assert bool(here.isfinite().all())
        torch.testing.assert_close(here, mixture.bayes_predict(path, target, x, near), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            mixture.posterior(path, x, end).sum(1), torch.ones(40, dtype=torch.float64), rtol=1e-12, atol=0
        )


def test_a_network_cannot_know_the_data_at_pure_noise() -> None:
    x = torch.randn(6, 2, generator=gen(2), dtype=torch.float64)
    torch.testing.assert_close(SKEW.bayes_predict("linear", "x0", x, 1.0), SKEW.mean().expand(6, 2))
    torch.testing.assert_close(SKEW.posterior("linear", x, 1.0), SKEW.weights.expand(6, 3))
    torch.testing.assert_close(SKEW.bayes_predict("linear", "x0", x, 0.0), x)


def test_covariances_of_every_form_mean_the_same() -> None:
    means = torch.randn(3, 4, generator=gen(4), dtype=torch.float64)
    x = torch.randn(7, 4, generator=gen(5), dtype=torch.float64)
    forms = [0.25, [0.25] * 3, torch.full((3, 4), 0.25), 0.25 * torch.eye(4).expand(3, 4, 4)]
    mixtures = [GaussianMixture([0.5, 0.2, 0.3], means, form) for form in forms]
    expected = mixtures[0].component_predict("vp", "v", x, 0.3)
    for mixture in mixtures[1:]:
        torch.testing.assert_close(mixture.component_predict("vp", "v", x, 0.3), expected)
        torch.testing.assert_close(mixture.log_density("vp", x, 0.3), mixtures[0].log_density("vp", x, 0.3))
        torch.testing.assert_close(mixture.component_covariances(), mixtures[0].component_covariances())
    diagonal = torch.rand(3, 4, generator=gen(6), dtype=torch.float64) + 0.1
    one, two = (GaussianMixture([0.5, 0.2, 0.3], means, c) for c in (diagonal, torch.diag_embed(diagonal)))
    torch.testing.assert_close(one.bayes_predict("linear", "u", x, 0.7), two.bayes_predict("linear", "u", x, 0.7))
    torch.testing.assert_close(
        one.conditional_variance("linear", "u", x, 0.7), two.conditional_variance("linear", "u", x, 0.7)
    )


def test_a_narrow_component_beside_a_wide_one_keeps_its_variance() -> None:
    wide, narrow = 1e8 * torch.eye(2).double(), 1e-7 * torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()
    mixture = GaussianMixture([0.5, 0.5], [[0.0, 0.0], [1.0, 1.0]], torch.stack([wide, narrow]))
    assert mixture.component_variances()[1].tolist() == pytest.approx([1e-7, 3e-7])
    at_data = mixture.log_density("linear", torch.tensor([[1.0, 1.0]]), 0.0)
    assert float(at_data) == pytest.approx(math.log(0.5 / (2 * math.pi * math.sqrt(3e-14))))


def test_levels_may_differ_by_sample_and_batches_may_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(11, 2, generator=gen(7), dtype=torch.float64)
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    whole = SKEW.bayes_predict("gvp", "v", x, t)
    each = torch.cat([SKEW.bayes_predict("gvp", "v", x[i : i + 1], float(t[i])) for i in range(11)])
    torch.testing.assert_close(whole, each)
    monkeypatch.setattr("eisbach.diagnostics.mixture._CHUNK", 12)
    torch.testing.assert_close(SKEW.bayes_predict("gvp", "v", x, t), whole)
    torch.testing.assert_close(SKEW.conditional_variance("gvp", "v", x, t).shape, torch.Size([11]))
    assert SKEW.bayes_predict("gvp", "v", x[:0], 0.5).shape == (0, 2)


def test_draws_have_the_mixtures_moments() -> None:
    x0, component = SKEW.sample(200_000, gen(8))
    counts = torch.bincount(component, minlength=3) / 200_000
    torch.testing.assert_close(counts.double(), SKEW.weights, atol=5e-3, rtol=0)
    for k in range(3):
        torch.testing.assert_close(x0[component == k].T.cov(), FULL[k].double(), atol=0.02, rtol=0)
        torch.testing.assert_close(x0[component == k].mean(0), SKEW.means[k], atol=0.02, rtol=0)
    assert float(x0.var(dim=0).sum()) == pytest.approx(SKEW.total_variance(), rel=0.01)
    again, _ = SKEW.sample(200_000, gen(8))
    assert torch.equal(x0, again)


def test_thousands_of_dimensions_keep_their_digits() -> None:
    """Two far isotropic components: the log-odds are linear in x_t and known by hand."""
    d, t = 4096, 0.6
    mean = torch.full((1, d), 0.05, dtype=torch.float64)
    mixture = GaussianMixture([0.8, 0.2], torch.cat([mean, -mean]), 1.0)
    drawn = mixture.sample_noisy("linear", 50, t, gen(9))
    odds = mixture.log_posterior("linear", drawn.x_t, t)
    noisy = 0.4**2 + 0.6**2
    by_hand = np.log(4) + 2 * 0.4 * (drawn.x_t @ mean[0]) / noisy
    torch.testing.assert_close(odds[:, 0] - odds[:, 1], by_hand, rtol=1e-9, atol=1e-9)


def test_point_masses_are_allowed_where_there_is_noise() -> None:
    mixture = GaussianMixture([0.5, 0.5], [[1.0, 0.0], [-1.0, 0.0]], [0.0, 0.0])
    x = torch.tensor([[0.3, 0.2]], dtype=torch.float64)
    # Two points: E[x0 | x_t] = tanh(alpha x / sigma^2) along the first axis.
    predicted = mixture.bayes_predict("linear", "x0", x, 0.5)
    torch.testing.assert_close(predicted, torch.tensor([[np.tanh(0.5 * 0.3 / 0.25), 0.0]], dtype=torch.float64))
    with pytest.raises(UserError, match="no noise at t = 0"):
        mixture.bayes_predict("linear", "x0", x, 0.0)
    line = GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, 1.0], [1.0, 1.0]]])
    assert float(line.component_variances().min()) == 0.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([0.5, 0.4], [[0.0], [1.0]], 1.0), "sum to 0.9"),
        (([1.5, -0.5], [[0.0], [1.0]], 1.0), "above 0"),
        (([0.5, 0.5], [[0.0]], 1.0), "2 priors"),
        (([0.5, 0.5], [[0.0], [1.0]], [-1.0, 1.0]), "0 or more"),
        (([0.5, 0.5], [[0.0], [1.0]], [1.0, 1.0, 1.0]), "may be one variance"),
        (([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.0, 1.0]]]), "not symmetric"),
        (([1.0], [[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]]), "0 or more"),
        (([1.0], [[float("nan")]], 1.0), "not all finite"),
        (([], [[0.0]], 1.0), "one number a component"),
        ((["a"], [[0.0]], 1.0), "not numbers"),
    ],
)
def test_impossible_mixtures_are_refused(arguments: tuple, words: str) -> None:
    with pytest.raises(UserError, match=words):
        GaussianMixture(*arguments)


def test_impossible_questions_are_refused() -> None:
    x = torch.zeros(3, 2)
    with pytest.raises(UserError, match=r"\(samples, 2\)"):
        SKEW.log_density("linear", torch.zeros(3, 5), 0.5)
    with pytest.raises(UserError, match=r"in \[0, 1\]"):
        SKEW.log_density("linear", x, 1.5)
    with pytest.raises(UserError, match="one noise level or one a sample"):
        SKEW.log_density("linear", x, torch.zeros(2))
    with pytest.raises(UserError, match="target 'score'"):
        SKEW.bayes_predict("linear", "score", x, 0.5)
    with pytest.raises(UserError, match="path 'spiral'"):
        SKEW.bayes_predict("spiral", "x0", x, 0.5)
