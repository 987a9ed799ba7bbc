"""A curve over the noise level, piecewise linear in t: gates of a sample weighting, and its mean at each noise
level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from eisbach.errors import UserError


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
