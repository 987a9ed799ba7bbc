"""An adapter's layers in a network: which networks carry one, which parameters are its own, and taking the layers
out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import nn

ADAPTER_NAME = "default"
"""peft's name for the one adapter that a model carries."""

ATTACHED: WeakKeyDictionary[nn.Module, dict[str, torch.Tensor]] = WeakKeyDictionary()
"""The weights that attached adapters replaced, by network, so that detaching restores them bit for bit."""

HOOKS: WeakKeyDictionary[nn.Module, list[Any]] = WeakKeyDictionary()
"""Handles of what watches a network's forward passes for its adapter, by network."""


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


def has_adapter(module: nn.Module) -> bool:
    """True when the network holds adapter layers."""
    return any(is_adapter_parameter(name) for name, _ in module.named_parameters())


def is_adapter_parameter(name: str) -> bool:
    """True for the parameters that peft's LoRA and DoRA layers add."""
    return any(part.startswith("lora_") for part in name.split("."))


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that take gradients, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def remove_layers(module: nn.Module) -> None:
    """Puts the base layers back in the places of peft's layers; what the adapter had learned is lost."""
    from peft.tuners.lora import LoraLayer

    for handle in HOOKS.pop(module, []):
        handle.remove()
    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoraLayer):
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(module, "peft_config"):
        del module.peft_config
    leftover = [name for name, _ in module.named_parameters() if is_adapter_parameter(name)]
    if leftover:
        raise RuntimeError(f"adapter parameters were left in the network: {leftover[:3]}")
