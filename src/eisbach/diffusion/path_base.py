"""Noising paths: how much data and how much noise a noisy sample holds at each noise level.

``x_t = alpha(t) * x0 + sigma(t) * noise`` with ``t`` in [0, 1] and **t = 1 noise**. Every path shares one coordinate,
the log signal-to-noise ratio ``log_snr = ln(alpha^2 / sigma^2)``, which falls strictly as t grows, so it has an exact
inverse.

All functions are elementwise, keep the dtype and device of their argument (float64 stays float64) and never look at its
values, so they cost no host synchronisation and can be compiled. A ``t`` outside [0, 1] is not checked here: the
densities and schedules of this package never give one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor


class Path(ABC):
    """A noising path. Subclasses are frozen dataclasses, so two paths with equal options are equal.

    Attributes
    ----------
    name : str
        Key in `PATHS`.
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


def expand_like(coefficient: Tensor, x: Tensor) -> Tensor:
    """`coefficient` (B,) with trailing axes of size 1, so that it multiplies `x` (B, ...) sample by sample."""
    return coefficient.reshape(coefficient.shape + (1,) * (x.dim() - coefficient.dim()))
