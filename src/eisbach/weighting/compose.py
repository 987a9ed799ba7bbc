"""The only place where losses are reduced: sample weights times noise-level weights, exact over the global batch.

With l_b the loss, s_b the sample weight and n_b the noise-level weight of sample b, and strength lambda:

- ``reduction="sample"`` (the barrier paper's section 5): ``L = mean_b(n_b ((1 - lambda) + lambda s_b) l_b)``
- ``reduction="batch"`` (its Eq. 5 as printed): ``L = mean_b(n_b l_b) * ((1 - lambda) + lambda mean_b(s_b))``

s_b is the weighting's own w_b, or ``1 + g(t) (w_b / m(t) - 1)`` with a gate g and the mean weight m of its noise level:
the gate turns it off where belief and loss disagree, and the division keeps a weight that falls with the noise from
being a noise-level weight in disguise. With a memory s_b is ``1 + g(t) (c_b - 1)``, where c_b is what is remembered of
the sample's clip (`clips.ClipMemory`). Weights that a person gave the clips multiply n_b. A noise-level weight that is
learned adds a penalty u_b to ``n_b l_b``.

Every mean is over the global batch. A process, or a micro-batch, knows only its part of it, so the work is split:
`partial` gives a sum to differentiate and a small vector of statistics that may be added up; `gradient_factor` turns
the added statistics into the one number that the accumulated gradients are multiplied by. Calling the weighting is the
same thing for a batch that is already whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from eisbach.diffusion.paths import Path
from eisbach.errors import UserError
from eisbach.types import LossTerms
from eisbach.weighting.clips import (
    MEMORY_PREFIX,
    ClipMemory,
    GivenWeights,
    check_memory,
    clips_at,
)
from eisbach.weighting.losses import (
    COUNT,
    SAMPLE_SUM,
    SUM,
    PartialLoss,
    effective_sample_size,
    noise_levels,
    statistics_of,
)
from eisbach.weighting.noise_level import NoiseWeight
from eisbach.weighting.noise_level.base import NoiseLevelTable
from eisbach.weighting.sample import SampleBarrier, SampleWeights
from eisbach.weighting.sample.base import at_least_float32

Reduction = Literal["sample", "batch"]
Normalisation = Literal["none", "mean1"]


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
    gate : NoiseLevelTable or None
        1 where the sample weighting acts and 0 where it does not; values in [0, 1] (`level_table.gate_table`).
    level_means : NoiseLevelTable or None
        The mean sample weight at each noise level, as a probe measures it; every value above 0. Sample weights are
        divided by it, so that they average 1 at every noise level. A sample too short to be judged keeps weight 1.
    memory : ClipMemory or None
        Weighs each sample by what is remembered of its clip, instead of by its own prediction. It changes: `partial`
        notes what it reads, and `end_step` takes it in.
    given : GivenWeights or None
        Weights that a person gave the clips.

    Raises
    ------
    UserError
        An option out of its range, "mean1" with the "batch" reduction of a sample weighting or with a learned
        noise-level weight, or a gate, level means or a memory without a sample weighting that it can act on.

    Examples
    --------
    In a training step, with the network's unreduced losses (B,) and what it was given:

    >>> import torch
    >>> from eisbach import Weighting, build_weighting
    >>> weighting = build_weighting(noise_level="min_snr", gamma=5.0)
    >>> isinstance(weighting, Weighting)
    True
    >>> x0, noise, t = torch.zeros(2, 4, 8), torch.ones(2, 4, 8), torch.tensor([0.2, 0.8])
    >>> x_t, output = (1 - t.view(2, 1, 1)) * x0 + t.view(2, 1, 1) * noise, torch.zeros(2, 4, 8)
    >>> losses = (output - (noise - x0)).square().mean((1, 2))
    >>> terms = weighting(losses, output, x_t=x_t, t=t, path="linear", target="u")
    >>> [round(weight, 3) for weight in terms.weight.tolist()]  # min((1 - t)^2, gamma t^2)
    [0.2, 0.04]
    >>> round(float(terms.loss), 3)
    0.12
    """

    sample: SampleBarrier | None = None
    noise_level: NoiseWeight | None = None
    reduction: Reduction = "sample"
    normalisation: Normalisation = "none"
    strength: float = 0.5
    gate: NoiseLevelTable | None = None
    level_means: NoiseLevelTable | None = None
    memory: ClipMemory | None = None
    given: GivenWeights | None = None

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
                "normalisation 'mean1' divides the one factor of reduction 'batch' by itself, which leaves exactly 1 "
                "and no "
                "sample weighting at all; use reduction 'sample', or normalisation 'none'."
            )
        for what, table in (("gate", self.gate), ("level_means", self.level_means)):
            if table is not None and self.sample is None:
                raise UserError(f"{what} shapes a sample weighting over the noise levels, and there is none; name one.")
        if self.memory is not None:
            check_memory(self.sample is not None, self.reduction, self.level_means is not None)
        if self.gate is not None and any(value > 1 for _, value in self.gate.points):
            raise UserError("a gate's values must lie in [0, 1]; to scale weights by noise level, use level_means.")
        if self.level_means is not None and any(value == 0 for _, value in self.level_means.points):
            raise UserError("level_means divides the sample weights, so every value must be above 0.")
        if self.normalisation == "mean1" and self.noise_level is not None and self.noise_level.trainable_parameters():
            raise UserError(
                "normalisation 'mean1' would divide the learned noise-level weight by its own mean, and its penalty "
                "with it; "
                "use normalisation 'none' (a learned weight keeps its own scale)."
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
        ids: Sequence[str] | None = None,
    ) -> LossTerms:
        """The weighted loss of a batch that is the whole global batch; arguments and errors as in `partial`.

        A memory takes in what it read at once.
        """
        context: dict[str, Any] = {"x_t": x_t, "t": t, "path": path, "target": target, "mask": mask, "ids": ids}
        terms = self.partial(per_sample_loss, output, **context).terms
        self.end_step()
        return terms

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
        ids: Sequence[str] | None = None,
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
        ids : sequence of str or None
            Name of each sample's clip; only a memory and given weights read them.

        Raises
        ------
        UserError
            Shapes that do not fit, integer noise levels, or a missing argument that a weighting needs.

        Notes
        -----
        Nothing here waits for the device. A NaN in the output or in the losses reaches `unscaled` and `terms.loss`, so
        that the training loop's check for a finite loss sees it. So does a t outside [0, 1] (a timestep of a scheduler,
        say) wherever a weighting reads t.
        """
        if per_sample_loss.dim() != 1 or per_sample_loss.shape[0] != output.shape[0] or output.shape[0] == 0:
            raise UserError(
                f"the weighting needs one loss for each sample of the output; got losses of shape "
                f"{tuple(per_sample_loss.shape)} for an output of {tuple(output.shape)}."
            )
        t = noise_levels(t)
        losses = at_least_float32(per_sample_loss)
        ones = torch.ones_like(losses, requires_grad=False)
        sample_weight, belief = ones, torch.full_like(ones, torch.nan)
        shaped = ones
        if self.sample is not None:
            weights = self.sample(output, x_t=x_t, t=t, path=path, target=target, mask=mask)
            sample_weight, belief = weights.weight.to(losses.dtype), weights.belief.to(losses.dtype)
            shaped = self._shape(weights, t, ids).to(losses.dtype)
        mix = ones
        if self.sample is not None and self.reduction == "sample":
            mix = (1 - self.strength) + self.strength * shaped
        if self.given is not None:
            mix = mix * self.given(*clips_at(ids, t, losses)).to(losses.dtype)
        noise_weight, costs = ones, losses
        if self.noise_level is not None:
            noise_weight, costs = self._noise_terms(losses, path, target, t, output.shape[2:3])
        unscaled = (mix * costs).sum()
        weight = noise_weight * mix
        stats = statistics_of(weight, shaped)
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
            shaped_weight=shaped,
        )
        return PartialLoss(unscaled=unscaled, stats=stats, terms=terms, weight=weight.detach())

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

    @torch.no_grad()
    def finish_gradients(self, parameters: Iterable[Tensor], stats: Tensor, already_divided_by: float = 1.0) -> Tensor:
        """Multiplies accumulated gradients by `gradient_factor`, in place and before clipping, and returns the factor.

        A learned noise-level weight's gradients are looked after too: no data-parallel wrapper exchanges them, so they
        are summed over the processes here where `torch.distributed` is running, and what the framework divided the loss
        by (accumulation, not the number of processes) is undone for them as well.

        Parameters
        ----------
        parameters : tensors
            Of the network; those without a gradient are passed over, and so are the learned weight's own.
        stats : Tensor [shape=(4,)]
            Sum of `PartialLoss.stats` over all micro-batches and processes.
        already_divided_by : float, default 1.0
            As in `gradient_factor`, of the network's gradients: accumulation times the number of processes.
        """
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        learned = list(self.trainable_parameters().values())
        factor = self.gradient_factor(stats, already_divided_by)
        gradients = [p.grad for p in parameters if p.grad is not None and all(p is not own for own in learned)]
        if gradients:
            torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))
        # The wrapper's mean over processes is of the network alone; a division of the loss reaches everything.
        world = torch.distributed.get_world_size() if distributed else 1
        own = self.gradient_factor(stats, max(1.0, already_divided_by / world))
        for parameter in learned:
            if parameter.grad is None:
                continue
            if distributed:
                torch.distributed.all_reduce(parameter.grad)
            parameter.grad.mul_(own.to(parameter.grad.dtype))
        self.end_step()
        return factor

    def end_step(self) -> None:
        """Lets a memory take in what the micro-batches of a step noted; nothing without one.

        Call it once a step on every process, or let `finish_gradients` do it.
        """
        if self.memory is not None:
            self.memory.update()

    def __repr__(self) -> str:
        beside = {"memory": self.memory, "given": self.given}
        clips = "".join(f", {name}={value!r}" for name, value in beside.items() if value is not None)
        return (
            f"Weighting(sample={self.sample!r}, noise_level={self.noise_level!r}, reduction={self.reduction!r}, "
            f"normalisation={self.normalisation!r}, strength={self.strength:g}, gate={self.gate!r}, "
            f"level_means={self.level_means!r}{clips})"
        )

    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Parameters of a learned noise-level weight, by name: give them to the optimiser beside the network's."""
        return {} if self.noise_level is None else self.noise_level.trainable_parameters()

    def to(self, device: torch.device | str) -> Weighting:
        """This weighting, with a learned noise-level weight moved to `device` in place; the others hold no tensors."""
        if self.noise_level is not None:
            self.noise_level.to(device)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must keep: a learned noise-level weight, and the memory of the clips; empty for others."""
        learned = {} if self.noise_level is None else self.noise_level.state_dict()
        return learned | ({} if self.memory is None else self.memory.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave; `CheckpointError` when it is of another weighting."""
        if self.noise_level is not None:
            own = {key: value for key, value in state.items() if not key.startswith(MEMORY_PREFIX)}
            self.noise_level.load_state_dict(own)
        if self.memory is not None:
            self.memory.load_state_dict(state)

    def _shape(self, weights: SampleWeights, t: Tensor | None, ids: Sequence[str] | None) -> Tensor:
        """s_b: the weights after gate and level means, or what is remembered of the clips."""
        if self.memory is not None and self.sample is not None:
            known, t = clips_at(ids, t, weights.weight)
            remembered = self.memory.weights(known, self.sample, weights.weight)
            self.memory.note(known, weights.belief, t)
            remembered = remembered + 0 * (weights.weight + t)  # NaN in the output or in t reaches the loss here too
            return remembered if self.gate is None else 1 + self.gate(t) * (remembered - 1)
        if self.gate is None and self.level_means is None:
            return weights.weight
        if t is None or t.shape != weights.weight.shape:
            got = "none" if t is None else str(tuple(t.shape))
            raise UserError(
                f"a gate and level means need one noise level a sample, t of shape {tuple(weights.weight.shape)}; got "
                f"{got}."
            )
        t = t.to(weights.weight.device)
        shaped = weights.weight
        if self.level_means is not None:
            shaped = shaped / self.level_means(t)
        if self.gate is not None:
            shaped = 1 + self.gate(t) * (shaped - 1)
        # A sample too short to be judged has weight 1 and no belief; it stays neutral.
        return torch.where(weights.belief.isnan() & (weights.weight == 1), weights.weight, shaped)

    def _noise_terms(
        self, losses: Tensor, path: Path | str | None, target: str | None, t: Tensor | None, frames: torch.Size
    ) -> tuple[Tensor, Tensor]:
        """(noise-level weight, detached; weight times loss plus penalty)."""
        if path is None or target is None or t is None:
            raise UserError("a noise-level weighting needs t, path and target; pass all three.")
        if self.noise_level is None or t.shape != losses.shape:
            raise UserError(f"t must hold one noise level a sample, shape {tuple(losses.shape)}; got {tuple(t.shape)}.")
        # Autocast would run a learned weight's matrix products in half precision.
        with torch.autocast(device_type=losses.device.type, enabled=False):
            weight, penalty = self.noise_level.terms(
                path, target, t.to(losses.device), num_frames=frames[0] if frames else None
            )
        weight = weight.to(losses.dtype)
        costs = weight * losses
        if penalty is not None:
            costs = costs + penalty.to(losses.dtype)
        return weight.detach(), costs
