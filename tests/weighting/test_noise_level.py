"""Noise-level weights against the closed forms of their papers, written out here for each target."""

import itertools
import math

import numpy as np
import pytest
import torch

from eisbach.diffusion.paths import PATHS, get_path
from eisbach.diffusion.targets import TARGETS, convert
from eisbach.errors import UserError
from eisbach.weighting.noise_level import ERD, NOISE_WEIGHTINGS, Constant, MinSNR, SoftMinSNR, x0_to_target_weight

T = torch.linspace(0.01, 0.99, 41, dtype=torch.float64)


def alpha_sigma(name: str) -> tuple[np.ndarray, np.ndarray]:
    path = get_path(name)
    return path.alpha(T).numpy(), path.sigma(T).numpy()


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_closed_forms(gamma):
    weight = MinSNR(gamma)
    for name in PATHS:
        alpha, sigma = alpha_sigma(name)
        snr = (alpha / sigma) ** 2
        np.testing.assert_allclose(weight(name, "x0", T), np.minimum(snr, gamma), rtol=1e-10)
        np.testing.assert_allclose(weight(name, "eps", T), np.minimum(snr, gamma) / snr, rtol=1e-10)
    alpha, sigma = alpha_sigma("vp")
    snr = (alpha / sigma) ** 2
    np.testing.assert_allclose(weight("vp", "v", T), np.minimum(snr, gamma) / (snr + 1), rtol=1e-9)
    t = T.numpy()
    np.testing.assert_allclose(weight("linear", "u", T), np.minimum((1 - t) ** 2, gamma * t**2), rtol=1e-10)


@pytest.mark.parametrize("gamma", [0.5, 4.0])
def test_soft_min_snr_closed_forms(gamma):
    weight = SoftMinSNR(gamma)
    alpha, sigma = alpha_sigma("vp")
    snr = (alpha / sigma) ** 2
    np.testing.assert_allclose(weight("vp", "x0", T), gamma * snr / (snr + gamma), rtol=1e-9)
    np.testing.assert_allclose(weight("vp", "eps", T), gamma / (snr + gamma), rtol=1e-9)
    np.testing.assert_allclose(weight("vp", "v", T), gamma * snr / ((snr + gamma) * (1 + snr)), rtol=1e-9)
    t = T.numpy()
    expected = gamma * t**2 * (1 - t) ** 2 / ((1 - t) ** 2 + gamma * t**2)
    np.testing.assert_allclose(weight("linear", "u", T), expected, rtol=1e-10)


def test_erd_closed_forms():
    weight = ERD()
    for name in PATHS:
        alpha, sigma = alpha_sigma(name)
        expected = {"x0": alpha, "eps": sigma, "u": np.hypot(alpha, sigma), "v": math.sqrt(2) * alpha * sigma}
        for target, values in expected.items():
            np.testing.assert_allclose(weight(name, target, T), values, rtol=1e-10)


def test_constant():
    for name, target in itertools.product(PATHS, TARGETS):
        assert Constant()(name, target, T).tolist() == [1.0] * len(T)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("scheme", [MinSNR(), SoftMinSNR()])
def test_one_weighted_loss_whatever_the_target(name, scheme):
    """The conversion's meaning: the same network errors, restated in any target, cost the same."""
    generator = torch.Generator().manual_seed(0)
    x_t, truth, guess = (torch.randn(len(T), 3, generator=generator, dtype=torch.float64) for _ in range(3))
    expected = scheme(name, "x0", T) * (guess - truth).square().mean(1)
    for target in ("eps", "v", "u"):
        error = convert(name, "x0", target, guess, x_t, T) - convert(name, "x0", target, truth, x_t, T)
        cost = scheme(name, target, T) * error.square().mean(1)
        torch.testing.assert_close(cost, expected, rtol=1e-7, atol=0)


def test_conversion_of_a_weight_that_overflows():
    """ln W = 1000 at a noise level where the factor to eps is e^-1000: only their product is representable."""
    path = get_path("edm", sigma_min=1e-217, sigma_max=1.0, rho=1.0)
    t = torch.tensor([0.0], dtype=torch.float64)
    log_snr = path.log_snr(t)
    assert log_snr > 900
    torch.testing.assert_close(x0_to_target_weight(log_snr, path, "eps", t), torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("scheme", NOISE_WEIGHTINGS)
def test_ends_are_finite_and_not_negative(name, target, scheme):
    weight = NOISE_WEIGHTINGS[scheme]()(name, target, torch.tensor([0.0, 1.0]))
    assert weight.isfinite().all()
    assert (weight >= 0).all()


def test_limits_at_the_ends():
    ends = torch.tensor([0.0, 1.0])
    np.testing.assert_allclose(MinSNR(5.0)("linear", "eps", ends), [0, 1], atol=1e-6)
    np.testing.assert_allclose(MinSNR(5.0)("linear", "x0", ends), [5, 0], atol=1e-6)
    np.testing.assert_allclose(MinSNR(5.0)("linear", "u", ends), [0, 0], atol=1e-6)
    np.testing.assert_allclose(SoftMinSNR(4.0)("gvp", "eps", ends), [0, 1], atol=1e-6)


def test_bad_options_are_user_errors():
    for scheme, gamma in itertools.product((MinSNR, SoftMinSNR), (0.0, -1.0, math.inf, math.nan)):
        with pytest.raises(UserError, match="gamma must be a finite number above 0"):
            scheme(gamma)
    with pytest.raises(UserError, match="choose one of"):
        MinSNR()("linear", "score", T)
    with pytest.raises(UserError, match="choose one of"):
        MinSNR()("cosine", "u", T)
