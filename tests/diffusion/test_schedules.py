import numpy as np
import pytest
import torch

from eisbach.diffusion.paths import PATHS, get_path
from eisbach.diffusion.schedules import get_schedule
from eisbach.errors import UserError


@pytest.mark.parametrize("name", ["uniform", "sa3"])
@pytest.mark.parametrize("steps", [1, 2, 8, 100])
def test_falls_strictly_from_one_to_zero(name, steps):
    t = get_schedule(name, steps)
    assert t.shape == (steps + 1,)
    assert t[0] == 1
    assert t[-1] == 0
    assert (t.diff() < 0).all()


def test_sa3_reproduces_the_native_values():
    native = [
        1.0,
        0.9943755865,
        0.9844802022,
        0.9579122663,
        0.8909031749,
        0.7455465794,
        0.5124973655,
        0.2738850117,
        0.0,
    ]
    np.testing.assert_allclose(get_schedule("sa3", 8), native, atol=2e-7)


def test_uniform_on_the_edm_path_is_edms_schedule():
    n = 18
    i = np.arange(n)
    published = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # Karras et al. 2022, Eq. 5
    np.testing.assert_allclose(get_path("edm").sigma(get_schedule("uniform", n - 1)), published, rtol=1e-12)


@pytest.mark.parametrize("steps", [0, -3, 2.5, True])
def test_bad_step_counts(steps):
    with pytest.raises(UserError, match="at least 1"):
        get_schedule("uniform", steps)


def test_unknown_name():
    with pytest.raises(UserError, match="choose one of uniform, sa3"):
        get_schedule("cosine", 10)


def test_dtype_is_float64():
    assert get_schedule("sa3", 4).dtype == torch.float64


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["karras", "log_snr"])
@pytest.mark.parametrize("steps", [1, 2, 18])
def test_schedules_of_noise_fall_strictly_to_zero_on_every_path(path, name, steps):
    t = get_schedule(name, steps, path)
    assert t.shape == (steps + 1,)
    assert 0 < t[0] <= 1
    assert t[-1] == 0
    assert (t.diff() < 0).all()


@pytest.mark.parametrize("path", [name for name in PATHS if name != "edm"])
def test_karras_visits_edms_noise_on_every_path(path):
    n = 18
    i = np.arange(n)
    published = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # Karras et al. 2022, Eq. 5
    t = get_schedule("karras", n, path)[:-1]
    np.testing.assert_allclose((get_path(path).log_snr(t) / -2).exp(), published, rtol=1e-6)


def test_karras_on_the_edm_path_starts_at_one_and_keeps_sigma_min():
    t = get_schedule("karras", 18, "edm")
    assert t[0] == 1
    np.testing.assert_allclose(get_path("edm").sigma(t[-2]), 0.002, rtol=1e-6)


def test_log_snr_is_evenly_spaced():
    t = get_schedule("log_snr", 12, "cosine", sigma_min=0.01, sigma_max=50)
    levels = get_path("cosine").log_snr(t[:-1])
    np.testing.assert_allclose(levels.diff(), np.full(11, 2 * np.log(5000) / 11), rtol=1e-6)


def test_noise_beyond_a_paths_end_is_cut_to_it():
    assert get_schedule("karras", 5, "vp", sigma_max=1e4)[0] == 1


def test_bad_schedules_of_noise():
    with pytest.raises(UserError, match="needs the model's path"):
        get_schedule("karras", 10)
    with pytest.raises(UserError, match="no option rho"):
        get_schedule("log_snr", 10, "vp", rho=3)
    with pytest.raises(UserError, match="uniform has no option rho; it has none"):
        get_schedule("uniform", 10, "vp", rho=3)
    for option in ("rho", "sigma_min", "sigma_max"):
        for value in ("x", None, True):
            with pytest.raises(UserError, match=f"{option} must be a number"):
                get_schedule("karras", 10, "vp", **{option: value})
    with pytest.raises(UserError, match="sigma_min < sigma_max"):
        get_schedule("karras", 10, "vp", sigma_min=3, sigma_max=1)
    with pytest.raises(UserError, match="outside the edm path"):
        get_schedule("karras", 10, "edm", sigma_min=100, sigma_max=200)
    with pytest.raises(UserError, match="rho"):
        get_schedule("karras", 10, "vp", rho=0)
