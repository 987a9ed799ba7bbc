"""Soft Min-SNR (Crowson et al. 2024, HDiT): a smooth minimum, W = gamma SNR / (SNR + gamma)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eisbach.weighting.noise_level.base import X0Weight, positive


class SoftMinSNR(X0Weight):
    """W = gamma SNR / (SNR + gamma) on the x0 error: half the harmonic mean of SNR and gamma.

    Limits: as `MinSNR`, gamma as SNR goes to infinity and SNR as it goes to 0; no target's weight diverges.

    Parameters
    ----------
    gamma : float > 0, default 4.0
    """

    name = "soft_min_snr"

    def __init__(self, gamma: float = 4.0) -> None:
        self.gamma = positive("soft_min_snr", "gamma", gamma)

    def log_x0_weight(self, log_snr: Tensor) -> Tensor:
        """-ln(1/SNR + 1/gamma)."""
        return -torch.logaddexp(-log_snr, torch.full_like(log_snr, -math.log(self.gamma)))
