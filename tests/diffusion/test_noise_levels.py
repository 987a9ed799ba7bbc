"""Training densities: quantile, draws, density and distribution function against one another, scipy and native
values."""

import itertools
import json
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from scipy import optimize, stats
from scipy.special import expit, logit

from eisbach.diffusion.noise_levels import (
    DENSITIES,
    NoiseLevelDensity,
    check_density,
    density_options,
    get_density,
    shift_by_length,
    shift_t,
)
from eisbach.diffusion.paths import PATHS, get_path
from eisbach.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures"
SLOWEST = 2 / (math.pi - 2)

CASES = [
    ("uniform", {}, "linear", None),
    ("uniform", {"low": 0.2, "high": 0.7, "shift": 3.0}, "linear", None),
    ("logit_normal", {}, "vp", None),
    ("logit_normal", {"m": -0.4, "s": 1.3, "shift": 0.5}, "linear", None),
    ("trunc_logit_normal", {"shift_by_length": False}, "linear", None),
    ("trunc_logit_normal", {}, "linear", 1292),
    ("trunc_logit_normal", {"truncation": 0.0}, "linear", 160),
    ("trunc_logit_normal", {"truncation": 0.7}, "linear", 4096),
    ("mode", {}, "linear", None),
    ("mode", {"s": -0.8, "shift": 2.0}, "linear", None),
    ("mode", {"s": 1.6}, "linear", None),
    ("mode", {"s": 0}, "linear", None),
    ("cosmap", {}, "linear", None),
    ("cosmap", {"shift": 3.0}, "linear", None),
    ("log_snr_uniform", {"low": -9.0, "high": 12.0}, "linear", None),
    ("log_snr_uniform", {"high": 10.0}, "vp", None),
    ("log_snr_uniform", {}, "edm", None),
    ("log_snr_uniform", {"low": -3, "high": 4}, "gvp", None),
    *(("log_snr_normal", {"mean": -1.0, "std": 3.0}, path, None) for path in PATHS),
    # the derivatives below are differences: not across the corners of the cosine table
    *(("edm", {}, path, None) for path in PATHS if path != "cosine"),
    ("edm", {"p_mean": -0.4, "p_std": 1.0}, "linear", None),
]
each_case = pytest.mark.parametrize(
    ("name", "options", "path", "frames"),
    CASES,
    ids=[f"{n}-{p}-{'-'.join(map(str, o.values()))}" for n, o, p, _ in CASES],
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensor(values) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def mass(density, low, high, frames, panels=4000) -> float:
    """The integral of the pdf over t in [low, high], 4-point Gauss-Legendre on panels that are equal in logit(t)."""
    nodes, shares = np.polynomial.legendre.leggauss(4)
    edges = np.linspace(logit(low), logit(high), panels + 1)
    half = np.diff(edges)[:, None] / 2
    t = expit(edges[:-1, None] + half * (1 + nodes))
    pdf = density.pdf(tensor(t.ravel()), frames).numpy().reshape(t.shape)
    return float((pdf * t * (1 - t) * half * shares).sum())


@each_case
def test_the_pdf_integrates_to_one(name, options, path, frames):
    density = get_density(name, path=path, **options)
    # What is left out at each end holds 1e-8 of the draws.
    low, high = density.quantile(tensor([1e-8, 1 - 1e-8]), frames).tolist()
    assert mass(density, low, high, frames) == pytest.approx(1, abs=1e-6)


@each_case
def test_the_pdf_is_the_inverse_slope_of_the_quantile(name, options, path, frames):
    density = get_density(name, path=path, **options)
    q = tensor(np.concatenate([[1e-7, 1e-5], np.linspace(0.003, 0.997, 83), [1 - 1e-5, 1 - 1e-7]]))
    h = torch.minimum(q, 1 - q) * 1e-3
    ahead = [density.quantile(q + k * h, frames) for k in (-2, -1, 1, 2)]
    slope = (ahead[0] - 8 * ahead[1] + 8 * ahead[2] - ahead[3]) / (12 * h)  # error of order h^4
    t = density.quantile(q, frames)
    torch.testing.assert_close(density.pdf(t, frames) * slope, torch.ones_like(q), rtol=3e-5, atol=0)


@each_case
def test_the_cdf_undoes_the_quantile(name, options, path, frames):
    density = get_density(name, path=path, **options)
    q = tensor([1e-9, 1e-6, 0.01, 0.2, 0.5, 0.77, 0.999])
    torch.testing.assert_close(density.cdf(density.quantile(q, frames), frames), q, rtol=2e-7, atol=1e-13)
    # The route that a density without a closed form takes.
    found = NoiseLevelDensity.cdf(density, density.quantile(q, frames), frames)
    torch.testing.assert_close(found, q, rtol=1e-6, atol=1e-10)
    outside = density.cdf(tensor([-1.0, 0.0, 1.0, 2.0, math.nan]), frames)
    assert outside[:4].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert outside[4].isnan()


@each_case
def test_draws_follow_the_pdf(name, options, path, frames):
    density = get_density(name, path=path, **options)
    t = density.sample(6000, generator=generator(7), num_frames=frames).double().numpy()
    low, high = density.quantile(tensor([1e-9, 1 - 1e-9]), frames).tolist()
    edges = np.array([low, *np.linspace(*np.quantile(t, [0.03, 0.97]), 18), high])
    expected = np.array([mass(density, a, b, frames, 400) for a, b in itertools.pairwise(edges)])
    expected /= expected.sum()
    counts = np.histogram(t, edges)[0]
    assert counts.sum() == len(t)
    assert stats.chisquare(counts, expected * len(t)).pvalue > 1e-4


@each_case
def test_outside_the_support_the_pdf_is_zero_and_nan_stays_nan(name, options, path, frames):
    density = get_density(name, path=path, **options)
    log_pdf = density.log_pdf(tensor([-0.1, 1.1, -math.inf, math.inf, math.nan]), frames)
    assert log_pdf[:4].tolist() == [-math.inf] * 4
    assert log_pdf[4].isnan()
    ends = density.log_pdf(torch.tensor([0.0, 1.0]), frames)
    assert ends.dtype == torch.float64
    assert not ends.isnan().any()
    low, high = density.quantile(tensor([0.0, 1.0]), frames).tolist()
    assert 0 <= low < high <= 1
    beyond = [t for t in (low - 1e-6, high + 1e-6) if 0 < t < 1]
    assert density.log_pdf(tensor(beyond), frames).tolist() == [-math.inf] * len(beyond)


def test_the_ends_of_t():
    def ends(name, path="linear", frames=None, **options):
        return get_density(name, path=path, **options).pdf(tensor([0.0, 1.0]), frames).tolist()

    assert ends("uniform") == [1, 1]
    assert ends("uniform", low=0.5) == [0, 2]
    assert ends("uniform", shift=4.0) == pytest.approx([0.25, 4])
    assert ends("logit_normal") == [0, 0]
    # SA3 truncates, so pure noise is drawn with a density that is not 0: (1 - c) phi(logit c) / (c (1 - c) (1 - Phi)).
    cut = 0.075
    edge = stats.norm.pdf(logit(cut)) / (cut * stats.norm.sf(logit(cut)))
    assert ends("trunc_logit_normal", shift_by_length=False) == pytest.approx([0, edge])
    assert ends("trunc_logit_normal", frames=256) == pytest.approx([0, edge * math.exp(0.5)])
    assert ends("trunc_logit_normal", shift_by_length=False, truncation=0.0) == [0, 0]
    assert ends("mode") == pytest.approx([1 / 2.29] * 2)
    assert ends("mode", s=-1) == [math.inf] * 2
    assert ends("cosmap") == pytest.approx([2 / math.pi] * 2)
    assert ends("log_snr_normal") == [0, 0]
    assert ends("log_snr_uniform", low=-5, high=5) == [0, 0]
    assert ends("log_snr_uniform", path="vp", high=5)[1] == pytest.approx(20 / (1 - math.exp(-10.05)) / 15.05, rel=1e-3)


def test_uniform_and_logit_normal_follow_their_law():
    uniform = get_density("uniform", low=0.2, high=0.7).sample(4000, generator=generator())
    assert stats.kstest(uniform.numpy(), "uniform", args=(0.2, 0.5)).pvalue > 1e-3
    t = get_density("logit_normal", m=-0.4, s=1.3).sample(4000, generator=generator(1))
    assert stats.kstest(logit(t.double().numpy()), "norm", args=(-0.4, 1.3)).pvalue > 1e-3


def test_the_shift_moves_log_snr_on_the_linear_path():
    q = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    plain, shifted = get_density("logit_normal", s=0.8), get_density("logit_normal", s=0.8, shift=3.0)
    path = get_path("linear")
    moved = path.log_snr(plain.quantile(q)) - path.log_snr(shifted.quantile(q))
    torch.testing.assert_close(moved, torch.full_like(q, 2 * math.log(3)))
    torch.testing.assert_close(shifted.log_pdf(q), get_density("logit_normal", m=math.log(3), s=0.8).log_pdf(q))
    torch.testing.assert_close(shift_t(shift_t(q, 3.0), 1 / 3), q)


def test_trunc_logit_normal_against_scipy():
    density = get_density("trunc_logit_normal", shift_by_length=False)
    q = np.linspace(0.001, 0.999, 101)
    # Independent route: scipy's truncated normal, then sigmoid, rescale and flip.
    law = stats.truncnorm(logit(0.075), np.inf)
    expected = 1 - (expit(law.ppf(1 - q)) - 0.075) / (1 - 0.075)
    np.testing.assert_allclose(density.quantile(torch.from_numpy(q)), expected, atol=1e-10)
    kept = (1 - q) * (1 - 0.075) + 0.075
    np.testing.assert_allclose(
        density.log_pdf(tensor(q)), law.logpdf(logit(kept)) + np.log((1 - 0.075) / (kept * (1 - kept))), atol=1e-10
    )
    np.testing.assert_allclose(density.cdf(tensor(q)), law.sf(logit(kept)), atol=1e-12)


def test_length_shift_reproduces_the_native_values():
    native = json.loads((FIXTURES / "sa3_length_shift.json").read_text(encoding="utf-8"))
    t = tensor(native["t"])
    assert len(native["shifted"]) == 4
    for frames, values in native["shifted"].items():
        np.testing.assert_allclose(shift_by_length(t, int(frames)), values, atol=2e-7)
        # The density over shifted t, carried back by the native values' own slope, is the unshifted one.
        log_pdf = get_density("trunc_logit_normal").log_pdf(tensor(values), int(frames))
        a = values[12] * (1 - native["t"][12]) / (native["t"][12] * (1 - values[12]))
        slope = np.log(a) - 2 * np.log1p((a - 1) * np.array(native["t"]))
        plain = get_density("trunc_logit_normal", shift_by_length=False).log_pdf(t)
        np.testing.assert_allclose(log_pdf.numpy() + slope, plain, atol=2e-4)


def test_length_shift_per_sample_and_required():
    density = get_density("trunc_logit_normal")
    lengths = torch.tensor([160, 1292, 4096])
    q = torch.full((3,), 0.4, dtype=torch.float64)
    for function in (density.quantile, density.log_pdf, density.cdf):
        together = function(q, lengths)
        torch.testing.assert_close(together, torch.stack([function(q[:1], int(n))[0] for n in lengths]))
        assert len(set(together.tolist())) == 3
        with pytest.raises(UserError, match="num_frames"):
            function(q)
    assert (density.quantile(q, lengths).diff() > 0).all()


@pytest.mark.parametrize("s", [-1.0, -0.5, 0.81, 1.29, SLOWEST])
def test_mode_is_equation_20_and_its_inverse(s):
    def equation(u):
        return 1 - u - s * (math.cos(math.pi * u / 2) ** 2 - 1 + u)

    density = get_density("mode", s=s)
    u = np.linspace(0, 1, 41)
    np.testing.assert_allclose(density.quantile(tensor(1 - u)), [equation(x) for x in u], atol=1e-14)
    for t in (1e-6, 0.03, 0.31, 0.5, 0.9, 1 - 1e-6):
        root = optimize.brentq(lambda x, t=t: equation(x) - t, 0, 1, xtol=1e-15)
        slope = abs(-1 - s * (1 - math.pi / 2 * math.sin(math.pi * root)))
        if slope > 1e-6:
            assert float(density.pdf(tensor([t]))[0]) == pytest.approx(1 / slope, rel=1e-6)
    if s == SLOWEST:
        assert float(density.log_pdf(tensor([0.5]))[0]) > 12  # infinite there, up to the digits of the root


def upper_quantile(q: float, low: float, high: float) -> float:
    """The z with a share q of N(0, 1) on [low, high] above it, by bisection in 160 digits."""
    mpmath.mp.dps = 160

    def above(z):
        return mpmath.erfc(z / mpmath.sqrt(2)) / 2

    a, b = (mpmath.mpf(max(-60.0, min(60.0, end))) for end in (low, high))
    wanted = above(b) + (above(a) - above(b)) * mpmath.mpf(q)
    for _ in range(60):
        a, b = ((a + b) / 2, b) if above((a + b) / 2) > wanted else (a, (a + b) / 2)
    return float(a)


def test_normal_densities_are_cut_off_at_the_paths_ends_and_renormalised():
    q = np.array([1e-12, 1e-6, 0.3, 1 - 1e-6])
    for path, mean, std in (
        ("vp", 0.0, 6.0),
        ("edm", 2.0, 5.0),
        ("vp", -40.0, 2.0),
        ("edm", 60.0, 3.0),
        ("edm", -70.0, 4.0),
    ):
        noise = get_path(path)
        ends = noise.log_snr(tensor([1.0, 0.0])).numpy()
        log_snr = mean + std * tensor([upper_quantile(x, *((ends - mean) / std)) for x in q])
        density = get_density("log_snr_normal", path=path, mean=mean, std=std)
        expected = noise.t_from_log_snr(log_snr).clamp(0, 1)
        torch.testing.assert_close(density.quantile(tensor(q)), expected, rtol=1e-11, atol=1e-15)
        # scipy's density is good everywhere, its quantile only to 1e-4 in these tails: hence mpmath above.
        law = stats.truncnorm(*((ends - mean) / std), loc=mean, scale=std)
        t = expected[(expected > 0) & (expected < 1)]
        over_t = law.logpdf(noise.log_snr(t).numpy()) + noise.log_snr_slope(t).abs().log().numpy()
        np.testing.assert_allclose(density.log_pdf(t), over_t, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(density.cdf(t), law.sf(noise.log_snr(t).numpy()), rtol=1e-6, atol=1e-12)
    with pytest.raises(UserError, match="outside the vp path's range of -10"):
        get_density("log_snr_normal", path="vp", mean=-200.0, std=1.0)


def test_edm_means_the_same_noise_to_data_ratio_on_every_path():
    for path in PATHS:
        noise = get_path(path)
        t = get_density("edm", path=path).sample(4000, generator=generator(3)).double()
        ratio = (noise.sigma(t) / noise.alpha(t)).log().numpy()
        assert stats.kstest(ratio, "norm", args=(-1.2, 1.2)).pvalue > 1e-3
    t = torch.linspace(0.01, 0.99, 33, dtype=torch.float64)
    edm = get_density("edm", path="linear", p_mean=-0.4, p_std=1.0)
    torch.testing.assert_close(edm.log_pdf(t), get_density("logit_normal", m=-0.4, s=1.0).log_pdf(t))
    normal = get_density("log_snr_normal", path="linear", mean=0.8, std=2.0)
    torch.testing.assert_close(normal.log_pdf(t), edm.log_pdf(t))


def test_cosmap_on_the_linear_path_is_uniform_t_on_the_cosine_path():
    q = torch.linspace(0.001, 0.999, 99, dtype=torch.float64)
    log_snr = get_path("linear").log_snr(get_density("cosmap").quantile(q))
    torch.testing.assert_close(log_snr, get_path("gvp").log_snr(q))


def test_log_snr_uniform_takes_the_paths_own_ends_or_asks():
    density = get_density("log_snr_uniform", path="edm")
    assert density.options() == pytest.approx({"low": -2 * math.log(80), "high": -2 * math.log(0.002)})
    assert density.quantile(tensor([0.0, 1.0])).tolist() == pytest.approx([0, 1], abs=1e-12)
    with pytest.raises(UserError, match="needs low and high on the linear path"):
        get_density("log_snr_uniform", path="linear")
    with pytest.raises(UserError, match="needs high on the vp path"):
        get_density("log_snr_uniform", path="vp")
    with pytest.raises(UserError, match=r"within -10\.05 and inf"):
        get_density("log_snr_uniform", path="vp", low=-20.0, high=5.0)
    with pytest.raises(UserError, match="low < high"):
        get_density("log_snr_uniform", path="linear", low=3.0, high=-3.0)


@each_case
def test_draws_are_repeatable_inside_the_interval_and_touch_no_global_state(name, options, path, frames):
    density = get_density(name, path=path, **options)
    before = torch.get_rng_state()
    first = density.sample(500, generator=generator(3), num_frames=frames)
    again = density.sample(500, generator=generator(3), num_frames=frames)
    assert torch.equal(first, again)
    assert torch.equal(before, torch.get_rng_state())
    assert first.dtype == torch.float32
    assert first.shape == (500,)
    assert ((first >= 0) & (first <= 1)).all()
    assert density.sample(0, generator=generator(), num_frames=frames).shape == (0,)


@each_case
def test_quantile_rises(name, options, path, frames):
    q = torch.linspace(1e-9, 1 - 1e-9, 999, dtype=torch.float64)
    t = get_density(name, path=path, **options).quantile(q, frames)
    assert (t.diff() > 0).all()
    assert t.isfinite().all()


def test_stratified_draws_fill_every_slice_once_in_random_order():
    n = 64
    t = get_density("uniform").sample(n, generator=generator(4), stratified=True)
    slices = (t.double() * n).floor().long()
    assert sorted(slices.tolist()) == list(range(n))
    assert slices.tolist() != list(range(n))


def test_whole_graph_compiles():
    for name, path in (("edm", "vp"), ("trunc_logit_normal", "linear")):
        density = get_density(name, path=path)
        t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
        compiled = torch.compile(
            lambda t, d=density: d.log_pdf(d.quantile(t, 300), 300), backend="eager", fullgraph=True
        )
        torch.testing.assert_close(compiled(t), density.log_pdf(density.quantile(t, 300), 300))


def test_every_name_is_tested_and_states_its_options():
    assert {name for name, *_ in CASES} == set(DENSITIES)
    assert density_options("edm") == ["p_mean", "p_std"]
    assert get_density("edm", path="linear").options() == {"p_mean": -1.2, "p_std": 1.2}
    assert get_density("mode") == get_density("mode", s=1.29)


def test_a_density_that_is_built_is_taken_as_it_is():
    density = get_density("edm", path="vp")
    assert get_density(density) is density
    assert get_density(density, path="vp") is density
    with pytest.raises(UserError, match="built for VPPath"):
        get_density(density, path="linear")
    with pytest.raises(UserError, match="already built"):
        get_density(density, p_mean=1.0)

    class OnlyQuantiles(NoiseLevelDensity):
        name = "only_quantiles"

        def quantile(self, q, num_frames=None):
            return q

    with pytest.raises(UserError, match="states no density"):
        OnlyQuantiles().pdf(tensor([0.5]))
    assert OnlyQuantiles().options() == {}


def test_a_configuration_is_checked_without_its_model():
    assert check_density("edm", {"p_mean": 1}).path.name == "linear"
    assert check_density("log_snr_uniform", {}).path.name == "edm", "the only path that needs no bounds"
    for name, options, words in (
        ("beta", {}, "choose one of"),
        ("edm", {"p_std": -1}, "above 0"),
        ("log_snr_uniform", {"low": 5, "high": 5}, "low < high"),
        ("edm", {"path": "vp"}, "comes from the model"),
    ):
        with pytest.raises(UserError, match=words):
            check_density(name, options)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("beta", {}, "choose one of"),
        ("uniform", {"m": 0.0}, "does not take these options: m; its options are low, high, shift"),
        ("uniform", {"low": 0.5, "high": 0.5}, "low < high"),
        ("uniform", {"low": "0"}, "low must be a finite number; got '0'"),
        ("uniform", {"shift": 0}, "shift must be above 0"),
        ("logit_normal", {"s": 0.0}, "s must be above 0"),
        ("logit_normal", {"m": math.inf}, "m must be a finite number"),
        ("logit_normal", {"shift": True}, "shift must be a finite number"),
        ("trunc_logit_normal", {"truncation": 1.0}, "truncation"),
        ("trunc_logit_normal", {"shift_by_length": "no"}, "true or false"),
        ("mode", {"s": 1.76}, "within -1 and"),
        ("mode", {"s": -1.01}, "within -1 and"),
        ("cosmap", {"s": 1.0}, "its options are shift"),
        ("log_snr_normal", {"std": 0}, "std must be above 0"),
        ("edm", {"p_mean": None}, "p_mean must be a finite number"),
        ("edm", {"sigma_data": 0.5}, "its options are p_mean, p_std"),
    ],
)
def test_bad_options_are_user_errors(name, options, words):
    with pytest.raises(UserError, match=words):
        get_density(name, path="linear", **options)


def test_bad_paths_and_counts_are_user_errors():
    with pytest.raises(UserError, match="needs the noising path"):
        get_density("edm")
    with pytest.raises(UserError, match="not known"):
        get_density("edm", path="ve")
    with pytest.raises(UserError, match="0 or more"):
        get_density("uniform").sample(-1, generator=generator())
