"""From a statistic in [0, 1], 1 - B, to a weight: the log-barrier of "Entropy as a Structural Prior" (Li & Li 2026), or
a power."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from eisbach.errors import UserError
from eisbach.weighting.sample.base import SampleWeights, check_choice

Form = Literal["barrier", "power"]


def check_form(who: str, form: str, sharpness: float) -> None:
    """Raises a `UserError` when `form` is none, or `sharpness` is no finite number above 0; `who` is named."""
    check_choice(f"{who}'s form", form, get_args(Form))
    if not 0 < sharpness < math.inf:
        raise UserError(f"{who}'s sharpness must be a finite number above 0; got {sharpness!r}.")


def log_barrier(one_minus_belief: Tensor, has_belief: Tensor, floor: float) -> SampleWeights:
    """w = 1 / (1 - ln(1 - B)) (Eq. 4); weight 1 and belief NaN where `has_belief` is False. NaN stays NaN.

    Parameters
    ----------
    one_minus_belief : Tensor [shape=(B,)]
    has_belief : Tensor [shape=(B,), bool]
    floor : float
        Smallest 1 - B that enters the logarithm.
    """
    inside = one_minus_belief.clamp(0, 1)
    weight = 1 / (1 - inside.clamp(min=floor).log())
    weight = torch.where(has_belief, weight, torch.ones_like(weight))
    belief = torch.where(has_belief, 1 - inside, torch.full_like(inside, torch.nan))
    return SampleWeights(weight=weight, belief=belief)


def weights_of_form(
    one_minus_belief: Tensor, has_belief: Tensor, floor: float, form: str, sharpness: float
) -> SampleWeights:
    """The log-barrier, or (1 - B) to the power `sharpness`; arguments as in `log_barrier`, the floor holds for both."""
    weights = log_barrier(one_minus_belief, has_belief, floor)
    if form == "barrier":
        return weights
    power = one_minus_belief.clamp(floor, 1) ** sharpness
    return SampleWeights(torch.where(has_belief, power, torch.ones_like(power)), weights.belief)
