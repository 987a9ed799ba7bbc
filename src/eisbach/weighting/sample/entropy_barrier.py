"""The entropy log-barrier: Eqs. 1-4 of "Entropy as a Structural Prior" (Li & Li 2026).

For one sample's output y, with T valid frames::

    e = mean over channels of y^2        (1)
    p = softmax over frames of e         (2)
    B = H(p) / ln T                      (3)   belief, 1 = energy spread evenly over time
    w = 1 / (1 + alpha),  alpha = -ln(1 - B)   (4)

With more trailing axes than time, the softmax and the entropy run over all of them together.

How it is computed. ``1 - B`` is the divergence of p from the uniform distribution over ln T, and near a flat output it
is tiny, so it is never formed as a difference from 1. With ``l = ln(T p)`` it is ``mean(l e^l - e^l + 1) / ln T``, a
mean of terms that are each at least 0. Energies are formed relative to the largest magnitude in the sample, so no
finite output can overflow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eisbach.diffusion.paths import Path
from eisbach.errors import UserError
from eisbach.weighting.sample.base import SampleBarrier, SampleWeights, at_least_float32

FLOOR = 1e-12
"""Smallest 1 - B that enters the logarithm: a constant output, B = 1, gets w = 1 / (1 + 27.6) = 0.035, not 0."""


class EntropyBarrier(SampleBarrier):
    """Weight from the entropy of the output's energy over time (Eqs. 1-4).

    Fewer than 2 valid frames have no entropy to normalise: the weight is 1 and the belief NaN. The statistic does not
    change when frames change places, so a loop weighs as much as music that develops; and it is not gain-invariant.

    Parameters
    ----------
    floor : float in (0, 1), default 1e-12
        Smallest value of 1 - B that enters the logarithm.
    """

    name = "entropy_barrier"

    def __init__(self, floor: float = FLOOR) -> None:
        if not 0 < floor < 1:
            raise UserError(f"the entropy barrier's floor must lie between 0 and 1; got {floor!r}.")
        self.floor = float(floor)

    def _weigh(
        self,
        output: Tensor,
        *,
        x_t: Tensor | None = None,
        t: Tensor | None = None,
        path: Path | str | None = None,
        target: str | None = None,
        valid: Tensor | None = None,
    ) -> SampleWeights:
        one_minus_belief, count = concentration(output, valid)
        return log_barrier(one_minus_belief, count >= 2, self.floor)


def concentration(output: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """(1 - B, number of valid frames) of each sample, both (B,); 1 - B is meaningless where fewer than 2 frames are
    valid.

    Parameters
    ----------
    output : Tensor [shape=(B, C, T...)]
    valid : Tensor [shape=(B, T...), bool] or None
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
    if valid is not None:
        energy = energy.masked_fill(~valid, -torch.inf)
    # The difference first, then the scale twice: 0 stays 0 and anything else may go to -inf, never to NaN.
    top = energy.amax(1, keepdim=True)
    top = torch.where(top == -torch.inf, torch.zeros_like(top), top)
    logits = (energy - top) * peak[:, None] * peak[:, None]
    log_ratio = logits - logits.logsumexp(1, keepdim=True) + count.clamp(min=1).log()[:, None]  # ln(T p), Eq. 2
    ratio = log_ratio.exp()
    terms = torch.where(ratio == 0, torch.ones_like(ratio), ratio * log_ratio - torch.expm1(log_ratio))
    if valid is not None:
        terms = terms.masked_fill(~valid, 0.0)
    divergence = terms.sum(1) / count.clamp(min=1)  # ln T - H(p)
    return divergence / count.clamp(min=2).log(), count


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
