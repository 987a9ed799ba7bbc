"""The noise-level weights that are one formula of log-SNR, each as its source prints it.

Every scheme is stated as W, the weight on the squared error of the data estimate (`base`); what it becomes on the
trained target follows there. Each docstring names its limits, and where a widely used script differs from the paper.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from eisbach.diffusion.paths import Path
from eisbach.errors import UserError
from eisbach.weighting.noise_level.base import NoiseLevelTable, NoiseWeight, X0Weight, positive, x0_to_target_weight

_Stated = Literal["trained", "eps", "x0", "v", "u"]
_By = Literal["sigma", "log_snr"]


class Constant(NoiseWeight):
    """Weight 1 on the error of the trained target, or the unweighted loss of another one, restated for it.

    ``Constant(target="eps")`` is DDPM's simple loss whatever the network predicts: W = SNR. ``"x0"`` is W = 1, ``"v"``
    is W = SNR + 1 on a VP path and (alpha^2 + sigma^2)^2 / sigma^2 in general, ``"u"`` is W = ((alpha + sigma) /
    sigma)^2, which is 1/t^2 on the linear path.

    Limits: 1 on the stated target itself. Restated, eps, u and v diverge on x0 as t goes to 0, and x0, u and v diverge
    on eps as SNR goes to 0.

    Parameters
    ----------
    target : {"trained", "eps", "x0", "v", "u"}, default "trained"
        Whose unweighted loss this is.
    """

    name = "constant"

    def __init__(self, target: _Stated = "trained") -> None:
        if target not in get_args(_Stated):
            raise UserError(
                f"the constant weighting's target is {target!r}; choose one of {', '.join(get_args(_Stated))}."
            )
        self.target = target

    def _weight(self, path: Path, target: str, t: Tensor, num_frames: int | None) -> Tensor:
        if self.target in ("trained", target):
            return torch.where(t.isnan(), t, torch.ones_like(t))
        # The weight on x0 is what the stated target's own factor turns into 1.
        log_x0_weight = -x0_to_target_weight(torch.zeros_like(t), path, self.target, t)
        return x0_to_target_weight(log_x0_weight, path, target, t).exp()


class MinSNR(X0Weight):
    """Min-SNR-gamma: W = min(SNR, gamma) on the x0 error, restated exactly for every target and path.

    Hang et al. 2023 (arXiv 2303.09556, section 3.4).

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


class SoftMinSNR(X0Weight):
    """W = gamma SNR / (SNR + gamma) on the x0 error, a smooth minimum: half the harmonic mean of SNR and gamma.

    Crowson et al. 2024 (HDiT, arXiv 2401.11605).

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


class MaxSNR(X0Weight):
    """W = max(SNR, gamma) on the x0 error: the truncated SNR of progressive distillation.

    Salimans & Ho 2022 (arXiv 2202.00512, section 4, "truncated SNR") have gamma = 1: the larger of the x0 loss and the
    eps loss. Hang et al. 2023 (arXiv 2303.09556, section 3.4) compare with it as "Max-SNR-gamma", and their code
    multiplies it by 1/SNR for eps, as here. (That code does the same for v, where 1 / (SNR + 1) is the exact factor.)

    Limits: W is SNR at low noise, so the weight on x0 diverges as t goes to 0; it is gamma at high noise, so the weight
    on eps diverges as SNR goes to 0. Each diverges where that target's own error vanishes. On u and v it stays finite.

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


class P2(X0Weight):
    """W = SNR / (k + SNR)^gamma on the x0 error, which is (k + SNR)^-gamma on eps, the target it was written for.

    Perception prioritised weighting (Choi et al. 2022, arXiv 2204.00227). Its section 3.3 divides DDPM's weight by (k +
    SNR)^gamma; DDPM's simple loss is weight 1 on eps. With k = 1 and gamma = 1 it is weight 1 on x0 times SNR / (1 +
    SNR): on a VP path the weight alpha^2.

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


class Debiased(X0Weight):
    """W = sqrt(SNR) on the x0 error, which is 1/sqrt(SNR) on eps, the target it was written for.

    Debiased estimation (Yu et al. 2023, arXiv 2310.08442). On v of a VP path that is alpha sigma, on the linear path's
    u t (1 - t). Trap: the widely used script for Stable Diffusion weighs v by 1 / (SNR + 1) under this name, which is
    weight 1 on x0 and not this weight; it also caps SNR at 1000, which this does not.

    Limits: the weight on x0 diverges as sqrt(SNR) when t goes to 0, the weight on eps as 1/sqrt(SNR) when SNR goes to
    0; on u and v it falls to 0 at both ends.
    """

    name = "debiased"

    def log_x0_weight(self, log_snr: Tensor) -> Tensor:
        """ln SNR / 2."""
        return log_snr / 2


class EDM(X0Weight):
    """W = SNR + 1/sigma_data^2 on the x0 error: lambda(s) at s = sigma/alpha, written in log-SNR.

    EDM's loss weight (Karras et al. 2022, arXiv 2206.00364, Table 1): lambda(s) = (s^2 + sigma_data^2)/(s
    sigma_data)^2. It makes the effective weight on EDM's preconditioned network output 1 at every noise level (their
    section 5). On the linear path's u it is (1 - t)^2 + t^2 / sigma_data^2.

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


class _LinearPathWeight(X0Weight):
    """A weight that is a formula in the linear path's sigma, as in Stable Diffusion 3's public training script.

    Both are written in the linear path's own noise level, sigma = t in [0, 1], and multiply the loss after the
    network's answer was turned into a data estimate (``x0_hat = x_t - sigma u_hat``). Trap: scripts that skip that step
    put the same formula on the u loss, which is this weight divided by t^2.

    Parameters
    ----------
    by : {"sigma", "log_snr"}, default "sigma"
        With "sigma" only the linear path is allowed: the same formula in another path's sigma would be another weight.
        "log_snr" carries the weight over to any path at equal log-SNR.
    """

    def __init__(self, by: _By = "sigma") -> None:
        if by not in get_args(_By):
            raise UserError(f"the {self.name} weighting's by is {by!r}; choose one of {', '.join(get_args(_By))}.")
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
    """W = 1/sigma^2 on the x0 error, (1 + sqrt(SNR))^2 in terms of SNR: exactly the unweighted u loss of the linear
    path.

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

    Esser et al. 2024 (arXiv 2403.03206, Eq. 21) derive this curve as a density over t, the one that gives the linear
    path the cosine path's log-SNR; the public script offers it as a weight for uniform t.

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


# --- a weight given as a table


class Tabulated(NoiseWeight):
    """The weight on the trained target's own squared error, from a table over t.

    It takes the place of a formula where a curve was measured: the mean of a sample weighting by noise level (so that
    an arm can train with that alone), or a schedule from a diagnosis.

    Parameters
    ----------
    points : list of [t, weight]
        t in [0, 1], increasing; weights finite and at least 0, not all 0. Constant beyond the first and the last.
    """

    name = "tabulated"

    def __init__(self, points: Sequence[Sequence[float]]) -> None:
        self.points = NoiseLevelTable(points)  # type: ignore[arg-type]
        if not any(value > 0 for _, value in self.points.points):
            raise UserError("the tabulated weighting's weights are all 0; at least one must be above 0.")

    def _weight(self, path: Path, target: str, t: Tensor, num_frames: int | None) -> Tensor:
        return self.points(t)
