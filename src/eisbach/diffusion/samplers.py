"""Samplers, from noise to data, on any path and for any target: along the ODE, with fresh noise, and for distilled
models.

**Along the probability-flow ODE** (`sample_ode`), deterministic. Between two noise levels t > s the ODE is solved in a
variable in which it has no linear part:

- linear path: ``dx/dt = u``, the rectified-flow ODE itself;
- other paths, while there is more data than noise: ``d(x/alpha) = eps d(sigma/alpha)``;
- other paths, while there is more noise than data: ``d(x/sigma) = x0 d(alpha/sigma)``, finite where alpha = 0.

One Euler step is the same in all three (it is DDIM's step with eta = 0: keep x0 and eps, move alpha and sigma). Heun's
step evaluates the network a second time at s and averages the slope. On the edm path this is EDM's Algorithm 1 without
churn; "edm_heun" is that algorithm on any path (the second form at every level, as EDM samples VP models: x/alpha over
sigma/alpha), while "heun" averages the data estimate where there is more noise than data. A step that ends on clean
data is always an Euler step, as there: it ends on the last data estimate, and with target x0 the slope does not exist
at s = 0.

**With fresh noise** (`sample_stochastic`). A noisy sample ``x_t = alpha_t x0 + sigma_t noise`` is a Markov chain in t:
from s up to t > s it loses signal by ``alpha_ts = alpha_t / alpha_s`` and gains the variance ``sigma_ts^2 = sigma_t^2 -
alpha_ts^2 sigma_s^2``. Seen from t, and given the data, x_s is Gaussian (Ho et al. 2020, Eq. 6-7; Kingma et al. 2021,
App. A)::

    q(x_s | x_t, x0) = N( (alpha_ts sigma_s^2 / sigma_t^2) x_t + (alpha_s sigma_ts^2 / sigma_t^2) x0,
                          sigma_ts^2 sigma_s^2 / sigma_t^2 )

In log-SNR the ratio ``sigma_ts^2 / sigma_t^2`` is ``1 - SNR_t / SNR_s``, which is how it is computed: without
cancellation, and right at the ends (SNR 0 and infinite). DDIM (Song et al. 2021, Eq. 12) keeps the marginals and takes
the share eta^2 of that variance: eta = 1 is ancestral sampling (DDPM's posterior), eta = 0 the ODE's Euler step.

**Ping-pong** (`sample_pingpong`), for distilled models: guess the data, noise the guess to the next level with fresh
noise, repeat: ``x0 = x0(x_t, t)``, ``x_s = alpha(s) x0 + sigma(s) noise``. This is multistep consistency sampling (Song
et al. 2023, Algorithm 1); Stable Audio 3's distilled models are played with 8 steps of it, without guidance. A model
that was not distilled gives blurred guesses: sample it along the ODE.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eisbach.diffusion.paths import LinearPath, Path, get_path
from eisbach.diffusion.targets import check_target, convert, require_defined
from eisbach.errors import UserError

METHODS = ("euler", "heun", "edm_heun")
_START_LOG_SNR = -6.0  # sampling may start here instead of at t = 1: data of 5% of the noise's size. EDM starts at -8.8

Predict = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class _Network:
    """The network as every sampler asks it."""

    predict: Predict
    path: Path
    target: str

    def __call__(self, x_t: Tensor, t: Tensor, wanted: str) -> Tensor:
        """The network's answer for x_t at one noise level (a scalar), in the target `wanted`."""
        batch_t = t.expand(x_t.shape[0])
        output = self.predict(x_t, batch_t)
        _check_shape("the network returned", output, x_t)
        return convert(self.path, self.target, wanted, output.to(x_t.dtype), x_t, batch_t)


def _checked(
    predict: Predict,
    path: Path | str,
    target: str,
    times: Tensor,
    *,
    may_start_lower: bool = False,
    from_data: bool = False,
) -> tuple[_Network, Tensor]:
    """The network and its noise levels (float64, CPU), or a `UserError` for what cannot be sampled."""
    path = get_path(path)
    check_target(target)
    levels = check_times(times, path if may_start_lower else None, from_data=from_data)
    require_defined(path, target, levels[:-1])
    return _Network(predict, path, target), levels


def _check_shape(what: str, value: Tensor, x: Tensor) -> None:
    if value.shape != x.shape:
        raise UserError(f"{what} {tuple(value.shape)} for x_t of {tuple(x.shape)}; they must match.")


def check_times(times: Tensor, path: Path | None = None, *, from_data: bool = False) -> Tensor:
    """A sampling schedule in float64 on the CPU.

    Raises
    ------
    UserError
        It does not fall strictly to 0, or not from 1. With a `path` it may start lower, where that is as good as noise;
        where sampling starts `from_data`, anywhere above 0.
    """
    levels = times.detach().to(device="cpu", dtype=torch.float64)
    if levels.dim() != 1 or levels.numel() < 2:
        raise UserError(f"times must be a row of at least 2 noise levels; got shape {tuple(times.shape)}.")
    if path is not None and not from_data and 0 < levels[0] < 1 and float(path.log_snr(levels[0])) > _START_LOG_SNR:
        raise UserError(
            f"times start at {levels[0]:g}, where the {path.name} path still holds data (log-SNR "
            f"{float(path.log_snr(levels[0])):.3g}); start at 1, or at a level of log-SNR at most {_START_LOG_SNR:g}."
        )
    starts = levels[0] == 1 if path is None and not from_data else 0 < levels[0] <= 1
    if not starts or levels[-1] != 0 or not bool((levels.diff() < 0).all()):
        raise UserError(
            f"times must fall strictly from 1 to 0; got {levels.numel()} values from {levels[0]:g} to {levels[-1]:g}."
        )
    return levels


@torch.no_grad()
def sample_ode(
    predict: Predict,
    *,
    path: Path | str,
    target: str,
    noise: Tensor,
    times: Tensor,
    method: str = "euler",
    init: Tensor | None = None,
    on_step: Callable[[int, Tensor], object] | None = None,
) -> Tensor:
    """Data drawn by following the ODE from `noise`, deterministically; no gradient is recorded.

    Parameters
    ----------
    predict : callable
        ``(x_t (B, ...), t (B,)) -> output (B, ...)``, in the given target.
    path : Path or str
    target : {"eps", "x0", "v", "u"}
    noise : Tensor [shape=(B, ...)]
        Standard normal; the sampler scales it by sigma of the first level itself.
    times : Tensor [shape=(n + 1,)]
        Strictly descending from 1 (or from a level at which next to no data is left) to 0, as `schedules.get_schedule`
        gives. t = 0 means clean data, also on a path whose sigma(0) is not 0 (edm).
    method : {"euler", "heun", "edm_heun"}, default "euler"
        n network evaluations for Euler, 2n - 1 for the others.
    init : Tensor [shape=(B, ...)] or None
        Data to start from: ``x = alpha init + sigma noise`` at the first level, which may then lie anywhere above 0.
    on_step : callable or None
        ``on_step(step, x)`` after each step, step from 1 to n.

    Returns
    -------
    Tensor [shape=(B, ...)]
        In the dtype and on the device of `noise`.

    Raises
    ------
    UserError
        Unknown method or target, a malformed schedule, a target that is undefined at a visited noise level (eps at t =
        1 of a path that ends in pure noise), an output of another shape, or a result that is not finite.
    """
    if method not in METHODS:
        raise UserError(f"the sampling method {method!r} is not known; choose one of {', '.join(METHODS)}.")
    network, levels = _checked(predict, path, target, times, may_start_lower=True, from_data=init is not None)
    path, edm = network.path, method == "edm_heun"
    if edm and not bool(path.alpha(levels[0]) > 0):
        raise UserError(
            f"edm_heun follows x/alpha, and the {path.name} path has alpha = 0 at t = {levels[0]:g}; use the schedule "
            "karras or log_snr, which start below, or the method heun."
        )
    points = [level.to(device=noise.device, dtype=noise.dtype) for level in levels]

    def move(x: Tensor, step: int, last: bool) -> Tensor:
        t, s = points[step - 1], points[step]
        if edm:
            wanted, of_x, of_slope = _published_form(path, t, s, last=last)
        else:
            wanted, of_x, of_slope = _step_form(path, t, s, last=last, noisy=_is_noisy(path, levels[step - 1]))
        slope = network(x, t, wanted)
        ahead = of_x * x + of_slope * slope
        if method != "euler" and not last:
            # Heun: the mean of the slopes at both ends. The last step has no slope at its end, where sigma is 0.
            slope = 0.5 * (slope + network(ahead, s, wanted))
            ahead = of_x * x + of_slope * slope
        return ahead

    return _walk(_begin(path, points[0], noise, init), len(points) - 1, move, on_step)


def _begin(path: Path, t: Tensor, noise: Tensor, init: Tensor | None) -> Tensor:
    """x at the first level: noise, on top of the data to start from where there is some."""
    x = noise * path.sigma(t)
    if init is None:
        return x
    _check_shape("the data to start from has", init, noise)
    return path.alpha(t) * init.to(noise) + x


def _walk(
    x: Tensor, count: int, move: Callable[[Tensor, int, bool], Tensor], on_step: Callable[[int, Tensor], object] | None
) -> Tensor:
    """x after `count` moves ``move(x, step, last)``, step from 1, each reported, or a `UserError` where it went
    astray."""
    for step in range(1, count + 1):
        x = move(x, step, step == count)
        if on_step is not None:
            on_step(step, x)
    if not bool(torch.isfinite(x).all()):
        raise UserError(
            "sampling gave values that are not finite; check the checkpoint, lower guidance_scale or sample in float32."
        )
    return x


def _step_form(path: Path, t: Tensor, s: Tensor, *, last: bool, noisy: bool) -> tuple[str, Tensor, Tensor]:
    """(slope's target, a, b) of the step x_s = a x_t + b slope."""
    if isinstance(path, LinearPath):
        return "u", torch.ones_like(t), s - t
    if noisy and not last:
        alpha_t, sigma_t, alpha_s, sigma_s = path.alpha(t), path.sigma(t), path.alpha(s), path.sigma(s)
        return "x0", sigma_s / sigma_t, alpha_s - alpha_t * sigma_s / sigma_t
    return _published_form(path, t, s, last=last)


def _published_form(path: Path, t: Tensor, s: Tensor, *, last: bool) -> tuple[str, Tensor, Tensor]:
    """The step in x/alpha over sigma/alpha, in which the slope is the noise (Karras et al. 2022, Eq. 1, Algorithm
    1)."""
    if last:
        # Clean data: alpha = 1 and sigma = 0, whatever sigma(0) of the path is.
        return "x0", torch.zeros_like(t), torch.ones_like(t)
    ratio = path.alpha(s) / path.alpha(t)
    return "eps", ratio, path.sigma(s) - path.sigma(t) * ratio


def _is_noisy(path: Path, t: Tensor) -> bool:
    # On a path that keeps alpha = 1 the eps form is exact for x/alpha everywhere and is the published one.
    return bool(path.log_snr(t) < 0) and path.name != "edm"


@torch.no_grad()
def sample_pingpong(
    predict: Predict,
    *,
    path: Path | str,
    target: str,
    noise: Tensor,
    times: Tensor,
    fresh_noise: Callable[[int], Tensor],
    init: Tensor | None = None,
    on_step: Callable[[int, Tensor], object] | None = None,
) -> Tensor:
    """Data drawn from `noise` in ``len(times) - 1`` evaluations; no gradient is recorded.

    Parameters
    ----------
    predict, path, target, noise, init, on_step
        As in `sample_ode`.
    times : Tensor [shape=(n + 1,)]
        Strictly descending from 1 to 0, as `schedules.get_schedule` gives.
    fresh_noise : callable
        ``fresh_noise(step) -> Tensor [shape=(B, ...)]``: standard normal, for the end of each step from 1 to n - 1.
        Draw every sample's from its own generator, so that it does not depend on the batch.

    Raises
    ------
    UserError
        Unknown target, a malformed schedule, a target that is undefined at a visited noise level, an output or fresh
        noise of another shape, or a result that is not finite.
    """
    network, levels = _checked(predict, path, target, times, from_data=init is not None)
    path = network.path
    points = [level.to(device=noise.device, dtype=noise.dtype) for level in levels]

    def move(x: Tensor, step: int, last: bool) -> Tensor:
        x0 = network(x, points[step - 1], "x0")
        if last:  # t = 0 means clean data, whatever sigma(0) of the path is
            return x0
        return path.alpha(points[step]) * x0 + path.sigma(points[step]) * _draw(step, x0, None, fresh_noise)

    return _walk(_begin(path, points[0], noise, init), len(points) - 1, move, on_step)


class Kernel(NamedTuple):
    """A Gaussian step: x_s given x_t and x0 has mean ``of_x x_t + of_x0 x0`` and the variance ``variance`` in each
    entry.

    Attributes
    ----------
    of_x, of_x0, variance : Tensor [shape of the noise levels, float64, CPU]
    """

    of_x: Tensor
    of_x0: Tensor
    variance: Tensor


def posterior_kernel(path: Path | str, t: Tensor, s: Tensor, eta: float = 1.0) -> Kernel:
    """q(x_s | x_t, x0), exact on every path for eta = 1; DDIM's kernel with the share eta^2 of its variance otherwise.

    Parameters
    ----------
    path : Path or str
    t, s : Tensor [any one shape], in [0, 1]
        s < t, elementwise: s is the less noisy level.
    eta : float in [0, 1], default 1.0

    Raises
    ------
    UserError
        eta out of range, or levels that do not fall from t to s.
    """
    path = get_path(path)
    _check_eta(eta)
    t, s = (level.detach().to(device="cpu", dtype=torch.float64) for level in (t, s))
    if not bool((s < t).all()):
        raise UserError("a reverse step goes to a lower noise level; give s < t.")
    sigma_s = path.sigma(s)
    rise = path.log_snr(t) - path.log_snr(s)  # ln(SNR_t / SNR_s) < 0; -inf where either end is pure
    share = -torch.expm1(rise)  # sigma_ts^2 / sigma_t^2; close levels would cancel in 1 - exp(rise)
    # With eta 1: (sigma_s / sigma_t)^2 alpha_t / alpha_s, of two Gaussians multiplied; with eta 0: sigma_s / sigma_t,
    # the noise of x_t as it is. In log-SNR nothing overflows at the ends.
    of_x = sigma_s / path.sigma(t) * torch.sqrt((1 - eta**2) + eta**2 * torch.exp(rise))
    return Kernel(of_x, path.alpha(s) - path.alpha(t) * of_x, eta**2 * share * sigma_s.square())


@torch.no_grad()
def sample_stochastic(
    predict: Predict,
    *,
    path: Path | str,
    target: str,
    noise: Tensor,
    times: Tensor,
    eta: float = 1.0,
    generator: torch.Generator | None = None,
    fresh_noise: Callable[[int], Tensor] | None = None,
    on_step: Callable[[int, Tensor], object] | None = None,
) -> Tensor:
    """Data drawn from `noise` in ``len(times) - 1`` evaluations, each followed by fresh noise; no gradient is recorded.

    Parameters
    ----------
    predict, path, target, noise, on_step
        As in `sample_ode`.
    times : Tensor [shape=(n + 1,)]
        Strictly descending from 1 to 0. The last step ends on the data estimate itself, without noise, also on a path
        whose sigma(0) is not 0 (edm).
    eta : float in [0, 1], default 1.0
        1 is ancestral sampling, 0 is deterministic and equals ``sample_ode(..., method="euler")``.
    generator : torch.Generator or None
        Draws the fresh noise of every step, on its own device.
    fresh_noise : callable or None
        Instead of a generator: ``fresh_noise(step) -> Tensor [shape=(B, ...)]``, standard normal, for steps 1 to n - 1.
        With it each sample's noise can be independent of the batch.

    Raises
    ------
    UserError
        eta out of range, no source of noise or two of them although eta > 0, unknown target, a malformed schedule, a
        target that is undefined at a visited noise level, an output of another shape, or a result that is not finite.
    """
    _check_eta(eta)
    if eta > 0 and (generator is None) == (fresh_noise is None):
        raise UserError(
            "stochastic sampling draws noise in every step; pass a generator, or fresh_noise, and not both."
        )
    network, levels = _checked(predict, path, target, times)

    def move(x: Tensor, step: int, last: bool) -> Tensor:
        x0 = network(x, levels[step - 1].to(noise), "x0")
        if last:
            return x0
        kernel = posterior_kernel(network.path, levels[step - 1], levels[step], eta)
        mean = float(kernel.of_x) * x + float(kernel.of_x0) * x0
        if eta == 0:
            return mean
        return mean + math.sqrt(float(kernel.variance)) * _draw(step, mean, generator, fresh_noise)

    return _walk(noise * network.path.sigma(levels[0]).to(noise), len(levels) - 1, move, on_step)


def _draw(
    step: int, x: Tensor, generator: torch.Generator | None, fresh_noise: Callable[[int], Tensor] | None
) -> Tensor:
    if fresh_noise is not None:
        drawn = fresh_noise(step)
        _check_shape("the fresh noise has", drawn, x)
        return drawn.to(x)
    device = generator.device if generator is not None else x.device
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)


def _check_eta(eta: float) -> None:
    if not 0 <= eta <= 1:
        raise UserError(f"eta is {eta!r}; it must lie in [0, 1], where 0 is deterministic and 1 is ancestral sampling.")
