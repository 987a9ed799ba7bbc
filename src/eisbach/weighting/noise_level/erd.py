"""Recoverability weighting (Elucidated Representation Diffusion, Eqs. 11 and 110): effort where the input shows the
target.

``w_y = sqrt((c_x alpha)^2 + (c_eps sigma)^2)`` for a target ``y = c_x x0 + c_eps noise``. This rule is written for each
target directly, not through x0: the score depends on the parameterisation, on purpose.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eisbach.diffusion.paths import Path
from eisbach.diffusion.targets import coefficients
from eisbach.weighting.noise_level.base import NoiseWeight


class ERD(NoiseWeight):
    """The recoverability score of the target: alpha for x0, sigma for eps, sqrt(alpha^2 + sigma^2) for u.

    For v Eq. 110 gives sqrt(2) alpha sigma, as here; the paper's list prints alpha sigma, the same up to its
    normalisation. It is derived for noise levels drawn uniformly in log-SNR and is not rescaled for another density
    here. The paper normalises the weights to keep the mean loss: use ``normalisation="mean1"`` for that.
    """

    name = "erd"

    def _weight(self, path: Path, target: str, t: Tensor, num_frames: int | None) -> Tensor:
        c_x, c_eps = coefficients(path, target, t)
        return torch.hypot(c_x * path.alpha(t), c_eps * path.sigma(t))
