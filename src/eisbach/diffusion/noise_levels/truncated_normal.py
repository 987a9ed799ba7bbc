"""The standard normal distribution on an interval, with its digits kept in both tails."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class TruncatedNormal:
    """N(0, 1) restricted to [low, high] and renormalised.

    Parameters
    ----------
    low, high : float, low < high
        -inf and +inf are allowed.

    Attributes
    ----------
    mass : float
        Probability of the interval under N(0, 1); 0 when it lies so far out that float64 cannot hold it.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high
        self._below, self._above = _tail(low), _tail(-high)
        # The difference is taken in the tail where both numbers are small, so that it keeps its digits.
        self.mass = self._below_of(high) - self._below if low <= 0 else _tail(-low) - self._above
        self._log_mass = math.log(self.mass) if self.mass > 0 else -math.inf

    @staticmethod
    def _below_of(z: float) -> float:
        return 1.0 - _tail(-z) if z > 0 else _tail(z)

    def quantile(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The z with a share `lower` below it and `upper` = 1 - lower above it.

        Both are asked for so that neither tail loses digits to the subtraction.
        """
        left, right = self._below + self.mass * lower, self._above + self.mass * upper
        z = torch.where(left <= right, torch.special.ndtri(left), -torch.special.ndtri(right))
        return z.clamp(self.low, self.high)

    def log_pdf(self, z: Tensor) -> Tensor:
        """ln of the density at z; -inf outside."""
        inside = (z >= self.low) & (z <= self.high)
        return torch.where(inside, -0.5 * z * z - (_LOG_SQRT_2PI + self._log_mass), -math.inf)

    def share_above(self, z: Tensor) -> Tensor:
        """The share of draws above z."""
        z = z.clamp(self.low, self.high)
        # Upper tails, unless the interval lies left of 0, where lower tails are the small numbers.
        share = _tail(self.high) - lower_tail(z) if self.high <= 0 else lower_tail(-z) - self._above
        return (share / self.mass).clamp(0, 1)


def lower_tail(z: Tensor) -> Tensor:
    """The normal distribution function, accurate in the lower tail (`torch.special.ndtr` is 0 from about -8.3 down)."""
    return 0.5 * torch.erfc(z * -math.sqrt(0.5))


def _tail(z: float) -> float:
    """`lower_tail` of a float."""
    return 0.5 * math.erfc(-z / math.sqrt(2))
