"""The constant weight: 1 on the error of whatever target is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from eisbach.diffusion.paths import Path
from eisbach.weighting.noise_level.base import NoiseWeight


class Constant(NoiseWeight):
    """Weight 1 at every noise level. In terms of x0 that is SNR for eps, SNR + 1 for v on vp, 1/t^2 for u on linear."""

    name = "constant"

    def _weight(self, path: Path, target: str, t: Tensor, num_frames: int | None) -> Tensor:
        return torch.ones_like(t)
