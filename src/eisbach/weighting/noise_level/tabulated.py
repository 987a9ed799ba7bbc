"""A weight over the noise level that was measured rather than derived: points of (t, weight), linear between them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from eisbach.diffusion.paths import Path
from eisbach.errors import UserError
from eisbach.weighting.level_table import NoiseLevelTable
from eisbach.weighting.noise_level.base import NoiseWeight


class Tabulated(NoiseWeight):
    """The weight on the trained target's own squared error, from a table over t.

    It takes the place of a formula where a curve was measured: the mean of a sample weighting by noise level (so that
    an arm can train with that alone), or a schedule from a diagnosis.

    Parameters
    ----------
    points : list of [t, weight]
        t in [0, 1], increasing; weights finite and at least 0, not all 0. Constant beyond the first and the last.
    """

    name = "tabulated"

    def __init__(self, points: Sequence[Sequence[float]]) -> None:
        self.points = NoiseLevelTable(points)  # type: ignore[arg-type]
        if not any(value > 0 for _, value in self.points.points):
            raise UserError("the tabulated weighting's weights are all 0; at least one must be above 0.")

    def _weight(self, path: Path, target: str, t: Tensor, num_frames: int | None) -> Tensor:
        return self.points(t)
