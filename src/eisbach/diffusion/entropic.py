"""Schedules from a measured curve: steps where information about the data, or about a class of it, arrives.

**Entropic time** (Stancevic et al. 2025, arXiv 2504.13612). With ``s = sigma / alpha`` the noisy sample is ``x0 + s noise`` up to
scale, so the entropy rate of their variance-exploding path holds on every path (it is the I-MMSE relation, ``dH/dSNR = -mse/2``)::

    dH[x0 | x_t]/dt = (s'/s^3) mse(t),      mse(t) = E|x0 - E[x0 | x_t]|^2, summed over dimensions

**Rescaled** entropic time counts each bit by the noise at which it arrives: ``phi = int s dH = int (s'/s^2) mse dt``. Written in s
neither depends on how a path numbers its noise levels, so a schedule visits the same noise on every path. On the linear path
``s'/s^2 = 1/t^2`` and ``mse = t^2 E|u - u_hat|^2``: the rescaled rate is the loss of a velocity network itself, summed over
dimensions. For Gaussian data of standard deviation c the rescaled points are ``s_j = c tan`` of evenly spaced angles
(`gaussian_levels`).

A class signature's rate ``dH[Z | X_t]/dt`` takes the place of the first formula as it is, and s times it that of the second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from eisbach.diffusion.paths import Path
from eisbach.errors import UserError

MIN_POINTS = 4
FLOOR = 0.05
_PARTS = 64  # straight pieces between two measured levels, for a cumulative measure that is smooth enough to invert


def noise_over_data(path: Path, t: Tensor) -> Tensor:
    """``s = sigma / alpha`` at each t; infinite where no data is left. Same shape as `t`."""
    return torch.exp(-path.log_snr(t) / 2)


def entropic_rate(path: Path, t: Tensor, mse: Tensor) -> Tensor:
    """dH[x0 | x_t]/dt in nats per unit of t.

    Parameters
    ----------
    path : Path
    t : Tensor [shape=(n,)], where log-SNR is finite
    mse : Tensor [shape=(n,)], >= 0
        E|x0 - E[x0 | x_t]|^2, summed over dimensions.
    """
    return -path.log_snr_slope(t) / 2 * torch.exp(path.log_snr(t)) * mse


def rescaled_rate(path: Path, t: Tensor, mse: Tensor) -> Tensor:
    """``s dH/dt``; on the linear path the velocity's squared error summed over dimensions. Arguments as `entropic_rate`."""
    return noise_over_data(path, t) * entropic_rate(path, t, mse)


def gaussian_levels(c: float, num_inference_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """The rescaled entropic noise levels of Gaussian data, n + 1 values of ``sigma / alpha`` from sigma_max to sigma_min.

    Parameters
    ----------
    c : float > 0
        The data's standard deviation.
    """
    if not (0 < c < math.inf and 0 <= sigma_min < sigma_max):
        raise UserError(
            f"Gaussian data needs a standard deviation c > 0 and 0 <= sigma_min < sigma_max; got {c!r}, {sigma_min!r}, {sigma_max!r}."
        )
    ends = math.atan(sigma_max / c), math.atan(sigma_min / c)
    return c * torch.tan(torch.linspace(*ends, num_inference_steps + 1, dtype=torch.float64))


def schedule_from_rate(
    t: Tensor | Sequence[float],
    rate: Tensor | Sequence[float],
    num_inference_steps: int,
    *,
    floor: float = FLOOR,
    start: float = 1.0,
) -> Tensor:
    """Points evenly spaced in the cumulative measure of a rate over t, from `start` to exactly 0.

    The rate is linear between the given levels and constant beyond them. A share `floor` of the measure is uniform in t: where
    the rate is zero or next to it, a stretch of length d in t still gets about ``floor * d * n`` of the n steps, and no step is longer
    than ``1 / (floor n)``.

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
        Too few levels, levels that are not monotone or leave [0, 1], a rate that is negative, not finite or zero everywhere, a
        floor or start out of range, or a rate so concentrated that steps coincide.
    """
    levels, values = _checked(t, rate)
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
    found = np.interp(np.linspace(1, 0, num_inference_steps + 1) * reached[-1], reached, grid)
    found[0], found[-1] = start, 0.0
    if (np.diff(found.astype(np.float32)) >= 0).any():
        raise UserError(
            f"{num_inference_steps} steps by this rate coincide at single precision: nearly all of it lies at one noise level; "
            "use fewer steps or a larger floor."
        )
    return torch.from_numpy(found)


def _checked(t: Tensor | Sequence[float], rate: Tensor | Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
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
            f"the rate at t = {levels[bad][0]:g} is {values[bad][0]:g}; a schedule needs rates that are finite and at least 0: use a "
            "reading that cannot be negative (the signature's 'rate' and not its 'chain'), or measure with more samples."
        )
    if not values.any():
        raise UserError("the measured rate is zero at every noise level; there is nothing to space steps by.")
    return levels, values
