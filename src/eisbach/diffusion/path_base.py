"""What a noising path is: the two factors of ``x_t = alpha(t) x0 + sigma(t) noise`` and log-SNR; `paths` holds the paths themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor


class Path(ABC):
    """A noising path. Subclasses are frozen dataclasses, so two paths with equal options are equal.

    Attributes
    ----------
    name : str
        Key in `paths.PATHS`.
    pure_noise : bool
        Whether alpha(1) = 0: no data is left at t = 1.
    pure_data : bool
        Whether sigma(0) = 0: no noise is left at t = 0.
    """

    name: ClassVar[str]
    pure_noise: ClassVar[bool]
    pure_data: ClassVar[bool]

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the data; same shape as `t`."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Factor of the noise; same shape as `t`."""

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """``ln(alpha^2 / sigma^2)``; +inf where sigma is 0 and -inf where alpha is 0."""

    @abstractmethod
    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """The t whose `log_snr` this is; outside the path's range it lies outside [0, 1] (nothing is clamped)."""

    @abstractmethod
    def log_snr_slope(self, t: Tensor) -> Tensor:
        """``d log_snr / dt``, negative: the Jacobian between a density over t and a density over log-SNR."""
