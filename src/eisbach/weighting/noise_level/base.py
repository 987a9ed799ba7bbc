"""What every weighting on the noise-level axis shares, and the one conversion from a weight on x0 to a weight on any
target.

A published weight means something only together with the target it was written for. Here each scheme states W, its
weight on ``|x0_hat - x0|^2``, as a function of log-SNR; `x0_to_target_weight` restates it for the target that is being
trained, on any path.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
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


# --- a curve over the noise level, piecewise linear in t: gates of a sample weighting, means of weights


@dataclass(frozen=True)
class NoiseLevelTable:
    """Values at given noise levels, linear between them and constant beyond the first and the last.

    Attributes
    ----------
    points : tuple of (t, value)
        t in [0, 1], strictly increasing; every value finite and at least 0.

    Raises
    ------
    UserError
        No point, points out of order or outside [0, 1], or a value that is negative or not finite.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        try:
            points = tuple((float(t), float(value)) for t, value in self.points)
        except (TypeError, ValueError) as error:
            raise UserError(f"a noise-level table is a list of [t, value] pairs; got {self.points!r}.") from error
        object.__setattr__(self, "points", points)
        levels = [t for t, _ in points]
        if not points or any(not 0 <= t <= 1 for t in levels) or any(a >= b for a, b in pairwise(levels)):
            raise UserError(
                f"a noise-level table needs noise levels within [0, 1] in increasing order; got {levels[:12]}."
            )
        if bad := [value for _, value in points if not (math.isfinite(value) and value >= 0)]:
            raise UserError(f"a noise-level table's values must be finite and at least 0; got {bad[0]!r}.")

    def __call__(self, t: Tensor) -> Tensor:
        """The value at each t, in at least float32; same shape. NaN stays NaN."""
        t = t.detach()
        t = t if t.dtype == torch.float64 else t.to(torch.float32)
        # A sum of clamped ramps: no look-up, so nothing is copied to the device and the compiler sees plain arithmetic.
        value = t * 0 + self.points[0][1]
        for (low, first), (high, second) in pairwise(self.points):
            if first != second:
                value = value + (second - first) * ((t - low) / (high - low)).clamp(0, 1)
        return value


def gate_table(below: float | None = None, above: float | None = None, width: float = 0.0) -> NoiseLevelTable:
    """A gate: 1 where a sample weighting acts, 0 where it does not.

    Parameters
    ----------
    below : float in (0, 1] or None
        It acts at noise levels below this one (the barrier paper's section 4: belief and loss agree at low noise only).
    above : float in [0, 1) or None
        It acts above this one.
    width : float >= 0, default 0
        Width in t of the linear ramp, centred on the given level; 0 is a step.

    Raises
    ------
    UserError
        Neither end, ends that leave nothing between them, or a number out of range.
    """
    if below is None and above is None:
        raise UserError("a gate needs gate_below or gate_above (noise levels t in [0, 1]); got neither.")
    for name, end in (("gate_below", below), ("gate_above", above)):
        if end is not None and not (_is_number(end) and 0 <= end <= 1):
            raise UserError(f"{name} must be a noise level t in [0, 1]; got {end!r}.")
    if not (_is_number(width) and math.isfinite(width) and width >= 0):
        raise UserError(f"gate_width must be a width in t of at least 0; got {width!r}.")
    half = max(width, 1e-6) / 2  # a step is a very steep ramp
    points: list[tuple[float, float]] = []
    if above is not None:
        points += [(above - half, 0.0), (above + half, 1.0)]
    if below is not None:
        points += [(below - half, 1.0), (below + half, 0.0)]
    if above is not None and below is not None and above + half > below - half:
        raise UserError(
            f"the gate from {above:g} to {below:g} with ramps of width {width:g} leaves no noise level at which the "
            "sample weighting acts fully; move its ends apart or lower gate_width."
        )
    return NoiseLevelTable(_inside(points))


def _is_number(value: object) -> bool:
    """Whether a recipe's value is a number and no list, text or truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _inside(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The part of a curve within [0, 1], with its values at the ends."""

    def value_at(t: float) -> float:
        if t <= points[0][0]:
            return points[0][1]
        for (low, first), (high, second) in pairwise(points):
            if t <= high:
                return first + (second - first) * (t - low) / (high - low)
        return points[-1][1]

    levels = sorted({0.0, 1.0, *(t for t, _ in points if 0 < t < 1)})
    return tuple((t, value_at(t)) for t in levels)
