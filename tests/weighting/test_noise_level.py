"""What every noise-level weighting shares: the table of names, the call, and its answers to mistakes."""

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from eisbach.diffusion.paths import PATHS
from eisbach.diffusion.targets import TARGETS, convert
from eisbach.errors import UserError
from eisbach.weighting import build_weighting
from eisbach.weighting.noise_level import (
    EDM,
    NOISE_WEIGHTINGS,
    P2,
    Constant,
    CosMap,
    Debiased,
    LearnedUncertainty,
    MaxSNR,
    MinSNR,
    SigmaSqrt,
    SoftMinSNR,
)

T = torch.linspace(0.01, 0.99, 41, dtype=torch.float64)
ON_ANY_PATH = {
    "sigma_sqrt": {"by": "log_snr"},
    "cosmap": {"by": "log_snr"},
    "tabulated": {"points": [[0.0, 1.0], [0.6, 0.2], [1.0, 3.0]]},
}


def make(scheme: str):
    return NOISE_WEIGHTINGS[scheme](**ON_ANY_PATH.get(scheme, {}))


def test_names():
    assert set(NOISE_WEIGHTINGS) >= {
        *("constant", "min_snr", "soft_min_snr", "max_snr", "p2", "debiased", "edm", "edm2", "sigma_sqrt", "cosmap"),
        "erd",
    }
    for name, scheme in NOISE_WEIGHTINGS.items():
        assert scheme.name == name
        assert build_weighting(noise_level=name, **ON_ANY_PATH.get(name, {})).noise_level.name == name


@pytest.mark.parametrize("scheme", NOISE_WEIGHTINGS)
def test_call(scheme):
    weighting = make(scheme)
    for path, target in itertools.product(PATHS, TARGETS):
        weight = weighting(path, target, T.float())
        assert weight.shape == T.shape
        assert weight.dtype == torch.float64
        assert not weight.requires_grad
        assert (weight > 0).all()
        assert weight.isfinite().all()
        torch.testing.assert_close(weighting(path, target, T.float(), num_frames=300), weight, rtol=0, atol=0)
        value, penalty = weighting.terms(path, target, T.float())
        torch.testing.assert_close(value.detach(), weight, rtol=0, atol=0)
        assert (penalty is None) == (scheme != "edm2")
        assert bool(weighting.trainable_parameters()) == (scheme == "edm2")


@pytest.mark.parametrize("scheme", NOISE_WEIGHTINGS)
def test_noise_levels_that_are_not_noise_levels(scheme):
    weighting = make(scheme)
    t = torch.tensor([0.5, math.nan, -0.01, 1.01, 37.0, -math.inf, 1 + 1e-7, -1e-7, 0.0, 1.0])
    for path, target in itertools.product(PATHS, TARGETS):
        weight = weighting(path, target, t)
        assert weight.isnan().tolist() == [False, *[True] * 5, False, False, False, False]
        assert weight[6] == weight[9], "rounding outside the interval is its end"
        assert weight[7] == weight[8]
        assert (weight[6:] >= 0).all()
        assert weight[6:].float().isfinite().all()
    with pytest.raises(UserError, match="floating numbers in"):
        weighting("linear", "u", torch.tensor([3, 500]))


class NoHostReads(TorchDispatchMode):
    """Fails on the operators by which a value leaves the device, as a synchronisation would need."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        words = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal.default")
        assert not any(word in str(function) for word in words), f"{function} reads values on the host"
        return function(*args, **(kwargs or {}))


def test_no_value_is_read_on_the_host():
    weightings = [make(scheme) for scheme in NOISE_WEIGHTINGS] + [NOISE_WEIGHTINGS["erd"](density="uniform")]
    with NoHostReads():
        for weighting, target in itertools.product(weightings, TARGETS):
            weighting.terms("linear", target, T)
    with pytest.raises(AssertionError, match="reads values"), NoHostReads():
        T.sum().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_noise_levels_are_taken_as_they_are(dtype):
    t = T.to(dtype)
    for scheme in NOISE_WEIGHTINGS:
        torch.testing.assert_close(make(scheme)("linear", "u", t), make(scheme)("linear", "u", t.double()))


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(
    "scheme",
    [MinSNR(), SoftMinSNR(), MaxSNR(), P2(), Debiased(), EDM(), SigmaSqrt("log_snr"), CosMap("log_snr"), Constant("v")],
    ids=repr,
)
def test_one_weighted_loss_whatever_the_target(name, scheme):
    """The conversion's meaning: the same network errors, restated in any target, cost the same."""
    generator = torch.Generator().manual_seed(0)
    x_t, truth, guess = (torch.randn(len(T), 3, generator=generator, dtype=torch.float64) for _ in range(3))
    expected = scheme(name, "x0", T) * (guess - truth).square().mean(1)
    for target in ("eps", "v", "u"):
        error = convert(name, "x0", target, guess, x_t, T) - convert(name, "x0", target, truth, x_t, T)
        cost = scheme(name, target, T) * error.square().mean(1)
        torch.testing.assert_close(cost, expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("scheme", [SigmaSqrt, CosMap])
def test_sd3_weights_are_undefined_away_from_the_linear_path(scheme):
    for path, target in itertools.product(("vp", "gvp", "edm"), TARGETS):
        with pytest.raises(UserError, match=r"linear path's sigma and is undefined on the .* by='log_snr'"):
            scheme()(path, target, T)
        carried = scheme(by="log_snr")(path, target, T)
        assert carried.isfinite().all()
    torch.testing.assert_close(scheme()("linear", "u", T), scheme(by="log_snr")("linear", "u", T), rtol=0, atol=0)
    with pytest.raises(UserError, match="choose one of sigma, log_snr"):
        scheme(by="t")


def test_bad_options_are_one_sentence():
    bad = (0.0, -1.0, math.inf, math.nan, "5", None, True)
    for scheme, value in itertools.product((MinSNR, SoftMinSNR, MaxSNR), bad):
        with pytest.raises(UserError, match="gamma must be a finite number above 0; got"):
            scheme(value)
    for value in bad:
        with pytest.raises(UserError, match="k must be a finite number above 0"):
            P2(k=value)
        with pytest.raises(UserError, match="sigma_data must be a finite number above 0"):
            EDM(value)
    for value in (-0.1, math.inf, math.nan, "1", None, True):
        with pytest.raises(UserError, match="gamma must be a finite number of at least 0"):
            P2(gamma=value)
    with pytest.raises(UserError, match="choose one of trained, eps, x0, v, u"):
        Constant("score")
    for scheme in (MinSNR(), Constant(), LearnedUncertainty(), NOISE_WEIGHTINGS["erd"]()):
        with pytest.raises(UserError, match="choose one of"):
            scheme("linear", "score", T)
        with pytest.raises(UserError, match="choose one of"):
            scheme("sideways", "u", T)


def test_representation_names_the_options():
    assert repr(P2(2.0, 0.5)) == "P2(k=2.0, gamma=0.5)"
    assert repr(SigmaSqrt()) == "SigmaSqrt(by='sigma')"
    assert LearnedUncertainty(sigma_data=1.0).options().keys() == {"base", "channels", "seed"}
