"""Soft Min-SNR (Crowson et al. 2024, HDiT): a smooth minimum, W = gamma SNR / (SNR + gamma)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eisbach.weighting.noise_level.base import X0Weight
from eisbach.weighting.noise_level.min_snr import positive


class SoftMinSNR(X0Weight):
    """W = gamma SNR / (SNR + gamma) on the x0 error: half the harmonic mean of SNR and gamma.

    Parameters
    ----------
    gamma : float > 0, default 4.0
    """

    name = "soft_min_snr"

    def __init__(self, gamma: float = 4.0) -> None:
        self.gamma = positive("soft_min_snr", gamma)

    def log_x0_weight(self, log_snr: Tensor) -> Tensor:
        """-ln(1/SNR + 1/gamma)."""
        return -torch.logaddexp(-log_snr, torch.full_like(log_snr, -math.log(self.gamma)))
