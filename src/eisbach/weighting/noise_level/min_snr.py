"""Min-SNR-gamma (Hang et al. 2023): W = min(SNR, gamma)."""

from __future__ import annotations

import math

from torch import Tensor

from eisbach.errors import UserError
from eisbach.weighting.noise_level.base import X0Weight


class MinSNR(X0Weight):
    """W = min(SNR, gamma) on the x0 error, restated exactly for every target and path.

    Parameters
    ----------
    gamma : float > 0, default 5.0
    """

    name = "min_snr"

    def __init__(self, gamma: float = 5.0) -> None:
        self.gamma = positive("min_snr", gamma)

    def log_x0_weight(self, log_snr: Tensor) -> Tensor:
        """min(ln SNR, ln gamma)."""
        return log_snr.clamp(max=math.log(self.gamma))


def positive(scheme: str, gamma: float) -> float:
    """`gamma` as a float, or a `UserError` when it is not a finite number above 0."""
    if not 0 < gamma < math.inf:
        raise UserError(f"the {scheme} weighting's gamma must be a finite number above 0; got {gamma!r}.")
    return float(gamma)
