"""The Bayes floor: quadrature against brute force over data and noise, Monte Carlo against quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from eisbach.diagnostics.bayes_floor import bayes_floor, component_expectation, effective, floor_curve, floor_curves
from eisbach.diagnostics.mixture import GaussianMixture, corners
from eisbach.diffusion.paths import get_path
from eisbach.diffusion.targets import TARGETS, determinant
from eisbach.errors import UserError

FULL = torch.tensor([[[0.5, 0.2], [0.2, 0.3]], [[0.2, -0.1], [-0.1, 0.6]], [[0.4, 0.0], [0.0, 0.1]]]).double()
SKEW = GaussianMixture([0.6, 0.3, 0.1], [[1.0, 0.0], [-1.0, 0.7], [0.2, -1.2]], FULL)


def brute_floor(mixture: GaussianMixture, covariances: torch.Tensor, path: str, target: str, t: float) -> float:
    """E|y|^2 - E|E[y | x_t]|^2 by sums over grids of x0 and x_t; the Gaussian kernel factors, so both are matrices."""
    level = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = float(get_path(path).alpha(level)), float(get_path(path).sigma(level))
    x0 = np.linspace(-6, 6, 361)
    x_t = np.linspace(-6 * alpha - 6 * sigma, 6 * alpha + 6 * sigma, 361)
    grid = np.stack(np.meshgrid(x0, x0, indexing="ij"), axis=-1)
    prior = (
        sum(
            float(w) * multivariate_normal(m.numpy(), c.numpy()).pdf(grid)
            for w, m, c in zip(mixture.weights, mixture.means, covariances, strict=True)
        )
        * (x0[1] - x0[0]) ** 2
    )
    kernel = np.exp(-((x_t[:, None] - alpha * x0[None]) ** 2) / (2 * sigma**2)) / np.sqrt(2 * np.pi) / sigma
    density = kernel @ prior @ kernel.T
    means = [kernel @ (prior * grid[..., axis]) @ kernel.T for axis in (0, 1)]
    area = (x_t[1] - x_t[0]) ** 2
    explained = sum((mean**2 / np.maximum(density, 1e-300)).sum() for mean in means) * area
    x0_floor = (prior[..., None] * grid**2).sum() - explained
    return x0_floor * float(determinant(path, target, level) / sigma) ** 2


@pytest.mark.parametrize("path", ["linear", "vp", "gvp", "edm"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("t", [0.35, 0.7])
def test_quadrature_equals_brute_force(path: str, target: str, t: float) -> None:
    exact = bayes_floor(SKEW, path, target, t)
    assert exact.method == "quadrature"
    assert exact.error < 1e-6
    assert exact.value == pytest.approx(brute_floor(SKEW, FULL, path, target, t), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("mixture", [corners(), SKEW], ids=["corners", "skew"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_monte_carlo_is_within_one_percent_of_exact(mixture: GaussianMixture, target: str, t: float) -> None:
    exact = bayes_floor(mixture, "linear", target, t)
    drawn = bayes_floor(mixture, "linear", target, t, method="monte_carlo")
    assert drawn.method == "monte_carlo"
    assert drawn.value == pytest.approx(exact.value, rel=0.01)
    assert abs(drawn.value - exact.value) < 5 * drawn.error + 1e-9


def test_monte_carlo_averages_the_squared_error_of_the_bayes_predictor() -> None:
    """The conditional variance that is averaged is the mean squared residual, coordinate sums included."""
    from eisbach.diffusion.targets import make_target

    drawn = SKEW.sample_noisy("vp", 400_000, 0.3, torch.Generator().manual_seed(0))
    y = make_target("vp", "v", drawn.x0, drawn.noise, drawn.t)
    squared = (y - SKEW.bayes_predict("vp", "v", drawn.x_t, 0.3)).square().sum(1)
    assert float(squared.mean()) == pytest.approx(bayes_floor(SKEW, "vp", "v", 0.3).value, rel=0.01)


def test_a_narrow_component_inside_a_wide_one_is_resolved() -> None:
    covariances = torch.stack([torch.eye(2) * 1.0, torch.eye(2) * 0.01]).double()
    mixture = GaussianMixture([0.7, 0.3], [[0.0, 0.0], [0.3, 0.1]], covariances)
    exact = bayes_floor(mixture, "linear", "x0", 0.2)
    assert exact.value == pytest.approx(brute_floor(mixture, covariances, "linear", "x0", 0.2), rel=1e-6)


@pytest.mark.parametrize(
    "path", ["linear", *(pytest.param(path, marks=pytest.mark.slow) for path in ("vp", "gvp", "edm"))]
)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.whole
def test_a_curve_equals_its_points_ends_included(path: str, target: str) -> None:
    t = torch.tensor([0.0, 0.001, 0.4, 0.8, 1.0])
    points = [bayes_floor(SKEW, path, target, float(level)).value for level in t]
    np.testing.assert_allclose(floor_curve(SKEW, path, target, t).numpy(), points, rtol=1e-6, atol=1e-7)


def test_curves_of_all_targets_are_each_ones_own() -> None:
    t = torch.tensor([0.05, 0.5, 0.95])
    together = floor_curves(SKEW, "gvp", TARGETS, t)
    np.testing.assert_allclose(
        together, torch.stack([floor_curve(SKEW, "gvp", name, t) for name in TARGETS]), rtol=1e-12
    )


def test_known_limits() -> None:
    mixture = corners()
    assert bayes_floor(mixture, "linear", "eps", 0.0).value == pytest.approx(2.0)
    assert bayes_floor(mixture, "linear", "x0", 1.0).value == pytest.approx(mixture.total_variance())
    assert bayes_floor(mixture, "linear", "x0", 0.0).value == pytest.approx(0.0, abs=1e-15)
    assert bayes_floor(mixture, "linear", "eps", 1.0).value == 0.0


def test_one_component_has_a_closed_form() -> None:
    """Linear regression of two Gaussians, by hand: Var[x0 | x_t] = v sigma^2 / (alpha^2 v + sigma^2)."""
    mixture = GaussianMixture([1.0], [[1.0, 2.0, 3.0]], 0.49)
    floor = bayes_floor(mixture, "linear", "x0", 0.3)
    assert floor.method == "closed form"
    assert floor.value == pytest.approx(3 * 0.49 * 0.09 / (0.49 * 0.49 + 0.09))


def test_many_dimensions_are_exact_when_the_means_span_a_plane() -> None:
    axes = torch.linalg.qr(torch.randn(40, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    flat = GaussianMixture([0.5, 0.3, 0.2], [[1.0, 0.0], [-0.5, 0.8], [0.0, -1.0]], 0.2)
    wide = GaussianMixture(flat.weights, flat.means @ axes.T + 0.7, 0.2)
    exact = bayes_floor(wide, "gvp", "eps", 0.5)
    assert exact.method == "quadrature"
    drawn = bayes_floor(wide, "gvp", "eps", 0.5, method="monte_carlo")
    assert drawn.value == pytest.approx(exact.value, abs=5 * drawn.error)
    plane = bayes_floor(flat, "gvp", "eps", 0.5).value
    one = GaussianMixture([1.0], [[0.0]], 0.2)
    assert exact.value == pytest.approx(plane + 38 * bayes_floor(one, "gvp", "eps", 0.5).value, rel=1e-9)


def test_what_cannot_be_exact_is_drawn_or_refused() -> None:
    generator = torch.Generator().manual_seed(2)
    mixture = GaussianMixture(
        [0.5, 0.5], torch.randn(2, 5, generator=generator), torch.rand(2, 5, generator=generator) + 0.2
    )
    assert effective(mixture) is None
    assert bayes_floor(mixture, "linear", "u", 0.4).method == "monte_carlo"
    with pytest.raises(UserError, match="at most two dimensions"):
        bayes_floor(mixture, "linear", "u", 0.4, method="quadrature")
    with pytest.raises(UserError, match="method 'grid'"):
        bayes_floor(mixture, "linear", "u", 0.4, method="grid")
    with pytest.raises(UserError, match="at least 2"):
        bayes_floor(mixture, "linear", "u", 0.4, samples=1)
    with pytest.raises(UserError, match="at most two dimensions"):
        component_expectation(mixture, "linear", 0.5, 0, lambda x: x[:, 0])


def test_an_integrand_that_no_grid_resolves_is_refused() -> None:
    mixture = GaussianMixture([0.5, 0.5], [[1.0], [-1.0]], 0.3)
    with pytest.raises(UserError, match="still changed"):
        component_expectation(mixture, "linear", 0.5, 0, lambda x: (x[:, 0] > 0.1).double(), tolerance=1e-12)


def test_auto_draws_where_the_grid_does_not_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    covariances = torch.stack([torch.diag(torch.tensor([1.0, 1e-4])), torch.diag(torch.tensor([1e-4, 1.0]))]).double()
    mixture = GaussianMixture([0.5, 0.5], [[0.0, 0.0], [0.0, 0.0]], covariances)
    exact = bayes_floor(mixture, "linear", "eps", 0.05)
    assert exact.method == "quadrature"
    monkeypatch.setattr("eisbach.diagnostics.bayes_floor._HALVINGS", {1: 0, 2: 0})
    with pytest.raises(UserError, match="use Monte Carlo"):
        bayes_floor(mixture, "linear", "eps", 0.05, method="quadrature")
    drawn = bayes_floor(mixture, "linear", "eps", 0.05)
    assert drawn.method == "monte_carlo"
    assert drawn.value == pytest.approx(exact.value, rel=0.01)


def test_a_component_between_the_points_of_the_first_grids_is_not_missed() -> None:
    """The narrow third takes over a stretch of the wide two that grids of step 0.2 and 0.1 both step over."""
    weights, variances, t = [0.45, 0.45, 0.1], [1.0, 1.0, 1e-8], 0.01
    alpha = 1 - t
    means = [-1.0, 1.0, (-alpha + 1.05 * math.sqrt(alpha**2 + t**2)) / alpha]
    mixture = GaussianMixture(weights, torch.tensor(means).double()[:, None], variances)
    w, m, v = (torch.tensor(value, dtype=torch.float64) for value in (weights, means, variances))
    noisy = alpha**2 * v + t**2
    x = torch.linspace(-9, 9, 400_001, dtype=torch.float64)[:, None]  # 45 microns a point, the narrowest 10 mm wide
    joint = w * torch.exp(-0.5 * (x - alpha * m) ** 2 / noisy) / torch.sqrt(2 * math.pi * noisy)
    posterior = joint / joint.sum(1, keepdim=True)
    estimate = t / noisy * (x - alpha * m)
    left = alpha**2 * v / noisy + (estimate - (posterior * estimate).sum(1, keepdim=True)) ** 2
    truth = float(torch.trapezoid((joint * left).sum(1), x[:, 0]))
    assert bayes_floor(mixture, "linear", "eps", t).value == pytest.approx(truth, rel=1e-8)


def test_the_tolerance_is_of_the_targets_own_variance() -> None:
    small, large = (GaussianMixture([0.5, 0.5], [[-size], [3 * size]], size**2) for size in (1e-5, 1.0))
    # Data and noise both at a hundred thousandth: x0's floor scales with the square.
    t = 1e-5 / (1 + 1e-5)
    assert bayes_floor(small, "linear", "x0", t).value == pytest.approx(
        1e-10 * bayes_floor(large, "linear", "x0", 0.5).value, rel=1e-7
    )


def test_expectation_of_a_component_has_its_moments() -> None:
    """Mean square of x_t in one dimension and the entropy-like mean log-density, by closed form."""
    line = GaussianMixture([0.5, 0.5], [[1.0], [-1.0]], 0.3)
    value, _ = component_expectation(line, "linear", 0.4, 0, lambda x: x[:, 0].square())
    assert value == pytest.approx(0.36 + 0.36 * 0.3 + 0.16)
