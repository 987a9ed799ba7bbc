"""AdamW with its state as plain tensors, the learning rate as a function of the step, the weight average, and stopping
at the first loss that is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from eisbach.errors import CheckpointError, NonFiniteLossError
from eisbach.training.config import OptimiserConfig

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def learning_rate_factor(step: int, steps: int, warmup_steps: int, schedule: str) -> float:
    """Multiplier of the peak learning rate at `step` (counted from 0): linear warm-up, then constant or cosine.

    The first warm-up step already moves (1 / warmup_steps); cosine reaches zero only after the last step.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    share = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * share))


def build_optimiser(
    parameters: Mapping[str, nn.Parameter],
    config: OptimiserConfig,
    learned_weighting: Mapping[str, nn.Parameter] | None = None,
) -> torch.optim.AdamW:
    """Fused AdamW. Vectors (norm gains, biases, DoRA magnitudes) are not decayed towards zero, nor is a learned
    weighting.

    Each group's `peak_lr` is the rate that the schedule multiplies.
    """
    groups = [
        ([parameter for parameter in parameters.values() if parameter.dim() > 1], config.weight_decay, config.lr),
        ([parameter for parameter in parameters.values() if parameter.dim() <= 1], 0.0, config.lr),
        (list((learned_weighting or {}).values()), 0.0, config.weighting_lr),
    ]
    return torch.optim.AdamW(
        [
            {"params": members, "weight_decay": decay, "lr": rate, "peak_lr": rate}
            for members, decay, rate in groups
            if members
        ],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def optimiser_tensors(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """The optimiser's state as a flat dictionary ``{moment}.{parameter name}``."""
    return {
        f"{moment}.{name}": optimiser.state[parameter][moment]
        for name, parameter in parameters.items()
        if parameter in optimiser.state
        for moment in _MOMENTS
    }


def load_optimiser(
    optimiser: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """Restores what `optimiser_tensors` gave.

    Raises
    ------
    CheckpointError
        A tensor belongs to no parameter or has another shape.
    """
    known = {f"{moment}.{name}" for name in parameters for moment in _MOMENTS}
    if unknown := sorted(tensors.keys() - known):
        raise CheckpointError(f"the optimiser's state is of another model: '{unknown[0]}' belongs to no parameter.")
    for name, parameter in parameters.items():
        state = {moment: tensors.get(f"{moment}.{name}") for moment in _MOMENTS}
        if all(value is None for value in state.values()):
            continue  # a parameter that has never had a gradient has no state
        for moment, value in state.items():
            if value is None or (moment != "step" and value.shape != parameter.shape):
                raise CheckpointError(f"the optimiser's state is of another model: '{moment}.{name}' does not fit.")
        optimiser.state[parameter] = {
            moment: value.to(parameter.device) for moment, value in state.items() if value is not None
        }


class WeightAverage:
    """Exponential moving average of parameters: ``average += (1 - d)·(weights - average)``.

    Early on d = (1 + step) / (10 + step) where that is below `decay`, so that the average does not remember the
    starting point for 1 / (1 - decay) steps.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.parameters = dict(parameters)
        self.average = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the weights after `step` steps (counted from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1.0 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges weights and average in place; a second call undoes the first."""
        for name, parameter in self.parameters.items():
            weights = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(weights)


_NAMED = 12


class FiniteGuard:
    """Watches the loss and the gradient norm of every step.

    On the CPU each step is checked before its update. On a GPU the first bad step is remembered on the device,
    `blocked` keeps the optimiser from applying it **or any later one**, and `check`, called wherever the host waits
    anyway and before any checkpoint is written, ends the run. Either way no update that is not finite ever reaches the
    weights, and training never survives one.
    """

    def __init__(self, device: torch.device, gather: Callable[[list[str]], list[str]] = lambda ids: ids) -> None:
        self.immediate = device.type == "cpu"
        self._bad_step = torch.full((), -1, device=device, dtype=torch.int64)
        self._recent: list[tuple[int, list[str], torch.Tensor]] = []
        self._gather = gather

    def remember(self, step: int, ids: list[str], per_sample: torch.Tensor) -> None:
        """Keeps the samples of a micro-batch until the next check, to name them."""
        self._recent.append((step, ids, per_sample))

    def observe(self, step: int, loss: torch.Tensor, grad_norm: torch.Tensor) -> None:
        """Notes whether the step (counted from 1) is finite; on the CPU a bad one ends the run here."""
        bad = ~(torch.isfinite(loss) & torch.isfinite(grad_norm))
        self._bad_step = torch.where((self._bad_step < 0) & bad, step, self._bad_step)
        if self.immediate:
            self.check()

    @property
    def blocked(self) -> torch.Tensor:
        """1.0 once a step was bad, for the fused optimiser's `found_inf`."""
        return (self._bad_step >= 0).float()

    def check(self) -> None:
        """Ends the run if a step was bad; waits for the device.

        Raises
        ------
        NonFiniteLossError
            Names the step and the samples: those whose own loss is not finite or, when all are finite and only the
            gradient is not, the whole batch.
        """
        step = int(self._bad_step)
        if step >= 0:
            batch = [(ids, losses) for at, ids, losses in self._recent if at == step]
            bad = [
                name
                for ids, losses in batch
                for name, loss in zip(ids, losses.tolist(), strict=True)
                if not _finite(loss)
            ]
            bad = self._gather(bad)
            everyone = self._gather([name for ids, _ in batch for name in ids])
            names = sorted(set(bad or everyone))
            shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
            what = (
                "the loss is not finite for" if bad else "the loss is finite but its gradient is not, in the batch of"
            )
            raise NonFiniteLossError(
                f"step {step}: {what} {shown}; nothing of this step was applied. Check these clips, or lower "
                "optimiser.lr, and run again."
            )
        self._recent.clear()


def _finite(value: float) -> bool:
    return value - value == 0.0
