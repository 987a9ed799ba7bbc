"""The entropy log-barrier: Eqs. 1-4 of "Entropy as a Structural Prior" (Li & Li 2026), and the forms its text asks for.

For one sample's output y, with T valid frames::

    e = mean over channels of y^2        (1)
    p = softmax over frames of e         (2)
    B = H(p) / ln T                      (3)   belief, 1 = energy spread evenly over time
    w = 1 / (1 + alpha),  alpha = -ln(1 - B)   (4)

Those are the defaults. Three options change what enters Eq. 2: `source="x0"` takes the energy of the data estimate
instead of the output (for target u or eps the output of a perfect model is mostly noise at high t, so its energy says
little about the music); `energy` makes the statistic ignore gain, as the printed softmax of a raw energy does not; and
`over` says which of several trailing axes the energy is spread over.

How it is computed. ``1 - B`` is the divergence of p from the uniform distribution over ln T, and near a flat output it
is tiny, so it is never formed as a difference from 1. With ``l = ln(T p)`` it is ``mean(l e^l - e^l + 1) / ln T``, a
mean of terms that are each at least 0. Energies are formed relative to the largest magnitude in the sample, so no
finite output can overflow.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from eisbach.errors import UserError
from eisbach.weighting.sample.base import (
    Noising,
    SampleBarrier,
    SampleWeights,
    at_least_float32,
    check_choice,
    data_estimate,
    log_barrier,
)

Source = Literal["output", "x0"]
Energy = Literal["raw", "relative", "share"]
Over = Literal["all", "first"]
FLOOR = 1e-12
"""Smallest 1 - B that enters the logarithm: a constant output, B = 1, gets w = 1 / (1 + 27.6) = 0.035, not 0."""


class EntropyBarrier(SampleBarrier):
    """Weight from the entropy of the output's energy over time (Eqs. 1-4) or, for images, over space.

    Fewer than 2 valid frames have no entropy to normalise: the weight is 1 and the belief NaN. The statistic does not
    change when frames change places, so a loop weighs as much as music that develops.

    Parameters
    ----------
    floor : float in (0, 1), default 1e-12
        Smallest value of 1 - B that enters the logarithm.
    source : {"output", "x0"}, default "output"
        What has the energy: the network's output (as printed) or the data estimate it implies, which needs x_t, t, path
        and target.
    energy : {"raw", "relative", "share"}, default "raw"
        "raw": softmax of e (Eq. 2 as printed), which changes with gain. "relative": softmax of e over its mean, which
        does not. "share": p = e / sum of e, which does not either.
    temperature : float > 0, default 1.0
        p is proportional to exp(e / temperature), or to e^(1 / temperature) for "share"; lower tells frames apart more.
    over : {"all", "first"}, default "all"
        With several trailing axes (images, video, spectrograms): spread the energy over all of them together, or over
        the first alone, the others counting as channels.

    Raises
    ------
    UserError
        An option out of its range.
    """

    name = "entropy_barrier"

    def __init__(
        self,
        floor: float = FLOOR,
        source: Source = "output",
        energy: Energy = "raw",
        temperature: float = 1.0,
        over: Over = "all",
    ) -> None:
        if not 0 < floor < 1:
            raise UserError(f"the entropy barrier's floor must lie between 0 and 1; got {floor!r}.")
        if not 0 < temperature < math.inf:
            raise UserError(f"the entropy barrier's temperature must be a finite number above 0; got {temperature!r}.")
        for what, value, allowed in (
            ("source", source, get_args(Source)),
            ("energy", energy, get_args(Energy)),
            ("over", over, get_args(Over)),
        ):
            check_choice(f"the entropy barrier's {what}", value, allowed)
        self.floor, self.temperature = float(floor), float(temperature)
        self.source, self.energy, self.over = source, energy, over

    def _weigh(self, output: Tensor, noising: Noising, valid: Tensor | None) -> SampleWeights:
        if self.source == "x0":
            output = data_estimate("the entropy barrier with source 'x0'", output, noising)
        if self.over == "first" and output.dim() > 3:
            output, valid = _first_axis(output, valid)
        one_minus_belief, count = _concentration(output, valid, self.energy, self.temperature)
        return log_barrier(one_minus_belief, count >= 2, self.floor)

    def weight_of(self, belief: Tensor) -> Tensor:
        """See `SampleBarrier.weight_of`."""
        return log_barrier(1 - belief, ~belief.isnan(), self.floor).weight


def _first_axis(output: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """(B, channels times the other axes, T) and (B, T): a frame is valid where any of it is, and is scaled so that its
    mean square runs over what is valid.
    """
    folded = output.movedim(2, -1).flatten(1, -2)
    if valid is None:
        return folded, None
    values = torch.where(valid[:, None], output, torch.zeros_like(output)).movedim(2, -1).flatten(1, -2)
    share = at_least_float32(valid.flatten(2).to(output.dtype)).mean(2)
    return at_least_float32(values) / share.clamp(min=1e-30).sqrt()[:, None], share > 0


def _concentration(
    output: Tensor, valid: Tensor | None, energy_kind: Energy = "raw", temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(1 - B, number of valid frames) of each sample, both (B,); 1 - B is meaningless where fewer than 2 frames are
    valid.

    Parameters
    ----------
    output : Tensor [shape=(B, C, T...)]
    valid : Tensor [shape=(B, T...), bool] or None
    energy_kind, temperature
        As in `EntropyBarrier`.
    """
    y = at_least_float32(output).flatten(2)
    count = torch.full((y.shape[0],), float(y.shape[2]), dtype=y.dtype, device=y.device)
    if valid is not None:
        valid = valid.flatten(1)
        count = valid.sum(1).to(y.dtype)
        y = torch.where(valid[:, None, :], y, torch.zeros_like(y))
    peak = y.abs().amax((1, 2))
    peak = torch.where(peak == 0, torch.ones_like(peak), peak)
    energy = (y / peak[:, None, None]).square().mean(1)  # Eq. 1 in units of peak^2
    mean = energy.sum(1, keepdim=True) / count.clamp(min=1)[:, None]
    if valid is not None:
        energy = energy.masked_fill(~valid, -torch.inf)
    # The difference first, then the scale twice: 0 stays 0 and anything else may go to -inf, never to NaN.
    top = energy.amax(1, keepdim=True)
    top = torch.where(top == -torch.inf, torch.zeros_like(top), top)
    if energy_kind == "raw":
        logits = (energy - top) * peak[:, None] * peak[:, None]
    elif energy_kind == "relative":
        logits = (energy - top) / torch.where(mean == 0, torch.ones_like(mean), mean)
    else:  # an output of zeros has no shares: spread evenly, as a constant is
        logits = torch.where(
            mean == 0,
            torch.where(energy == 0, torch.zeros_like(energy), energy),
            (energy.clamp(min=0) / top).log(),  # padding stands at -inf, which has no logarithm: its share is 0
        )
    logits = logits / temperature
    log_ratio = logits - logits.logsumexp(1, keepdim=True) + count.clamp(min=1).log()[:, None]  # ln(T p), Eq. 2
    ratio = log_ratio.exp()
    terms = torch.where(ratio == 0, torch.ones_like(ratio), ratio * log_ratio - torch.expm1(log_ratio))
    if valid is not None:
        terms = terms.masked_fill(~valid, 0.0)
    divergence = terms.sum(1) / count.clamp(min=1)  # ln T - H(p)
    return divergence / count.clamp(min=2).log(), count
