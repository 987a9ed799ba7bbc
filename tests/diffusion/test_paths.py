import math

import numpy as np
import pytest
import torch

from eisbach.diffusion.paths import PATHS, EDMPath, LinearPath, get_path
from eisbach.errors import UserError

T = torch.linspace(0, 1, 41, dtype=torch.float64)
INSIDE = T[1:-1]


def plain(name: str, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(alpha, sigma) written from the table of formulas with numpy alone."""
    if name == "linear":
        return 1 - t, t
    if name == "vp":
        alpha = np.exp(-0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1)
        return alpha, np.sqrt(1 - alpha**2)
    if name == "gvp":
        return np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)
    if name == "cosine":  # IDDPM's code: betas of the curve, clipped, multiplied up; the points here are its steps
        curve = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
        kept = np.cumprod(np.r_[1.0, 1 - np.minimum(1 - curve[1:] / curve[:-1], 0.999)])
        abar = kept[np.rint(1000 * t).astype(int)]
        return np.sqrt(abar), np.sqrt(1 - abar)
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    return np.ones_like(t), (low + t * (high - low)) ** 7


@pytest.mark.parametrize("name", PATHS)
def test_coefficients_match_the_formulas(name):
    path = get_path(name)
    alpha, sigma = plain(name, T.numpy())
    np.testing.assert_allclose(path.alpha(T), alpha, rtol=1e-10 if name == "cosine" else 1e-12, atol=1e-15)
    np.testing.assert_allclose(path.sigma(T), sigma, rtol=1e-9, atol=1e-15)
    snr = plain(name, INSIDE.numpy())
    np.testing.assert_allclose(path.log_snr(INSIDE), 2 * np.log(snr[0] / snr[1]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", PATHS)
def test_log_snr_falls_and_its_inverse_is_exact(name):
    path = get_path(name)
    log_snr = path.log_snr(INSIDE)
    assert (log_snr.diff() < 0).all()
    torch.testing.assert_close(path.t_from_log_snr(log_snr), INSIDE, rtol=1e-12, atol=1e-14)
    within = torch.linspace(float(log_snr.min()), float(log_snr.max()), 50, dtype=torch.float64)
    torch.testing.assert_close(path.log_snr(path.t_from_log_snr(within)), within, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["linear", "vp", "gvp"])
def test_tiny_noise_levels_keep_their_digits(name):
    path = get_path(name)
    t = torch.tensor([1e-12, 1e-9, 1e-6], dtype=torch.float64)
    torch.testing.assert_close(path.t_from_log_snr(path.log_snr(t)), t, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", PATHS)
def test_slope_is_the_derivative(name):
    path = get_path(name)
    t = (INSIDE + 0.0004).requires_grad_()  # between the corners of the cosine table
    (derivative,) = torch.autograd.grad(path.log_snr(t).sum(), t)
    torch.testing.assert_close(path.log_snr_slope(t.detach()), derivative, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PATHS)
def test_ends(name):
    path, ends = get_path(name), torch.tensor([0.0, 1.0], dtype=torch.float64)
    alpha, sigma, log_snr = path.alpha(ends), path.sigma(ends), path.log_snr(ends)
    assert alpha[0] == 1
    assert path.pure_data == bool(sigma[0] == 0)
    assert path.pure_noise == bool(alpha[1] == 0)
    assert path.pure_data == bool(log_snr[0] == math.inf)
    assert path.pure_noise == bool(log_snr[1] == -math.inf)
    assert not log_snr.isnan().any()
    torch.testing.assert_close(path.t_from_log_snr(log_snr), ends, rtol=1e-12, atol=1e-15)


def test_float32_stays_float32():
    for name in PATHS:
        path, t = get_path(name), torch.tensor([0.25])
        assert path.alpha(t).dtype == path.log_snr(t).dtype == path.t_from_log_snr(t).dtype == torch.float32


def test_get_path_refuses_what_it_does_not_know():
    assert get_path(LinearPath()) == get_path("linear")
    assert get_path("edm", sigma_max=160.0) == EDMPath(sigma_max=160.0)
    with pytest.raises(UserError, match="choose one of linear, vp, gvp, edm, cosine"):
        get_path("sine")
    with pytest.raises(UserError, match="does not take"):
        get_path("linear", beta_min=1.0)
    with pytest.raises(UserError, match="sigma_min < sigma_max"):
        get_path("edm", sigma_min=2.0, sigma_max=1.0)
    with pytest.raises(UserError, match="beta_min"):
        get_path("vp", beta_max=math.nan)
    with pytest.raises(UserError, match="already built"):
        get_path(LinearPath(), rho=1)
