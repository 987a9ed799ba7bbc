import numpy as np
import pytest
import torch

from eisbach.diffusion.schedules import SCHEDULES, get_schedule
from eisbach.errors import UserError


@pytest.mark.parametrize("name", SCHEDULES)
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
    from eisbach.diffusion.paths import get_path

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
        get_schedule("karras", 10)


def test_dtype_is_float64():
    assert get_schedule("sa3", 4).dtype == torch.float64
