"""Exact entropies against numerical integration, and speciation against its own definition."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from eisbach.diagnostics.mixture import GaussianMixture
from eisbach.diagnostics.signature.exact import (
    fit_line,
    log_snr_to_ou_time,
    mixture_entropy,
    scaling_rows,
    separation,
    speciation_log_snr,
    two_gaussian_entropy,
)
from eisbach.diagnostics.signature.mixtures import MixtureStudy, run_study
from eisbach.diffusion.paths import get_path
from eisbach.errors import UserError


@pytest.mark.parametrize("r", [0.0, 0.3, 1.0, 2.5, 6.0])
@pytest.mark.parametrize("prior", [0.5, 0.1])
def test_two_gaussians_against_the_integral_over_x(r, prior):
    # The other way round: integrate the posterior's entropy over the mixture's density on the discriminant axis.
    def integrand(x):
        logs = np.array([math.log(prior) - (x - r) ** 2 / 2, math.log(1 - prior) - (x + r) ** 2 / 2])
        total = np.logaddexp(*logs)
        share = logs - total
        return -np.exp(total) / math.sqrt(2 * math.pi) * float((np.exp(share) * share).sum())

    wanted, _ = integrate.quad(integrand, -r - 14, r + 14, points=[-r, 0, r], limit=500, epsabs=1e-13, epsrel=1e-12)
    assert float(two_gaussian_entropy(torch.tensor(r, dtype=torch.float64), prior)) == pytest.approx(wanted, abs=1e-10)


@pytest.mark.parametrize("path", ["linear", "vp", "gvp", "edm"])
def test_any_dimension_and_covariance_reduces_to_the_discriminant(path):
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    covariance = root @ root.T / 3 + 0.1 * torch.eye(3, dtype=torch.float64)
    means = torch.tensor([[0.8, 0.0, 0.3], [-0.5, 0.4, 0.1]], dtype=torch.float64)
    mixture = GaussianMixture([0.3, 0.7], means, torch.stack([covariance, covariance]))
    t = torch.tensor([0.45], dtype=torch.float64)
    exact = float(two_gaussian_entropy(separation(mixture, path, t), 0.3))
    found = mixture_entropy(mixture, path, 0.45, 40_000, torch.Generator().manual_seed(1))
    assert found.entropy == pytest.approx(exact, abs=4 * found.entropy_se)
    assert found.entropy_se < 0.003


@pytest.mark.parametrize("path", ["linear", "vp", "edm"])
def test_the_rate_is_the_derivative_of_the_entropy(path):
    mixture = GaussianMixture([0.5, 0.5], [[1.0, 0.4], [-1.0, -0.4]], 0.3)
    noise = get_path(path)
    t = float(noise.t_from_log_snr(torch.tensor(-0.2, dtype=torch.float64)))
    around = noise.t_from_log_snr(torch.tensor([-0.201, -0.199], dtype=torch.float64))
    low, high = two_gaussian_entropy(separation(mixture, path, around)).tolist()
    found = mixture_entropy(mixture, path, t, 40_000, torch.Generator().manual_seed(2))
    assert found.rate == pytest.approx((low - high) / 0.002, abs=4 * found.rate_se)
    assert found.rate_se < 0.02 * found.rate


def test_speciation_is_where_the_score_between_two_gaussians_turns():
    mixture = GaussianMixture([0.5, 0.5], [[1.5, 0.0], [-1.5, 0.0]], 0.4)
    level = speciation_log_snr(mixture)
    path = get_path("vp")
    for shift, sign in ((-0.2, 1), (0.2, -1)):  # a single peak before, a valley after
        t = path.t_from_log_snr(torch.tensor([level + shift], dtype=torch.float64))
        x = torch.tensor([[-1e-3, 0.0], [0.0, 0.0], [1e-3, 0.0]], dtype=torch.float64)
        left, middle, right = mixture.log_density(path, x, float(t)).tolist()
        assert sign * (2 * middle - left - right) > 0
    assert float(separation(mixture, path, path.t_from_log_snr(torch.tensor([level], dtype=torch.float64)))) == (
        pytest.approx(1.0, abs=1e-9)
    )
    assert speciation_log_snr(GaussianMixture([0.5, 0.5], [[0.1], [-0.1]], 1.0)) is None


def test_full_and_isotropic_covariances_give_one_speciation():
    means = [[1.0, 2.0, 0.5], [-2.0, 0.3, 0.1], [0.0, -1.0, 1.0]]
    plain = GaussianMixture([0.2, 0.3, 0.5], means, 0.2)
    full = GaussianMixture([0.2, 0.3, 0.5], means, 0.2 * torch.eye(3, dtype=torch.float64).expand(3, 3, 3))
    assert speciation_log_snr(plain) == pytest.approx(speciation_log_snr(full), abs=1e-10)


def test_speciation_time_grows_like_half_ln_d_and_edm_does_not_sharpen():
    rows = scaling_rows([2**power for power in range(2, 13)], variance=0.5)
    fit = fit_line([0.5 * math.log(row.dim) for row in rows], [row.tau_half for row in rows])
    assert fit.slope == pytest.approx(1, abs=0.02)
    assert fit.slope_lo < fit.slope < fit.slope_hi
    widths = [row.relative_width for row in rows]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.45 < widths[0]
    assert rows[-1].sigma_half / rows[-3].sigma_half == pytest.approx(2, rel=0.01)  # sqrt of four times the dimension
    assert rows[-1].log_sigma_width == pytest.approx(rows[-5].log_sigma_width, rel=0.01)


def test_ou_time_inverts_its_own_snr():
    tau = torch.tensor([0.1, 1.0, 4.0], dtype=torch.float64)
    snr = torch.exp(-2 * tau) / -torch.expm1(-2 * tau)
    torch.testing.assert_close(log_snr_to_ou_time(snr.log()), tau, rtol=1e-12, atol=0)


def test_a_study_of_unequal_components_follows_monte_carlo():
    study = MixtureStudy.build(
        dims=[2, 4, 8],
        components=3,
        weights=[0.5, 0.3, 0.2],
        separation=[1.5],
        variance=[0.1, 0.2, 0.3],
        path="linear",
        levels=12,
        samples=300,
        seed=0,
    )
    found = run_study(study, quiet=True)
    for row in found["rows"]:
        assert row["entropy"][0] > 0.8 * row["prior_entropy"] > row["entropy"][-1]
        assert 0 < max(row["entropy_se"]) < 0.05
    assert found["rows"][0]["half_log_snr"] > found["rows"][2]["half_log_snr"]


@pytest.mark.parametrize("t", [0.0, 1e-300, 1e-9])
def test_the_rate_ends_at_zero_where_snr_is_infinite(t):
    mixture = GaussianMixture([0.5, 0.5], [[0.0], [3.0]], 1.0)
    found = mixture_entropy(mixture, "linear", t, 500, torch.Generator().manual_seed(1))
    assert 0 <= found.rate < 1e-12
    assert 0 <= found.rate_se < 1e-12


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": [0.5, 0.4]}, "sum to 0.9"),
        ({"variance": [0.1, 0.2, 0.3]}, "one for each"),
        ({"variance": [0.0]}, "above 0"),
        ({"dims": [4, 4]}, "each once"),
        ({"path": "nowhere"}, "not known"),
    ],
)
def test_bad_studies(change, words):
    options = {
        "dims": [2],
        "components": 2,
        "weights": None,
        "separation": [1.0],
        "variance": [1.0],
        "path": "vp",
        "levels": 8,
        "samples": 16,
        "seed": 0,
    }
    with pytest.raises(UserError, match=words):
        MixtureStudy.build(**(options | change))


def test_bad_questions():
    with pytest.raises(UserError, match="strictly between 0 and 1"):
        two_gaussian_entropy(torch.tensor(1.0), 1.0)
    with pytest.raises(UserError, match="two Gaussians of equal covariance"):
        separation(GaussianMixture([0.5, 0.5], [[0.0], [1.0]], [0.1, 0.2]), "vp", torch.tensor([0.5]))
    with pytest.raises(UserError, match="at least 3"):
        fit_line([1, 2], [1, 2])
