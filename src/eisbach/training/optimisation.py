"""AdamW with its state as plain tensors, the learning rate as a function of the step, the weight average, and stopping
at the first loss that is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import nn

from eisbach.errors import CheckpointError, ConfigError, NonFiniteLossError
from eisbach.training.config import OptimiserConfig

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_PARTS = ("codes", "scale")  # of a moment in 8 bits


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
) -> torch.optim.Optimizer:
    """AdamW, fused or with its moments in 8 bits. Vectors (norm gains, biases, DoRA magnitudes) are not decayed towards
    zero, nor is a learned weighting.

    Each group's `peak_lr` is the rate that the schedule multiplies (`set_rate`).

    Raises
    ------
    ConfigError
        8 bits, and torchao is not installed.
    """
    groups = [
        ([parameter for parameter in parameters.values() if parameter.dim() > 1], config.weight_decay, config.lr),
        ([parameter for parameter in parameters.values() if parameter.dim() <= 1], 0.0, config.lr),
        (list((learned_weighting or {}).values()), 0.0, config.weighting_lr),
    ]
    chosen = [
        {"params": members, "weight_decay": decay, "lr": rate, "peak_lr": rate}
        for members, decay, rate in groups
        if members
    ]
    options: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
    if config.type == "adamw":
        return torch.optim.AdamW(chosen, **options, fused=True)
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise ConfigError(
            'optimiser.type is adamw8bit, which needs torchao: pip install "eisbach[quant]"; or set it to adamw.'
        ) from error
    return cast(torch.optim.Optimizer, AdamW8bit(chosen, **options))


def set_rate(group: dict[str, Any], factor: float) -> None:
    """Sets the learning rate of an optimiser's group to its peak times `factor`."""
    rate = group["peak_lr"] * factor
    if isinstance(group["lr"], torch.Tensor):  # a compiled step would be compiled again for another number
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def take_optimiser_step(optimiser: torch.optim.Optimizer, device: torch.device) -> None:
    """One update. torchao compiles its own on a GPU; on a CPU, where that takes longer than it saves, it runs as
    written."""
    eager = device.type == "cpu" and not isinstance(optimiser, torch.optim.AdamW)
    with torch.compiler.set_stance("force_eager") if eager else nullcontext():
        optimiser.step()


def optimiser_tensors(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """The optimiser's state as a flat dictionary ``{moment}.{parameter name}``; of a moment in 8 bits
    ``{moment}_codes.…`` and ``{moment}_scale.…``."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        state = optimiser.state.get(parameter, {})
        for moment in _MOMENTS if state else ():
            value = state[moment]
            for part in _PARTS if _in_eight_bits(value) else ("",):
                tensors[f"{moment}{part and '_' + part}.{name}"] = getattr(value, part) if part else value
    return tensors


def _in_eight_bits(value: torch.Tensor) -> bool:
    return all(hasattr(value, part) for part in _PARTS)


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
    names = [*_MOMENTS, *(f"{moment}_{part}" for moment in _MOMENTS[1:] for part in _PARTS)]
    known = {f"{moment}.{name}" for name in parameters for moment in names}
    if unknown := sorted(tensors.keys() - known):
        raise CheckpointError(f"the optimiser's state is of another model: '{unknown[0]}' belongs to no parameter.")
    for name, parameter in parameters.items():
        if not any(f"{moment}.{name}" in tensors for moment in names):
            continue  # a parameter that has never had a gradient has no state
        state: dict[str, torch.Tensor] = {}
        for moment in _MOMENTS:
            value = tensors.get(f"{moment}.{name}")
            if value is None:
                value = _from_eight_bits(optimiser, parameter, moment, name, tensors)
            if value is None or (moment != "step" and value.shape != parameter.shape):
                raise CheckpointError(f"the optimiser's state is of another model: '{moment}.{name}' does not fit.")
            # torchao keeps the step on the host
            device = torch.device("cpu") if moment == "step" and not _is_fused(optimiser) else parameter.device
            state[moment] = value.to(device)
        optimiser.state[parameter] = state


def _is_fused(optimiser: torch.optim.Optimizer) -> bool:
    return isinstance(optimiser, torch.optim.AdamW)


def _from_eight_bits(
    optimiser: torch.optim.Optimizer,
    parameter: nn.Parameter,
    moment: str,
    name: str,
    tensors: Mapping[str, torch.Tensor],
) -> torch.Tensor | None:
    """A moment from its codes and scales; None where they are missing or fit no moment of this parameter."""
    codes, scale = (tensors.get(f"{moment}_{part}.{name}") for part in _PARTS)
    if codes is None or scale is None or _is_fused(optimiser) or codes.shape != parameter.shape:
        return None
    value: Any = cast(Any, optimiser)._new_buffer(parameter.detach(), moment == "exp_avg")
    if not _in_eight_bits(value) or value.scale.shape != scale.shape:
        return None
    value.codes.copy_(codes)
    value.scale.copy_(scale)
    return cast(torch.Tensor, value)


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

    On the CPU, and where the optimiser cannot be told to hold back, each step is checked before its update. Elsewhere
    the first bad step is remembered on the device, `blocked` keeps the optimiser from applying it **or any later
    one**, and `check`, called wherever the host waits anyway and before any checkpoint is written, ends the run. Either
    way no update that is not finite ever reaches the weights, and training never survives one.
    """

    def __init__(
        self,
        device: torch.device,
        gather: Callable[[list[str]], list[str]] = lambda ids: ids,
        *,
        can_block: bool = True,
    ) -> None:
        self.immediate = device.type == "cpu" or not can_block
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
