"""ERD: the published score, its normalisation over a density, and its correction for one that is not uniform in
log-SNR; against scipy's integrals and densities written here."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from eisbach.diffusion.noise_levels import (
    DENSITIES,
    LogitNormal,
    NoiseLevelDensity,
    TruncLogitNormal,
    Uniform,
    get_density,
)
from eisbach.diffusion.paths import PATHS, get_path
from eisbach.diffusion.targets import TARGETS
from eisbach.errors import UserError
from eisbach.weighting import build_weighting
from eisbach.weighting.noise_level import ERD

T = torch.linspace(0.01, 0.99, 61, dtype=torch.float64)


@dataclass(frozen=True)
class Kumaraswamy(NoiseLevelDensity):
    """cdf 1 - (1 - t^a)^b, where a = 1 + num_frames / 256 when it reads the length."""

    a: float = 2.0
    b: float = 3.0
    by_length: bool = False
    name = "kumaraswamy"

    def _a(self, num_frames):
        if not self.by_length:
            return self.a
        if num_frames is None:
            raise UserError("this density needs num_frames.")
        return 1 + num_frames / 256

    def quantile(self, q, num_frames=None):
        return (1 - (1 - q) ** (1 / self.b)) ** (1 / self._a(num_frames))

    def log_pdf(self, t, num_frames=None):
        a = self._a(num_frames)
        return math.log(a * self.b) + (a - 1) * t.log() + (self.b - 1) * torch.log1p(-(t**a))


@dataclass(frozen=True)
class Middle(NoiseLevelDensity):
    """Uniform on [0.2, 0.8]: pdf 0 outside."""

    name = "middle"

    def quantile(self, q, num_frames=None):
        return 0.2 + 0.6 * q

    def log_pdf(self, t, num_frames=None):
        return torch.where((t >= 0.2) & (t <= 0.8), -math.log(0.6), -math.inf).to(t.dtype)


def kumaraswamy(t, a=2.0, b=3.0):
    return a * b * t ** (a - 1) * (1 - t**a) ** (b - 1)


def score(path: str, target: str, t: np.ndarray) -> np.ndarray:
    """Eq. 111's list, with sqrt(2) for v as Eq. 110 gives it."""
    alpha, sigma = (
        getattr(get_path(path), part)(torch.as_tensor(t, dtype=torch.float64)).numpy() for part in ("alpha", "sigma")
    )
    return {
        "x0": alpha,
        "eps": sigma,
        "u": np.sqrt(alpha**2 + sigma**2),
        "v": math.sqrt(2) * alpha * sigma,
    }[target]


@pytest.mark.parametrize(("path", "target"), itertools.product(PATHS, TARGETS))
def test_bare_score(path, target):
    for weighting in (ERD(), ERD(density=Uniform(), normalise=False)):
        np.testing.assert_allclose(weighting(path, target, T), score(path, target, T.numpy()), rtol=1e-12)


def test_the_score_is_the_amplitude_of_the_scaled_target():
    """Eq. 109 by experiment: the root mean square of c_x alpha x0 + c_eps sigma noise over unit normal data."""
    generator = np.random.default_rng(0)
    x0, noise = generator.standard_normal((2, 400_000))
    alpha, sigma = 0.7, 0.3
    for target, scaled in {"u": -alpha * x0 + sigma * noise, "v": -sigma * alpha * x0 + alpha * sigma * noise}.items():
        got = float(ERD()("linear", target, torch.tensor([0.3], dtype=torch.float64)))
        assert got == pytest.approx(np.sqrt((scaled**2).mean()), rel=5e-3)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("target", TARGETS)
def test_normalised_weights_have_mean_1_over_the_density(path, target):
    for density, pdf in (
        (Uniform(), lambda t: np.ones_like(t)),
        (LogitNormal(0.5, 1.5), lambda t: stats.norm.pdf(np.log(t / (1 - t)), 0.5, 1.5) / (t * (1 - t))),
        (Kumaraswamy(), kumaraswamy),
    ):

        def integrand(t, pdf=pdf):
            return float(score(path, target, t) * pdf(t))

        rtol = 1e-9
        if path == "cosine":  # a table has corners: integrated between them, and a fixed rule meets them less closely
            nodes, weights = np.polynomial.legendre.leggauss(24)
            edges = np.unique(
                np.concatenate(
                    [np.linspace(0, 1, 1001), np.geomspace(1e-8, 1e-3, 30), 1 - np.geomspace(1e-8, 1e-3, 30)]
                )
            )
            half = np.diff(edges) / 2
            t = edges[:-1, None] + half[:, None] * (nodes + 1)
            mean, rtol = float(np.sum(half[:, None] * weights * score(path, target, t) * pdf(t))), 1e-8
        else:
            mean = integrate.quad(integrand, 0, 1, limit=200, points=[0.01, 0.99], epsabs=0, epsrel=1e-11)[0]
        weighting = ERD(density=density)
        np.testing.assert_allclose(weighting(path, target, T), score(path, target, T.numpy()) / mean, rtol=rtol)


def test_normalised_mean_of_drawn_noise_levels():
    generator = torch.Generator().manual_seed(3)
    density = TruncLogitNormal()
    for frames in (256, 1292, 4096):
        t = density.sample(20_000, generator=generator, num_frames=frames, stratified=True)
        for target in TARGETS:
            weight = ERD(density=density)("linear", target, t, num_frames=frames)
            assert float(weight.mean()) == pytest.approx(1, abs=2e-4)
    with pytest.raises(UserError, match="num_frames"):
        ERD(density=density)("linear", "u", T)


def log_snr_density(path: str, t: np.ndarray, pdf: np.ndarray) -> np.ndarray:
    """p(lambda) = p(t) |dt / dlambda|, the slope by finite differences."""
    step = 1e-6
    ends = [get_path(path).log_snr(torch.as_tensor(t + s, dtype=torch.float64)).numpy() for s in (step, -step)]
    return pdf * 2 * step / np.abs(ends[0] - ends[1])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("target", TARGETS)
def test_corrected_allocation_is_the_score(path, target):
    """M(lambda) = w p(lambda), up to a factor, within the range and where the cap does not bind."""
    density = Kumaraswamy()
    weighting = ERD(density=density, correct_density=True, tail_mass=0.02, max_ratio=1e9)
    low, high = (float(density.quantile(torch.tensor(q, dtype=torch.float64))) for q in (0.01, 0.99))
    t = np.linspace(low + 1e-4, high - 1e-4, 50)
    allocation = weighting(path, target, torch.from_numpy(t)).numpy() * log_snr_density(path, t, kumaraswamy(t))
    ratio = allocation / score(path, target, t)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
    # and its level: mean 1 over the density
    edges = np.concatenate(
        [np.geomspace(1e-12, low, 13), np.linspace(low, high, 9), 1 - np.geomspace(1 - high, 1e-12, 13)]
    )
    nodes, shares = np.polynomial.legendre.leggauss(64)
    half = np.diff(edges)[:, None] / 2
    x = edges[:-1, None] + half * (nodes + 1)
    mean = np.sum(half * shares * weighting(path, target, torch.from_numpy(x)).numpy() * kumaraswamy(x))
    assert mean == pytest.approx(1, abs=2e-4)


def test_correction_without_normalisation_keeps_the_mean_under_uniform_log_snr():
    """Inside the range w p = score * p_uniform, so it integrates to the score's mean over a uniform range."""
    density, ends = Kumaraswamy(), (-3.0, 2.0)
    weighting = ERD(density=density, correct_density=True, log_snr_range=ends, max_ratio=1e9, normalise=False)
    path = get_path("linear")
    log_snr = torch.linspace(-2.99, 1.99, 2000, dtype=torch.float64)
    t = path.t_from_log_snr(log_snr)
    allocation = weighting("linear", "u", t).numpy() * log_snr_density("linear", t.numpy(), kumaraswamy(t.numpy()))
    np.testing.assert_allclose(allocation, score("linear", "u", t.numpy()) / 5.0, rtol=1e-5)


def test_a_density_that_is_uniform_in_log_snr_needs_no_correction():
    """Remark E.2: there the corrected weight is the plain one. t = sigmoid(-lambda/2), lambda uniform on [-6, 6]."""

    @dataclass(frozen=True)
    class UniformLogSnr(NoiseLevelDensity):
        name = "uniform_log_snr"

        def quantile(self, q, num_frames=None):
            return torch.sigmoid((12 * q - 6) / 2)

        def log_pdf(self, t, num_frames=None):
            return -math.log(12) + math.log(2) - t.log() - torch.log1p(-t)

    density = UniformLogSnr()
    t = density.quantile(torch.linspace(0.01, 0.99, 50, dtype=torch.float64))
    for target in TARGETS:
        corrected = ERD(density=density, correct_density=True, log_snr_range=(-6, 6))("linear", target, t)
        torch.testing.assert_close(corrected, ERD(density=density)("linear", target, t), rtol=1e-7, atol=0)


def test_outside_the_range_the_ratio_keeps_its_edge_and_the_cap_holds():
    def factor(t, **options):
        weighting = ERD(density=Kumaraswamy(), correct_density=True, normalise=False, **options)
        t = torch.tensor(t, dtype=torch.float64)
        return (weighting("linear", "u", t) / ERD()("linear", "u", t)).tolist()

    path, ends = get_path("linear"), (-2.0, 3.0)
    low, high = (float(path.t_from_log_snr(torch.tensor(x, dtype=torch.float64))) for x in ends[::-1])
    got = factor([low / 3, low / 2, low, high, high + 0.01, 0.99999], log_snr_range=ends, max_ratio=1e9)
    assert got[0] == pytest.approx(got[2], rel=1e-9)
    assert got[1] == pytest.approx(got[2], rel=1e-9)
    assert got[3:] == pytest.approx([got[3]] * 3, rel=1e-9)
    expected = [1 / 5 / float(log_snr_density("linear", np.array(t), kumaraswamy(t))) for t in (low, high)]
    assert [got[2], got[3]] == pytest.approx(expected, rel=1e-6)
    capped = factor(np.linspace(1e-6, 1 - 1e-6, 400), log_snr_range=(-40.0, 40.0))
    assert max(capped) == pytest.approx(20)
    assert min(capped) > 0
    # nothing is drawn outside [0.2, 0.8]: the range ends there, also for a noise level that rounding moved out
    middle = ERD(density=Middle(), correct_density=True, normalise=False, log_snr_range=(-9.0, 9.0))
    weight = middle("linear", "x0", torch.tensor([0.1, 0.9, 0.5, 0.2, 0.8], dtype=torch.float64)).tolist()
    width = 2 * 2 * math.log(4)
    expected = [0.6 / width / (t * (1 - t) / 2) * (1 - x) for x, t in ((0.1, 0.2), (0.9, 0.8), (0.5, 0.5), (0.2, 0.2))]
    assert weight[:4] == pytest.approx(expected, rel=1e-6)
    assert weight[4] == pytest.approx(expected[3] / 4, rel=1e-6)
    nothing = ERD(density=Middle(), correct_density=True, log_snr_range=(5.0, 9.0))
    with pytest.raises(UserError, match="holds none of the noise levels that the density draws"):
        nothing("linear", "u", T)


def test_what_a_wider_range_costs():
    """The shares of effective samples in the docstring."""
    density = LogitNormal()
    t = density.quantile((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)
    shares = []
    for options in ({"tail_mass": 0.1}, {}, {"tail_mass": 0.01}):
        weight = ERD(density=density, correct_density=True, **options)("linear", "u", t)
        shares.append(float(weight.mean() ** 2 / weight.square().mean()))
    assert shares == pytest.approx([0.71, 0.55, 0.25], abs=0.006)


def test_corrected_weights_are_finite_at_the_ends_on_every_path():
    for path, target, density in itertools.product(PATHS, TARGETS, (Kumaraswamy(), Middle())):
        for options in ({}, {"log_snr_range": (-100.0, 100.0)}):
            weight = ERD(density=density, correct_density=True, **options)(path, target, torch.tensor([0.0, 1.0]))
            assert weight.isfinite().all()
            assert (weight >= 0).all()


def test_a_length_dependent_density_is_normalised_for_each_length():
    density = Kumaraswamy(by_length=True)
    weighting = ERD(density=density, correct_density=True)
    q = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    for frames in (256, 1024, 256):
        mean = weighting("linear", "u", density.quantile(q, frames), num_frames=frames).mean()
        assert float(mean) == pytest.approx(1, abs=2e-3)
    assert not torch.allclose(weighting("linear", "u", T, num_frames=256), weighting("linear", "u", T, num_frames=1024))
    assert len(weighting._cache) == 2, "one entry a length"
    unaware = ERD(density=Kumaraswamy())
    for frames in (10, 20, None):
        unaware("linear", "u", T, num_frames=frames)
    assert len(unaware._cache) == 1, "and one in all when the length is not read"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", DENSITIES)
def test_with_the_packages_own_densities(name, path):
    """Draws, counted with their weights over log-SNR, fall as the score does within the range."""
    options = {"low": -5.0, "high": 4.0} if name == "log_snr_uniform" else {}
    density = get_density(name, path=path, **options)
    q = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000
    t = density.quantile(q, 700)
    weighting = ERD(density=density, correct_density=True, tail_mass=0.02, max_ratio=1e6)
    weight = weighting(path, "u", t, num_frames=700)
    assert float(weight.mean()) == pytest.approx(1, abs=1e-3)
    log_snr = get_path(path).log_snr(t)
    edges = np.linspace(float(log_snr[-600]), float(log_snr[600]), 13)
    counts, _ = np.histogram(log_snr, edges, weights=weight)
    centres = torch.from_numpy((edges[1:] + edges[:-1]) / 2)
    ratio = counts / score(path, "u", get_path(path).t_from_log_snr(centres).numpy())
    np.testing.assert_allclose(ratio / np.median(ratio), 1, atol=0.05)


def test_built_with_the_models_density():
    weighting = build_weighting(noise_level="erd", density=LogitNormal(), path="linear").noise_level
    assert weighting.normalise
    assert not weighting.correct_density
    assert not build_weighting(noise_level="erd").noise_level.normalise


def test_whole_graph_compiles():
    weighting = ERD(density=Kumaraswamy(by_length=True), correct_density=True)
    compiled = torch.compile(lambda t: weighting("linear", "u", t, num_frames=300), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(T), weighting("linear", "u", T, num_frames=300))


def test_bad_options():
    density = Uniform()
    for options, words in (
        ({"normalise": True}, "needs the density"),
        ({"correct_density": True}, "needs the density"),
        ({"normalise": "yes", "density": density}, "must be true or false"),
        ({"density": density, "correct_density": 1}, "must be true or false"),
        ({"density": density, "log_snr_range": (-1, 1)}, "set correct_density=True"),
        ({"density": density, "max_ratio": 3.0}, "set correct_density=True"),
        ({"density": "flat"}, "not known"),
        ({"density": density, "correct_density": True, "tail_mass": 1.0}, r"tail_mass in \(0, 1\)"),
        ({"density": density, "correct_density": True, "max_ratio": 0.5}, "at least 1"),
        ({"density": density, "correct_density": True, "max_ratio": "9"}, "finite number above 0"),
    ):
        with pytest.raises(UserError, match=words):
            ERD(**options)
    for bad in ((1.0, -1.0), (0.0, math.inf), (1.0,), "wide", 3.0, (math.nan, 1.0), (0.0, 0.0)):
        with pytest.raises(UserError, match="two finite numbers, the lower first"):
            ERD(density=density, correct_density=True, log_snr_range=bad)
