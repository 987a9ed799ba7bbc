"""EDM's loss weight (Karras et al. 2022, arXiv 2206.00364, Table 1): lambda(s) = (s^2 + sigma_data^2)/(s sigma_data)^2."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eisbach.weighting.noise_level.base import X0Weight, positive


class EDM(X0Weight):
    """W = SNR + 1/sigma_data^2 on the x0 error: lambda(s) at s = sigma/alpha, written in log-SNR.

    It makes the effective weight on EDM's preconditioned network output 1 at every noise level (their section 5). On the
    linear path's u it is (1 - t)^2 + t^2 / sigma_data^2.

    Limits: W goes as SNR at low noise, so the weight on x0 diverges as t goes to 0; it is 1/sigma_data^2 at high noise,
    so the weight on eps diverges as SNR goes to 0. On u and v it stays finite.

    Parameters
    ----------
    sigma_data : float > 0, default 0.5
        Standard deviation of the data (of the latents).
    """

    name = "edm"

    def __init__(self, sigma_data: float = 0.5) -> None:
        self.sigma_data = positive("edm", "sigma_data", sigma_data)

    def log_x0_weight(self, log_snr: Tensor) -> Tensor:
        """ln(SNR + 1/sigma_data^2)."""
        return torch.logaddexp(log_snr, torch.full_like(log_snr, -2 * math.log(self.sigma_data)))
