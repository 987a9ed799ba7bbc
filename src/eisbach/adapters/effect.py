"""Did it do anything: how much an adapter changes what the network predicts, at each noise level."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from eisbach.adapters.inject import ATTACHED, AdaptableModel, has_adapter
from eisbach.diffusion.samplers import sample_ode
from eisbach.diffusion.schedules import get_schedule
from eisbach.errors import ConfigError
from eisbach.types import Conditioning

NEGLIGIBLE = 1e-4
"""A relative change below this is inaudible, and near what rounding does: the adapter did next to nothing."""


class PredictingModel(AdaptableModel, Protocol):
    """A backbone, as far as measuring an adapter needs it (see `eisbach.backbones.base.Backbone`)."""

    path: str
    target: str
    schedule: str
    latent_channels: int
    latent_rate: float

    def condition(self, captions: Sequence[str], durations: Sequence[float]) -> Conditioning:
        """Conditioning of captions and durations in seconds."""

    def predict(self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The network's output [shape=(B, C, T)]."""


@dataclass(frozen=True)
class Effect:
    """Relative change of the prediction.

    Attributes
    ----------
    levels : list of float
        Noise levels t, from noise down.
    relative : list of float
        ``RMS(with - without) / RMS(without)`` at each.
    """

    levels: list[float]
    relative: list[float]

    @property
    def overall(self) -> float:
        """Root mean square over the levels."""
        return math.sqrt(sum(value**2 for value in self.relative) / len(self.relative))

    @property
    def negligible(self) -> bool:
        """Whether the adapter did next to nothing."""
        return not self.overall >= NEGLIGIBLE


@contextmanager
def without_adapter(model: AdaptableModel) -> Iterator[None]:
    """The network as its base is, whether the adapter is folded in (`attach`) or still in layers (`inject`); exactly as before after.

    Raises
    ------
    ConfigError
        There is no adapter.
    """
    module = model.module
    if module in ATTACHED:
        state = module.state_dict()
        adapted = {name: state[name].clone() for name in ATTACHED[module]}
        _copy(state, ATTACHED[module])
        try:
            yield
        finally:
            _copy(state, adapted)
        return
    if not has_adapter(module):
        raise ConfigError("the model carries no adapter whose effect could be measured; attach one first.")
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[Any] = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
    required = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(required[name])


@torch.no_grad()
def _copy(state: dict[str, torch.Tensor], values: dict[str, torch.Tensor]) -> None:
    for name, value in values.items():
        state[name].copy_(value)


@torch.no_grad()
def relative_change(
    model: PredictingModel, conditioning: Conditioning, x_t: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    """``RMS(with - without) / RMS(without)`` of the prediction [shape=(B,), float32], row by row.

    Parameters
    ----------
    model : a backbone with an adapter, attached or injected
    conditioning : Conditioning of B rows
    x_t : torch.Tensor [shape=(B, C, T)]
    t : torch.Tensor [shape=(B,)]

    Raises
    ------
    ConfigError
        There is no adapter.
    """
    training = model.module.training
    model.module.eval()
    try:
        changed = model.predict(x_t, t, conditioning).float()
        with without_adapter(model):
            base = model.predict(x_t, t, conditioning).float()
    finally:
        model.module.train(training)
    return (changed - base).flatten(1).norm(dim=1) / base.flatten(1).norm(dim=1).clamp_min(
        torch.finfo(torch.float32).tiny
    )


@torch.no_grad()
def measure(
    model: PredictingModel,
    caption: str = "",
    seconds: float = 5.0,
    steps: int = 8,
    seed: int = 0,
) -> Effect:
    """The adapter's effect where generation goes: at the noise levels and the x_t of the base model's own sampling.

    Parameters
    ----------
    model : a backbone with an adapter, attached or injected
    caption : str
    seconds : float
        Length of what is sampled.
    steps : int
        Euler steps, and so noise levels.
    seed : int

    Raises
    ------
    ConfigError
        There is no adapter.
    """
    device = next(model.module.parameters()).device
    frames = max(2, round(seconds * model.latent_rate))
    conditioning = model.condition([caption], [seconds]).to(device=device)
    noise = torch.randn(1, model.latent_channels, frames, generator=torch.Generator().manual_seed(seed))
    levels: list[float] = []
    relative: list[float] = []

    def predict(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        changed = model.predict(x_t, t, conditioning)
        with without_adapter(model):
            base = model.predict(x_t, t, conditioning)
        levels.append(float(t.flatten()[0]))
        relative.append(float((changed - base).float().norm() / base.float().norm()))
        return base

    training = model.module.training
    model.module.eval()
    try:
        sample_ode(
            predict,
            path=model.path,
            target=model.target,
            noise=noise.to(device),
            times=get_schedule(model.schedule, steps),
            method="euler",
        )
    finally:
        model.module.train(training)
    return Effect(levels, relative)
