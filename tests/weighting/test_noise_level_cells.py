"""Every cell, scheme x target x path, in float64 against a derivation that shares no formula with the code.

The weight W on x0 is written here from the papers. What it means for another target is found by experiment: the target
is moved by a known amount, data and noise are solved from ``x_t`` and the moved target as two linear equations, and W
multiplies the squared movement of the data.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eisbach.diffusion.paths import PATHS, get_path
from eisbach.diffusion.targets import TARGETS
from eisbach.weighting.noise_level import (
    EDM,
    P2,
    Constant,
    CosMap,
    Debiased,
    MaxSNR,
    MinSNR,
    SigmaSqrt,
    SoftMinSNR,
    X0Weight,
)

T = np.concatenate([np.linspace(0.003, 0.997, 37), [0.5, 0.25]])


def alpha_sigma(path: str, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The table of paths, in numpy."""
    if path == "linear":
        return 1 - t, t
    if path == "vp":
        alpha = np.exp(-0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1)
        return alpha, np.sqrt(1 - alpha**2)
    if path == "gvp":
        return np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)
    if path == "cosine":  # a table, tested for itself: what is tested here is what the weights make of it
        table = get_path(path)
        return table.alpha(torch.from_numpy(t)).numpy(), table.sigma(torch.from_numpy(t)).numpy()
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    return np.ones_like(t), (low + t * (high - low)) ** 7


def target_rows(alpha: np.ndarray, sigma: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    zero, one = np.zeros_like(alpha), np.ones_like(alpha)
    return {"eps": (zero, one), "x0": (one, zero), "v": (-sigma, alpha), "u": (-one, one)}


def x0_movement(path: str, target: str, t: np.ndarray, move: float = 0.37) -> np.ndarray:
    """(movement of x0 / movement of the target) at fixed x_t, by solving the two equations twice."""
    alpha, sigma = alpha_sigma(path, t)
    c_x, c_eps = target_rows(alpha, sigma)[target]
    x0, noise = 0.8, -1.3
    matrix = np.stack([np.stack([alpha, sigma], -1), np.stack([c_x, c_eps], -1)], -2)
    x_t, y = alpha * x0 + sigma * noise, c_x * x0 + c_eps * noise
    before = np.linalg.solve(matrix, np.stack([x_t, y], -1)[..., None])[..., 0, 0]
    after = np.linalg.solve(matrix, np.stack([x_t, y + move], -1)[..., None])[..., 0, 0]
    return (after - before) / move


# Name: (the scheme, W as a function of alpha and sigma, the paths it is defined on)
ALL = tuple(PATHS)
SCHEMES = {
    "min_snr 5": (MinSNR(5.0), lambda a, s: np.minimum(a**2 / s**2, 5), ALL),
    "min_snr 1": (MinSNR(1), lambda a, s: np.minimum(a**2 / s**2, 1), ALL),
    "soft_min_snr 4": (SoftMinSNR(4.0), lambda a, s: 4 * a**2 / (a**2 + 4 * s**2), ALL),
    "max_snr 1": (MaxSNR(), lambda a, s: np.maximum(a**2 / s**2, 1), ALL),
    "max_snr 3": (MaxSNR(3.0), lambda a, s: np.maximum(a**2 / s**2, 3), ALL),
    "p2 1 1": (P2(), lambda a, s: a**2 / (a**2 + s**2), ALL),
    "p2 .5 2": (P2(0.5, 2.0), lambda a, s: (a / s) ** 2 / (0.5 + (a / s) ** 2) ** 2, ALL),
    "p2 2 .5": (P2(2.0, 0.5), lambda a, s: (a / s) ** 2 / np.sqrt(2 + (a / s) ** 2), ALL),
    "debiased": (Debiased(), lambda a, s: a / s, ALL),
    "edm .5": (EDM(), lambda a, s: ((s / a) ** 2 + 0.25) / ((s / a) * 0.5) ** 2, ALL),
    "edm 1.7": (EDM(1.7), lambda a, s: ((s / a) ** 2 + 1.7**2) / ((s / a) * 1.7) ** 2, ALL),
    "sigma_sqrt": (SigmaSqrt(), lambda a, s: s**-2.0, ("linear",)),
    "sigma_sqrt by log_snr": (SigmaSqrt(by="log_snr"), lambda a, s: (1 + a / s) ** 2, ALL),
    "cosmap": (CosMap(), lambda a, s: 2 / (math.pi * (1 - 2 * s + 2 * s**2)), ("linear",)),
    "cosmap by log_snr": (
        CosMap(by="log_snr"),
        lambda a, s: 2 / math.pi * (1 + a / s) ** 2 / (1 + (a / s) ** 2),
        ALL,
    ),
    "constant eps": (Constant("eps"), lambda a, s: (a / s) ** 2, ALL),
    "constant x0": (Constant("x0"), lambda a, s: np.ones_like(a), ALL),
    "constant v": (Constant("v"), lambda a, s: ((a**2 + s**2) / s) ** 2, ALL),
    "constant u": (Constant("u"), lambda a, s: ((a + s) / s) ** 2, ALL),
}
CELLS = [(name, path, target) for name in SCHEMES for path in SCHEMES[name][2] for target in TARGETS]


@pytest.mark.parametrize(("name", "path", "target"), CELLS)
def test_cell(name, path, target):
    scheme, x0_weight, _ = SCHEMES[name]
    expected = x0_weight(*alpha_sigma(path, T)) * x0_movement(path, target, T) ** 2
    got = scheme(path, target, torch.from_numpy(T))
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-7)  # the experiment's own rounding


def snr(path: str) -> np.ndarray:
    alpha, sigma = alpha_sigma(path, T)
    return (alpha / sigma) ** 2


VP, LIN = snr("vp"), snr("linear")
CLOSED_FORMS = [
    (MinSNR(5.0), "vp", "eps", np.minimum(VP, 5) / VP),
    (MinSNR(5.0), "vp", "v", np.minimum(VP, 5) / (VP + 1)),
    (MinSNR(5.0), "linear", "u", np.minimum((1 - T) ** 2, 5 * T**2)),
    (SoftMinSNR(4.0), "vp", "eps", 4 / (VP + 4)),
    (SoftMinSNR(4.0), "vp", "v", 4 * VP / ((VP + 4) * (1 + VP))),
    (SoftMinSNR(4.0), "linear", "u", 4 * T**2 * (1 - T) ** 2 / ((1 - T) ** 2 + 4 * T**2)),
    (MaxSNR(1.0), "vp", "eps", np.maximum(1, 1 / VP)),
    (MaxSNR(1.0), "vp", "v", np.maximum(VP, 1) / (VP + 1)),
    (MaxSNR(2.0), "linear", "u", np.maximum((1 - T) ** 2, 2 * T**2)),
    (P2(2.0, 0.5), "vp", "eps", (2 + VP) ** -0.5),
    (P2(2.0, 0.5), "vp", "v", VP / ((1 + VP) * (2 + VP) ** 0.5)),
    (P2(2.0, 0.5), "linear", "u", (1 - T) ** 2 / (2 + LIN) ** 0.5),
    (Debiased(), "vp", "eps", 1 / np.sqrt(VP)),
    (Debiased(), "vp", "v", np.sqrt(VP) / (1 + VP)),
    (Debiased(), "linear", "u", T * (1 - T)),
    (EDM(0.5), "vp", "eps", 1 + 4 / VP),
    (EDM(0.5), "vp", "v", (VP + 4) / (1 + VP)),
    (EDM(0.5), "linear", "u", (1 - T) ** 2 + T**2 / 0.25),
    (Constant("eps"), "vp", "x0", VP),
    (Constant("v"), "vp", "x0", VP + 1),
    (Constant("v"), "gvp", "eps", (snr("gvp") + 1) / snr("gvp")),
    (Constant("u"), "linear", "x0", T**-2.0),
    (Constant("x0"), "linear", "u", T**2),
    (Constant("eps"), "linear", "u", (1 - T) ** 2),
    (SigmaSqrt(), "linear", "u", np.ones_like(T)),
    (CosMap(), "linear", "u", 2 * T**2 / (math.pi * ((1 - T) ** 2 + T**2))),
]


@pytest.mark.parametrize(("scheme", "path", "target", "expected"), CLOSED_FORMS)
def test_closed_forms_of_the_papers(scheme, path, target, expected):
    np.testing.assert_allclose(scheme(path, target, torch.from_numpy(T)), expected, rtol=1e-9)


def test_constant_is_1_on_the_trained_target():
    for path, target in itertools.product(PATHS, TARGETS):
        for scheme in (Constant(), Constant(target)):
            assert scheme(path, target, torch.from_numpy(T)).tolist() == [1.0] * len(T)


def test_edm_weighs_the_preconditioned_output_by_1():
    """Their section 5: D = c_skip x + c_out F, and lambda c_out^2 = 1."""
    sigma = alpha_sigma("edm", T)[1]
    c_out = sigma * 0.5 / np.sqrt(sigma**2 + 0.25)
    np.testing.assert_allclose(EDM(0.5)("edm", "x0", torch.from_numpy(T)).numpy() * c_out**2, 1, rtol=1e-12)


class TestFormsSeenInTheWild:
    """What trainers compute under the same names, and where it is another weight than ours."""

    t = torch.from_numpy(T)

    def shapes_differ(self, ours: torch.Tensor, theirs: np.ndarray) -> float:
        """Spread of the ratio: 1 means the same weight up to a factor."""
        ratio = ours.numpy() / theirs
        return ratio.max() / ratio.min()

    def test_debiased_v_of_a_stable_diffusion_script(self):
        theirs = 1 / (VP + 1)
        assert self.shapes_differ(Debiased()("vp", "v", self.t), theirs) > 100
        # it is the unweighted x0 loss
        assert self.shapes_differ(Constant("x0")("vp", "v", self.t), theirs) == pytest.approx(1, abs=1e-9)

    def test_min_snr_v_form_away_from_vp(self):
        for gamma, target in itertools.product((1.0, 5.0), ("u", "v")):
            theirs = np.minimum(LIN, gamma) / (LIN + 1)
            assert self.shapes_differ(MinSNR(gamma)("linear", target, self.t), theirs) > 1.9
        ratio = np.minimum(LIN, 5) / (LIN + 1) / MinSNR(5.0)("linear", "u", self.t).numpy()
        np.testing.assert_allclose(ratio, 1 / (T**2 + (1 - T) ** 2), rtol=1e-9)  # as the docstring says

    def test_max_snr_v_of_the_min_snr_authors_code(self):
        theirs = np.maximum(VP, 1) / VP
        assert self.shapes_differ(MaxSNR(1.0)("vp", "v", self.t), theirs) > 100

    def test_sd3_weights_on_the_u_loss(self):
        for ours, theirs in (
            (SigmaSqrt(), T**-2.0),
            (CosMap(), 2 / (math.pi * (1 - 2 * T + 2 * T**2))),
        ):
            np.testing.assert_allclose(ours("linear", "u", self.t).numpy(), theirs * T**2, rtol=1e-9)
            np.testing.assert_allclose(ours("linear", "x0", self.t).numpy(), theirs, rtol=1e-9)


levels = st.floats(1e-6, 1 - 1e-6)
positive = st.floats(0.05, 50)


@st.composite
def schemes(draw) -> X0Weight:
    kind = draw(st.sampled_from((MinSNR, SoftMinSNR, MaxSNR, P2, Debiased, EDM, SigmaSqrt, CosMap)))
    if kind is Debiased:
        return kind()
    if kind in (SigmaSqrt, CosMap):
        return kind(by="log_snr")
    if kind is P2:
        return kind(draw(positive), draw(st.floats(0, 3)))
    return kind(draw(positive))


@settings(max_examples=80, deadline=None)
@given(levels, schemes(), schemes(), st.sampled_from(ALL), st.sampled_from(TARGETS), st.sampled_from(TARGETS))
def test_changing_the_target_is_the_same_factor_for_every_scheme(t, first, second, path, one, other):
    t = torch.tensor([t], dtype=torch.float64)
    ratios = [scheme(path, one, t) / scheme(path, other, t) for scheme in (first, second)]
    torch.testing.assert_close(*ratios, rtol=1e-10, atol=0)


@settings(max_examples=80, deadline=None)
@given(levels, positive, st.sampled_from(ALL), st.sampled_from(TARGETS))
def test_relations_between_schemes(t, gamma, path, target):
    t = torch.tensor([t], dtype=torch.float64)

    def weight(scheme):
        return scheme(path, target, t)

    close = {"rtol": 1e-10, "atol": 0}
    eps, x0 = weight(Constant("eps")), weight(Constant("x0"))
    torch.testing.assert_close(weight(MinSNR(gamma)) + weight(MaxSNR(gamma)), eps + gamma * x0, **close)
    torch.testing.assert_close(weight(Debiased()).square(), eps * x0, **close)
    torch.testing.assert_close(weight(P2(gamma, 0.0)), eps, **close)
    torch.testing.assert_close(weight(EDM(gamma)), eps + x0 / gamma**2, **close)
    torch.testing.assert_close(weight(P2(gamma, 1.0)) * gamma, weight(SoftMinSNR(gamma)), **close)
    assert weight(SoftMinSNR(gamma)) <= weight(MinSNR(gamma)) * (1 + 1e-12)
    assert weight(SoftMinSNR(gamma)) >= weight(MinSNR(gamma)) / 2 * (1 - 1e-12)
    # At equal log-SNR the linear path's u loss and the two SD3 weights differ by alpha^2 + sigma^2 alone.
    total = weight(SigmaSqrt(by="log_snr")) / weight(CosMap(by="log_snr")) * 2 / math.pi
    r = eps / x0
    torch.testing.assert_close(total, 1 + r, rtol=1e-9, atol=0)
