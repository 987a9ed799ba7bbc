"""Ping-pong sampling, for distilled models: guess the data, noise the guess to the next level with fresh noise, repeat.

A distilled model is trained to name the data from any noise level in one evaluation, so each step jumps to its guess and back
up to a lower level: ``x0 = x0(x_t, t)``, ``x_s = alpha(s) x0 + sigma(s) noise``. This is multistep consistency sampling (Song
et al. 2023, Algorithm 1); Stable Audio 3's distilled models are played with 8 steps of it, without guidance. A model that was not
distilled gives blurred guesses: sample it along the ODE (`samplers.sample_ode`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from eisbach.diffusion.paths import Path, get_path
from eisbach.diffusion.samplers import check_times
from eisbach.diffusion.targets import check_target, convert, require_defined
from eisbach.errors import UserError


@torch.no_grad()
def sample_pingpong(
    predict: Callable[[Tensor, Tensor], Tensor],
    *,
    path: Path | str,
    target: str,
    noise: Tensor,
    times: Tensor,
    fresh_noise: Callable[[int], Tensor],
    on_step: Callable[[int, Tensor], object] | None = None,
) -> Tensor:
    """Data drawn from `noise` in ``len(times) - 1`` evaluations; no gradient is recorded.

    Parameters
    ----------
    predict : callable
        ``(x_t (B, ...), t (B,)) -> output (B, ...)``, in the given target.
    path : Path or str
    target : {"eps", "x0", "v", "u"}
    noise : Tensor [shape=(B, ...)]
        Standard normal; the sampler scales it by sigma(1) itself.
    times : Tensor [shape=(n + 1,)]
        Strictly descending from 1 to 0, as `schedules.get_schedule` gives.
    fresh_noise : callable
        ``fresh_noise(step) -> Tensor [shape=(B, ...)]``: standard normal, for the end of each step from 1 to n - 1. Draw every
        sample's from its own generator, so that it does not depend on the batch.
    on_step : callable or None
        ``on_step(step, x)`` after each step, step from 1 to n.

    Returns
    -------
    Tensor [shape=(B, ...)]
        In the dtype and on the device of `noise`.

    Raises
    ------
    UserError
        Unknown target, a malformed schedule, a target that is undefined at a visited noise level, an output or fresh noise of
        another shape, or a result that is not finite.
    """
    path = get_path(path)
    check_target(target)
    levels = check_times(times)
    require_defined(path, target, levels[:-1])
    points = [level.to(device=noise.device, dtype=noise.dtype) for level in levels]
    x = noise * path.sigma(points[0])
    count = len(points) - 1
    for step in range(1, count + 1):
        t = points[step - 1].expand(x.shape[0])
        output = predict(x, t)
        _check_shape("the network returned", output, x)
        x = convert(path, target, "x0", output.to(x.dtype), x, t)
        if step < count:  # t = 0 means clean data, whatever sigma(0) of the path is
            renewed = fresh_noise(step).to(x)
            _check_shape("the fresh noise has", renewed, x)
            x = path.alpha(points[step]) * x + path.sigma(points[step]) * renewed
        if on_step is not None:
            on_step(step, x)
    if not bool(torch.isfinite(x).all()):
        raise UserError("sampling gave values that are not finite; check the checkpoint, or sample in float32.")
    return x


def _check_shape(what: str, value: Tensor, x: Tensor) -> None:
    if value.shape != x.shape:
        raise UserError(f"{what} {tuple(value.shape)} for x_t of {tuple(x.shape)}; they must match.")
