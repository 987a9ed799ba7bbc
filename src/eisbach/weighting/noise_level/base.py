"""What every weighting on the noise-level axis shares, and the one conversion from a weight on x0 to a weight on any
target.

A published weight means something only together with the target it was written for. Here each scheme states W, its
weight on ``|x0_hat - x0|^2``, as a function of log-SNR; `x0_to_target_weight` restates it for the target that is being
trained, on any path.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from eisbach.diffusion.paths import Path, get_path
from eisbach.diffusion.targets import check_target, determinant
from eisbach.errors import CheckpointError, UserError

_EDGE = 2.0**-53  # how far noise levels are kept from 0 and 1, where log-SNR is infinite and only limits exist
_EDGE_FLOAT32 = 2.0**-24
_SLACK = 1e-6  # a noise level this far outside [0, 1] is rounding; farther out it is a mistake


class NoiseWeight(ABC):
    """A weight that depends on the noise level alone."""

    name: ClassVar[str]

    def __call__(self, path: Path | str, target: str, t: Tensor, *, num_frames: int | None = None) -> Tensor:
        """The weight on the squared error of `target`, shape (B,), detached, float64 (float32 where there is no
        float64).

        Parameters
        ----------
        path : Path or str
        target : {"eps", "x0", "v", "u"}
        t : Tensor [shape=(B,), floating], in [0, 1]
            Values are exact from 2^-53 to 1 - 2^-53. At the ends themselves, where SNR may be 0 or infinite, the weight
            is its value 2^-53 inside (2^-24 without float64): the limit to float64's precision where that is finite, a
            large finite number where it diverges. Each scheme says which. A t that is NaN or outside [0, 1] gives a NaN
            weight, so that a check for a finite loss sees it; nothing here waits for the device.
        num_frames : int or None
            Latent frames of the samples; only schemes that correct for a density which depends on length read it.

        Raises
        ------
        UserError
            Unknown path or target, a scheme that is undefined for them, or integer t.
        """
        path = get_path(path)
        check_target(target)
        with torch.no_grad():
            return self._weight(path, target, inner_levels(t), num_frames)

    @abstractmethod
    def _weight(self, path: Path, target: str, t: Tensor, num_frames: int | None) -> Tensor:
        """The weight on the target's squared error, at noise levels strictly inside (0, 1)."""

    def terms(
        self, path: Path | str, target: str, t: Tensor, *, num_frames: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(weight, penalty) of each sample, both (B,): the loss of sample b becomes ``weight_b * loss_b + penalty_b``.

        Most schemes have no penalty and a detached weight. One that learns its weight overrides this, returns both with
        gradient, and names its parameters in `trainable_parameters`.
        """
        return self(path, target, t, num_frames=num_frames), None

    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Parameters that training must update beside the network's, by name; empty for a fixed scheme."""
        return {}

    def to(self, device: torch.device | str) -> NoiseWeight:
        """This scheme with whatever it learns on `device`; the parameters stay the same objects."""
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must keep of a learned scheme; empty for a fixed one."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave.

        Raises
        ------
        CheckpointError
            It belongs to a scheme with other options.
        """
        if state:
            raise CheckpointError(f"the {self.name} weighting learns nothing, and got {len(state)} tensors to restore.")

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.options().items())
        return f"{type(self).__name__}({options})"

    def options(self) -> dict[str, Any]:
        """The resolved options."""
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}


class X0Weight(NoiseWeight):
    """A scheme that is defined by its weight W on the error of the data estimate."""

    @abstractmethod
    def log_x0_weight(self, log_snr: Tensor) -> Tensor:
        """ln W at each log-SNR; same shape."""

    def _weight(self, path: Path, target: str, t: Tensor, num_frames: int | None) -> Tensor:
        return x0_to_target_weight(self.log_x0_weight(path.log_snr(t)), path, target, t).exp()


def x0_to_target_weight(log_x0_weight: Tensor, path: Path | str, target: str, t: Tensor) -> Tensor:
    """ln of the weight on the target's squared error that equals the weight W on ``|x0_hat - x0|^2``.

    This is the only place where a weight changes its target. At fixed x_t an error d in the target is an error ``sigma
    d / D`` in x0 (`targets.determinant`), so ``w = W (sigma / D)^2``: W / SNR for eps, W sigma^2 / (alpha^2 +
    sigma^2)^2 for v, W (sigma / (alpha + sigma))^2 for u. On VP and GVP the v form is W / (SNR + 1); many trainers use
    that on every path, where it is not the same weight.

    Parameters
    ----------
    log_x0_weight : Tensor [shape=(B,)]
        ln W. Logarithms keep a W that overflows and a factor that vanishes apart until they meet.
    path : Path or str
    target : {"eps", "x0", "v", "u"}
    t : Tensor [shape=(B,)], strictly inside (0, 1)
    """
    path = get_path(path)
    if target == "x0":
        return log_x0_weight
    return log_x0_weight + 2 * (path.sigma(t).log() - determinant(path, target, t).abs().log())


def inner_levels(t: Tensor) -> Tensor:
    """`t` in float64, kept 2^-53 away from 0 and 1, NaN where it is outside [0, 1].

    On a device without float64: float32, and 2^-24 away.
    """
    if not t.is_floating_point():
        raise UserError(
            f"noise levels must be floating numbers in [0, 1], where 1 is noise; got a tensor of {t.dtype}: divide "
            "integer timesteps by their number."
        )
    whole = t.device.type != "mps"
    edge = _EDGE if whole else _EDGE_FLOAT32
    t = t.detach().to(torch.float64 if whole else torch.float32)
    outside = (t < -_SLACK) | (t > 1 + _SLACK)
    return t.clamp(edge, 1 - edge).masked_fill(outside, math.nan)


def positive(scheme: str, option: str, value: float) -> float:
    """`value` as a float, or a `UserError` when it is not a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise UserError(f"the {scheme} weighting's {option} must be a finite number above 0; got {value!r}.")
    return float(value)
