"""The weightings that the toy compares, each normalised to mean 1 over the density that training draws t from.

Adam cancels a global scale of the loss almost exactly, so without the normalisation an arm's name would say nothing of
its step size; with it the mean loss scale is equal and only the allocation over noise levels differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from eisbach.diffusion.noise_levels import get_density
from eisbach.errors import UserError
from eisbach.weighting.noise_level import ERD, NOISE_WEIGHTINGS, NoiseWeight

_CELLS = 4096
_SAME = 1e-6

Weight = Callable[[Tensor], Tensor]


def arm_weight(arm: str, path: str, target: str) -> Weight:
    """t (B,) -> the arm's weight on the target's squared error, of mean 1 over t uniform in [0, 1].

    Raises
    ------
    UserError
        An unknown arm, one that learns its weight, or a scheme that is undefined for the path or the target.
    """
    scheme = _scheme(arm)
    middles = (torch.arange(_CELLS, dtype=torch.float64) + 0.5) / _CELLS
    mean = scheme(path, target, middles).mean()
    return lambda t: scheme(path, target, t) / mean


def _scheme(arm: str) -> NoiseWeight:
    if arm in ("erd", "erd_corrected"):
        return ERD(density=get_density("uniform"), correct_density=arm == "erd_corrected")
    if arm not in NOISE_WEIGHTINGS:
        raise UserError(f"the weighting {arm!r} is not known; choose one of {', '.join(NOISE_WEIGHTINGS)}.")
    scheme = NOISE_WEIGHTINGS[arm]()
    if scheme.trainable_parameters():
        raise UserError(
            f"the {arm} weighting learns its weight during training, and arms of the toy are fixed weights; choose "
            "another."
        )
    return scheme


def same_weights(arms: Sequence[str], path: str, target: str) -> dict[str, str]:
    """For each arm, the first arm whose weight is the same function there: itself, unless two coincide.

    On a variance-preserving path the ERD weight of u is sqrt(alpha^2 + sigma^2) = 1, the constant; training both would
    compare a network with itself.
    """
    t = (torch.arange(1024, dtype=torch.float64) + 0.5) / 1024
    curves: dict[str, Tensor] = {}
    found = {}
    for arm in arms:
        curve = arm_weight(arm, path, target)(t)
        found[arm] = next((name for name, other in curves.items() if bool(((curve - other).abs() <= _SAME).all())), arm)
        curves.setdefault(arm, curve)
    return found
