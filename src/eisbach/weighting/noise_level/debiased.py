"""Debiased estimation (Yu et al. 2023, arXiv 2310.08442): weight 1/sqrt(SNR) on eps."""

from __future__ import annotations

from torch import Tensor

from eisbach.weighting.noise_level.base import X0Weight


class Debiased(X0Weight):
    """W = sqrt(SNR) on the x0 error, which is 1/sqrt(SNR) on eps, the target it was written for.

    On v of a VP path that is alpha sigma, on the linear path's u t (1 - t). Trap: the widely used script for Stable
    Diffusion weighs v by 1 / (SNR + 1) under this name, which is weight 1 on x0 and not this weight; it also caps SNR at
    1000, which this does not.

    Limits: the weight on x0 diverges as sqrt(SNR) when t goes to 0, the weight on eps as 1/sqrt(SNR) when SNR goes to 0;
    on u and v it falls to 0 at both ends.
    """

    name = "debiased"

    def log_x0_weight(self, log_snr: Tensor) -> Tensor:
        """ln SNR / 2."""
        return log_snr / 2
