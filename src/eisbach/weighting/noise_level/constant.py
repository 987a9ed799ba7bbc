"""The constant weight: the unweighted loss of one target."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from eisbach.diffusion.paths import Path
from eisbach.errors import UserError
from eisbach.weighting.noise_level.base import NoiseWeight, x0_to_target_weight

Stated = Literal["trained", "eps", "x0", "v", "u"]


class Constant(NoiseWeight):
    """Weight 1 on the error of the trained target, or the unweighted loss of another one, restated for it.

    ``Constant(target="eps")`` is DDPM's simple loss whatever the network predicts: W = SNR. ``"x0"`` is W = 1, ``"v"`` is
    W = SNR + 1 on a VP path and (alpha^2 + sigma^2)^2 / sigma^2 in general, ``"u"`` is W = ((alpha + sigma) / sigma)^2,
    which is 1/t^2 on the linear path.

    Limits: 1 on the stated target itself. Restated, eps, u and v diverge on x0 as t goes to 0, and x0, u and v diverge on
    eps as SNR goes to 0.

    Parameters
    ----------
    target : {"trained", "eps", "x0", "v", "u"}, default "trained"
        Whose unweighted loss this is.
    """

    name = "constant"

    def __init__(self, target: Stated = "trained") -> None:
        if target not in get_args(Stated):
            raise UserError(
                f"the constant weighting's target is {target!r}; choose one of {', '.join(get_args(Stated))}."
            )
        self.target = target

    def _weight(self, path: Path, target: str, t: Tensor, num_frames: int | None) -> Tensor:
        if self.target in ("trained", target):
            return torch.where(t.isnan(), t, torch.ones_like(t))
        # The weight on x0 is what the stated target's own factor turns into 1.
        log_x0_weight = -x0_to_target_weight(torch.zeros_like(t), path, self.target, t)
        return x0_to_target_weight(log_x0_weight, path, target, t).exp()
