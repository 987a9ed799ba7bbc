"""The samplers against Gaussian data, for which denoiser and ODE solution are known in closed form."""

import itertools
import math

import pytest
import torch

from eisbach.diffusion.paths import PATHS, Path, get_path
from eisbach.diffusion.samplers import sample_ode
from eisbach.diffusion.schedules import get_schedule
from eisbach.diffusion.targets import TARGETS, convert
from eisbach.errors import UserError

MEAN, SCALE = 0.7, 0.5


def exact_model(path: Path, target: str):
    """The ideal network for data N(MEAN, SCALE^2): E[x0 | x_t] in the wanted target."""

    def predict(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = path.alpha(t)[:, None, None], path.sigma(t)[:, None, None]
        gain = alpha * SCALE**2 / (alpha**2 * SCALE**2 + sigma**2)
        x0 = MEAN + gain * (x_t - alpha * MEAN)
        if target == "x0":
            return x0
        # E[noise | x_t] in closed form as well, so that no end of the path needs a division by zero.
        noise = sigma / (alpha**2 * SCALE**2 + sigma**2) * (x_t - alpha * MEAN)
        return {"eps": noise, "v": alpha * noise - sigma * x0, "u": noise - x0}[target]

    return predict


def exact_solution(path: Path, noise: torch.Tensor) -> torch.Tensor:
    """For Gaussian data the ODE only rescales: (x_t - alpha m) / sqrt(alpha^2 c^2 + sigma^2) is constant."""
    one = torch.ones((), dtype=noise.dtype)
    alpha, sigma = path.alpha(one), path.sigma(one)
    return MEAN + SCALE * (sigma * noise - alpha * MEAN) / torch.sqrt(alpha**2 * SCALE**2 + sigma**2)


def start(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error(name: str, target: str, method: str, steps: int) -> float:
    path, noise = get_path(name), start()
    times = get_schedule("uniform", steps)
    if name == "vp":
        times = times**2  # sigma grows like the square root of t there: even steps in sqrt(t) show the order
    result = sample_ode(exact_model(path, target), path=path, target=target, noise=noise, times=times, method=method)
    return float((result - exact_solution(path, noise)).abs().max())


SMOOTH = [name for name in PATHS if name != "cosine"]  # a table has corners


@pytest.mark.parametrize(
    ("name", "target"), [(n, t) for n in SMOOTH for t in TARGETS if not (t == "eps" and get_path(n).pure_noise)]
)
def test_euler_is_first_order_and_heun_second(name, target):
    euler = [error(name, target, "euler", n) for n in (64, 128)]
    heun = [error(name, target, "heun", n) for n in (64, 128)]
    assert 0.8 < math.log2(euler[0] / euler[1]) < 1.25
    assert math.log2(heun[0] / heun[1]) > 1.6
    assert heun[1] < 5e-3
    assert heun[1] < 0.5 * euler[1]


def test_linear_u_is_the_plain_rectified_flow_ode():
    noise, times = start(1), get_schedule("sa3", 6)
    predict = exact_model(get_path("linear"), "u")
    result = sample_ode(predict, path="linear", target="u", noise=noise, times=times)
    x = noise
    for t, s in itertools.pairwise(times):
        x = x + (s - t) * predict(x, t.expand(3))
    torch.testing.assert_close(result, x, rtol=1e-12, atol=1e-12)
    heun = sample_ode(predict, path="linear", target="u", noise=noise, times=times, method="heun")
    x = noise
    for t, s in itertools.pairwise(times):
        slope = predict(x, t.expand(3))
        if s > 0:
            slope = (slope + predict(x + (s - t) * slope, s.expand(3))) / 2
        x = x + (s - t) * slope
    torch.testing.assert_close(heun, x, rtol=1e-12, atol=1e-12)


def test_edm_heun_is_algorithm_1():
    """Karras et al. 2022, Algorithm 1 with S_churn = 0, written for the denoiser."""
    path, noise = get_path("edm"), start(2)
    times = get_schedule("uniform", 9)
    denoise = exact_model(path, "x0")
    result = sample_ode(denoise, path=path, target="x0", noise=noise, times=times, method="heun")
    sigmas = path.sigma(times)
    sigmas[-1] = 0
    x = sigmas[0] * noise
    for i in range(9):
        d = (x - denoise(x, times[i].expand(3))) / sigmas[i]
        ahead = x + (sigmas[i + 1] - sigmas[i]) * d
        if sigmas[i + 1] > 0:
            d2 = (ahead - denoise(ahead, times[i + 1].expand(3))) / sigmas[i + 1]
            ahead = x + (sigmas[i + 1] - sigmas[i]) * (d + d2) / 2
        x = ahead
    torch.testing.assert_close(result, x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["vp", "gvp"])
def test_euler_is_ddim(name):
    path, noise, times = get_path(name), start(3), get_schedule("uniform", 7)
    predict = exact_model(path, "v")
    result = sample_ode(predict, path=path, target="v", noise=noise, times=times)
    x = path.sigma(times[0]) * noise
    for t, s in itertools.pairwise(times):
        level = t.expand(3)
        y = predict(x, level)
        x0, eps = convert(path, "v", "x0", y, x, level), convert(path, "v", "eps", y, x, level)
        x = path.alpha(s) * x0 + path.sigma(s) * eps
    torch.testing.assert_close(result, x, rtol=1e-10, atol=1e-10)


def test_rows_do_not_touch_each_other_and_evaluations_are_counted():
    path, calls, seen = get_path("linear"), [], []
    model = exact_model(path, "u")

    def predict(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        calls.append(t.shape)
        return model(x_t, t)

    noise, times = start(4), get_schedule("uniform", 5)
    together = sample_ode(
        predict,
        path=path,
        target="u",
        noise=noise,
        times=times,
        method="heun",
        on_step=lambda step, x: seen.append((step, x.shape)),
    )
    assert calls == [(3,)] * 9
    assert seen == [(i, noise.shape) for i in range(1, 6)]
    alone = torch.cat(
        [sample_ode(model, path=path, target="u", noise=noise[i : i + 1], times=times, method="heun") for i in range(3)]
    )
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


def test_half_precision_output_keeps_the_state_in_float32():
    result = sample_ode(
        lambda x, t: (-x).to(torch.bfloat16),
        path="linear",
        target="u",
        noise=start().float(),
        times=get_schedule("uniform", 4),
    )
    assert result.dtype == torch.float32


def test_bad_calls_are_user_errors():
    noise, times = start(), get_schedule("uniform", 4)
    good = {"path": "linear", "target": "u", "noise": noise, "times": times}

    def run(predict=lambda x, t: x, **changes):
        return sample_ode(predict, **{**good, **changes})

    with pytest.raises(UserError, match="choose one of euler, heun"):
        run(method="rk4")
    with pytest.raises(UserError, match="undefined at t = 1"):
        run(target="eps")
    with pytest.raises(UserError, match="strictly"):
        run(times=times.flip(0))
    with pytest.raises(UserError, match="strictly"):
        run(times=torch.tensor([1.0, 0.5, 0.5, 0.0]))
    with pytest.raises(UserError, match="at least 2"):
        run(times=torch.tensor([1.0]))
    with pytest.raises(UserError, match="must match"):
        run(predict=lambda x, t: x[:, :1])
    with pytest.raises(UserError, match="not finite"):
        run(predict=lambda x, t: x * torch.nan)


@pytest.mark.parametrize("name", ["cosine", "vp", "linear"])
@pytest.mark.parametrize("target", TARGETS)
def test_edm_heun_is_algorithm_1_on_any_path(name, target):
    """EDM's sampler in its own coordinates: y = x/alpha against sigma/alpha, with the denoiser D(y; sigma)."""
    path, noise, n = get_path(name), start(5), 9
    times = get_schedule("karras", n, path)
    result = sample_ode(
        exact_model(path, target), path=path, target=target, noise=noise, times=times, method="edm_heun"
    )
    i = torch.arange(n, dtype=torch.float64)
    sigmas = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    sigmas = torch.cat([sigmas, torch.zeros(1)])

    def denoise(y, sigma):
        return MEAN + SCALE**2 / (SCALE**2 + sigma**2) * (y - MEAN)

    y = noise * path.sigma(times[0]) / path.alpha(times[0])
    for i in range(n):
        d = (y - denoise(y, sigmas[i])) / sigmas[i]
        ahead = y + (sigmas[i + 1] - sigmas[i]) * d
        if sigmas[i + 1] > 0:
            second = (ahead - denoise(ahead, sigmas[i + 1])) / sigmas[i + 1]
            ahead = y + (sigmas[i + 1] - sigmas[i]) * (d + second) / 2
        y = ahead
    torch.testing.assert_close(result, y, rtol=1e-7, atol=1e-9)


def test_euler_is_ddim_on_the_cosine_path():
    """DDIM with eta = 0 (Song et al. 2021, Eq. 12), on the table of cumulative alphas."""
    path, noise = get_path("cosine"), start(6)
    times = get_schedule("uniform", 10)
    model = exact_model(path, "eps")
    result = sample_ode(model, path=path, target="eps", noise=noise, times=times)
    abar = torch.tensor((1.0, *path.alphas_cumprod), dtype=torch.float64)[(times * 1000).round().long()]
    x = noise * (1 - abar[0]).sqrt()
    for step in range(10):
        eps = model(x, times[step].expand(3))
        x0 = (x - (1 - abar[step]).sqrt() * eps) / abar[step].sqrt()
        x = abar[step + 1].sqrt() * x0 + (1 - abar[step + 1]).sqrt() * eps
    torch.testing.assert_close(result, x, rtol=1e-9, atol=1e-10)


def test_the_cosine_path_is_solved_exactly_in_the_limit():
    path, noise = get_path("cosine"), start(7)
    errors = []
    for steps in (20, 80):
        times = get_schedule("log_snr", steps, path)
        x = sample_ode(exact_model(path, "v"), path=path, target="v", noise=noise, times=times, method="edm_heun")
        scale = (path.alpha(times[0]) ** 2 * SCALE**2 + path.sigma(times[0]) ** 2).sqrt()
        exact = MEAN + SCALE * (path.sigma(times[0]) * noise - path.alpha(times[0]) * MEAN) / scale
        errors.append(float((x - exact).abs().max()))
    assert errors[1] < errors[0] / 6
    assert errors[1] < 5e-3


def test_sampling_starts_from_noise():
    path = get_path("cosine")
    call = {"path": path, "target": "v", "noise": start()}
    with pytest.raises(UserError, match="still holds data"):
        sample_ode(exact_model(path, "v"), times=torch.tensor([0.9, 0.4, 0.0]), **call)
    with pytest.raises(UserError, match="fall strictly"):
        sample_ode(exact_model(path, "v"), times=torch.tensor([1.1, 0.4, 0.0]), **call)
    gvp, times = get_path("gvp"), get_schedule("uniform", 3)
    call |= {"path": gvp, "times": times}
    with pytest.raises(UserError, match="alpha = 0"):
        sample_ode(exact_model(gvp, "v"), method="edm_heun", **call)
