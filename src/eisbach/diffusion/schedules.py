"""Sampling schedules: the noise levels that a sampler visits, from noise (1) to data (0)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from eisbach.errors import UserError


def uniform(num_inference_steps: int) -> Tensor:
    """n + 1 evenly spaced points from 1 to 0. On the edm path this is EDM's schedule (Karras et al. 2022, Eq. 5)."""
    return torch.linspace(1, 0, num_inference_steps + 1, dtype=torch.float64)


def sa3(num_inference_steps: int) -> Tensor:
    """Stable Audio 3's schedule: t = sigmoid(-(2 - 8.2 t_lin)) over evenly spaced t_lin, with both ends pinned."""
    t = torch.sigmoid(8.2 * uniform(num_inference_steps) - 2)
    t[0], t[-1] = 1.0, 0.0
    return t


SCHEDULES: dict[str, Callable[[int], Tensor]] = {"uniform": uniform, "sa3": sa3}
"""Name to function; a new schedule is one function and one line here."""


def get_schedule(name: str, num_inference_steps: int) -> Tensor:
    """Noise levels for a sampler.

    Parameters
    ----------
    name : {"uniform", "sa3"}
    num_inference_steps : int >= 1

    Returns
    -------
    Tensor [shape=(num_inference_steps + 1,), float64, CPU]
        Strictly descending from exactly 1 to exactly 0.

    Raises
    ------
    UserError
        Unknown name, or fewer than 1 step.
    """
    if name not in SCHEDULES:
        raise UserError(f"the schedule {name!r} is not known; choose one of {', '.join(SCHEDULES)}.")
    if isinstance(num_inference_steps, bool) or not isinstance(num_inference_steps, int) or num_inference_steps < 1:
        raise UserError(f"num_inference_steps must be a whole number of at least 1; got {num_inference_steps!r}.")
    return SCHEDULES[name](num_inference_steps)
