import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit, logit

from eisbach.diffusion.noise_levels import DENSITIES, get_density, shift_by_length
from eisbach.errors import UserError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_uniform_and_logit_normal_follow_their_law():
    uniform = get_density("uniform", low=0.2, high=0.7).sample(4000, generator=generator())
    assert stats.kstest(uniform.numpy(), "uniform", args=(0.2, 0.5)).pvalue > 1e-3
    t = get_density("logit_normal", m=-0.4, s=1.3).sample(4000, generator=generator(1))
    assert stats.kstest(logit(t.double().numpy()), "norm", args=(-0.4, 1.3)).pvalue > 1e-3


def test_trunc_logit_normal_against_scipy():
    density = get_density("trunc_logit_normal", shift_by_length=False)
    q = np.linspace(0.001, 0.999, 101)
    # Independent route: scipy's truncated normal, then sigmoid, rescale and flip.
    law = stats.truncnorm(logit(0.075), np.inf)
    expected = 1 - (expit(law.ppf(1 - q)) - 0.075) / (1 - 0.075)
    np.testing.assert_allclose(density.quantile(torch.from_numpy(q)), expected, atol=1e-10)
    t = density.sample(4000, generator=generator(2)).double().numpy()
    kept = (1 - t) * (1 - 0.075) + 0.075
    assert stats.kstest(logit(kept), law.cdf).pvalue > 1e-3


def test_length_shift_reproduces_the_native_values():
    # From the native Stable Audio 3 code for 4 of its inputs.
    t = torch.tensor([0.01, 0.05083333700895309, 0.09166666865348816, 0.41833335161209106], dtype=torch.float64)
    native = {
        108: [0.01638084650039673, 0.0811343789100647, 0.14265000820159912, 0.5424925088882446],
        256: [0.01638084650039673, 0.0811343789100647, 0.14265000820159912, 0.5424925088882446],
        1292: [0.019459664821624756, 0.09520566463470459, 0.1654687523841858, 0.5855854749679565],
        4096: [0.0309145450592041, 0.14466995000839233, 0.2416871190071106, 0.6943172216415405],
    }
    for frames, values in native.items():
        np.testing.assert_allclose(shift_by_length(t, frames), values, atol=2e-7)


def test_length_shift_per_sample_and_required():
    density = get_density("trunc_logit_normal")
    lengths = torch.tensor([160, 1292, 4096])
    q = torch.full((3,), 0.4, dtype=torch.float64)
    together = density.quantile(q, lengths)
    each = torch.stack([density.quantile(q[:1], int(n))[0] for n in lengths])
    torch.testing.assert_close(together, each)
    assert (together.diff() > 0).all()
    with pytest.raises(UserError, match="num_frames"):
        density.sample(3, generator=generator())


@pytest.mark.parametrize("name", DENSITIES)
def test_draws_are_repeatable_inside_the_interval_and_touch_no_global_state(name):
    density = get_density(name)
    before = torch.get_rng_state()
    first = density.sample(500, generator=generator(3), num_frames=160)
    again = density.sample(500, generator=generator(3), num_frames=160)
    assert torch.equal(first, again)
    assert torch.equal(before, torch.get_rng_state())
    assert first.dtype == torch.float32
    assert first.shape == (500,)
    assert ((first >= 0) & (first <= 1)).all()
    assert density.sample(0, generator=generator(), num_frames=160).shape == (0,)


@pytest.mark.parametrize("name", DENSITIES)
def test_quantile_rises(name):
    q = torch.linspace(1e-9, 1 - 1e-9, 999, dtype=torch.float64)
    t = get_density(name).quantile(q, 160)
    assert (t.diff() > 0).all()
    assert t.isfinite().all()


def test_stratified_draws_fill_every_slice_once_in_random_order():
    n = 64
    t = get_density("uniform").sample(n, generator=generator(4), stratified=True)
    slices = (t.double() * n).floor().long()
    assert sorted(slices.tolist()) == list(range(n))
    assert slices.tolist() != list(range(n))


def test_bad_options_are_user_errors():
    with pytest.raises(UserError, match="choose one of"):
        get_density("beta")
    with pytest.raises(UserError, match="does not take"):
        get_density("uniform", m=0.0)
    with pytest.raises(UserError, match="s > 0"):
        get_density("logit_normal", s=0.0)
    with pytest.raises(UserError, match="finite m"):
        get_density("logit_normal", m=math.inf)
    with pytest.raises(UserError, match="low < high"):
        get_density("uniform", low=0.5, high=0.5)
    with pytest.raises(UserError, match="truncation"):
        get_density("trunc_logit_normal", truncation=1.0)
    with pytest.raises(UserError, match="0 or more"):
        get_density("uniform").sample(-1, generator=generator())
