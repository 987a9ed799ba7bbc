"""Schedules from measured rates: closed forms, the linear path's identity, invariance, files and bad input."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eisbach.diagnostics.signature.curve import FORMAT, VERSION
from eisbach.diffusion import rate_curve
from eisbach.diffusion.paths import get_path
from eisbach.diffusion.rate_curve import entropic_rate, noise_over_data, read_rate_curve, save_entropic_curve
from eisbach.diffusion.schedules import get_schedule, schedule_from_rate
from eisbach.diffusion.targets import add_noise, convert
from eisbach.errors import UserError

F64 = torch.float64


def gaussian_levels(c: float, num_inference_steps: int, sigma_min: float, sigma_max: float) -> torch.Tensor:
    """The rescaled entropic levels of Gaussian data of standard deviation c: c tan of evenly spaced angles."""
    ends = math.atan(sigma_max / c), math.atan(sigma_min / c)
    return c * torch.tan(torch.linspace(*ends, num_inference_steps + 1, dtype=F64))


def gaussian_curve(file, path, c: float = 0.5, count: int = 300):
    """The exact curve of one-dimensional Gaussian data."""
    t = torch.linspace(0.999, 0.001, count, dtype=F64)
    s = noise_over_data(path, t)
    mse = (c**2 * s**2 / (c**2 + s**2)).tolist()
    save_entropic_curve(file, path=path, t=t.tolist(), mse=mse, mse_lo=mse, mse_hi=mse, dims=1, meta={})
    return file


@pytest.mark.parametrize("name", ["edm", "linear", "gvp", "cosine"])
def test_gaussian_data_give_the_closed_form_on_every_path(tmp_path, name) -> None:
    path = get_path(name)
    file = gaussian_curve(tmp_path / "c.json", path)
    found = get_schedule("rescaled-entropic", 10, path, curve=file, floor=1e-9)
    low, high = noise_over_data(path, torch.tensor([0.0, 1.0], dtype=F64)).tolist()
    expected = gaussian_levels(0.5, 10, low, min(high, 1e12))
    np.testing.assert_allclose(noise_over_data(path, found)[1:-1], expected[1:-1], rtol=5e-3, atol=4e-3)
    assert found[0] == 1
    assert found[-1] == 0


def test_rescaled_rate_on_the_linear_path_is_the_velocity_loss_summed_over_dimensions() -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise, wrong = (torch.randn(3, 2, 5, generator=generator, dtype=F64) for _ in range(3))
    t = torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    path = get_path("linear")
    x_t = add_noise(path, x0, noise, t)
    output = noise - x0 + 0.3 * wrong
    mse = (convert(path, "u", "x0", output, x_t, t) - x0).square().flatten(1).sum(1)
    loss = (output - (noise - x0)).square().flatten(1).sum(1)
    torch.testing.assert_close(noise_over_data(path, t) * entropic_rate(path, t, mse), loss)


def test_the_entropic_rate_is_the_published_one_on_the_exploding_path_and_the_derivative_of_entropy() -> None:
    path = get_path("edm")
    t = torch.linspace(0.1, 0.9, 2001, dtype=F64)
    sigma = path.sigma(t)
    mse = 0.25 * sigma**2 / (0.25 + sigma**2)
    slope = torch.gradient(sigma, spacing=(t,))[0]
    np.testing.assert_allclose(entropic_rate(path, t, mse)[5:-5], (slope / sigma**3 * mse)[5:-5], rtol=1e-4)
    # H[x0 | x_t] of a Gaussian is half the log of its posterior variance.
    derivative = torch.gradient(0.5 * mse.log(), spacing=(t,))[0]
    np.testing.assert_allclose(entropic_rate(path, t, mse)[5:-5], derivative[5:-5], rtol=1e-4)


@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([0.02, 0.3, 1.0]))
@settings(max_examples=30, deadline=None)
def test_schedules_fall_strictly_between_pinned_ends_and_no_step_is_longer_than_the_floor_allows(
    seed, n, floor
) -> None:
    rng = np.random.default_rng(seed)
    t = np.unique(rng.uniform(0, 1, 20))
    rate = rng.exponential(size=len(t)) ** 4 * (rng.uniform(size=len(t)) < 0.5)
    rate[0] += 1e-3
    found = schedule_from_rate(t, rate, n, floor=floor)
    assert found[0] == 1
    assert found[-1] == 0
    assert len(found) == n + 1
    assert bool((found.diff() < 0).all())
    assert float(-found.diff().min()) <= 1 / (floor * n) + 1e-9


def test_points_share_the_measure_evenly_in_either_order_and_whatever_its_scale() -> None:
    t = np.linspace(0, 1, 11)
    rate = 2 * t  # cumulative t^2
    found = schedule_from_rate(t, rate, 8, floor=1e-9)
    np.testing.assert_allclose(found**2, np.linspace(1, 0, 9), atol=1e-4)
    assert torch.equal(found, schedule_from_rate(t[::-1].copy(), rate[::-1].copy(), 8, floor=1e-9))
    np.testing.assert_allclose(schedule_from_rate(t, 1e9 * rate, 8, floor=1e-9), found, atol=1e-12)
    np.testing.assert_allclose(schedule_from_rate(t, rate, 8, floor=1.0), np.linspace(1, 0, 9), atol=1e-12)
    assert schedule_from_rate(t, rate, 8, start=0.5)[0] == 0.5


def test_a_class_signature_gives_schedules_and_its_format_is_the_one_that_is_read(tmp_path) -> None:
    assert (rate_curve.SIGNATURE_FORMAT, rate_curve.VERSION) == (FORMAT, VERSION)
    t = np.linspace(1, 0, 41)
    values = {
        "format": FORMAT, "version": VERSION, "partition": "classes", "path": "linear", "path_options": {},
        "t": t.tolist(), "rate": np.exp(-0.5 * ((t - 0.6) / 0.05) ** 2).tolist(),
    }  # fmt: skip
    file = tmp_path / "signature.json"
    file.write_text(json.dumps(values))
    found = get_schedule("rescaled_entropic", 20, "linear", curve=file)
    assert ((found > 0.5) & (found < 0.7)).sum() > 14
    assert read_rate_curve(file).of == "classes"
    assert found[0] == 1


def test_sigma_max_starts_below_pure_noise(tmp_path) -> None:
    file = gaussian_curve(tmp_path / "c.json", get_path("linear"))
    found = get_schedule("rescaled_entropic", 6, "linear", curve=file, sigma_max=40.0)
    assert math.isclose(float(noise_over_data(get_path("linear"), found[0])), 40.0, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "vp"}, "measured on the vp path and the model is on the linear path"),
        ({"path_options": {"rho": 3}}, "cannot be built|other options"),
        ({"t": [0.9, 0.5, 0.1]}, "at least 4 noise levels"),
        ({"t": [0.9, 0.5, 0.6, 0.1]}, "fall from noise to data"),
        ({"mse": [1.0, 1.0, -0.5, 1.0]}, "negative value -0.5 at t = 0.5"),
        ({"mse": [1.0, 1.0, 1.0]}, "3 values for 4 noise levels"),
        ({"mse": [0.0] * 4}, "zero at every noise level"),
        ({"mse": ["a"] * 4}, "list of numbers 'mse'"),
        ({"format": "other"}, "no measured curve"),
    ],
)
def test_bad_curves_are_one_sentence(tmp_path, change, message) -> None:
    values = {
        "format": rate_curve.ENTROPIC_FORMAT, "version": 1, "path": "linear", "path_options": {},
        "t": [0.9, 0.7, 0.5, 0.1], "mse": [1.0, 0.7, 0.4, 0.1],
    }  # fmt: skip
    file = tmp_path / "c.json"
    file.write_text(json.dumps(values))
    get_schedule("rescaled_entropic", 5, "linear", curve=file)
    file.write_text(json.dumps(values | change))
    with pytest.raises(UserError, match=message) as caught:
        get_schedule("rescaled_entropic", 5, "linear", curve=file)
    assert "\n" not in str(caught.value)


def test_missing_curve_and_wrong_options_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="give its file as curve="):
        get_schedule("rescaled_entropic", 5, "linear")
    with pytest.raises(UserError, match="nothing"):
        get_schedule("rescaled_entropic", 5, "linear", curve=tmp_path / "nothing.json")
    with pytest.raises(UserError, match="has no option rho"):
        get_schedule("rescaled-entropic", 5, "linear", curve="x", rho=7)
    with pytest.raises(UserError, match="floor must be"):
        schedule_from_rate([0.1, 0.2, 0.3, 0.4], [1.0] * 4, 5, floor=0)
    with pytest.raises(UserError, match="finite and at least 0"):
        schedule_from_rate([0.1, 0.2, 0.3, 0.4], [1.0, -1.0, 1.0, 1.0], 5)
    with pytest.raises(UserError, match="rise or fall strictly"):
        schedule_from_rate([0.1, 0.3, 0.2, 0.4], [1.0] * 4, 5)
    with pytest.raises(UserError, match="at least 4 measured levels"):
        schedule_from_rate([0.1, 0.3], [1.0] * 2, 5)


def test_plain_entropic_time_has_left() -> None:
    with pytest.raises(UserError, match="'entropic' is not known"):
        get_schedule("entropic", 5, "linear", curve="x")
