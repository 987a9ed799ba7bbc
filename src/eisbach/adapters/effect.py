"""Did it do anything: how much an adapter changes what the network predicts, at each noise level."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from eisbach.adapters.attach import attach, detach
from eisbach.adapters.inject import ATTACHED, AdaptableModel, has_adapter
from eisbach.diffusion.paths import Path as NoisingPath
from eisbach.diffusion.samplers import sample_ode
from eisbach.diffusion.schedules import get_schedule
from eisbach.errors import ConfigError
from eisbach.types import Conditioning

NEGLIGIBLE = 1e-4
"""A relative change below this is inaudible, and near what rounding does: the adapter did next to nothing."""


class PredictingModel(AdaptableModel, Protocol):
    """A backbone, as far as measuring an adapter needs it (see `eisbach.backbones.base.Backbone`)."""

    path: NoisingPath
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
    """The network as its base is, whether the adapter is folded in (`attach`) or still in layers (`inject`); exactly as
    before after.

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
    with _evaluating(model):
        changed = model.predict(x_t, t, conditioning).float()
        with without_adapter(model):
            base = model.predict(x_t, t, conditioning).float()
    return (changed - base).flatten(1).norm(dim=1) / base.flatten(1).norm(dim=1).clamp_min(
        torch.finfo(torch.float32).tiny
    )


@dataclass(frozen=True)
class Levels:
    """Where an adapter is looked at: noise levels and x_t of the base model's own sampling.

    Attributes
    ----------
    x_t : torch.Tensor [shape=(n, C, T)]
    t : torch.Tensor [shape=(n,)]
    conditioning : Conditioning of one row
    """

    x_t: torch.Tensor
    t: torch.Tensor
    conditioning: Conditioning

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for x_t, t in zip(self.x_t, self.t, strict=True):
            yield x_t[None], t[None]


@torch.no_grad()
def base_levels(model: PredictingModel, caption: str = "", frames: int = 64, steps: int = 8, seed: int = 0) -> Levels:
    """Noise levels and x_t along Euler steps of the base model (without its adapter, where it has one).

    Parameters
    ----------
    model : a backbone
    caption : str
    frames : int
        Latent frames that are sampled.
    steps : int
        Euler steps, and so noise levels.
    seed : int
    """
    device = next(model.module.parameters()).device
    conditioning = model.condition([caption], [frames / model.latent_rate]).to(device=device)
    noise = torch.randn(1, model.latent_channels, frames, generator=torch.Generator().manual_seed(seed))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def predict(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append((x_t[0], t.flatten()[0]))
        return model.predict(x_t, t, conditioning)

    adapted = model.module in ATTACHED or has_adapter(model.module)
    with _evaluating(model), without_adapter(model) if adapted else nullcontext():
        sample_ode(
            predict,
            path=model.path,
            target=model.target,
            noise=noise.to(device),
            times=get_schedule(model.schedule, steps, model.path),
            method="euler",
        )
    return Levels(torch.stack([x_t for x_t, _ in seen]), torch.stack([t for _, t in seen]), conditioning)


def measure(model: PredictingModel, levels: Levels | None = None) -> Effect:
    """The adapter's effect where generation goes (see `base_levels`, whose defaults apply).

    Raises
    ------
    ConfigError
        There is no adapter.
    """
    levels = base_levels(model) if levels is None else levels
    relative = [float(relative_change(model, levels.conditioning, x_t, t)) for x_t, t in levels]
    return Effect([float(t) for t in levels.t], relative)


@dataclass(frozen=True)
class Comparison:
    """A written adapter beside the one it was made from.

    Attributes
    ----------
    effect : Effect
        Of the adapter that was written.
    deviation : float
        RMS difference of the two predictions, as a share of the adapter's own change of the prediction.
    relative_deviation : float
        The same as a share of the prediction.
    """

    effect: Effect
    deviation: float
    relative_deviation: float


@torch.no_grad()
def compare(
    model: PredictingModel, source: str | Path, written: str | Path, *, strength: float = 1.0, any_base: bool = False
) -> Comparison:
    """Plays the source at a strength, and what was written of it at 1, on the same inputs; the model is as before
    afterwards.

    Raises
    ------
    CheckpointError, ConfigError
        As in `eisbach.adapters.attach`.
    """
    levels = base_levels(model)
    attach(model, source, strength, any_base=any_base)
    try:
        theirs = predictions(model, levels)
    finally:
        detach(model)
    attach(model, written, any_base=any_base)
    try:
        effect, ours = measure(model, levels), predictions(model, levels)
    finally:
        detach(model)
    base = predictions(model, levels)
    far, change = float((ours - theirs).norm()), float((theirs - base).norm())
    return Comparison(effect, far / change if change else math.inf if far else 0.0, far / float(base.norm()))


@torch.no_grad()
def predictions(model: PredictingModel, levels: Levels) -> torch.Tensor:
    """What the network predicts at each level [shape=(n, C, T), float32]."""
    with _evaluating(model):
        return torch.cat([model.predict(x_t, t, levels.conditioning).float() for x_t, t in levels])


@contextmanager
def _evaluating(model: AdaptableModel) -> Iterator[None]:
    training = model.module.training
    model.module.eval()
    try:
        yield
    finally:
        model.module.train(training)
