"""Losses of samples, and what a micro-batch passes on of them: the vocabulary of `compose`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eisbach.errors import UserError
from eisbach.types import LossTerms
from eisbach.weighting.sample.base import at_least_float32, expand_mask

COUNT, SUM, SUM_OF_SQUARES, SAMPLE_SUM = range(4)
"""Places in `PartialLoss.stats`: samples, sum of weights, sum of squared weights, sum of s_b."""


@dataclass(frozen=True)
class PartialLoss:
    """One micro-batch's share of a global batch.

    Attributes
    ----------
    unscaled : Tensor [shape=()]
        To call `backward` on: the weighted sum of the losses, before the division that needs the whole global batch.
    stats : Tensor [shape=(4,), detached]
        Add these over micro-batches and processes, then ask `Weighting.gradient_factor`.
    terms : LossTerms
        What was computed, with every mean over this micro-batch alone; for logging.
    weight : Tensor [shape=(B,), detached]
        What multiplies each sample's loss in `unscaled`: the factors of a trainer that weighs gradients itself.
    """

    unscaled: Tensor
    stats: Tensor
    terms: LossTerms
    weight: Tensor

    @property
    def samples(self) -> Tensor:
        """Samples of this micro-batch, a 0-d tensor."""
        return self.stats[COUNT]

    @property
    def mean_sample_weight(self) -> Tensor:
        """Mean of s_b over this micro-batch, a 0-d tensor: the factor of Eq. 5 before strength."""
        return self.stats[SAMPLE_SUM] / self.stats[COUNT]


def statistics_of(weight: Tensor, sample_weight: Tensor) -> Tensor:
    """`PartialLoss.stats` of a micro-batch, from its weights and its s_b, both (B,)."""
    # Float64 sums make the split over micro-batches exact; devices without it use what they have.
    dtype = torch.float32 if weight.device.type == "mps" else torch.float64
    weight = weight.detach().to(dtype)
    return torch.stack(
        [torch.ones_like(weight).sum(), weight.sum(), weight.square().sum(), sample_weight.detach().to(dtype).sum()]
    )


def effective_sample_size(stats: Tensor) -> Tensor:
    """(sum of weights)^2 / sum of squared weights, a 0-d tensor between 1 and the number of samples; 0 when all are 0.

    `stats` is a `PartialLoss.stats`, or a sum of several. The batch factor of Eq. 5 scales all weights alike and drops
    out.
    """
    total, squares = stats[SUM], stats[SUM_OF_SQUARES]
    return torch.where(squares == 0, torch.zeros_like(total), total.square() / squares)


def per_sample_mse(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of each sample over channels and valid frames: (B,), in at least float32, differentiable.

    Parameters
    ----------
    output, target : Tensor [shape=(B, C, T...)]
    mask : Tensor [shape=(B, T...), bool] or None
        True on valid frames, as in `Weighting.partial`. A sample without valid frames has loss 0 and no gradient.
    """
    if output.shape != target.shape:
        raise UserError(f"output {tuple(output.shape)} and target {tuple(target.shape)} must have the same shape.")
    square = (at_least_float32(output) - at_least_float32(target)).square().flatten(2).mean(1)
    valid = expand_mask(mask, output)
    if valid is None:
        return square.mean(1)
    valid = valid.flatten(1)
    return torch.where(valid, square, torch.zeros_like(square)).sum(1) / valid.sum(1).clamp(min=1)


def noise_levels(t: Tensor | None) -> Tensor | None:
    """`t` with NaN where it is no noise level; a value beyond the ends by rounding alone counts as one."""
    if t is None:
        return None
    if not t.is_floating_point():
        raise UserError(
            f"noise levels must be floating numbers in [0, 1], where 1 is noise; got a tensor of {t.dtype}: a "
            "scheduler's "
            "timesteps become noise levels through DiscretePath.timesteps_to_t."
        )
    t = t.detach()
    return t.masked_fill((t < -1e-6) | (t > 1 + 1e-6), math.nan)
