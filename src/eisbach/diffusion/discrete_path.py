"""The path of a scheduler that numbers its noise levels: a table of cumulative alphas, as DDPM-style trainers hold it.

A scheduler with N training steps noises with ``x_i = sqrt(abar_i) x0 + sqrt(1 - abar_i) noise``, i = 0 ... N - 1. Its
table is not one of the continuous paths: the same index means another SNR on each schedule ("linear", "scaled_linear",
"squaredcos_cap_v2", rescaled to zero terminal SNR), and none of them is `VPPath` at i / N.

**Convention.** Index i is ``t = (i + 1) / N``; t = 0 is the data itself. At these N + 1 points alpha, sigma and log-SNR
are the table's, to rounding. Between them the angle ``atan(sigma / alpha)`` is linear in t, which keeps alpha^2 +
sigma^2 = 1 and stays finite where SNR is 0 or infinite (log-SNR itself does not).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from eisbach.diffusion.path_base import Path
from eisbach.errors import UserError


@dataclass(frozen=True, repr=False)
class DiscretePath(Path):
    """A variance-preserving path through a table of cumulative alphas.

    Attributes
    ----------
    alphas_cumprod : sequence of N floats, or Tensor [shape=(N,)]
        ``abar_i = alpha_i^2``, strictly falling within [0, 1); the last may be 0 (zero terminal SNR). N is at least 2.

    Raises
    ------
    UserError
        A table that is too short, leaves [0, 1), or does not fall.
    """

    alphas_cumprod: tuple[float, ...]
    name: ClassVar[str] = "discrete"
    pure_noise: ClassVar[bool] = False
    pure_data: ClassVar[bool] = True
    _angles: Tensor = field(init=False, compare=False)
    _on_device: dict[torch.device, Tensor] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        table = self.alphas_cumprod
        if isinstance(table, Tensor):
            table = table.flatten().tolist()
        table = tuple(float(value) for value in table)
        object.__setattr__(self, "alphas_cumprod", table)
        if len(table) < 2:
            raise UserError(f"alphas_cumprod needs at least 2 entries, one a training step; got {len(table)}.")
        for step, (before, value) in enumerate(pairwise((1.0, *table))):
            if not 0 <= value < before:
                raise UserError(
                    f"alphas_cumprod must fall strictly from below 1 towards 0; entry {step} is {value!r} after "
                    f"{before!r}. Pass the cumulative products (a scheduler's alphas_cumprod), not its betas or alphas."
                )
        # A zero terminal SNR belongs to the table, so this one is a fact of the instance.
        object.__setattr__(self, "pure_noise", table[-1] == 0)
        with torch.device("cpu"):
            abar = torch.tensor((1.0, *table), dtype=torch.float64)
            angles = torch.stack(
                [torch.atan2((1 - abar).sqrt(), abar.sqrt()), torch.atan2(abar.sqrt(), (1 - abar).sqrt())]
            )
        object.__setattr__(self, "_angles", angles)
        object.__setattr__(self, "_on_device", {})

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> DiscretePath:
        """The path of an object with `alphas_cumprod`, as the DDPM-style schedulers of diffusers have.

        Raises
        ------
        UserError
            It has none: flow-matching and sigma-based schedulers are on the "linear" and "edm" paths.
        """
        table = getattr(scheduler, "alphas_cumprod", None)
        if table is None:
            raise UserError(
                f"{type(scheduler).__name__} has no alphas_cumprod, so it is not a discrete variance-preserving "
                "schedule; use path='linear' for flow matching (t = sigma) or path='edm' for x0 + sigma * noise."
            )
        return cls(table)

    @property
    def num_timesteps(self) -> int:
        """N, the scheduler's number of training steps."""
        return len(self.alphas_cumprod)

    def timesteps_to_t(self, timesteps: Tensor) -> Tensor:
        """t = (i + 1) / N of a scheduler's indices i (integers, or fractions between them), in float64 where there is
        one.

        Parameters
        ----------
        timesteps : Tensor [shape=(B,)], in [0, N - 1]
        """
        return (timesteps.to(_wide(timesteps)) + 1) / self.num_timesteps

    def t_to_timesteps(self, t: Tensor) -> Tensor:
        """The index i = N t - 1 of each t, not rounded; -1 is the data itself."""
        return t * self.num_timesteps - 1

    def alpha(self, t: Tensor) -> Tensor:
        """sqrt(abar), exactly 0 at t = 1 of a table that ends in 0."""
        return torch.sin(self._angle_from_noise(t)).to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 - abar)."""
        return torch.sin(self._angle_from_data(t)).to(t.dtype)

    def log_snr(self, t: Tensor) -> Tensor:
        """ln(abar / (1 - abar))."""
        difference = torch.sin(self._angle_from_noise(t)).log() - torch.sin(self._angle_from_data(t)).log()
        return (2 * difference).to(t.dtype)

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """Inverse of `log_snr`; beyond the table's last entry the last segment goes on, and t exceeds 1."""
        angles = self._table(log_snr)[0]
        angle = torch.atan(torch.exp(-log_snr.to(angles.dtype) / 2))
        left = torch.searchsorted(angles, angle.contiguous(), right=True).clamp(1, self.num_timesteps) - 1
        low, high = angles[left], angles[left + 1]
        return ((left + (angle - low) / (high - low)) / self.num_timesteps).to(log_snr.dtype)

    def log_snr_slope(self, t: Tensor) -> Tensor:
        """-2 N (step of the angle) / (alpha sigma): right-continuous, since log-SNR has a corner at each table
        entry."""
        angles = self._table(t)[0]
        left = self._whole(t.to(angles.dtype) * self.num_timesteps)
        step = (angles[left + 1] - angles[left]) * self.num_timesteps
        product = torch.sin(self._angle_from_data(t)) * torch.sin(self._angle_from_noise(t))
        return (-2 * step / product).to(t.dtype)

    def _angle_from_data(self, t: Tensor) -> Tensor:
        """atan(sigma / alpha), exactly 0 at t = 0."""
        angles = self._table(t)[0]
        place = t.to(angles.dtype) * self.num_timesteps
        left = self._whole(place)
        return torch.lerp(angles[left], angles[left + 1], place - left)

    def _angle_from_noise(self, t: Tensor) -> Tensor:
        """atan(alpha / sigma), counted from t = 1: next to a terminal SNR of 0 it keeps its digits."""
        angles = self._table(t)[1]
        place = (1 - t.to(angles.dtype)) * self.num_timesteps
        left = self._whole(place)
        right = self.num_timesteps - left
        return torch.lerp(angles[right], angles[right - 1], place - left)

    def _whole(self, place: Tensor) -> Tensor:
        # A NaN has no place in the table; it comes back through the interpolation.
        return place.nan_to_num(0.0).floor().clamp(0, self.num_timesteps - 1).to(torch.int64)

    def _table(self, like: Tensor) -> Tensor:
        """Both angles at each entry, (2, N + 1), on the device of `like`, copied there once."""
        if torch.compiler.is_compiling():  # a cache filled while tracing would hold tensors without values
            return self._angles.to(device=like.device, dtype=_wide(like))
        if like.device not in self._on_device:
            self._on_device[like.device] = self._angles.to(device=like.device, dtype=_wide(like))
        return self._on_device[like.device]

    def __repr__(self) -> str:
        first, last = self.alphas_cumprod[0], self.alphas_cumprod[-1]
        return f"DiscretePath({self.num_timesteps} steps, alphas_cumprod from {first:g} to {last:g})"


class CosinePath(DiscretePath):
    """The cosine noise schedule of Improved DDPM in N steps; get it by ``get_path("cosine")``.

    Nichol & Dhariwal 2021 (arXiv 2102.09672, section 3.2): ``abar(k) = f(k) / f(0)`` with
    ``f(k) = cos^2((k/N + s) / (1 + s) * pi/2)``, k = 0 ... N, s = 0.008, and every step's ``beta = 1 - abar(k) / abar(k
    - 1)`` at most 0.999, "to prevent singularities at the end of the diffusion process". With N = 1000 that is the
    schedule of ERD's section G. The last entry is about 2.4e-9, so a trace of data is left at t = 1 and every target is
    defined there.

    It is not the "gvp" path (alpha = cos(pi t / 2)), which has no offset: near the data its noise goes to 0 linearly in
    t, and here sigma(1 / N) is already 0.0064.

    Parameters
    ----------
    num_timesteps : int >= 2, default 1000
    offset : float >= 0, default 0.008
        s: keeps the first steps from being vanishingly small.
    max_beta : float in (0, 1], default 0.999
        Largest share of the signal's variance that one step removes; 1 ends in pure noise (zero terminal SNR).

    Raises
    ------
    UserError
        An option out of its range.
    """

    name: ClassVar[str] = "cosine"

    def __init__(self, num_timesteps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> None:
        super().__init__(_cosine_alphas_cumprod(num_timesteps, offset, max_beta))


def _cosine_alphas_cumprod(
    num_timesteps: int = 1000, offset: float = 0.008, max_beta: float = 0.999
) -> tuple[float, ...]:
    """abar of steps 1 ... N (IDDPM, Eq. 17, with their clipped betas); the arguments are those of `CosinePath`."""
    whole = isinstance(num_timesteps, int) and not isinstance(num_timesteps, bool) and num_timesteps >= 2
    if not whole or not 0 <= offset < math.inf or not 0 < max_beta <= 1:
        raise UserError(
            f"the cosine path got num_timesteps={num_timesteps!r}, offset={offset!r} and max_beta={max_beta!r}; it "
            "needs a whole number of at least 2, a finite number of at least 0, and one in (0, 1] (1000, 0.008 and "
            "0.999 are usual)."
        )

    def curve(step: int) -> float:
        # cos(x) as sin(pi/2 - x): exactly 0 at the last step
        return math.sin((1 - step / num_timesteps) / (1 + offset) * math.pi / 2) ** 2

    table, cumulative = [], 1.0
    for step in range(1, num_timesteps + 1):
        cumulative *= max(curve(step) / curve(step - 1), 1 - max_beta)
        table.append(cumulative)
    return tuple(table)


@lru_cache(maxsize=8)
def cosine_path(num_timesteps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> CosinePath:
    """The path, made once for each set of options: a name is looked up in every conversion, and the table is long."""
    return CosinePath(num_timesteps, offset, max_beta)


def _wide(like: Tensor) -> torch.dtype:
    return torch.float32 if like.device.type == "mps" else torch.float64


def scheduler_target(prediction_type: str) -> str:
    """This package's name for what a diffusers scheduler's `config.prediction_type` says the network predicts.

    ``epsilon`` is eps, ``sample`` is x0, ``v_prediction`` is v (alpha noise - sigma x0: the same sign).

    Raises
    ------
    UserError
        Another word.
    """
    names = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
    if prediction_type not in names:
        raise UserError(
            f"the prediction type {prediction_type!r} has no counterpart here; known are {', '.join(names)} (a "
            "flow-matching network predicts 'u', noise - x0)."
        )
    return names[prediction_type]
