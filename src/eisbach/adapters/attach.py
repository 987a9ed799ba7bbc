"""Playing what was trained: folded into the base's weights, at any strength, and taken out again exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from eisbach.adapters.formats import full
from eisbach.adapters.formats import peft as peft_format
from eisbach.adapters.inject import ADAPTER_NAME, ATTACHED, AdaptableModel, inject, is_adapter_parameter
from eisbach.errors import CheckpointError, ConfigError


def attach(model: AdaptableModel, folder: str | Path, strength: float = 1.0) -> int:
    """Folds the adapter, or the fully trained weights, of a folder into the model; returns how many tensors it changed.

    ``W = W0 + strength·(W1 - W0)`` where W1 is the weight as trained: 0 is the base exactly and 1 the training's
    result, for DoRA as for LoRA (scaling DoRA's low-rank part alone would leave its magnitudes behind). A folded
    adapter costs nothing at inference.

    Parameters
    ----------
    model : a backbone
    folder : str or Path
        `adapter_config.json` and `adapter_model.safetensors` in peft's layout, or the `model.safetensors` of a
        fully trained model.
    strength : float, default 1.0

    Raises
    ------
    CheckpointError
        The folder holds neither, a file is truncated, it was trained on another base model, or its weights do not
        match the model's.
    ConfigError
        Something is attached already.
    """
    folder, module = Path(folder), model.module
    if module in ATTACHED:
        raise ConfigError("an adapter is attached already; detach it before attaching another.")
    if (folder / peft_format.CONFIG).is_file():
        check_base(model, folder, peft_format.read_stamp(folder))
        originals = _attach_adapter(model, folder, strength)
    elif (folder / full.WEIGHTS).is_file():
        check_base(model, folder, full.read_stamp(folder))
        originals = full.blend(module, folder, strength)
    else:
        raise CheckpointError(
            f"{folder} holds neither {peft_format.CONFIG} nor {full.WEIGHTS}; give the adapter/ or model/ folder of a run."
        )
    ATTACHED[module] = originals
    return len(originals)


def _attach_adapter(model: AdaptableModel, folder: Path, strength: float) -> dict[str, torch.Tensor]:
    config, tensors = peft_format.read_config(folder), peft_format.read_weights(folder)
    config.inference_mode = False
    module = model.module
    trainable = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    try:
        inject(model, config)
        peft_format.load_into(module, tensors, folder)
        return _fold(module, strength)
    finally:
        remove_layers(module)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in trainable)


def detach(model: AdaptableModel) -> None:
    """Restores the weights from before `attach`, bit for bit; does nothing when no adapter is attached."""
    originals = ATTACHED.pop(model.module, None)
    if originals is None:
        return
    state = model.module.state_dict()  # shares its storage with the module
    with torch.no_grad():
        for name, value in originals.items():
            state[name].copy_(value)


def check_base(model: AdaptableModel, folder: Path, stamp: dict[str, Any]) -> None:
    """Refuses weights that were trained on another base model; those without a stamp are not checked."""
    trained_on, here = stamp.get("base_identity"), model.identity()
    if trained_on is not None and trained_on != here:
        raise CheckpointError(
            f"{folder} was trained on the base model {trained_on}, and this is {here}; load the model that it was "
            "trained on."
        )


@torch.no_grad()
def _fold(module: nn.Module, strength: float) -> dict[str, torch.Tensor]:
    """Folds every adapter layer into its base weight; returns the base weights by the name they have without layers."""
    from peft.tuners.lora import LoraLayer

    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}
    originals = {f"{name}.weight": layer.get_base_layer().weight.detach().clone() for name, layer in layers.items()}
    for name, layer in layers.items():
        weight, original = layer.get_base_layer().weight, originals[f"{name}.weight"]
        layer.merge(adapter_names=[ADAPTER_NAME])
        if strength != 1.0:
            weight.copy_(original + strength * (weight - original))
    broken = [name for name, layer in layers.items() if not torch.isfinite(layer.get_base_layer().weight).all()]
    if broken:
        for name, layer in layers.items():
            layer.get_base_layer().weight.copy_(originals[f"{name}.weight"])
        raise CheckpointError(
            f"the adapter's weights for '{broken[0]}' are not finite, so it cannot be played; use an earlier one."
        )
    return originals


def remove_layers(module: nn.Module) -> None:
    """Puts the base layers back in the places of peft's layers; what the adapter had learned is lost."""
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
