"""Min-SNR-gamma (Hang et al. 2023, arXiv 2303.09556, section 3.4): W = min(SNR, gamma)."""

from __future__ import annotations

import math

from torch import Tensor

from eisbach.weighting.noise_level.base import X0Weight, positive


class MinSNR(X0Weight):
    """W = min(SNR, gamma) on the x0 error, restated exactly for every target and path.

    On eps that is min(SNR, gamma) / SNR, on v of a VP path min(SNR, gamma) / (SNR + 1), on the linear path's u
    min((1 - t)^2, gamma t^2). Trap: the form min(SNR, gamma) / (SNR + 1) is v's on a VP path only; trainers that use it
    for u, or on the linear path, weigh noise levels by another curve (larger by 1 / (t^2 + (1 - t)^2), up to 2).

    Limits: W is gamma as SNR goes to infinity and falls to 0 with SNR, so no target's weight diverges.

    Parameters
    ----------
    gamma : float > 0, default 5.0
    """

    name = "min_snr"

    def __init__(self, gamma: float = 5.0) -> None:
        self.gamma = positive("min_snr", "gamma", gamma)

    def log_x0_weight(self, log_snr: Tensor) -> Tensor:
        """min(ln SNR, ln gamma)."""
        return log_snr.clamp(max=math.log(self.gamma))
