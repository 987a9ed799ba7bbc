"""Stochastic sampling: the exact posterior of a less noisy state, and the DDIM family built on it.

A noisy sample ``x_t = alpha_t x0 + sigma_t noise`` is a Markov chain in t: from s up to t > s it loses signal by
``alpha_ts = alpha_t / alpha_s`` and gains the variance ``sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2``. Seen from t, and
given the data, x_s is Gaussian (Ho et al. 2020, Eq. 6-7; Kingma et al. 2021, App. A)::

    q(x_s | x_t, x0) = N( (alpha_ts sigma_s^2 / sigma_t^2) x_t + (alpha_s sigma_ts^2 / sigma_t^2) x0,
                          sigma_ts^2 sigma_s^2 / sigma_t^2 )

In log-SNR the ratio ``sigma_ts^2 / sigma_t^2`` is ``1 - SNR_t / SNR_s``, which is how it is computed: without cancellation, and
right at the ends (SNR 0 and infinite). DDIM (Song et al. 2021, Eq. 12) keeps the marginals and takes the share eta^2 of that
variance: eta = 1 is ancestral sampling (DDPM's posterior), eta = 0 the ODE's Euler step of `samplers.sample_ode`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from eisbach.diffusion.paths import Path, get_path
from eisbach.diffusion.samplers import check_times
from eisbach.diffusion.targets import check_target, convert, require_defined
from eisbach.errors import UserError


class Kernel(NamedTuple):
    """A Gaussian step: x_s given x_t and x0 has mean ``of_x x_t + of_x0 x0`` and the variance ``variance`` in each entry.

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
    share = -torch.expm1(rise)  # sigma_ts^2 / sigma_t^2
    of_x = sigma_s / path.sigma(t) * torch.sqrt((1 - eta**2) + eta**2 * torch.exp(rise))
    return Kernel(of_x, path.alpha(s) - path.alpha(t) * of_x, eta**2 * share * sigma_s.square())


@torch.no_grad()
def sample_stochastic(
    predict: Callable[[Tensor, Tensor], Tensor],
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
    predict : callable
        ``(x_t (B, ...), t (B,)) -> output (B, ...)``, in the given target.
    path : Path or str
    target : {"eps", "x0", "v", "u"}
    noise : Tensor [shape=(B, ...)]
        Standard normal; the sampler scales it by sigma(1) itself.
    times : Tensor [shape=(n + 1,)]
        Strictly descending from 1 to 0. The last step ends on the data estimate itself, without noise, also on a path whose
        sigma(0) is not 0 (edm).
    eta : float in [0, 1], default 1.0
        1 is ancestral sampling, 0 is deterministic and equals ``sample_ode(..., method="euler")``.
    generator : torch.Generator or None
        Draws the fresh noise of every step, on its own device.
    fresh_noise : callable or None
        Instead of a generator: ``fresh_noise(step) -> Tensor [shape=(B, ...)]``, standard normal, for steps 1 to n - 1. With
        it each sample's noise can be independent of the batch.
    on_step : callable or None
        ``on_step(step, x)`` after each step, step from 1 to n.

    Returns
    -------
    Tensor [shape=(B, ...)]
        In the dtype and on the device of `noise`.

    Raises
    ------
    UserError
        eta out of range, no source of noise or two of them although eta > 0, unknown target, a malformed schedule, a target
        that is undefined at a visited noise level, an output of another shape, or a result that is not finite.
    """
    path = get_path(path)
    check_target(target)
    _check_eta(eta)
    if eta > 0 and (generator is None) == (fresh_noise is None):
        raise UserError(
            "stochastic sampling draws noise in every step; pass a generator, or fresh_noise, and not both."
        )
    levels = check_times(times)
    require_defined(path, target, levels[:-1])
    x = noise * path.sigma(levels[0]).to(noise)
    count = len(levels) - 1
    for step in range(1, count + 1):
        t = levels[step - 1].to(noise).expand(x.shape[0])
        output = predict(x, t)
        if output.shape != x.shape:
            raise UserError(f"the network returned {tuple(output.shape)} for x_t of {tuple(x.shape)}; they must match.")
        x0 = convert(path, target, "x0", output.to(x.dtype), x, t)
        if step == count:
            x = x0
        else:
            kernel = posterior_kernel(path, levels[step - 1], levels[step], eta)
            x = float(kernel.of_x) * x + float(kernel.of_x0) * x0
            if eta > 0:
                x = x + math.sqrt(float(kernel.variance)) * _draw(step, x, generator, fresh_noise)
        if on_step is not None:
            on_step(step, x)
    if not bool(torch.isfinite(x).all()):
        raise UserError(
            "sampling gave values that are not finite; check the checkpoint, lower guidance_scale or sample in float32."
        )
    return x


def _draw(
    step: int, x: Tensor, generator: torch.Generator | None, fresh_noise: Callable[[int], Tensor] | None
) -> Tensor:
    if fresh_noise is not None:
        drawn = fresh_noise(step)
        if drawn.shape != x.shape:
            raise UserError(f"the fresh noise has {tuple(drawn.shape)} for x_t of {tuple(x.shape)}; they must match.")
        return drawn.to(x)
    device = generator.device if generator is not None else x.device
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)


def _check_eta(eta: float) -> None:
    if not 0 <= eta <= 1:
        raise UserError(f"eta is {eta!r}; it must lie in [0, 1], where 0 is deterministic and 1 is ancestral sampling.")
