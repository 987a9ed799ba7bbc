"""Weights next to and at the ends, where SNR is huge, tiny, 0 or infinite, against 60-digit arithmetic."""

import math

import mpmath as mp
import numpy as np
import pytest
import torch

from eisbach.diffusion.paths import PATHS, get_path
from eisbach.diffusion.targets import TARGETS
from eisbach.weighting.noise_level import (
    EDM,
    ERD,
    P2,
    Constant,
    CosMap,
    Debiased,
    LearnedUncertainty,
    MaxSNR,
    MinSNR,
    SigmaSqrt,
    SoftMinSNR,
    x0_to_target_weight,
)

CLOSED = [name for name in PATHS if name != "cosine"]  # a table has no digits beyond its own
NEAR_0 = [2.0**-53, 3e-16, 1e-14, 1e-12, 1e-9, 3e-7, 1e-4, 0.01]
LEVELS = [*NEAR_0, 0.3, 0.5, 0.8, *(1 - t for t in NEAR_0)]


def exact_alpha_sigma(path: str, t):
    if path == "linear":
        return 1 - t, t
    if path == "vp":
        low, high = mp.mpf(0.1), mp.mpf(20)
        alpha = mp.exp(-(t**2) * (high - low) / 4 - t * low / 2)
        return alpha, mp.sqrt(1 - alpha**2)
    if path == "gvp":
        return mp.cos(mp.pi * t / 2), mp.sin(mp.pi * t / 2)
    low, high = mp.mpf(0.002) ** (mp.mpf(1) / 7), mp.mpf(80) ** (mp.mpf(1) / 7)
    return mp.mpf(1), (low + t * (high - low)) ** 7


def exact_x0_movement(alpha, sigma, target: str):
    """dx0/dy at fixed x_t, by elimination: eps = (x_t - alpha x0) / sigma goes into y = c_x x0 + c_eps eps."""
    c_x, c_eps = {"eps": (0, 1), "x0": (1, 0), "v": (-sigma, alpha), "u": (-1, 1)}[target]
    return 1 / (c_x - c_eps * alpha / sigma)


SCHEMES = [
    (MinSNR(5.0), lambda r: min(r, 5)),
    (SoftMinSNR(4.0), lambda r: 4 * r / (r + 4)),
    (MaxSNR(1.0), lambda r: max(r, 1)),
    (P2(1.0, 1.0), lambda r: r / (1 + r)),
    (P2(0.5, 2.5), lambda r: r / (mp.mpf(0.5) + r) ** mp.mpf(2.5)),
    (P2(3.0, 0.5), lambda r: r / mp.sqrt(3 + r)),
    (Debiased(), mp.sqrt),
    (EDM(0.5), lambda r: r + 4),
    (SigmaSqrt(by="log_snr"), lambda r: (1 + mp.sqrt(r)) ** 2),
    (CosMap(by="log_snr"), lambda r: 2 / mp.pi * (1 + mp.sqrt(r)) ** 2 / (1 + r)),
    (Constant("eps"), lambda r: r),
    (Constant("x0"), lambda r: mp.mpf(1)),
    (LearnedUncertainty(), lambda r: r + 4),  # as it starts
]


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize(("scheme", "x0_weight"), SCHEMES, ids=[repr(scheme) for scheme, _ in SCHEMES])
def test_float64_keeps_twelve_digits_next_to_the_ends(scheme, x0_weight, path):
    with mp.workdps(60):
        for target in TARGETS:
            expected = []
            for t in LEVELS:
                alpha, sigma = exact_alpha_sigma(path, mp.mpf(t))
                expected.append(x0_weight((alpha / sigma) ** 2) * exact_x0_movement(alpha, sigma, target) ** 2)
            got = scheme(path, target, torch.tensor(LEVELS, dtype=torch.float64))
            worst = max(abs(mp.mpf(value) / exact - 1) for value, exact in zip(got.tolist(), expected, strict=True))
            assert worst < 1e-12, target


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("stated", ["v", "u"])
def test_restated_constants_keep_twelve_digits(stated, path):
    with mp.workdps(60):
        for target in TARGETS:
            got = Constant(stated)(path, target, torch.tensor(LEVELS, dtype=torch.float64)).tolist()
            for t, value in zip(LEVELS, got, strict=True):
                ends = exact_alpha_sigma(path, mp.mpf(t))
                exact = (exact_x0_movement(*ends, target) / exact_x0_movement(*ends, stated)) ** 2
                assert abs(mp.mpf(value) / exact - 1) < 1e-12


# Scheme: W as SNR -> 0 and as SNR -> infinity.
INF = math.inf
LIMITS = [
    (MinSNR(5.0), 0, 5),
    (SoftMinSNR(4.0), 0, 4),
    (MaxSNR(2.0), 2, INF),
    (P2(2.0, 1.0), 0, 1),
    (P2(2.0, 0.5), 0, INF),
    (P2(2.0, 2.0), 0, 0),
    (P2(2.0, 0.0), 0, INF),
    (Debiased(), 0, INF),
    (EDM(0.5), 4, INF),
    (SigmaSqrt(), 1, INF),
    (CosMap(), 2 / math.pi, 2 / math.pi),
]


@pytest.mark.parametrize(("scheme", "at_noise", "at_data"), LIMITS, ids=[repr(row[0]) for row in LIMITS])
def test_w_at_snr_of_0_and_infinity(scheme, at_noise, at_data):
    log_snr = torch.tensor([-INF, -1e300, INF, 1e300], dtype=torch.float64)
    got = scheme.log_x0_weight(log_snr).exp()
    np.testing.assert_allclose(got, [at_noise, at_noise, at_data, at_data], rtol=1e-12)


# On the linear path at t = 1 (SNR = 0) and t = 0 (SNR infinite): eps, x0, v, u. None: it diverges.
ENDS = [
    (Constant(), (1, 1, 1, 1), (1, 1, 1, 1)),
    (Constant("eps"), (1, 0, 0, 0), (1, None, 1, 1)),
    (Constant("x0"), (None, 1, 1, 1), (0, 1, 0, 0)),
    (Constant("v"), (None, 1, 1, 1), (1, None, 1, 1)),
    (Constant("u"), (None, 1, 1, 1), (1, None, 1, 1)),
    (MinSNR(5.0), (1, 0, 0, 0), (0, 5, 0, 0)),
    (SoftMinSNR(4.0), (1, 0, 0, 0), (0, 4, 0, 0)),
    (MaxSNR(2.0), (None, 2, 2, 2), (1, None, 1, 1)),
    (P2(2.0, 1.0), (0.5, 0, 0, 0), (0, 1, 0, 0)),
    (Debiased(), (None, 0, 0, 0), (0, None, 0, 0)),
    (EDM(0.5), (None, 4, 4, 4), (1, None, 1, 1)),
    (SigmaSqrt(), (None, 1, 1, 1), (1, None, 1, 1)),
    (CosMap(), (None, 2 / math.pi, 2 / math.pi, 2 / math.pi), (0, 2 / math.pi, 0, 0)),
    (ERD(), (1, 0, 0, 1), (0, 1, 0, 1)),
    (LearnedUncertainty(), (None, 4, 4, 4), (1, None, 1, 1)),
]


@pytest.mark.parametrize("path", ["linear", "gvp"])
@pytest.mark.parametrize(("scheme", "noise", "data"), ENDS, ids=[repr(row[0]) for row in ENDS])
def test_weights_at_the_ends_themselves(scheme, noise, data, path):
    if scheme.name in ("sigma_sqrt", "cosmap"):
        scheme = type(scheme)(by="log_snr")
    for end, limits in ((1.0, noise), (0.0, data)):
        for target, limit in zip(TARGETS, limits, strict=True):
            value = float(scheme(path, target, torch.tensor([end])))
            if limit is None:
                assert 1e14 < value < 1e34, (end, target)  # large, finite, in float32 too
            else:
                assert value == pytest.approx(limit, rel=1e-7, abs=1e-7), (end, target)


@pytest.mark.parametrize("path", ["vp", "edm"])
def test_ends_where_snr_is_finite_are_nothing_special(path):
    """vp keeps a trace of data at t = 1; edm has noise at t = 0 and data at t = 1."""
    end = 1.0
    with mp.workdps(60):
        alpha, sigma = exact_alpha_sigma(path, mp.mpf(end))
        snr = float((alpha / sigma) ** 2)
        move = float(exact_x0_movement(alpha, sigma, "eps")) ** 2
    weight = EDM(0.5)(path, "eps", torch.tensor([end]))
    assert float(weight) == pytest.approx((snr + 4) * move, rel=1e-12)
    data = EDM(0.5)("edm", "x0", torch.tensor([0.0]))
    assert float(data) == pytest.approx(1 / 0.002**2 + 4, rel=1e-12)


def test_conversion_of_a_weight_that_overflows():
    """ln W = 1000 at a noise level where the factor to eps is e^-1000: only their product is representable."""
    t = torch.tensor([2.0**-53], dtype=torch.float64)
    path = get_path("edm", sigma_min=1e-217, sigma_max=1e-200, rho=1.0)
    log_snr = path.log_snr(t)
    assert log_snr > 900
    torch.testing.assert_close(x0_to_target_weight(log_snr, path, "eps", t), torch.zeros(1, dtype=torch.float64))
    for scheme in (EDM(), MaxSNR(), SigmaSqrt(by="log_snr"), Constant("u")):
        assert scheme(path, "x0", t).isposinf(), "SNR = e^900 itself has no float64"
        torch.testing.assert_close(scheme(path, "eps", t), torch.ones(1, dtype=torch.float64))
