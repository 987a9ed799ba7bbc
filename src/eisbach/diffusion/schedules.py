"""Sampling schedules: the noise levels that a sampler visits, from noise (1) to data (0).

Two kinds. Schedules of t alone (`uniform`, `sa3`) mean another sequence of noise on every path. Schedules of noise (`karras`,
`log_snr`) are stated in ``sigma / alpha``, the noise beside data of size 1, so they visit the same noise on every path; they need
the path. A third kind is measured: `rescaled_entropic` (`diffusion.entropic`) reads a curve's file. EDM's samplers (Karras et al. 2022, arXiv 2206.00364, Eq. 5) use `karras`; on the edm path `uniform` is nearly the same.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eisbach.diffusion.curve_schedules import rescaled_entropic
from eisbach.diffusion.paths import Path, get_path
from eisbach.errors import UserError

_ALMOST_CLEAN = 1e-12  # t of a path's own sigma_min: t = 0 itself stands for clean data


def uniform(num_inference_steps: int) -> Tensor:
    """n + 1 evenly spaced points from 1 to 0: on the edm path EDM's spacing (Karras et al. 2022, Eq. 5)."""
    return torch.linspace(1, 0, num_inference_steps + 1, dtype=torch.float64)


def sa3(num_inference_steps: int) -> Tensor:
    """Stable Audio 3's schedule: t = sigmoid(-(2 - 8.2 t_lin)) over evenly spaced t_lin, with both ends pinned."""
    t = torch.sigmoid(8.2 * uniform(num_inference_steps) - 2)
    t[0], t[-1] = 1.0, 0.0
    return t


def karras(
    num_inference_steps: int, path: Path, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Tensor:
    """EDM's schedule (Eq. 5) on any path: n levels evenly spaced in ``(sigma / alpha)^(1 / rho)``, then clean data.

    Parameters
    ----------
    sigma_min, sigma_max : float
        Ends, as noise beside data of standard deviation 1; cut to what the path has.
    rho : float > 0, default 7
        Larger spends more steps at little noise.
    """
    if not 0 < rho < math.inf:
        raise UserError(f"the karras schedule's rho must be a finite number above 0; got {rho!r} (7 is usual).")
    low, high = _noise_range("karras", path, sigma_min, sigma_max)
    return _from_noise(
        path, torch.lerp(*_ends(high ** (1 / rho), low ** (1 / rho)), _steps(num_inference_steps)) ** rho
    )


def log_snr(num_inference_steps: int, path: Path, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Tensor:
    """n levels evenly spaced in log-SNR between two ends, then clean data: `karras` with an infinite rho.

    Parameters
    ----------
    sigma_min, sigma_max : float
        As for `karras`.
    """
    low, high = _noise_range("log_snr", path, sigma_min, sigma_max)
    return _from_noise(path, torch.lerp(*_ends(math.log(high), math.log(low)), _steps(num_inference_steps)).exp())


SCHEDULES: dict[str, Callable[[int], Tensor]] = {"uniform": uniform, "sa3": sa3}
"""Schedules of t: name to function; a new schedule is one function and one line here."""

PATH_SCHEDULES: dict[str, Callable[..., Tensor]] = {"karras": karras, "log_snr": log_snr}
"""Schedules of noise: name to function of (steps, path, options), whose other parameters are its options."""

MEASURED_SCHEDULES: dict[str, Callable[..., Tensor]] = {"rescaled_entropic": rescaled_entropic}
"""Schedules of a measured curve, in the same form; they need the option `curve`."""


def get_schedule(name: str, num_inference_steps: int, path: Path | str | None = None, **options: Any) -> Tensor:
    """Noise levels for a sampler.

    Parameters
    ----------
    name : {"uniform", "sa3", "karras", "log_snr", "rescaled_entropic"}
        A hyphen counts as an underscore.
    num_inference_steps : int >= 1
    path : Path, str or None
        Needed by all but uniform and sa3, which do not read it.
    **options
        Of karras and log_snr (their ends); of rescaled_entropic: `curve`, a file, and sigma_max and floor.

    Returns
    -------
    Tensor [shape=(num_inference_steps + 1,), float64, CPU]
        Strictly descending to exactly 0; from exactly 1, except where a schedule starts at ``sigma / alpha`` = sigma_max: karras and
        log_snr always, rescaled_entropic when asked.

    Raises
    ------
    UserError
        Unknown name or option, fewer than 1 step, a missing path, or a curve that is missing or does not fit.
    """
    name = name.replace("-", "_")
    known: dict[str, Callable[..., Tensor]] = {**SCHEDULES, **PATH_SCHEDULES, **MEASURED_SCHEDULES}
    if name not in known:
        raise UserError(f"the schedule {name!r} is not known; choose one of {', '.join(known)}.")
    if isinstance(num_inference_steps, bool) or not isinstance(num_inference_steps, int) or num_inference_steps < 1:
        raise UserError(f"num_inference_steps must be a whole number of at least 1; got {num_inference_steps!r}.")
    if name in SCHEDULES:
        if options:
            raise UserError(f"the schedule {name} has no options; it got {', '.join(sorted(options))}.")
        return SCHEDULES[name](num_inference_steps)
    if path is None:
        raise UserError(
            f"the schedule {name} is stated in noise and needs the model's path; pass path=, or use uniform."
        )
    parameters = inspect.signature(known[name]).parameters
    allowed = set(parameters) - {"num_inference_steps", "path"}
    if unknown := sorted(options.keys() - allowed):
        raise UserError(
            f"the schedule {name} has no option {', '.join(unknown)}; its options are {', '.join(sorted(allowed))}."
        )
    for option, value in options.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if option != "curve" and not number and value is not parameters[option].default:
            raise UserError(f"the schedule {name}'s {option} must be a number; got {value!r}.")
    return known[name](num_inference_steps, get_path(path), **options)


def _steps(count: int) -> Tensor:
    """0 ... 1 in `count` points."""
    return torch.linspace(0, 1, count, dtype=torch.float64)


def _ends(first: float, last: float) -> tuple[Tensor, Tensor]:
    return torch.tensor(first, dtype=torch.float64), torch.tensor(last, dtype=torch.float64)


def _noise_range(name: str, path: Path, sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """(low, high) of sigma / alpha, cut to what the path has."""
    if not 0 < sigma_min < sigma_max < math.inf:
        raise UserError(
            f"the {name} schedule got sigma_min={sigma_min!r} and sigma_max={sigma_max!r}; choose finite values with "
            "0 < sigma_min < sigma_max (0.002 and 80 are usual)."
        )
    low, high = torch.exp(-path.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)) / 2).tolist()
    if sigma_min >= high or sigma_max <= low:
        raise UserError(
            f"the {name} schedule from {sigma_max:g} to {sigma_min:g} lies outside the {path.name} path, whose sigma/alpha "
            f"runs from {high:.4g} to {low:.4g}; choose ends within it."
        )
    return max(sigma_min, low), min(sigma_max, high)


def _from_noise(path: Path, noise: Tensor) -> Tensor:
    """t at each sigma / alpha (n,), and 0 behind them."""
    t = path.t_from_log_snr(-2 * noise.log()).clamp(_ALMOST_CLEAN, 1)
    if float(1 - t[0]) < 1e-9:
        t[0] = 1.0  # the path's own end, to rounding
    return torch.cat([t, torch.zeros(1, dtype=torch.float64)])
