"""Training densities over noise levels: which t a training step sees.

Each density is given by its quantile function, so plain sampling, stratified sampling and tests share one formula.
Draws use an explicit `torch.Generator` only and happen in float64 before rounding to float32.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from eisbach.errors import UserError

_TINY = (
    2.0**-53
)  # half a step of float64's uniform draw: keeps quantiles of 0 and 1, which no continuous draw has, away


class NoiseLevelDensity(ABC):
    """A density over t in [0, 1] (t = 1 is noise)."""

    name: ClassVar[str]

    @abstractmethod
    def quantile(self, q: Tensor, num_frames: int | Tensor | None = None) -> Tensor:
        """The t below which a share `q` of the draws falls; increasing in q.

        Parameters
        ----------
        q : Tensor [shape=(n,), float64], in (0, 1)
        num_frames : int, Tensor [shape=(n,)] or None
            Latent frames of the sample; only length-dependent densities read it.
        """

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


@dataclass(frozen=True)
class Uniform(NoiseLevelDensity):
    """Uniform on [low, high]."""

    low: float = 0.0
    high: float = 1.0
    name: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise UserError(
                f"the uniform density got low={self.low!r} and high={self.high!r}; it needs 0 <= low < high <= 1."
            )

    def quantile(self, q: Tensor, num_frames: int | Tensor | None = None) -> Tensor:
        """low + (high - low) q."""
        return self.low + (self.high - self.low) * q


@dataclass(frozen=True)
class LogitNormal(NoiseLevelDensity):
    """sigmoid of a normal with mean m and standard deviation s (Esser et al. 2024, Eq. 19)."""

    m: float = 0.0
    s: float = 1.0
    name: ClassVar[str] = "logit_normal"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.m) and 0 < self.s < math.inf):
            raise UserError(f"the logit_normal density got m={self.m!r} and s={self.s!r}; it needs finite m and s > 0.")

    def quantile(self, q: Tensor, num_frames: int | Tensor | None = None) -> Tensor:
        """sigmoid(m + s * normal quantile)."""
        return torch.sigmoid(self.m + self.s * torch.special.ndtri(q))


@dataclass(frozen=True)
class TruncLogitNormal(NoiseLevelDensity):
    """Stable Audio 3's training density.

    A standard logit-normal truncated to values above `truncation`, rescaled to [0, 1] and flipped, then shifted towards
    noise by ``t' = a t / (1 + (a - 1) t)`` with ``a = exp(0.5 + 0.65 (L - 256) / 3840)``, L the number of latent frames
    clipped to [256, 4096].

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
        if not 0 <= self.truncation < 1:
            raise UserError(
                f"the trunc_logit_normal density got truncation={self.truncation!r}; it needs 0 <= truncation < 1."
            )

    def quantile(self, q: Tensor, num_frames: int | Tensor | None = None) -> Tensor:
        """Flipping turns the quantile q into 1 - q of the truncated logit-normal."""
        low = 0.0
        if self.truncation > 0:
            logit = math.log(self.truncation) - math.log1p(-self.truncation)
            low = 0.5 * math.erfc(-logit / math.sqrt(2))
        kept = torch.sigmoid(torch.special.ndtri(low + (1 - low) * (1 - q)))
        t = 1 - (kept - self.truncation) / (1 - self.truncation)
        t = t.clamp(0, 1)  # rounding at the truncation point can leave the interval by one unit in the last place
        if not self.shift_by_length:
            return t
        if num_frames is None:
            raise UserError(
                "the trunc_logit_normal density shifts noise levels by length, so it needs num_frames "
                "(latent frames of the sample); pass it, or set shift_by_length=False."
            )
        return shift_by_length(t, num_frames)


def shift_by_length(t: Tensor, num_frames: int | Tensor) -> Tensor:
    """Stable Audio 3's length shift of t (n,) for num_frames (an int or (n,)): longer sequences see more noise."""
    length = torch.as_tensor(num_frames, dtype=t.dtype, device=t.device).clamp(256, 4096)
    a = torch.exp(0.5 + 0.65 * (length - 256) / 3840)
    return a * t / (1 + (a - 1) * t)


DENSITIES: dict[str, Callable[..., NoiseLevelDensity]] = {
    "uniform": Uniform,
    "logit_normal": LogitNormal,
    "trunc_logit_normal": TruncLogitNormal,
}
"""Name to class; a new density is one class and one line here."""


def get_density(name: str | NoiseLevelDensity, **options: Any) -> NoiseLevelDensity:
    """A training density by name, with its options.

    Raises
    ------
    UserError
        Unknown name, unknown option or impossible option value.
    """
    if isinstance(name, NoiseLevelDensity):
        return name
    if name not in DENSITIES:
        raise UserError(f"the noise-level density {name!r} is not known; choose one of {', '.join(DENSITIES)}.")
    try:
        return DENSITIES[name](**options)
    except TypeError as error:
        raise UserError(f"the density {name} does not take these options: {sorted(options)} ({error}).") from error
