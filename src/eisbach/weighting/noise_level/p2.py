"""P2, perception prioritised weighting (Choi et al. 2022, arXiv 2204.00227): the eps loss over (k + SNR)^gamma."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eisbach.errors import UserError
from eisbach.weighting.noise_level.base import X0Weight, positive


class P2(X0Weight):
    """W = SNR / (k + SNR)^gamma on the x0 error, which is (k + SNR)^-gamma on eps, the target it was written for.

    The paper's section 3.3 divides DDPM's weight by (k + SNR)^gamma; DDPM's simple loss is weight 1 on eps. With k = 1 and
    gamma = 1 it is weight 1 on x0 times SNR / (1 + SNR): on a VP path the weight alpha^2.

    Limits: W falls to 0 with SNR (weight k^-gamma on eps). As SNR goes to infinity W goes as SNR^(1 - gamma): it
    diverges on x0 for gamma < 1, is 1 for gamma = 1 and vanishes for gamma > 1.

    Parameters
    ----------
    k : float > 0, default 1.0
        Bounds the weight at high noise.
    gamma : float >= 0, default 1.0
        0 is the unweighted eps loss; the paper uses 0.5 and 1.
    """

    name = "p2"

    def __init__(self, k: float = 1.0, gamma: float = 1.0) -> None:
        self.k = positive("p2", "k", k)
        if isinstance(gamma, bool) or not isinstance(gamma, (int, float)) or not 0 <= gamma < math.inf:
            raise UserError(f"the p2 weighting's gamma must be a finite number of at least 0; got {gamma!r}.")
        self.gamma = float(gamma)

    def log_x0_weight(self, log_snr: Tensor) -> Tensor:
        """ln SNR - gamma ln(k + SNR), with the leading powers taken together so that infinities do not meet."""
        log_k = torch.full_like(log_snr, math.log(self.k))
        high_noise = log_snr - self.gamma * torch.logaddexp(log_k, log_snr)
        low_noise = -self.gamma * torch.logaddexp(log_k - log_snr, torch.zeros_like(log_snr))
        if self.gamma != 1:  # 0 * infinity is not 0
            low_noise = (1 - self.gamma) * log_snr + low_noise
        return torch.where(log_snr > 0, low_noise, high_noise)
