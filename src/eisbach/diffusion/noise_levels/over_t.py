"""Densities that are stated over t itself: uniform, logit-normal, Stable Audio 3's, mode and cosmap.

On another path the same t is another signal-to-noise ratio, so these are different densities over log-SNR there. Each
ends with a shift towards noise, ``t' = a t / (1 + (a - 1) t)``: on the linear path it lowers log-SNR by ``2 ln a``
(Esser et al. 2024, Eq. 23, with a = sqrt(m/n) for a resolution n -> m).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eisbach.diffusion.noise_levels.base import (
    NoiseLevelDensity,
    TruncatedNormal,
    keep_nan,
    lower_tail,
    number,
    positive,
    wide,
)
from eisbach.errors import UserError


def shift_t(t: Tensor, a: float | Tensor) -> Tensor:
    """``a t / (1 + (a - 1) t)``: a > 1 moves t towards noise, 1/a undoes a; 0 and 1 stay where they are."""
    return a * t / (1 + (a - 1) * t)


def length_shift(num_frames: int | Tensor, like: Tensor) -> Tensor:
    """Stable Audio 3's a = exp(0.5 + 0.65 (L - 256) / 3840) for L latent frames clipped to [256, 4096]."""
    length = torch.as_tensor(num_frames, dtype=like.dtype, device=like.device).clamp(256, 4096)
    return torch.exp(0.5 + 0.65 * (length - 256) / 3840)


def shift_by_length(t: Tensor, num_frames: int | Tensor) -> Tensor:
    """Stable Audio 3's length shift of t (n,) for num_frames (an int or (n,)): longer sequences see more noise."""
    return shift_t(t, length_shift(num_frames, t))


class _OverT(NoiseLevelDensity):
    """A density over u in [0, 1] in closed form, and the shift that takes u to t."""

    @abstractmethod
    def _shift(self, num_frames: int | Tensor | None, like: Tensor) -> float | Tensor:
        """The factor a."""

    @abstractmethod
    def _quantile(self, q: Tensor) -> Tensor:
        """Quantile of u."""

    @abstractmethod
    def _log_pdf(self, u: Tensor) -> Tensor:
        """ln density of u for u in [0, 1], -inf outside the support."""

    @abstractmethod
    def _cdf(self, u: Tensor) -> Tensor:
        """Distribution function of u for u in [0, 1]."""

    def quantile(self, q: Tensor, num_frames: int | Tensor | None = None) -> Tensor:
        """The shifted quantile of u: the shift rises with u, so it keeps the order."""
        # Rounding of the closed forms may leave [0, 1] by one unit in the last place.
        return shift_t(self._quantile(q), self._shift(num_frames, q)).clamp(0, 1)

    def log_pdf(self, t: Tensor, num_frames: int | Tensor | None = None) -> Tensor:
        """ln density of u plus ``ln du/dt = ln(b / (1 + (b - 1) t)^2)`` with b = 1/a."""
        t = wide(t)
        b = 1 / torch.as_tensor(self._shift(num_frames, t), dtype=t.dtype, device=t.device)
        inside = (t >= 0) & (t <= 1)
        safe = torch.where(inside, t, 0.5)
        jacobian = b.log() - 2 * torch.log1p((b - 1) * safe)
        return keep_nan(t, torch.where(inside, self._log_pdf(shift_t(safe, b)) + jacobian, -math.inf))

    def cdf(self, t: Tensor, num_frames: int | Tensor | None = None) -> Tensor:
        """The distribution function of u at the unshifted t."""
        t = wide(t)
        b = 1 / torch.as_tensor(self._shift(num_frames, t), dtype=t.dtype, device=t.device)
        inside = torch.where(t < 1, self._cdf(shift_t(t.clamp(0, 1), b)), 1.0)
        return keep_nan(t, torch.where(t > 0, inside, 0.0))  # no density has an atom: the ends are exact


class _FixedShift(_OverT):
    """A density whose shift is an option."""

    shift: float

    def _shift(self, num_frames: int | Tensor | None, like: Tensor) -> float | Tensor:
        return self.shift


@dataclass(frozen=True)
class Uniform(_FixedShift):
    """Uniform on [low, high], then shifted.

    Attributes
    ----------
    low, high : float, 0 <= low < high <= 1, default 0 and 1
    shift : float > 0, default 1
    """

    low: float = 0.0
    high: float = 1.0
    shift: float = 1.0
    name: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        low, high = number(self.name, "low", self.low), number(self.name, "high", self.high)
        if not 0 <= low < high <= 1:
            raise UserError(
                f"the uniform density got low={self.low!r} and high={self.high!r}; it needs 0 <= low < high <= 1."
            )
        positive(self.name, "shift", self.shift)

    def _quantile(self, q: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * q

    def _log_pdf(self, u: Tensor) -> Tensor:
        value = torch.full_like(u, -math.log(self.high - self.low))
        return torch.where((u >= self.low) & (u <= self.high), value, -math.inf)

    def _cdf(self, u: Tensor) -> Tensor:
        return ((u - self.low) / (self.high - self.low)).clamp(0, 1)


@dataclass(frozen=True)
class LogitNormal(_FixedShift):
    """sigmoid of a normal with mean m and standard deviation s (Esser et al. 2024, Eq. 19), then shifted.

    On the linear path log-SNR is normal with mean ``-2 (m + ln shift)`` and standard deviation 2 s.

    Attributes
    ----------
    m : float, default 0
    s : float > 0, default 1
    shift : float > 0, default 1
    """

    m: float = 0.0
    s: float = 1.0
    shift: float = 1.0
    name: ClassVar[str] = "logit_normal"

    def __post_init__(self) -> None:
        number(self.name, "m", self.m)
        positive(self.name, "s", self.s)
        positive(self.name, "shift", self.shift)

    def _quantile(self, q: Tensor) -> Tensor:
        return torch.sigmoid(self.m + self.s * torch.special.ndtri(q))

    def _log_pdf(self, u: Tensor) -> Tensor:
        z = (torch.logit(u) - self.m) / self.s
        log_slope = -(u.log() + torch.log1p(-u)) - math.log(self.s)
        value = -0.5 * z * z - 0.5 * math.log(2 * math.pi) + log_slope
        return torch.where((u > 0) & (u < 1), value, -math.inf)

    def _cdf(self, u: Tensor) -> Tensor:
        return lower_tail((torch.logit(u) - self.m) / self.s)


@dataclass(frozen=True)
class TruncLogitNormal(_OverT):
    """Stable Audio 3's training density.

    A standard logit-normal truncated to values above `truncation`, rescaled to [0, 1] and flipped, then shifted towards
    noise with the factor of `length_shift`. Truncating leaves the density above 0 at t = 1.

    Attributes
    ----------
    truncation : float in [0, 1), default 0.075
    shift_by_length : bool, default True
        Apply the shift; `num_frames` is then required.
    """

    truncation: float = 0.075
    shift_by_length: bool = True
    name: ClassVar[str] = "trunc_logit_normal"

    def __post_init__(self) -> None:
        if not 0 <= number(self.name, "truncation", self.truncation) < 1:
            raise UserError(
                f"the trunc_logit_normal density got truncation={self.truncation!r}; it needs 0 <= truncation < 1."
            )
        if not isinstance(self.shift_by_length, bool):
            raise UserError(
                f"the trunc_logit_normal density's shift_by_length must be true or false; got {self.shift_by_length!r}."
            )
        cut = math.log(self.truncation) - math.log1p(-self.truncation) if self.truncation > 0 else -math.inf
        object.__setattr__(self, "_normal", TruncatedNormal(cut, math.inf))

    _normal: ClassVar[TruncatedNormal]  # set on the instance; not an option

    def _shift(self, num_frames: int | Tensor | None, like: Tensor) -> float | Tensor:
        if not self.shift_by_length:
            return 1.0
        if num_frames is None:
            raise UserError(
                "the trunc_logit_normal density shifts noise levels by length, so it needs num_frames "
                "(latent frames of the sample); pass it, or set shift_by_length=False."
            )
        return length_shift(num_frames, like)

    def _quantile(self, q: Tensor) -> Tensor:
        # Flipping: a share q of the draws lies above. 1 - sigmoid(z) is written sigmoid(-z) so that small t keep
        # digits.
        return torch.sigmoid(-self._normal.quantile(1 - q, q)) / (1 - self.truncation)

    def _flipped_logit(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # k is the logit-normal's own variable, 1 - (1 - truncation) u; the rest is 1 - k without cancellation.
        rest = (1 - self.truncation) * u
        k = self.truncation + (1 - self.truncation) * (1 - u)
        return k, rest, k.log() - rest.log()

    def _log_pdf(self, u: Tensor) -> Tensor:
        k, rest, z = self._flipped_logit(u)
        # At u = 1 rounding may put z one unit below the cut, and the support is closed there.
        value = self._normal.log_pdf(z.clamp(min=self._normal.low)) - k.log() - rest.log()
        return torch.where((u > 0) & (k > 0), value + math.log1p(-self.truncation), -math.inf)

    def _cdf(self, u: Tensor) -> Tensor:
        return self._normal.share_above(self._flipped_logit(u)[2])


@dataclass(frozen=True)
class Mode(_FixedShift):
    """Mode sampling with heavy tails (Esser et al. 2024, Eq. 20): ``t = 1 - u - s (cos^2(pi u/2) - 1 + u)``, u uniform.

    s > 0 favours the middle, s < 0 the ends, s = 0 is uniform. The density is above 0 on all of [0, 1]; it is infinite
    at t = 1/2 for the largest s and at both ends for s = -1.

    Attributes
    ----------
    s : float in [-1, 2/(pi - 2)], default 1.29
        Beyond that range the map is not monotone.
    shift : float > 0, default 1
    """

    s: float = 1.29
    shift: float = 1.0
    name: ClassVar[str] = "mode"

    def __post_init__(self) -> None:
        if not -1 <= number(self.name, "s", self.s) <= 2 / (math.pi - 2):
            raise UserError(
                f"the mode density's s is {self.s!r}; it must lie within -1 and 2/(pi - 2) = 1.7519, outside of which "
                "its map is not monotone."
            )
        positive(self.name, "shift", self.shift)

    def _quantile(self, q: Tensor) -> Tensor:
        # Eq. 20 falls in u; with q = 1 - u it rises.
        return (1 + self.s) * q - self.s * torch.sin(q * (math.pi / 2)) ** 2

    def _slope(self, q: Tensor) -> Tensor:
        return ((1 + self.s) - self.s * (math.pi / 2) * torch.sin(math.pi * q)).clamp(min=0)

    def _root(self, half: Tensor) -> Tensor:
        """The q in [0, 1/2] whose quantile is `half`; no closed form: bisection for safety, then Newton for digits."""
        low, high = torch.zeros_like(half), torch.full_like(half, 0.5)
        for _ in range(50):
            middle = (low + high) / 2
            below = self._quantile(middle) <= half
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        q = (low + high) / 2
        for _ in range(2):
            step = (self._quantile(q) - half) / self._slope(q)
            q = torch.where(step.isfinite(), (q - step).clamp(0, 0.5), q)
        return torch.where(half > 0, q, 0.0)

    def _cdf(self, u: Tensor) -> Tensor:
        q = self._root(torch.minimum(u, 1 - u))  # the map is symmetric about (1/2, 1/2)
        return torch.where(u <= 0.5, q, 1 - q)

    def _log_pdf(self, u: Tensor) -> Tensor:
        return -self._slope(self._root(torch.minimum(u, 1 - u))).log()


@dataclass(frozen=True)
class CosMap(_FixedShift):
    """CosMap (Esser et al. 2024, Eq. 21): ``2 / (pi (1 - 2t + 2t^2))``.

    On the linear path log-SNR is then distributed as on the cosine path (gvp) with uniform t.

    Attributes
    ----------
    shift : float > 0, default 1
    """

    shift: float = 1.0
    name: ClassVar[str] = "cosmap"

    def __post_init__(self) -> None:
        positive(self.name, "shift", self.shift)

    def _quantile(self, q: Tensor) -> Tensor:
        sine, cosine = torch.sin(q * (math.pi / 2)), torch.sin((1 - q) * (math.pi / 2))
        return sine / (sine + cosine)

    def _log_pdf(self, u: Tensor) -> Tensor:
        return math.log(2 / math.pi) - (u * u + (1 - u) ** 2).log()

    def _cdf(self, u: Tensor) -> Tensor:
        return torch.atan2(u, 1 - u) * (2 / math.pi)
