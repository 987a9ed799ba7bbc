"""What every training density shares: quantiles, draws, and the density over t itself.

Each density is given by its quantile function, so plain sampling, stratified sampling and tests share one formula, and
by the logarithm of its density over t, so that weights can be corrected for it and effort can be counted. Draws use an
explicit `torch.Generator` only and happen in float64 before rounding to float32.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from eisbach.diffusion.path_base import Path
from eisbach.errors import UserError

# Half a step of float64's uniform draw: keeps quantiles of 0 and 1, which no continuous draw has, away.
_TINY = 2.0**-53


class NoiseLevelDensity(ABC):
    """A density over t in [0, 1] (t = 1 is noise). Those of this package are frozen dataclasses of their options."""

    name: ClassVar[str]

    @property
    def built_for(self) -> Path | None:
        """The path that it is stated on; None for a density over t itself, which every path has."""
        return None

    @abstractmethod
    def quantile(self, q: Tensor, num_frames: int | Tensor | None = None) -> Tensor:
        """The t below which a share `q` of the draws falls; increasing in q.

        Parameters
        ----------
        q : Tensor [shape=(n,), float64], in [0, 1]
            0 and 1 give the ends of the density's support.
        num_frames : int, Tensor [shape=(n,)] or None
            Latent frames of the sample; only length-dependent densities read it.
        """

    def log_pdf(self, t: Tensor, num_frames: int | Tensor | None = None) -> Tensor:
        """ln of the density over t, of t's shape, float64.

        -inf outside the support; +inf where the density is unbounded; NaN where t is NaN.

        Parameters
        ----------
        t : Tensor [shape=(n,)]
            Noise levels; any real number.
        num_frames : int, Tensor [shape=(n,)] or None
            As in `quantile`.

        Raises
        ------
        UserError
            The density has none (a single noise level, say) or does not state it.
        """
        raise UserError(f"{type(self).__name__} states no density over t, only quantiles; give it a log_pdf.")

    def pdf(self, t: Tensor, num_frames: int | Tensor | None = None) -> Tensor:
        """The density over t; see `log_pdf`."""
        return self.log_pdf(t, num_frames).exp()

    def cdf(self, t: Tensor, num_frames: int | Tensor | None = None) -> Tensor:
        """The share of draws at or below t, of t's shape, float64: 0 below the support, 1 above it, NaN where t is NaN.

        Found by bisection of the quantile function where a density has no closed form.
        """
        t = wide(t)
        low, high = torch.zeros_like(t), torch.ones_like(t)
        for _ in range(60):
            middle = (low + high) / 2
            below = self.quantile(middle, num_frames) <= t
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        inside = torch.where(t < self.quantile(torch.zeros_like(t), num_frames), 0.0, (low + high) / 2)
        inside = torch.where(t >= self.quantile(torch.ones_like(t), num_frames), 1.0, inside)
        return keep_nan(t, inside)

    def options(self) -> dict[str, Any]:
        """The resolved options, without the path, which belongs to the model."""
        if not dataclasses.is_dataclass(self):
            return {}
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "path"}

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator,
        num_frames: int | Tensor | None = None,
        stratified: bool = False,
    ) -> Tensor:
        """n noise levels, shape (n,), float32, on the generator's device.

        Parameters
        ----------
        n : int >= 0
        generator : torch.Generator
            The only source of randomness.
        num_frames : int, Tensor [shape=(n,)] or None
        stratified : bool, default False
            One draw from each of n equally likely slices, in random order: the same density with less variance between
            steps.
        """
        if isinstance(n, bool) or n < 0:
            raise UserError(f"the number of noise levels must be 0 or more; got {n!r}.")
        device = generator.device
        q = torch.rand(n, generator=generator, device=device, dtype=torch.float64)
        if stratified:
            order = torch.randperm(n, generator=generator, device=device)
            q = (order + q) / max(n, 1)
        if isinstance(num_frames, Tensor):
            num_frames = num_frames.to(device=device, dtype=torch.float64)
        return self.quantile(q.clamp(_TINY, 1 - _TINY), num_frames).to(torch.float32)


def wide(t: Tensor) -> Tensor:
    """`t` detached, in float64 (float32 on a device that has no float64)."""
    return t.detach().to(torch.float32 if t.device.type == "mps" else torch.float64)


def keep_nan(t: Tensor, result: Tensor) -> Tensor:
    """`result`, with NaN where t is NaN: comparisons took it for 'outside'."""
    return torch.where(t.isnan(), t, result)


def number(density: str, option: str, value: Any) -> float:
    """`value` as a float, or a `UserError` when it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"the {density} density's {option} must be a finite number; got {value!r}.")
    return float(value)


def positive(density: str, option: str, value: Any) -> float:
    """`value` as a float, or a `UserError` when it is not a finite number above 0."""
    if number(density, option, value) <= 0:
        raise UserError(f"the {density} density's {option} must be above 0; got {value!r}.")
    return float(value)


# --- the standard normal distribution on an interval, with its digits kept in both tails


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
