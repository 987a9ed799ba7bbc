"""Deterministic samplers of the probability-flow ODE, from noise to data, on any path and for any target.

Between two noise levels t > s the ODE is solved in a variable in which it has no linear part:

- linear path: ``dx/dt = u``, the rectified-flow ODE itself;
- other paths, while there is more data than noise: ``d(x/alpha) = eps d(sigma/alpha)``;
- other paths, while there is more noise than data: ``d(x/sigma) = x0 d(alpha/sigma)``, finite where alpha = 0.

One Euler step is the same in all three (it is DDIM's step: keep x0 and eps, move alpha and sigma). Heun's step
evaluates the network a second time at s and averages the slope. On the edm path this is EDM's Algorithm 1 without
churn. A step that ends on clean data is always an Euler step, as there: it ends on the last data estimate, and with
target x0 the slope does not exist at s = 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from eisbach.diffusion.paths import LinearPath, Path, get_path
from eisbach.diffusion.targets import check_target, convert, require_defined
from eisbach.errors import UserError

METHODS = ("euler", "heun")


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
        Standard normal; the sampler scales it by sigma(1) itself.
    times : Tensor [shape=(n + 1,)]
        Strictly descending from 1 to 0, as `schedules.get_schedule` gives. t = 0 means clean data, also on a path whose
        sigma(0) is not 0 (edm).
    method : {"euler", "heun"}, default "euler"
        n network evaluations for Euler, 2n - 1 for Heun.
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
    levels = check_times(times)
    require_defined(path, target, levels[:-1])
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
        wanted, of_x, of_slope = _step_form(path, t, s, last=step == count - 1, noisy=_is_noisy(path, levels[step]))
        slope = evaluate(x, t, wanted)
        ahead = of_x * x + of_slope * slope
        if method == "heun" and step < count - 1:
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
    alpha_t, sigma_t = path.alpha(t), path.sigma(t)
    if last:
        # Clean data: alpha = 1 and sigma = 0, whatever sigma(0) of the path is.
        return "x0", torch.zeros_like(t), torch.ones_like(t)
    alpha_s, sigma_s = path.alpha(s), path.sigma(s)
    if noisy:
        return "x0", sigma_s / sigma_t, alpha_s - alpha_t * sigma_s / sigma_t
    return "eps", alpha_s / alpha_t, sigma_s - sigma_t * alpha_s / alpha_t


def _is_noisy(path: Path, t: Tensor) -> bool:
    # On a path that keeps alpha = 1 the eps form is exact for x/alpha everywhere and is the published one.
    return bool(path.log_snr(t) < 0) and path.name != "edm"


def check_times(times: Tensor) -> Tensor:
    """A sampling schedule in float64 on the CPU; `UserError` unless it falls strictly from 1 to 0."""
    levels = times.detach().to(device="cpu", dtype=torch.float64)
    if levels.dim() != 1 or levels.numel() < 2:
        raise UserError(f"times must be a row of at least 2 noise levels; got shape {tuple(times.shape)}.")
    if levels[0] != 1 or levels[-1] != 0 or not bool((levels.diff() < 0).all()):
        raise UserError(
            f"times must fall strictly from 1 to 0; got {levels.numel()} values from {levels[0]:g} to {levels[-1]:g}."
        )
    return levels
