"""Max-SNR-gamma, the truncated SNR of progressive distillation: W = max(SNR, gamma)."""

from __future__ import annotations

import math

from torch import Tensor

from eisbach.weighting.noise_level.base import X0Weight, positive


class MaxSNR(X0Weight):
    """W = max(SNR, gamma) on the x0 error.

    Salimans & Ho 2022 (arXiv 2202.00512, section 4, "truncated SNR") have gamma = 1: the larger of the x0 loss and the
    eps loss. Hang et al. 2023 (arXiv 2303.09556, section 3.4) compare with it as "Max-SNR-gamma", and their code
    multiplies it by 1/SNR for eps, as here. (That code does the same for v, where 1 / (SNR + 1) is the exact factor.)

    Limits: W is SNR at low noise, so the weight on x0 diverges as t goes to 0; it is gamma at high noise, so the weight on
    eps diverges as SNR goes to 0. Each diverges where that target's own error vanishes. On u and v it stays finite.

    Parameters
    ----------
    gamma : float > 0, default 1.0
    """

    name = "max_snr"

    def __init__(self, gamma: float = 1.0) -> None:
        self.gamma = positive("max_snr", "gamma", gamma)

    def log_x0_weight(self, log_snr: Tensor) -> Tensor:
        """max(ln SNR, ln gamma)."""
        return log_snr.clamp(min=math.log(self.gamma))
