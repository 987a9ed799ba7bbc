"""Putting a low-rank adapter into a model for training: peft's layers, and only their parameters trainable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import nn

from eisbach.errors import ConfigError

ADAPTER_NAME = "default"
"""peft's name for the one adapter that a model carries."""

ATTACHED: WeakKeyDictionary[nn.Module, dict[str, torch.Tensor]] = WeakKeyDictionary()
"""The weights that attached adapters replaced, by network, so that detaching restores them bit for bit."""


class AdaptableModel(Protocol):
    """What an adapter needs to know of a backbone (see `eisbach.backbones.base.Backbone`)."""

    @property
    def module(self) -> nn.Module:
        """The network."""

    @property
    def adapter_targets(self) -> Sequence[str] | str:
        """Names of the layers adapted by default."""

    def identity(self) -> str:
        """Hash of configuration and weights."""


def adapter_config(
    model: AdaptableModel,
    *,
    kind: str,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: Sequence[str] | str | None = None,
    exclude: Sequence[str] = (),
) -> Any:
    """peft's `LoraConfig` for an adapter of this model.

    Parameters
    ----------
    kind : "lora" or "dora"
        DoRA (Liu et al. 2024) also learns the norm of every row of the adapted weight.
    rank, alpha : the update is (alpha / rank)·B·A with A (rank, in) and B (out, rank).
    targets : names
        A list matches the ends of layer names, a string is a regular expression for the whole name; None takes
        `model.adapter_targets`.
    exclude : names left out of `targets`, matched in the same way.
    """
    from peft import LoraConfig

    chosen = model.adapter_targets if targets is None else targets
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        use_dora=kind == "dora",
        target_modules=chosen if isinstance(chosen, str) else list(chosen),
        exclude_modules=list(exclude) or None,
        bias="none",
    )


def inject(model: AdaptableModel, config: Any, seed: int = 0) -> dict[str, nn.Parameter]:
    """Injects the adapter in place, freezes everything else and returns the adapter's parameters by name.

    At the start the adapter changes nothing (B = 0; DoRA's magnitudes are the rows' own norms). A is drawn from
    `seed` alone; the global random state is left as it was.

    Raises
    ------
    ConfigError
        No layer has one of the target names, or the model carries an adapter already.
    """
    from peft import inject_adapter_in_model

    module = model.module
    if module in ATTACHED or has_adapter(module):
        raise ConfigError("an adapter is attached already; detach it first, or load the model anew.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(config, module, adapter_name=ADAPTER_NAME)
        except ValueError as error:
            layers = sorted({name.rpartition(".")[2] for name, layer in module.named_modules() if _is_linear(layer)})
            raise ConfigError(
                f"the adapter's targets {config.target_modules!r} cannot be used ({' '.join(str(error).split())}); "
                f"the model's linear layers end in: {', '.join(layers)}."
            ) from error
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(is_adapter_parameter(name))
    return trainable_parameters(module)


def has_adapter(module: nn.Module) -> bool:
    """True when the network holds adapter layers."""
    return any(is_adapter_parameter(name) for name, _ in module.named_parameters())


def is_adapter_parameter(name: str) -> bool:
    """True for the parameters that peft's LoRA and DoRA layers add."""
    return any(part.startswith("lora_") for part in name.split("."))


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that take gradients, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.Linear, nn.Conv1d))
