"""Sampling schedules: the noise levels that a sampler visits, from noise (1) to data (0).

Schedules of t alone (`uniform`, `sa3`) mean another sequence of noise on every path. Schedules of noise (`karras`,
`log_snr`) are stated in ``sigma / alpha``, the noise beside data of size 1, so they visit the same noise on every path;
they need the path. `rescaled_entropic` is measured: it reads a curve's file (`rate_curve` has the mathematics). EDM's
samplers (Karras et al. 2022, arXiv 2206.00364, Eq. 5) use `karras`; on the edm path `uniform` is nearly the same.
"""

from __future__ import annotations

import inspect
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eisbach.diffusion.paths import Path, get_path
from eisbach.diffusion.rate_curve import MIN_POINTS, RateCurve, read_rate_curve
from eisbach.errors import UserError

FLOOR = 0.05
_PARTS = 64  # straight pieces between two measured levels, for a cumulative measure that is smooth enough to invert
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


def rescaled_entropic(
    num_inference_steps: int,
    path: Path,
    curve: str | pathlib.Path | RateCurve | None = None,
    sigma_max: float | None = None,
    floor: float = FLOOR,
) -> Tensor:
    """n + 1 levels evenly spaced in ``int (sigma / alpha) dH``: of the data, or of the class of a signature.

    Parameters
    ----------
    curve : path or RateCurve
        What `eisbach signature entropy` wrote, or a class signature's file.
    sigma_max : float or None
        First level as ``sigma / alpha``, for samplers that cannot start from pure noise; None is t = 1.
    floor : float in (0, 1]
        As in `schedule_from_rate`.

    Raises
    ------
    UserError
        No curve, a file that is missing or something else, a curve of another path, or as `schedule_from_rate`.
    """
    if curve is None:
        raise UserError(
            "the schedule rescaled_entropic spaces its steps by a measured curve; give its file as curve= "
            "(schedule_options: {curve: FILE} in a configuration), as `eisbach signature entropy` writes it."
        )
    measured = curve if isinstance(curve, RateCurve) else read_rate_curve(curve)
    measured.require_path(path)
    start = 1.0
    if sigma_max is not None:
        if not (isinstance(sigma_max, (int, float)) and 0 < sigma_max < math.inf):
            raise UserError(
                f"the rescaled_entropic schedule's sigma_max must be a finite number above 0; got {sigma_max!r}."
            )
        start = float(path.t_from_log_snr(torch.tensor(-2 * math.log(sigma_max), dtype=torch.float64)).clamp(0, 1))
    return schedule_from_rate(*measured.rescaled(path), num_inference_steps, floor=floor, start=start)


SCHEDULES: dict[str, Callable[..., Tensor]] = {
    "uniform": uniform,
    "sa3": sa3,
    "karras": karras,
    "log_snr": log_snr,
    "rescaled_entropic": rescaled_entropic,
}
"""Name to function of the steps, of `path` where it is stated in noise, and of its options; a new schedule is one
line."""


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
        Strictly descending to exactly 0; from exactly 1, except where a schedule starts at ``sigma / alpha`` =
        sigma_max: karras and log_snr always, rescaled_entropic when asked.

    Raises
    ------
    UserError
        Unknown name or option, fewer than 1 step, a missing path, or a curve that is missing or does not fit.
    """
    name = name.replace("-", "_")
    if name not in SCHEDULES:
        raise UserError(f"the schedule {name!r} is not known; choose one of {', '.join(SCHEDULES)}.")
    if isinstance(num_inference_steps, bool) or not isinstance(num_inference_steps, int) or num_inference_steps < 1:
        raise UserError(f"num_inference_steps must be a whole number of at least 1; got {num_inference_steps!r}.")
    parameters = dict(inspect.signature(SCHEDULES[name]).parameters)
    del parameters["num_inference_steps"]
    of_noise = parameters.pop("path", None) is not None
    if unknown := sorted(options.keys() - parameters.keys()):
        known = f"its options are {', '.join(sorted(parameters))}" if parameters else "it has none"
        raise UserError(f"the schedule {name} has no option {', '.join(unknown)}; {known}.")
    for option, value in options.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if option != "curve" and not number and value is not parameters[option].default:
            raise UserError(f"the schedule {name}'s {option} must be a number; got {value!r}.")
    if not of_noise:
        return SCHEDULES[name](num_inference_steps)
    if path is None:
        raise UserError(
            f"the schedule {name} is stated in noise and needs the model's path; pass path=, or use uniform."
        )
    return SCHEDULES[name](num_inference_steps, get_path(path), **options)


def schedule_from_rate(
    t: Tensor | Sequence[float],
    rate: Tensor | Sequence[float],
    num_inference_steps: int,
    *,
    floor: float = FLOOR,
    start: float = 1.0,
) -> Tensor:
    """Points evenly spaced in the cumulative measure of a rate over t, from `start` to exactly 0.

    The rate is linear between the given levels and constant beyond them. A share `floor` of the measure is uniform in
    t: where the rate is zero or next to it, a stretch of length d in t still gets about ``floor * d * n`` of the n
    steps, and no step is longer than ``1 / (floor n)``.

    Parameters
    ----------
    t : Tensor [shape=(m,)] or sequence
        At least 4 levels within [0, 1], strictly rising or strictly falling.
    rate : Tensor [shape=(m,)] or sequence
        Finite, at least 0, somewhere above 0; any scale.
    num_inference_steps : int >= 1
    floor : float in (0, 1], default 0.05
        1 is the uniform schedule.
    start : float in (0, 1], default 1
        The first level.

    Returns
    -------
    Tensor [shape=(num_inference_steps + 1,), float64, CPU]
        Strictly falling.

    Raises
    ------
    UserError
        Too few levels, levels that are not monotone or leave [0, 1], a rate that is negative, not finite or zero
        everywhere, a floor or start out of range, or a rate so concentrated that steps coincide.
    """
    levels, values = _checked_rate(t, rate)
    if not (isinstance(floor, (int, float)) and 0 < floor <= 1):
        raise UserError(f"the floor must be a share of the steps in (0, 1]; got {floor!r} (0.05 is usual).")
    if not 0 < start <= 1:
        raise UserError(f"the schedule's first level must be a noise level in (0, 1]; got {start!r}.")
    knots = np.unique(np.concatenate([[0.0, 1.0], levels, [start]]))
    share = np.arange(_PARTS) / _PARTS
    grid = np.append((knots[:-1, None] + np.diff(knots)[:, None] * share).ravel(), 1.0)
    grid = np.unique(grid[grid <= start])
    density = np.interp(grid, levels, values)
    pieces = np.diff(grid) * (density[1:] + density[:-1]) / 2
    total = pieces.sum()
    if not total > 0:
        raise UserError(f"the measured rate is zero at every level up to t = {start:g}; measure more of the curve.")
    pieces = (1 - floor) * pieces / total + floor * np.diff(grid) / start
    reached = np.concatenate([[0.0], np.cumsum(pieces)])
    times = np.interp(np.linspace(1, 0, num_inference_steps + 1) * reached[-1], reached, grid)
    times[0], times[-1] = start, 0.0
    if (np.diff(times.astype(np.float32)) >= 0).any():
        raise UserError(
            f"{num_inference_steps} steps by this rate coincide at single precision: nearly all of it lies at one "
            "noise level; use fewer steps or a larger floor."
        )
    return torch.from_numpy(times)


def _checked_rate(t: Tensor | Sequence[float], rate: Tensor | Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """(levels rising, rates), float64."""
    levels, values = (np.asarray(value, dtype=np.float64) for value in (t, rate))
    if levels.ndim != 1 or levels.shape != values.shape:
        raise UserError(f"a rate needs one value for each noise level; got {values.shape} for levels {levels.shape}.")
    if len(levels) < MIN_POINTS:
        raise UserError(f"a schedule from a curve needs at least {MIN_POINTS} measured levels; got {len(levels)}.")
    if np.diff(levels)[0] < 0:
        levels, values = levels[::-1], values[::-1]
    if not (np.isfinite(levels).all() and (np.diff(levels) > 0).all() and levels[0] >= 0 and levels[-1] <= 1):
        raise UserError("the measured noise levels must rise or fall strictly within [0, 1]; measure the curve again.")
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        raise UserError(
            f"the rate at t = {levels[bad][0]:g} is {values[bad][0]:g}; a schedule needs rates that are finite and at "
            "least 0: use a reading that cannot be negative (the signature's 'rate' and not its 'chain'), or measure "
            "with more samples."
        )
    if not values.any():
        raise UserError("the measured rate is zero at every noise level; there is nothing to space steps by.")
    return levels, values


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
            f"the {name} schedule from {sigma_max:g} to {sigma_min:g} lies outside the {path.name} path, whose "
            f"sigma/alpha runs from {high:.4g} to {low:.4g}; choose ends within it."
        )
    return max(sigma_min, low), min(sigma_max, high)


def _from_noise(path: Path, noise: Tensor) -> Tensor:
    """t at each sigma / alpha (n,), and 0 behind them."""
    t = path.t_from_log_snr(-2 * noise.log()).clamp(_ALMOST_CLEAN, 1)
    if float(1 - t[0]) < 1e-9:
        t[0] = 1.0  # the path's own end, to rounding
    return torch.cat([t, torch.zeros(1, dtype=torch.float64)])
