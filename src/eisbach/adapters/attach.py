"""Playing a trained adapter: folded into the weights, at any strength, and taken out again exactly."""

from __future__ import annotations

from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import nn

from eisbach.adapters.formats import peft as peft_format
from eisbach.adapters.inject import ADAPTER_NAME, AdaptableModel, inject, is_adapter_parameter
from eisbach.errors import CheckpointError, ConfigError

_originals: WeakKeyDictionary[nn.Module, dict[str, torch.Tensor]] = WeakKeyDictionary()
"""The weights that attached adapters replaced, by network, so that `detach` restores them bit for bit."""


def attach(model: AdaptableModel, folder: str | Path, strength: float = 1.0) -> int:
    """Folds the adapter of a folder into the model's weights and returns how many layers it changed.

    ``W = W0 + strength·(W1 - W0)`` where W1 is the weight with the adapter as trained: 0 is the base exactly and 1 the
    adapter, for DoRA as for LoRA (scaling DoRA's low-rank part alone would leave its magnitudes behind). A folded
    adapter costs nothing at inference.

    Parameters
    ----------
    model : a backbone
    folder : str or Path
        In peft's layout: `adapter_config.json` and `adapter_model.safetensors`.
    strength : float, default 1.0

    Raises
    ------
    CheckpointError
        The adapter is missing, truncated, was trained on another base model, or its weights do not match the model's.
    ConfigError
        An adapter is attached already.
    """
    folder, module = Path(folder), model.module
    if not (folder / peft_format.CONFIG).is_file():
        raise CheckpointError(f"{folder} holds no {peft_format.CONFIG}; give the folder of an adapter.")
    if module in _originals:
        raise ConfigError("an adapter is attached already; detach it before attaching another.")
    check_base(model, folder)
    config, tensors = peft_format.read_config(folder), peft_format.read_tensors(folder)
    config.inference_mode = False
    trainable = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    originals: dict[str, torch.Tensor] = {}
    try:
        inject(model, config)
        peft_format.load_into(module, tensors, folder)
        originals = _fold(module, strength)
    finally:
        _remove_layers(module)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in trainable)
    _originals[module] = originals
    return len(originals)


def detach(model: AdaptableModel) -> None:
    """Restores the weights from before `attach`, bit for bit; does nothing when no adapter is attached."""
    originals = _originals.pop(model.module, None)
    if originals is None:
        return
    parameters = dict(model.module.named_parameters())
    with torch.no_grad():
        for name, value in originals.items():
            parameters[name].copy_(value)


def check_base(model: AdaptableModel, folder: Path) -> None:
    """Refuses an adapter that was trained on another base model; one without a stamp is not checked."""
    trained_on = peft_format.read_stamp(folder).get("base_identity")
    if trained_on is not None and trained_on != model.identity():
        raise CheckpointError(
            f"the adapter {folder} was trained on the base model {trained_on[:12]}, and this is {model.identity()[:12]}; "
            "load the model that it was trained on."
        )


@torch.no_grad()
def _fold(module: nn.Module, strength: float) -> dict[str, torch.Tensor]:
    """Folds every adapter layer into its base weight; returns the base weights by the name they have without layers."""
    from peft.tuners.lora import LoraLayer

    originals = {}
    for name, layer in module.named_modules():
        if isinstance(layer, LoraLayer):
            base = layer.get_base_layer()
            original = base.weight.detach().clone()
            layer.merge(adapter_names=[ADAPTER_NAME])
            if strength != 1.0:
                base.weight.copy_(original + strength * (base.weight - original))
            if not torch.isfinite(base.weight).all():
                raise CheckpointError(f"the adapter's weights for '{name}' are not finite, so it cannot be played.")
            originals[f"{name}.weight"] = original
    return originals


def _remove_layers(module: nn.Module) -> None:
    """Puts the base layers back in the places of peft's layers."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoraLayer):
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(module, "peft_config"):
        del module.peft_config
    leftover = [name for name, _ in module.named_parameters() if is_adapter_parameter(name)]
    if leftover:
        raise RuntimeError(f"adapter parameters were left in the network: {leftover[:3]}")
