"""The only place where losses are reduced: sample weights times noise-level weights, exact over the global batch.

With l_b the loss, w_b the sample weight and n_b the noise-level weight of sample b, and strength lambda:

- ``reduction="sample"`` (the barrier paper's section 5): ``L = mean_b(n_b ((1 - lambda) + lambda w_b) l_b)``
- ``reduction="batch"`` (its Eq. 5 as printed): ``L = mean_b(n_b l_b) * ((1 - lambda) + lambda mean_b(w_b))``

Every mean is over the global batch. A process, or a micro-batch, knows only its part of it, so the work is split:
`partial` gives a sum to differentiate and a small vector of statistics that may be added up; `gradient_factor` turns
the added statistics into the one number that the accumulated gradients are multiplied by. Calling the weighting is the
same thing for a batch that is already whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from eisbach.diffusion.paths import Path
from eisbach.errors import UserError
from eisbach.types import LossTerms
from eisbach.weighting.noise_level import NoiseWeight
from eisbach.weighting.sample import SampleBarrier
from eisbach.weighting.sample.base import at_least_float32, expand_mask

Reduction = Literal["sample", "batch"]
Normalisation = Literal["none", "mean1"]
COUNT, SUM, SUM_OF_SQUARES, SAMPLE_SUM = range(4)
"""Places in `PartialLoss.stats`: samples, sum of weights, sum of squared weights, sum of w_b."""


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
    """

    unscaled: Tensor
    stats: Tensor
    terms: LossTerms


@dataclass(frozen=True)
class Weighting:
    """Multiplies and reduces the losses of a batch.

    Attributes
    ----------
    sample : SampleBarrier or None
        None weighs every sample 1.
    noise_level : NoiseWeight or None
        None weighs every noise level 1.
    reduction : {"sample", "batch"}, default "sample"
        A weight for each sample, or one scalar a step.
    normalisation : {"none", "mean1"}, default "none"
        With "mean1" the product of all weights is divided by its mean over the global batch.
    strength : float in [0, 1], default 0.5
        lambda: 0 ignores the sample weights, 1 uses them undiluted.

    Raises
    ------
    UserError
        An option out of its range, or "mean1" with the "batch" reduction of a sample weighting.
    """

    sample: SampleBarrier | None = None
    noise_level: NoiseWeight | None = None
    reduction: Reduction = "sample"
    normalisation: Normalisation = "none"
    strength: float = 0.5

    def __post_init__(self) -> None:
        for what, value, allowed in (
            ("reduction", self.reduction, get_args(Reduction)),
            ("normalisation", self.normalisation, get_args(Normalisation)),
        ):
            if value not in allowed:
                raise UserError(f"the weighting's {what} is {value!r}; choose one of {', '.join(allowed)}.")
        if not (math.isfinite(self.strength) and 0 <= self.strength <= 1):
            raise UserError(f"the weighting's strength must lie in [0, 1]; got {self.strength!r}.")
        if self.sample is not None and self.reduction == "batch" and self.normalisation == "mean1":
            raise UserError(
                "normalisation 'mean1' divides the one factor of reduction 'batch' by itself, which leaves exactly 1 and no "
                "sample weighting at all; use reduction 'sample', or normalisation 'none'."
            )

    def __call__(
        self,
        per_sample_loss: Tensor,
        output: Tensor,
        *,
        x_t: Tensor | None = None,
        t: Tensor | None = None,
        path: Path | str | None = None,
        target: str | None = None,
        mask: Tensor | None = None,
    ) -> LossTerms:
        """The weighted loss of a batch that is the whole global batch; arguments and errors as in `partial`."""
        return self.partial(per_sample_loss, output, x_t=x_t, t=t, path=path, target=target, mask=mask).terms

    def partial(
        self,
        per_sample_loss: Tensor,
        output: Tensor,
        *,
        x_t: Tensor | None = None,
        t: Tensor | None = None,
        path: Path | str | None = None,
        target: str | None = None,
        mask: Tensor | None = None,
    ) -> PartialLoss:
        """One micro-batch's share of the loss.

        Parameters
        ----------
        per_sample_loss : Tensor [shape=(B,)]
            Unweighted loss of each sample, the mean over its valid elements (`per_sample_mse`).
        output : Tensor [shape=(B, C, T...)]
            The network's prediction; only its values are read, no gradient flows through the weights.
        x_t : Tensor [shape=(B, C, T...)]
        t : Tensor [shape=(B,)]
        path : Path or str
        target : {"eps", "x0", "v", "u"}
            The noisy input, its noise level, and what the network predicts; optional where no weighting reads them.
        mask : Tensor [shape=(B, T...), bool] or None
            True on valid frames.

        Raises
        ------
        UserError
            Shapes that do not fit, or a missing argument that a weighting needs.

        Notes
        -----
        Nothing here waits for the device. A NaN in the output or in the losses reaches `unscaled` and `terms.loss`, so
        that the training loop's check for a finite loss sees it.
        """
        if per_sample_loss.dim() != 1 or per_sample_loss.shape[0] != output.shape[0] or output.shape[0] == 0:
            raise UserError(
                f"the weighting needs one loss for each sample of the output; got losses of shape "
                f"{tuple(per_sample_loss.shape)} for an output of {tuple(output.shape)}."
            )
        losses = at_least_float32(per_sample_loss)
        ones = torch.ones_like(losses, requires_grad=False)
        sample_weight, belief = ones, torch.full_like(ones, torch.nan)
        if self.sample is not None:
            weights = self.sample(output, x_t=x_t, t=t, path=path, target=target, mask=mask)
            sample_weight, belief = weights.weight.to(losses.dtype), weights.belief.to(losses.dtype)
        noise_weight = ones
        if self.noise_level is not None:
            noise_weight = self._noise_weight(losses, path, target, t)
        weight = noise_weight
        if self.sample is not None and self.reduction == "sample":
            weight = noise_weight * ((1 - self.strength) + self.strength * sample_weight)
        unscaled = (weight * losses).sum()
        stats = _stats(weight, sample_weight)
        factor = self.gradient_factor(stats).to(losses.dtype)
        final = (weight * factor * losses.shape[0]).detach()
        terms = LossTerms(
            loss=unscaled * factor,
            per_sample=losses.detach(),
            sample_weight=sample_weight,
            noise_weight=noise_weight,
            weight=final,
            belief=belief,
            effective_sample_size=effective_sample_size(stats).to(losses.dtype),
        )
        return PartialLoss(unscaled=unscaled, stats=stats, terms=terms)

    def gradient_factor(self, stats: Tensor, already_divided_by: float = 1.0) -> Tensor:
        """What the accumulated gradients of `PartialLoss.unscaled` are multiplied by, before clipping: a 0-d tensor.

        Parameters
        ----------
        stats : Tensor [shape=(4,)]
            Sum of `PartialLoss.stats` over all micro-batches and processes of the step.
        already_divided_by : float, default 1.0
            What the framework has divided the gradients by: the number of processes under DistributedDataParallel,
            times the accumulation steps where the framework divides by those too.

        Notes
        -----
        The same factor turns the sum of the `unscaled` values into the global loss. Where all weights are 0 it is 0.
        """
        count, total = stats[COUNT], stats[SUM]
        if self.normalisation == "mean1":
            factor = torch.where(total == 0, torch.zeros_like(total), 1 / total)
        else:
            factor = 1 / count
        if self.sample is not None and self.reduction == "batch":
            mean_weight = stats[SAMPLE_SUM] / count
            factor = factor * ((1 - self.strength) + self.strength * mean_weight)  # Eq. 5
        return factor * already_divided_by

    def __repr__(self) -> str:
        return (
            f"Weighting(sample={self.sample!r}, noise_level={self.noise_level!r}, reduction={self.reduction!r}, "
            f"normalisation={self.normalisation!r}, strength={self.strength:g})"
        )

    def _noise_weight(self, losses: Tensor, path: Path | str | None, target: str | None, t: Tensor | None) -> Tensor:
        if path is None or target is None or t is None:
            raise UserError("a noise-level weighting needs t, path and target; pass all three.")
        if self.noise_level is None or t.shape != losses.shape:
            raise UserError(f"t must hold one noise level a sample, shape {tuple(losses.shape)}; got {tuple(t.shape)}.")
        return self.noise_level(path, target, t.to(losses.device)).to(losses.dtype)


def _stats(weight: Tensor, sample_weight: Tensor) -> Tensor:
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
