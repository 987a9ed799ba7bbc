"""Weight times density: against closed forms, scipy's integrals and counted draws."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from scipy import integrate

from eisbach.diffusion.noise_levels import NoiseLevelDensity, get_density
from eisbach.diffusion.paths import PATHS, get_path
from eisbach.errors import UserError
from eisbach.weighting.allocation import allocation, common_grid
from eisbach.weighting.noise_level import NOISE_WEIGHTINGS, Constant, MinSNR, Tabulated
from eisbach.weighting.noise_level.base import NoiseWeight


def min_snr_u(t, gamma=5.0):
    """On u and the linear path: min((1 - t)^2, gamma t^2)."""
    return np.minimum((1 - t) ** 2, gamma * t**2)


def test_min_snr_on_u_against_its_integral():
    found = allocation(MinSNR(5.0), "uniform", "linear", "u")
    kink = 1 / (1 + math.sqrt(5))
    mean = 5 * kink**3 / 3 + (1 - kink) ** 3 / 3
    square = 25 * kink**5 / 5 + (1 - kink) ** 5 / 5
    assert found.mean_weight == pytest.approx(mean, rel=1e-5)
    assert found.effective_share == pytest.approx(mean**2 / square, rel=1e-5)
    for band in found.bands:
        part = integrate.quad(min_snr_u, band.low, band.high, points=[kink], epsabs=1e-13)[0]
        assert band.effort == pytest.approx(part / mean, rel=2e-5)
        assert band.draws == pytest.approx(0.2, abs=1e-9)
    half = integrate.quad(min_snr_u, 0, found.t_quantiles[0.5], points=[kink])[0]
    assert half / mean == pytest.approx(0.5, abs=1e-5)
    t = found.t.numpy()
    np.testing.assert_allclose(found.weight, min_snr_u(t), rtol=1e-7)
    np.testing.assert_allclose(found.draws, t * (1 - t) / 2, rtol=1e-7)  # p(t) |dt / d lambda|
    np.testing.assert_allclose(found.effort, min_snr_u(t) * t * (1 - t) / 2 / mean, rtol=1e-5)
    np.testing.assert_allclose(found.x0_weight, np.minimum(np.exp(found.log_snr), 5.0), rtol=1e-7)


def test_debiased_and_uniform_in_closed_form():
    found = allocation("debiased", "uniform", "linear", "u")  # w = t (1 - t)
    assert found.mean_weight == pytest.approx(1 / 6, rel=1e-6)
    assert found.effective_share == pytest.approx(30 / 36, rel=1e-6)
    assert found.bands[2].effort == pytest.approx(6 * integrate.quad(lambda t: t * (1 - t), 0.4, 0.6)[0], rel=1e-5)
    assert found.log_snr_quantiles[0.5] == pytest.approx(0, abs=1e-9)
    assert found.notes == ()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["log_snr_normal", "edm", "logit_normal"])
def test_everything_integrates_to_one_and_agrees_with_draws(path, name):
    density = get_density(name, path=path)
    found = allocation("soft_min_snr", density, path, "v")
    for shape in (found.draws, found.effort):
        assert float(torch.trapezoid(shape, found.log_snr)) == pytest.approx(1, abs=6e-4)
    assert sum(band.effort for band in found.bands) == pytest.approx(1)
    t = density.sample(40_000, generator=torch.Generator().manual_seed(0), stratified=True)
    weight = NOISE_WEIGHTINGS["soft_min_snr"]()(path, "v", t)
    assert float(weight.mean()) == pytest.approx(found.mean_weight, rel=2e-3)
    assert float(weight.mean() ** 2 / (weight**2).mean()) == pytest.approx(found.effective_share, rel=4e-3)
    for band in found.bands:
        inside = (t >= band.low) & (t < band.high)
        assert float(inside.double().mean()) == pytest.approx(band.draws, abs=1e-3)
        assert float(weight[inside].sum() / weight.sum()) == pytest.approx(band.effort, abs=2e-3)
    below = get_path(path).log_snr(t.double()) < found.log_snr_quantiles[0.25]
    assert float(weight[below].sum() / weight.sum()) == pytest.approx(0.25, abs=3e-3)


def test_drawing_often_or_weighting_much_is_the_same_effort():
    @dataclasses.dataclass
    class Ratio(NoiseWeight):
        """The weight that turns uniform draws into another density's."""

        name = "ratio"
        density: NoiseLevelDensity

        def _weight(self, path, target, t, num_frames):
            return self.density.pdf(t)

    grid = torch.linspace(-8, 8, 161, dtype=torch.float64)
    for wanted in (get_density("cosmap"), get_density("logit_normal", m=0.5), get_density("edm", path="linear")):
        drawn = allocation(None, wanted, "linear", "u", log_snr=grid)
        weighted = allocation(Ratio(wanted), "uniform", "linear", "u", log_snr=grid)
        torch.testing.assert_close(weighted.effort, drawn.effort, rtol=2e-4, atol=1e-9)
        assert drawn.effective_share == pytest.approx(1)
        assert weighted.effective_share < 0.99 or wanted.name == "cosmap"
        assert weighted.mean_weight == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize("target", ["eps", "x0", "v", "u"])
def test_a_weight_on_x0_is_the_same_whatever_is_trained(target):
    found = allocation(MinSNR(3.0), "uniform", "vp", target)
    torch.testing.assert_close(found.x0_weight, found.log_snr.exp().clamp(max=3.0), rtol=1e-6, atol=0)


def test_sharp_edges_and_unbounded_densities_lose_nothing():
    middle = allocation(None, get_density("uniform", low=0.25, high=0.7), "linear", "u")
    expected = [0, 0.15 / 0.45, 0.2 / 0.45, 0.1 / 0.45, 0]
    assert [band.draws for band in middle.bands] == pytest.approx(expected, abs=1e-9)
    for s in (-1.0, 2 / (math.pi - 2)):
        density = get_density("mode", s=s)
        found = allocation("debiased", density, "linear", "u")
        q = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
        t = density.quantile(q)
        assert found.mean_weight == pytest.approx(float((t * (1 - t)).mean()), rel=1e-5)


def test_length_moves_the_draws():
    short, long = (allocation("min_snr", "trunc_logit_normal", "linear", "u", num_frames=n) for n in (256, 4096))
    assert long.draws_log_snr_quantiles[0.5] == pytest.approx(short.draws_log_snr_quantiles[0.5] - 2 * 0.65, abs=1e-6)
    assert long.density_label == "trunc_logit_normal(truncation=0.075, 4096 frames)"
    with pytest.raises(UserError, match="num_frames"):
        allocation("min_snr", "trunc_logit_normal", "linear", "u")


def test_a_mean_that_does_not_exist_is_said():
    (note,) = allocation(Constant(target="x0"), "uniform", "linear", "eps").notes  # 1/SNR under uniform t
    assert "the mean weight does not exist" in note

    class Root(NoiseWeight):
        name = "root"

        def _weight(self, path, target, t, num_frames):
            return t**-0.5

    found = allocation(Root(), "uniform", "linear", "u")
    assert found.mean_weight == pytest.approx(2, rel=1e-4)
    assert "the mean square of the weight does not exist" in found.notes[0]
    (note,) = allocation("edm2", "uniform", "linear", "u").notes
    assert "learns" in note


def test_erd_gets_the_density_it_corrects_for():
    corrected = NOISE_WEIGHTINGS["erd"](density=get_density("logit_normal"), correct_density=True)
    grid = torch.linspace(-2, 2, 21, dtype=torch.float64)
    found = allocation(corrected, "logit_normal", "linear", "x0", log_snr=grid)
    shape = found.effort / get_path("linear").alpha(found.t)  # the score itself
    torch.testing.assert_close(shape, shape[:1].expand(21), rtol=1e-9, atol=0)
    assert found.mean_weight == pytest.approx(1, abs=3e-4)
    assert "density" not in found.weight_options
    assert allocation("erd", "edm", "vp", "eps").mean_weight == pytest.approx(1, abs=1e-4)


def test_a_chosen_grid_changes_the_table_only():
    whole = allocation("min_snr", "logit_normal", "linear", "u")
    part = allocation("min_snr", "logit_normal", "linear", "u", log_snr=torch.tensor([3.0, -1.0]))
    assert part.log_snr.tolist() == [-1, 3]
    assert (part.mean_weight, part.bands) == (whole.mean_weight, whole.bands)
    index = int((whole.log_snr + 1).abs().argmin())
    assert float(part.effort[0]) == pytest.approx(float(whole.effort[index]), rel=1e-9)
    grid = common_grid([whole, allocation("min_snr", "uniform", "linear", "u")])
    assert (grid.diff() > 0).all()
    assert grid[0] <= whole.log_snr[0]
    for path in PATHS:
        wide = allocation(None, "uniform", path, "u")
        ends = get_path(path).log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64))
        assert wide.log_snr[0] >= ends[0]
        assert wide.log_snr[-1] <= ends[1]
        assert all(getattr(wide, part).isfinite().all() for part in ("draws", "weight", "x0_weight", "effort"))


def test_summary_and_rows_are_plain():
    found = allocation(Tabulated([[0, 1], [1, 3]]), "uniform", "linear", "u")
    summary = json.loads(json.dumps(found.summary(), allow_nan=False))
    assert summary["mean_weight"] == pytest.approx(2)
    assert summary["density_options"] == {"low": 0, "high": 1, "shift": 1}
    assert set(summary["t_quantiles"]) == {"0.05", "0.25", "0.5", "0.75", "0.95"}
    rows = found.rows()
    assert len(rows) == len(found.log_snr)
    assert list(rows[0]) == ["log_snr", "t", "draws", "weight", "x0_weight", "effort"]
    assert found.density_label == "uniform(low=0, high=1)"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("magic", "uniform", "linear", "u"), "not known"),
        (("min_snr", "magic", "linear", "u"), "not known"),
        (("min_snr", "uniform", "magic", "u"), "not known"),
        (("min_snr", "uniform", "linear", "w"), "not known"),
        (("sigma_sqrt", "uniform", "vp", "v"), "undefined on the vp path"),
        (("tabulated", "uniform", "linear", "u"), "from its name alone"),
        (("min_snr", "log_snr_uniform", "linear", "u"), "needs low and high"),
        (("min_snr", get_density("edm", path="vp"), "linear", "u"), "built for VPPath"),
    ],
)
def test_mistakes(arguments, words):
    with pytest.raises(UserError, match=words):
        allocation(*arguments)


def test_impossible_shapes_and_weights():
    class Broken(NoiseWeight):
        name = "broken"

        def _weight(self, path, target, t, num_frames):
            return torch.where(t > 0.7, math.nan, 1.0).to(t.dtype)

    class Point(NoiseLevelDensity):
        name = "point"

        def quantile(self, q, num_frames=None):
            return torch.full_like(q, 0.5)

    with pytest.raises(UserError, match=r"no finite weight of at least 0 at t = "):
        allocation(Broken(), "uniform", "linear", "u")
    with pytest.raises(UserError, match=r"single noise level 0\.5"):
        allocation(None, Point(), "linear", "u")
    nothing = Tabulated([[0.0, 1.0], [0.1, 0.0]])
    with pytest.raises(UserError, match="no effort to allocate"):
        allocation(nothing, get_density("uniform", low=0.5), "linear", "u")
    for grid in (torch.tensor([[0.0]]), torch.tensor([]), torch.tensor([math.nan]), torch.tensor([-30.0, 0.0])):
        with pytest.raises(UserError, match="within the vp path's range"):
            allocation(None, "uniform", "vp", "u", log_snr=grid)
