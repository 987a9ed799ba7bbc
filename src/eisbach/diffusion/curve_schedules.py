"""Sampling schedules from the file of a measured curve; `eisbach.diffusion.entropic` has the mathematics."""

from __future__ import annotations

import math
import pathlib

import torch
from torch import Tensor

from eisbach.diffusion.entropic import FLOOR, schedule_from_rate
from eisbach.diffusion.paths import Path
from eisbach.diffusion.rate_curve import RateCurve, read_rate_curve
from eisbach.errors import UserError


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
            "the schedule rescaled_entropic spaces its steps by a measured curve; give its file as curve= (schedule_options: "
            "{curve: FILE} in a configuration), as `eisbach signature entropy` writes it."
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
