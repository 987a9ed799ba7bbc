"""Adapters: injected for training, written in the formats that people play, attached and detached for generation."""

from __future__ import annotations

from eisbach.adapters.attach import attach, detach
from eisbach.adapters.inject import AdaptableModel, adapter_config, inject, remove_layers, trainable_parameters

load_adapter = attach

__all__ = [
    "AdaptableModel",
    "adapter_config",
    "attach",
    "detach",
    "inject",
    "load_adapter",
    "remove_layers",
    "trainable_parameters",
]
