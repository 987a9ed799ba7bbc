"""Densities that are stated over log-SNR, the coordinate that all paths share: uniform, normal and EDM's.

They need the path, which turns log-SNR into t. Where the path's own log-SNR is bounded (vp at pure noise, edm at both
ends) the normal ones are cut off there and renormalised: no draw is moved to an end.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eisbach.diffusion.noise_levels.base import NoiseLevelDensity, TruncatedNormal, keep_nan, number, positive, wide
from eisbach.diffusion.paths import Path, get_path
from eisbach.errors import UserError


def log_snr_range(path: Path | str) -> tuple[float, float]:
    """(lowest, highest) log-SNR of a path, at t = 1 and t = 0; infinite where no data or no noise is left."""
    ends = get_path(path).log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64))
    return float(ends[0]), float(ends[1])


class _OverLogSNR(NoiseLevelDensity):
    """A density over log-SNR on a path. t falls as log-SNR rises, so shares below t are shares above log-SNR."""

    path: Path

    @property
    def built_for(self) -> Path:
        """The path, which turns log-SNR into t."""
        return self.path

    @abstractmethod
    def _quantile(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The log-SNR with a share `lower` of the draws below it and `upper` = 1 - lower above it."""

    @abstractmethod
    def _log_pdf(self, log_snr: Tensor) -> Tensor:
        """ln density per nat of log-SNR; -inf outside the support."""

    @abstractmethod
    def _share_above(self, log_snr: Tensor) -> Tensor:
        """The share of draws above log_snr."""

    def quantile(self, q: Tensor, num_frames: int | Tensor | None = None) -> Tensor:
        """The t at the log-SNR above which a share q of the draws lies."""
        # Rounding of the path's inverse may leave [0, 1] by one unit in the last place.
        return self.path.t_from_log_snr(self._quantile(1 - q, q)).clamp(0, 1)

    def log_pdf(self, t: Tensor, num_frames: int | Tensor | None = None) -> Tensor:
        """ln p(log-SNR) plus ln |d log-SNR / dt|."""
        t = wide(t)
        inside = (t >= 0) & (t <= 1)
        log_snr = self.path.log_snr(torch.where(inside, t, 0.5))
        inside &= log_snr.isfinite()  # where it is infinite all of these densities have vanished, also over t
        safe = torch.where(inside, t, 0.5)
        value = self._log_pdf(self.path.log_snr(safe)) + self.path.log_snr_slope(safe).abs().log()
        return keep_nan(t, torch.where(inside, value, -math.inf))

    def cdf(self, t: Tensor, num_frames: int | Tensor | None = None) -> Tensor:
        """The share of draws above the log-SNR of t."""
        t = wide(t)
        inside = torch.where(t < 1, self._share_above(self.path.log_snr(t.clamp(0, 1))), 1.0)
        return keep_nan(t, torch.where(t > 0, inside, 0.0))  # no density has an atom: the ends are exact


@dataclass(frozen=True)
class LogSNRUniform(_OverLogSNR):
    """Uniform in log-SNR between `low` and `high`: every ratio of noise to data is drawn equally often.

    Attributes
    ----------
    path : Path, or its name
    low, high : float or None
        In nats of ln(alpha^2 / sigma^2). None takes the path's own end; where that is infinite a number is required,
        as there is no uniform density on an infinite range.
    """

    path: Path
    low: float | None = None
    high: float | None = None
    name: ClassVar[str] = "log_snr_uniform"

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", get_path(self.path))
        own = log_snr_range(self.path)
        missing = [
            option for option, given, end in zip(("low", "high"), (self.low, self.high), own, strict=True)
            if given is None and math.isinf(end)
        ]  # fmt: skip
        if missing:
            raise UserError(
                f"the log_snr_uniform density needs {' and '.join(missing)} on the {self.path.name} path, whose "
                "log-SNR has no end there; low=-10 and high=10, for example, leave out less than 1% of t at each end "
                "of the linear path."
            )
        low = own[0] if self.low is None else number(self.name, "low", self.low)
        high = own[1] if self.high is None else number(self.name, "high", self.high)
        if not own[0] <= low < high <= own[1]:
            raise UserError(
                f"the log_snr_uniform density got low={low:g} and high={high:g}; on the {self.path.name} path it needs "
                f"low < high within {own[0]:.4g} and {own[1]:.4g}."
            )
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    def _ends(self) -> tuple[float, float]:
        assert self.low is not None  # resolved in __post_init__
        assert self.high is not None
        return self.low, self.high

    def _quantile(self, lower: Tensor, upper: Tensor) -> Tensor:
        low, high = self._ends()
        return torch.where(lower < 0.5, low + (high - low) * lower, high - (high - low) * upper)

    def _log_pdf(self, log_snr: Tensor) -> Tensor:
        low, high = self._ends()
        value = torch.full_like(log_snr, -math.log(high - low))
        # The two ends belong to the support; t there is rounded, so log-SNR may miss them by some units in the last
        # place.
        slack = 1e-12 * max(1.0, abs(low), abs(high))
        return torch.where((log_snr >= low - slack) & (log_snr <= high + slack), value, -math.inf)

    def _share_above(self, log_snr: Tensor) -> Tensor:
        low, high = self._ends()
        return ((high - log_snr) / (high - low)).clamp(0, 1)


class _NormalOverLogSNR(_OverLogSNR):
    """A normal density over log-SNR, cut off at the path's ends and renormalised."""

    _mean: float
    _std: float
    _normal: TruncatedNormal

    def _prepare(self, mean: float, std: float) -> None:
        low, high = ((end - mean) / std for end in log_snr_range(self.path))
        normal = TruncatedNormal(low, high)
        if normal.mass < 1e-250:  # beyond, its quantiles have no digits left
            ends = log_snr_range(self.path)
            raise UserError(
                f"the {self.name} density, normal over log-SNR with mean {mean:g} and standard deviation {std:g}, lies "
                f"outside the {self.path.name} path's range of {ends[0]:.4g} to {ends[1]:.4g}; choose another mean or "
                "a wider spread."
            )
        for attribute, value in (("_mean", mean), ("_std", std), ("_normal", normal)):
            object.__setattr__(self, attribute, value)

    def _quantile(self, lower: Tensor, upper: Tensor) -> Tensor:
        return self._mean + self._std * self._normal.quantile(lower, upper)

    def _log_pdf(self, log_snr: Tensor) -> Tensor:
        # Where the path ends inside the normal, its end belongs to the support, and rounding may miss it.
        z = ((log_snr - self._mean) / self._std).clamp(self._normal.low, self._normal.high)
        return self._normal.log_pdf(z) - math.log(self._std)

    def _share_above(self, log_snr: Tensor) -> Tensor:
        return self._normal.share_above((log_snr - self._mean) / self._std)


@dataclass(frozen=True)
class LogSNRNormal(_NormalOverLogSNR):
    """Log-SNR normal with `mean` and `std`; on the linear path this is logit_normal(-mean/2, std/2).

    Attributes
    ----------
    path : Path, or its name
    mean : float, default 0
        Nats of ln(alpha^2 / sigma^2).
    std : float > 0, default 2
    """

    path: Path
    mean: float = 0.0
    std: float = 2.0
    name: ClassVar[str] = "log_snr_normal"

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", get_path(self.path))
        self._prepare(number(self.name, "mean", self.mean), positive(self.name, "std", self.std))


@dataclass(frozen=True)
class EDM(_NormalOverLogSNR):
    """EDM's: ln of the noise-to-data ratio sigma/alpha is normal with `p_mean` and `p_std` (Karras et al. 2022, Table
    1).

    EDM2 (Karras et al. 2024, Table 6) uses -0.4 and 1.0. Log-SNR is -2 ln(sigma/alpha), so the density means the same
    on every path. Both papers scale their data to a standard deviation of 0.5: for data of another one, s, add
    ln(s/0.5) to p_mean.

    Attributes
    ----------
    path : Path, or its name
    p_mean : float, default -1.2
    p_std : float > 0, default 1.2
    """

    path: Path
    p_mean: float = -1.2
    p_std: float = 1.2
    name: ClassVar[str] = "edm"

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", get_path(self.path))
        self._prepare(-2 * number(self.name, "p_mean", self.p_mean), 2 * positive(self.name, "p_std", self.p_std))
