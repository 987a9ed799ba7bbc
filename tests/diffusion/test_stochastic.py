"""The posterior kernel against Bayes' rule for Gaussians, and the sampler against the ODE sampler and an exact
marginal."""

import math

import pytest
import torch

from eisbach.diffusion.discrete_path import DiscretePath
from eisbach.diffusion.paths import PATHS, get_path
from eisbach.diffusion.samplers import posterior_kernel, sample_ode, sample_stochastic
from eisbach.diffusion.schedules import get_schedule
from eisbach.diffusion.targets import TARGETS
from eisbach.errors import UserError

ALL = [*(get_path(name) for name in PATHS), DiscretePath(tuple(0.98 ** (1 + 0.3 * i) ** 1.5 for i in range(40)))]
MEAN, SCALE = 0.7, 0.5


def ideal(path, target):
    def predict(x_t, t):
        shape = (-1,) + (1,) * (x_t.dim() - 1)
        alpha, sigma = path.alpha(t).view(shape), path.sigma(t).view(shape)
        total = alpha**2 * SCALE**2 + sigma**2
        x0 = MEAN + alpha * SCALE**2 / total * (x_t - alpha * MEAN)
        noise = sigma / total * (x_t - alpha * MEAN)
        return {"eps": noise, "x0": x0, "v": alpha * noise - sigma * x0, "u": noise - x0}[target]

    return predict


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.9), (1.0, 0.0), (0.6, 0.59), (0.3, 0.1), (0.2, 0.0)])
def test_kernel_is_the_conditional_of_the_joint_gaussian(path, t, s):
    # Independent route: given x0, (x_s, x_t) is Gaussian with covariance [[s_s^2, a_ts s_s^2], [., s_t^2]].
    t, s = torch.tensor(t, dtype=torch.float64), torch.tensor(s, dtype=torch.float64)
    kernel = posterior_kernel(path, t, s)
    alpha_t, alpha_s, var_t, var_s = path.alpha(t), path.alpha(s), path.sigma(t) ** 2, path.sigma(s) ** 2
    cross = alpha_t / alpha_s * var_s
    gain = cross / var_t
    assert kernel.of_x == pytest.approx(float(gain), rel=1e-9, abs=1e-12)
    assert kernel.of_x0 == pytest.approx(float(alpha_s - gain * alpha_t), rel=1e-9, abs=1e-12)
    assert kernel.variance == pytest.approx(float(var_s - gain * cross), rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_kernel_keeps_the_marginal_for_every_eta(path, eta):
    t = torch.tensor([1.0, 0.7, 0.2], dtype=torch.float64)
    s = torch.tensor([0.8, 0.1, 0.0], dtype=torch.float64)
    kernel = posterior_kernel(path, t, s, eta)
    torch.testing.assert_close(kernel.of_x * path.alpha(t) + kernel.of_x0, path.alpha(s), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        kernel.of_x**2 * path.sigma(t) ** 2 + kernel.variance, path.sigma(s) ** 2, rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_two_steps_compose_to_one(path):
    # q(x_r | x_t, x0) integrated over x_s: the means chain and the variances add up.
    t, s, r = (torch.tensor(value, dtype=torch.float64) for value in (0.9, 0.5, 0.2))
    first, second, whole = posterior_kernel(path, t, s), posterior_kernel(path, s, r), posterior_kernel(path, t, r)
    torch.testing.assert_close(second.of_x * first.of_x, whole.of_x, rtol=1e-10, atol=0)
    torch.testing.assert_close(second.of_x * first.of_x0 + second.of_x0, whole.of_x0, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        second.of_x**2 * first.variance + second.variance, whole.variance, rtol=1e-10, atol=1e-14
    )


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
@pytest.mark.parametrize("target", TARGETS)
def test_eta_zero_is_the_ode_samplers_euler_step(path, target):
    if target == "eps" and float(path.alpha(torch.ones(()))) == 0:
        pytest.skip("eps is undefined at t = 1 there")
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    common = {"path": path, "target": target, "noise": noise, "times": get_schedule("uniform", 7)}
    ode = sample_ode(ideal(path, target), **common)
    torch.testing.assert_close(sample_stochastic(ideal(path, target), eta=0.0, **common), ode, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("path", ["linear", "vp", "edm"])
def test_ancestral_samples_have_the_datas_mean_and_spread(path):
    path, count = get_path(path), 20_000
    times = get_schedule("uniform", 200)
    times = times**2 if path.name == "vp" else times  # its sigma grows like sqrt(t): the last step would end on a blur
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    result = sample_stochastic(ideal(path, "x0"), path=path, target="x0", noise=noise, times=times, generator=generator)
    assert float(result.mean()) == pytest.approx(MEAN, abs=4 * SCALE / math.sqrt(count) + 0.01)
    assert float(result.std()) == pytest.approx(SCALE, rel=0.03)


def test_the_noise_comes_from_the_generator_alone():
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))

    def run(seed):
        return sample_stochastic(
            ideal(get_path("linear"), "u"),
            path="linear",
            target="u",
            noise=noise,
            times=get_schedule("uniform", 5),
            generator=torch.Generator().manual_seed(seed),
        )

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))


def test_steps_are_reported_and_float32_stays():
    seen = []
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    drawn = torch.ones_like(noise)
    result = sample_stochastic(
        ideal(get_path("linear"), "u"),
        path="linear",
        target="u",
        noise=noise,
        times=get_schedule("uniform", 4),
        fresh_noise=lambda step: drawn,
        on_step=lambda step, x: seen.append(step),
    )
    assert seen == [1, 2, 3, 4]
    assert result.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eta": 1.5}, "must lie in"),
        ({"eta": float("nan")}, "must lie in"),
        ({"generator": None}, "pass a generator"),
        ({"fresh_noise": lambda step: torch.zeros(1)}, "not both"),
        ({"generator": None, "fresh_noise": lambda step: torch.zeros(1)}, "they must match"),
        ({"target": "eps"}, "undefined at t = 1"),
        ({"times": torch.tensor([0.5, 0.0])}, "must fall strictly"),
    ],
)
def test_bad_input(change, words):
    options = {
        "path": "linear",
        "target": "u",
        "noise": torch.zeros(2, 3),
        "times": get_schedule("uniform", 3),
        "generator": torch.Generator(),
    }
    with pytest.raises(UserError, match=words):
        sample_stochastic(ideal(get_path("linear"), "u"), **(options | change))


def test_a_step_upwards_is_refused():
    with pytest.raises(UserError, match="s < t"):
        posterior_kernel("vp", torch.tensor(0.2), torch.tensor(0.4))
