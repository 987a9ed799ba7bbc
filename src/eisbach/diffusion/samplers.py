"""Deterministic samplers of the probability-flow ODE, from noise to data, on any path and for any target.

Between two noise levels t > s the ODE is solved in a variable in which it has no linear part:

- linear path: ``dx/dt = u``, the rectified-flow ODE itself;
- other paths, while there is more data than noise: ``d(x/alpha) = eps d(sigma/alpha)``;
- other paths, while there is more noise than data: ``d(x/sigma) = x0 d(alpha/sigma)``, finite where alpha = 0.

One Euler step is the same in all three (it is DDIM's step with eta = 0: keep x0 and eps, move alpha and sigma). Heun's step
evaluates the network a second time at s and averages the slope. On the edm path this is EDM's Algorithm 1 without
churn; "edm_heun" is that algorithm on any path (the second form at every level, as EDM samples VP models: x/alpha over
sigma/alpha), while "heun" averages the data estimate where there is more noise than data. A step that ends on clean data is always an Euler step, as there: it ends on the last data estimate, and with
target x0 the slope does not exist at s = 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from eisbach.diffusion.paths import LinearPath, Path, get_path
from eisbach.diffusion.targets import check_target, convert, require_defined
from eisbach.errors import UserError

METHODS = ("euler", "heun", "edm_heun")


@torch.no_grad()
def sample_ode(
    predict: Callable[[Tensor, Tensor], Tensor],
    *,
    path: Path | str,
    target: str,
    noise: Tensor,
    times: Tensor,
    method: str = "euler",
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
        Strictly descending from 1 (or from a level at which next to no data is left) to 0, as `schedules.get_schedule` gives.
        t = 0 means clean data, also on a path whose sigma(0) is not 0 (edm).
    method : {"euler", "heun", "edm_heun"}, default "euler"
        n network evaluations for Euler, 2n - 1 for the others.
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
    path = get_path(path)
    check_target(target)
    if method not in METHODS:
        raise UserError(f"the sampling method {method!r} is not known; choose one of {', '.join(METHODS)}.")
    levels = check_times(times, path)
    require_defined(path, target, levels[:-1])
    edm = method == "edm_heun"
    if edm and not bool(path.alpha(levels[0]) > 0):
        raise UserError(
            f"edm_heun follows x/alpha, and the {path.name} path has alpha = 0 at t = {levels[0]:g}; use the schedule karras or "
            "log_snr, which start below, or the method heun."
        )
    points = [level.to(device=noise.device, dtype=noise.dtype) for level in levels]
    x = noise * path.sigma(points[0])

    def evaluate(x_t: Tensor, t: Tensor, wanted: str) -> Tensor:
        batch_t = t.expand(x_t.shape[0])
        output = predict(x_t, batch_t)
        if output.shape != x_t.shape:
            raise UserError(
                f"the network returned {tuple(output.shape)} for x_t of {tuple(x_t.shape)}; they must match."
            )
        return convert(path, target, wanted, output.to(x_t.dtype), x_t, batch_t)

    count = len(points) - 1
    for step in range(count):
        t, s = points[step], points[step + 1]
        last = step == count - 1
        if edm:
            wanted, of_x, of_slope = _published_form(path, t, s, last=last)
        else:
            wanted, of_x, of_slope = _step_form(path, t, s, last=last, noisy=_is_noisy(path, levels[step]))
        slope = evaluate(x, t, wanted)
        ahead = of_x * x + of_slope * slope
        if method != "euler" and not last:
            slope = 0.5 * (slope + evaluate(ahead, s, wanted))
            ahead = of_x * x + of_slope * slope
        x = ahead
        if on_step is not None:
            on_step(step + 1, x)
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
    """The step in x/alpha over sigma/alpha, in which the slope is the noise (Karras et al. 2022, Eq. 1 and Algorithm 1)."""
    if last:
        # Clean data: alpha = 1 and sigma = 0, whatever sigma(0) of the path is.
        return "x0", torch.zeros_like(t), torch.ones_like(t)
    ratio = path.alpha(s) / path.alpha(t)
    return "eps", ratio, path.sigma(s) - path.sigma(t) * ratio


def _is_noisy(path: Path, t: Tensor) -> bool:
    # On a path that keeps alpha = 1 the eps form is exact for x/alpha everywhere and is the published one.
    return bool(path.log_snr(t) < 0) and path.name != "edm"


START_LOG_SNR = -6.0
"""Largest log-SNR that sampling may start from instead of t = 1: data of 5% of the noise's size. EDM starts at -8.8."""


def check_times(times: Tensor, path: Path | None = None) -> Tensor:
    """A sampling schedule in float64 on the CPU.

    Raises
    ------
    UserError
        It does not fall strictly to 0, or not from 1. With a `path` it may start lower, where that is as good as noise.
    """
    levels = times.detach().to(device="cpu", dtype=torch.float64)
    if levels.dim() != 1 or levels.numel() < 2:
        raise UserError(f"times must be a row of at least 2 noise levels; got shape {tuple(times.shape)}.")
    if path is not None and 0 < levels[0] < 1 and float(path.log_snr(levels[0])) > START_LOG_SNR:
        raise UserError(
            f"times start at {levels[0]:g}, where the {path.name} path still holds data (log-SNR "
            f"{float(path.log_snr(levels[0])):.3g}); start at 1, or at a level of log-SNR at most {START_LOG_SNR:g}."
        )
    starts = levels[0] == 1 if path is None else 0 < levels[0] <= 1
    if not starts or levels[-1] != 0 or not bool((levels.diff() < 0).all()):
        raise UserError(
            f"times must fall strictly from 1 to 0; got {levels.numel()} values from {levels[0]:g} to {levels[-1]:g}."
        )
    return levels
