"""The continuous noising paths, and every path by its name; what a path is, stands in `path_base`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from eisbach.diffusion.discrete_path import cosine_path
from eisbach.diffusion.path_base import Path as Path
from eisbach.diffusion.path_base import expand_like as expand_like
from eisbach.errors import UserError


@dataclass(frozen=True)
class LinearPath(Path):
    """Rectified flow: alpha = 1 - t, sigma = t (Stable Audio 3, SD3)."""

    name: ClassVar[str] = "linear"
    pure_noise: ClassVar[bool] = True
    pure_data: ClassVar[bool] = True

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """The noise level t itself."""
        return t

    def log_snr(self, t: Tensor) -> Tensor:
        """2 ln((1 - t) / t): twice what Stable Audio 3 calls 'logsnr'."""
        return 2 * (torch.log1p(-t) - torch.log(t))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """sigmoid(-log_snr / 2)."""
        return torch.sigmoid(-log_snr / 2)

    def log_snr_slope(self, t: Tensor) -> Tensor:
        """-2 / (t (1 - t))."""
        return -2 / (t * (1 - t))


@dataclass(frozen=True)
class VPPath(Path):
    """Variance preserving with a linear beta (Song et al. 2021, App. C): alpha^2 + sigma^2 = 1.

    ``alpha = exp(-I/2)`` with ``I(t) = beta_min t + (beta_max - beta_min) t^2 / 2``. A trace of data is left at t = 1.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    name: ClassVar[str] = "vp"
    pure_noise: ClassVar[bool] = False
    pure_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (0 < self.beta_min <= self.beta_max < math.inf):
            raise UserError(
                f"the vp path got beta_min={self.beta_min!r} and beta_max={self.beta_max!r}; "
                "choose finite values with 0 < beta_min <= beta_max (0.1 and 20 are usual)."
            )

    def _integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def alpha(self, t: Tensor) -> Tensor:
        """exp(-I/2)."""
        return torch.exp(-0.5 * self._integral(t))

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 - exp(-I)), through expm1 so that small t keeps its digits."""
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def log_snr(self, t: Tensor) -> Tensor:
        """-ln(exp(I) - 1), written so that a large I cannot overflow."""
        # alpha^2 / sigma^2 = exp(-I) / (1 - exp(-I)).
        integral = self._integral(t)
        return -integral - torch.log(-torch.expm1(-integral))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """Root of the quadratic I(t) = ln(1 + exp(-log_snr)), in the form without cancellation."""
        # I = ln(1 + 1 / SNR); of a quadratic's two roots, 2c / (b + sqrt(b^2 + 4ac)) loses no digits at small I.
        integral = torch.logaddexp(-log_snr, torch.zeros_like(log_snr))
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)
        return 2 * integral / (self.beta_min + root)

    def log_snr_slope(self, t: Tensor) -> Tensor:
        """-I'(t) / (1 - exp(-I))."""
        return (self.beta_min + (self.beta_max - self.beta_min) * t) / torch.expm1(-self._integral(t))


@dataclass(frozen=True)
class GVPPath(Path):
    """The cosine path, generalised variance preserving (Ma et al. 2024, SiT): alpha = cos(pi t/2), sigma = sin(pi
    t/2)."""

    name: ClassVar[str] = "gvp"
    pure_noise: ClassVar[bool] = True
    pure_data: ClassVar[bool] = True

    def alpha(self, t: Tensor) -> Tensor:
        """cos(pi t/2), written as a sine of 1 - t so that it is exactly 0 at t = 1."""
        return torch.sin((1 - t) * (math.pi / 2))

    def sigma(self, t: Tensor) -> Tensor:
        """sin(pi t/2)."""
        return torch.sin(t * (math.pi / 2))

    def log_snr(self, t: Tensor) -> Tensor:
        """-2 ln tan(pi t/2)."""
        return 2 * (torch.log(self.alpha(t)) - torch.log(self.sigma(t)))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """(2/pi) arctan(exp(-log_snr/2))."""
        return torch.atan(torch.exp(-log_snr / 2)) * (2 / math.pi)

    def log_snr_slope(self, t: Tensor) -> Tensor:
        """-pi / (alpha sigma)."""
        return -math.pi / (self.alpha(t) * self.sigma(t))


@dataclass(frozen=True)
class EDMPath(Path):
    """Variance exploding as in EDM (Karras et al. 2022): alpha = 1, sigma from sigma_min at t = 0 to sigma_max at t =
    1.

    ``sigma^(1/rho)`` is linear in t (their Eq. 5), so a schedule that is uniform in t is EDM's own.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    name: ClassVar[str] = "edm"
    pure_noise: ClassVar[bool] = False
    pure_data: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (0 < self.sigma_min < self.sigma_max < math.inf and 0 < self.rho < math.inf):
            raise UserError(
                f"the edm path got sigma_min={self.sigma_min!r}, sigma_max={self.sigma_max!r} and rho={self.rho!r}; "
                "choose finite values with 0 < sigma_min < sigma_max and rho > 0 (0.002, 80 and 7 are usual)."
            )

    @property
    def _ends(self) -> tuple[float, float]:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return low, high - low

    def _root(self, t: Tensor) -> Tensor:
        low, span = self._ends
        return low + t * span

    def alpha(self, t: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise, in the data's unit."""
        return self._root(t) ** self.rho

    def log_snr(self, t: Tensor) -> Tensor:
        """-2 ln sigma."""
        return -2 * self.rho * torch.log(self._root(t))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """(sigma^(1/rho) - sigma_min^(1/rho)) over its span, with sigma = exp(-log_snr/2)."""
        low, span = self._ends
        return (torch.exp(-log_snr / (2 * self.rho)) - low) / span

    def log_snr_slope(self, t: Tensor) -> Tensor:
        """-2 d ln sigma / dt."""
        return -2 * self.rho * self._ends[1] / self._root(t)


PATHS: dict[str, Callable[..., Path]] = {
    "linear": LinearPath,
    "vp": VPPath,
    "gvp": GVPPath,
    "edm": EDMPath,
    "cosine": cosine_path,
}
"""Name to what makes it; a new path is one class and one line here."""


def get_path(path: str | Path, **options: Any) -> Path:
    """A path by name, with its options; a `Path` is returned as it is.

    Raises
    ------
    UserError
        Unknown name, unknown option or impossible option value.
    """
    if isinstance(path, Path):
        if options:
            raise UserError(f"options {sorted(options)} came with a path that is already built; pass the path's name.")
        return path
    if path not in PATHS:
        raise UserError(f"the path {path!r} is not known; choose one of {', '.join(PATHS)}.")
    try:
        return PATHS[path](**options)
    except TypeError as error:
        raise UserError(f"the {path} path does not take these options: {sorted(options)} ({error}).") from error
