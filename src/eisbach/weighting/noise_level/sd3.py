"""Stable Diffusion 3's two loss weights, as its public training script has them: sigma_sqrt and cosmap.

Both are written in the linear path's own noise level, sigma = t in [0, 1], and multiply the loss after the network's
answer was turned into a data estimate (``x0_hat = x_t - sigma u_hat``). Trap: scripts that skip that step put the same
formula on the u loss, which is this weight divided by t^2.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor

from eisbach.diffusion.paths import Path
from eisbach.errors import UserError
from eisbach.weighting.noise_level.base import X0Weight

By = Literal["sigma", "log_snr"]


class _LinearPathWeight(X0Weight):
    """A weight that is a formula in the linear path's sigma.

    Parameters
    ----------
    by : {"sigma", "log_snr"}, default "sigma"
        With "sigma" only the linear path is allowed: the same formula in another path's sigma would be another weight.
        "log_snr" carries the weight over to any path at equal log-SNR.
    """

    def __init__(self, by: By = "sigma") -> None:
        if by not in get_args(By):
            raise UserError(f"the {self.name} weighting's by is {by!r}; choose one of {', '.join(get_args(By))}.")
        self.by = by

    def _weight(self, path: Path, target: str, t: Tensor, num_frames: int | None) -> Tensor:
        if self.by == "sigma" and path.name != "linear":
            raise UserError(
                f"the {self.name} weighting is written in the linear path's sigma and is undefined on the {path.name} "
                "path, whose sigma means another noise level; pass by='log_snr' to carry it over at equal log-SNR, or "
                "choose a weighting that is stated over SNR, such as min_snr."
            )
        return super()._weight(path, target, t, num_frames)

    @abstractmethod
    def log_x0_weight(self, log_snr: Tensor) -> Tensor:
        """ln W at the linear path's sigma = 1 / (1 + sqrt(SNR))."""


class SigmaSqrt(_LinearPathWeight):
    """W = 1/sigma^2 on the x0 error, (1 + sqrt(SNR))^2 in terms of SNR: exactly the unweighted u loss of the linear path.

    Limits: the weight on x0 diverges as SNR when t goes to 0; W is 1 at pure noise, so the weight on eps diverges as
    1/SNR there. On u it is 1 and on v it stays finite.

    Parameters
    ----------
    by : {"sigma", "log_snr"}, default "sigma"
        "sigma" allows the linear path only; "log_snr" carries W over to any path.
    """

    name = "sigma_sqrt"

    def log_x0_weight(self, log_snr: Tensor) -> Tensor:
        """2 ln(1 + exp(log_snr / 2))."""
        return 2 * torch.logaddexp(log_snr / 2, torch.zeros_like(log_snr))


class CosMap(_LinearPathWeight):
    """W = 2 / (pi (1 - 2 sigma + 2 sigma^2)) on the x0 error: (2/pi) (1 + 1/cosh(log_snr / 2)) in terms of SNR.

    Esser et al. 2024 (arXiv 2403.03206, Eq. 21) derive this curve as a density over t, the one that gives the linear path
    the cosine path's log-SNR; the public script offers it as a weight for uniform t.

    Limits: 2/pi at both ends, 4/pi at t = 1/2. So the weight on eps diverges as 1/SNR at pure noise; on the others it
    stays finite.

    Parameters
    ----------
    by : {"sigma", "log_snr"}, default "sigma"
        "sigma" allows the linear path only; "log_snr" carries W over to any path.
    """

    name = "cosmap"

    def log_x0_weight(self, log_snr: Tensor) -> Tensor:
        """ln(2/pi) + ln(1 + sech(log_snr / 2)), from alpha^2 + sigma^2 = (1 + SNR) / (1 + sqrt(SNR))^2."""
        return math.log(2 / math.pi) + torch.log1p(1 / torch.cosh(log_snr / 2))
