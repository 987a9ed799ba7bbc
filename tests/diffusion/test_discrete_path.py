"""A scheduler's table as a path: against diffusers' own numbers and the weights that trainers write by hand."""

import copy
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_snr

from eisbach.diffusion.discrete_path import DiscretePath, scheduler_target
from eisbach.diffusion.paths import VPPath
from eisbach.diffusion.targets import add_noise, make_target, to_noise, to_x0
from eisbach.errors import UserError
from eisbach.weighting import NOISE_WEIGHTINGS, build_weighting

SCHEDULERS = {
    "linear": DDPMScheduler(),
    "scaled_linear": DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    "cosine": DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
    "zero_terminal": DDPMScheduler(beta_schedule="scaled_linear", rescale_betas_zero_snr=True),
    "short": DDPMScheduler(num_train_timesteps=7),
}
NAMES = list(SCHEDULERS)
FINITE = [name for name in NAMES if name != "zero_terminal"]


def steps(name: str) -> torch.Tensor:
    return torch.arange(SCHEDULERS[name].config.num_train_timesteps)


def path_of(name: str) -> DiscretePath:
    return DiscretePath.from_scheduler(SCHEDULERS[name])


@pytest.mark.parametrize("name", NAMES)
def test_at_its_indices_the_path_is_the_table(name):
    path, abar = path_of(name), SCHEDULERS[name].alphas_cumprod.double()
    t = path.timesteps_to_t(steps(name))
    assert t.dtype == torch.float64
    torch.testing.assert_close(path.alpha(t), abar.sqrt(), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(path.sigma(t), (1 - abar).sqrt(), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(path.log_snr(t), (abar / (1 - abar)).log(), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(path.t_to_timesteps(t), steps(name).double(), rtol=0, atol=1e-9)
    assert path.num_timesteps == len(abar)
    assert path.pure_noise == (float(abar[-1]) == 0) == bool(path.alpha(t)[-1] == 0)


@pytest.mark.parametrize("name", NAMES)
def test_noisy_samples_and_targets_are_the_scheduler_s(name):
    scheduler, path = SCHEDULERS[name], path_of(name)
    generator = torch.Generator().manual_seed(0)
    timesteps = torch.randint(0, path.num_timesteps, (16,), generator=generator)
    x0, noise = (torch.randn(16, 3, 5, 4, generator=generator) for _ in range(2))
    t = path.timesteps_to_t(timesteps)
    x_t = scheduler.add_noise(x0, noise, timesteps)
    torch.testing.assert_close(add_noise(path, x0, noise, t), x_t, rtol=1e-5, atol=1e-5)
    velocity = scheduler.get_velocity(x0, noise, timesteps)
    torch.testing.assert_close(make_target(path, "v", x0, noise, t), velocity, rtol=1e-5, atol=1e-5)
    # The prediction names agree with what the scheduler itself makes of a perfect prediction.
    for word, perfect in (("epsilon", noise), ("v_prediction", velocity), ("sample", x0)):
        if word == "epsilon" and path.pure_noise:
            continue
        estimate = to_x0(path, scheduler_target(word), perfect, x_t, t)
        torch.testing.assert_close(estimate, x0, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", FINITE)
@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_min_snr_is_the_formula_that_trainers_write_by_hand(name, gamma):
    """min(SNR, g) / SNR for epsilon, / (SNR + 1) for v, min(SNR, g) for x0: with the SNR that diffusers computes."""
    scheduler, path = SCHEDULERS[name], path_of(name)
    snr = compute_snr(scheduler, steps(name)).double()
    capped = snr.clamp(max=gamma)
    t = path.timesteps_to_t(steps(name))
    weight = NOISE_WEIGHTINGS["min_snr"](gamma=gamma)
    for word, by_hand in (("epsilon", capped / snr), ("v_prediction", capped / (snr + 1)), ("sample", capped)):
        ours = weight(path, scheduler_target(word), t)
        # Their SNR is in float32: 1 - abar loses digits where abar is near 1.
        torch.testing.assert_close(ours, by_hand, rtol=3e-4, atol=0)
        abar = scheduler.alphas_cumprod.double()
        exact = abar / (1 - abar)
        exact_weight = {"epsilon": 1 / exact, "v_prediction": 1 / (exact + 1), "sample": torch.ones_like(exact)}[word]
        torch.testing.assert_close(ours, exact.clamp(max=gamma) * exact_weight, rtol=1e-10, atol=0)


def test_zero_terminal_snr_has_finite_weights_where_the_formula_divides_by_zero():
    path, scheduler = path_of("zero_terminal"), SCHEDULERS["zero_terminal"]
    assert path.pure_noise
    assert float(scheduler.alphas_cumprod[-1]) == 0
    last = path.timesteps_to_t(steps("zero_terminal")[-1:])
    assert path.alpha(last).item() == 0
    assert path.sigma(last).item() == 1
    assert path.log_snr(last).item() == -math.inf
    assert NOISE_WEIGHTINGS["min_snr"]()(path, "v", last).item() == pytest.approx(0, abs=1e-12)
    assert NOISE_WEIGHTINGS["min_snr"]()(path, "eps", last).item() == pytest.approx(1, rel=1e-6)
    x_t = torch.randn(1, 3, 8)
    assert to_x0(path, "eps", x_t, x_t, last).isnan().all()  # the noise alone says nothing about the data
    torch.testing.assert_close(to_x0(path, "v", -x_t, x_t, last), x_t)


def test_the_table_is_not_the_continuous_path_at_the_same_t():
    """Why a path of its own: with the continuous one the weights are those of other noise levels."""
    path = path_of("scaled_linear")
    t = path.timesteps_to_t(steps("scaled_linear"))
    difference = (path.log_snr(t) - VPPath().log_snr(t)).abs()
    assert difference.max() > 1
    weight = NOISE_WEIGHTINGS["min_snr"]()
    assert ((weight(path, "eps", t) / weight("vp", "eps", t)).log().abs().max()) > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_between_indices_log_snr_falls_and_inverse_and_slope_are_exact(name):
    path = path_of(name)
    t = torch.linspace(0.0013, 0.9987, 5001, dtype=torch.float64)
    log_snr = path.log_snr(t)
    assert (log_snr.diff() < 0).all()
    torch.testing.assert_close(path.t_from_log_snr(log_snr), t, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(path.alpha(t).square() + path.sigma(t).square(), torch.ones_like(t), rtol=1e-14, atol=0)
    inside = t[((t * path.num_timesteps).frac() - 0.5).abs() < 0.4].clone().requires_grad_()
    (derivative,) = torch.autograd.grad(path.log_snr(inside).sum(), inside)
    torch.testing.assert_close(path.log_snr_slope(inside.detach()), derivative, rtol=1e-8, atol=0)


def test_ends_and_beyond():
    path = path_of("linear")
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert path.log_snr(ends)[0] == math.inf
    assert path.sigma(ends)[0] == 0
    assert path.t_from_log_snr(torch.tensor([math.inf], dtype=torch.float64)).item() == 0
    assert path.t_from_log_snr(path.log_snr(ends[1:]) - 1).item() > 1  # nothing is clamped
    nan = torch.tensor([math.nan, 0.5])
    for function in (path.alpha, path.sigma, path.log_snr, path.t_from_log_snr, path.log_snr_slope):
        assert function(nan).isnan().tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_are_kept_and_single_precision_t_costs_little(dtype):
    path = path_of("scaled_linear")
    exact = path.timesteps_to_t(steps("scaled_linear"))
    t = exact.to(dtype)
    for function in (path.alpha, path.sigma, path.log_snr, path.log_snr_slope):
        assert function(t).dtype == dtype
    torch.testing.assert_close(path.log_snr(t).double(), path.log_snr(exact), rtol=1e-4, atol=1e-4)


def test_every_noise_level_weight_takes_it():
    path = path_of("scaled_linear")
    t = path.timesteps_to_t(torch.tensor([0, 250, 999]))
    x_t = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(0))
    options = {"tabulated": {"points": [[0.0, 1.0], [1.0, 2.0]]}}
    for name in NOISE_WEIGHTINGS:
        weighting = build_weighting("none", name, path=path, **options.get(name, {}))
        for target in ("eps", "v"):
            try:
                terms = weighting(torch.ones(3), x_t, x_t=x_t, t=t, path=path, target=target)
            except UserError as error:  # a scheme that says why it has no meaning there
                assert "path" in str(error) or "target" in str(error)  # noqa: PT017
                continue
            assert terms.weight.isfinite().all(), name


def test_it_compiles_as_one_graph():
    path = path_of("short")
    x, t = torch.randn(4, 2, 3), torch.tensor([0.1, 0.5, 0.9, 1.0])

    def function(x, t):
        return to_noise(path, "v", x, x, t).sum((1, 2)) + path.t_from_log_snr(path.log_snr(t))

    compiled = torch.compile(function, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t), function(x, t))


def test_equal_tables_are_equal_paths_and_copies_keep_working():
    path = path_of("short")
    again = DiscretePath(tuple(SCHEDULERS["short"].alphas_cumprod.tolist()))
    assert path == again
    assert hash(path) == hash(again)
    assert path != path_of("linear")
    t = torch.tensor([0.3])
    for other in (copy.deepcopy(path), pickle.loads(pickle.dumps(path))):
        assert other == path
        assert torch.equal(other.alpha(t), path.alpha(t))
    assert repr(path).startswith("DiscretePath(7 steps, alphas_cumprod from 0.9999")
    assert DiscretePath(np.array([0.9, 0.5])).alphas_cumprod == (0.9, 0.5)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([0.9], "at least 2 entries"),
        ([1.0, 0.5], "entry 0 is 1.0"),
        ([0.9, 0.9], "entry 1 is 0.9"),
        ([0.9, -0.1], "entry 1 is -0.1"),
        ([0.9, math.nan], "entry 1 is nan"),
        (torch.linspace(0.0001, 0.02, 10), "cumulative products"),  # betas
    ],
)
def test_impossible_tables_are_refused(table, words):
    with pytest.raises(UserError, match=words):
        DiscretePath(table)


def test_schedulers_and_predictions_without_a_table_are_refused():
    with pytest.raises(UserError, match=r"has no alphas_cumprod.*path='linear'"):
        DiscretePath.from_scheduler(FlowMatchEulerDiscreteScheduler())
    with pytest.raises(UserError, match=r"prediction type 'flow_prediction'.*'u'"):
        scheduler_target("flow_prediction")
    assert DiscretePath.from_scheduler(SimpleNamespace(alphas_cumprod=[0.5, 0.1])).num_timesteps == 2
