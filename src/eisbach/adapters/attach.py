"""Playing what was trained: folded into the base's weights, at any strength, and taken out again exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from eisbach.adapters import convert
from eisbach.adapters.formats import full, low_rank
from eisbach.adapters.formats import peft as peft_format
from eisbach.adapters.formats.low_rank import Differences
from eisbach.adapters.inject import ADAPTER_NAME, ATTACHED, AdaptableModel, has_adapter, inject, remove_layers
from eisbach.errors import CheckpointError, ConfigError
from eisbach.tensor_files import foreign_files


@foreign_files("the adapter")
def attach(model: AdaptableModel, path: str | Path, strength: float = 1.0, *, any_base: bool = False) -> int:
    """Folds an adapter, or fully trained weights, into the model; returns how many of its tensors changed.

    ``W = W0 + strength·(W1 - W0)`` where W1 is the weight as trained: 0 is the base exactly and 1 the training's
    result, for DoRA as for LoRA (scaling DoRA's low-rank part alone would leave its magnitudes behind). A folded
    adapter costs nothing at inference.

    Parameters
    ----------
    model : a backbone
    path : str or Path
        An adapter's file or folder of any format that `eisbach.adapters.convert` reads, or the folder with the
        `model.safetensors` of a fully trained model.
    strength : float, default 1.0
    any_base : bool
        Play it on another base model than the one it was trained on, such as the distilled one; names and shapes must
        still fit.

    Raises
    ------
    CheckpointError
        There is nothing that can be read, a file is truncated, it was trained on another base model, or its weights do
        not match the model's.
    ConfigError
        Something is attached or injected already.

    A refusal leaves the model as it was, bit for bit: everything is checked before anything changes.

    Examples
    --------
    With the folder ``run`` of a training:

    >>> from eisbach import load_adapter, load_model
    >>> from eisbach.adapters import detach
    >>> backbone = load_model("embedded")
    >>> load_adapter(backbone, "run/adapter", strength=0.8) > 0
    True
    >>> detach(backbone)  # bit for bit the base again
    """
    path, module = Path(path), model.module
    if module in ATTACHED or has_adapter(module):
        raise ConfigError("an adapter is attached already; detach it before attaching another.")
    if (path / peft_format.CONFIG).is_file():
        check_base(model, path, peft_format.read_stamp(path), any_base=any_base)
        config, tensors = peft_format.read_config(path), peft_format.read_weights(path)
        originals = _attach_factors(model, config, tensors, path, strength)
    elif (path / full.WEIGHTS).is_file():
        check_base(model, path, full.read_stamp(path), any_base=any_base)
        originals = full.blend(module, path, strength)
    elif path.is_dir() and convert.detect_or_none(path) is None:
        raise CheckpointError(
            f"{path} holds neither {peft_format.CONFIG} nor {full.WEIGHTS}; give the adapter/ or model/ folder of a "
            "run, or the file of "
            "an adapter."
        )
    else:
        adapter = convert.read(path, convert.weights_of(module))
        check_base(model, path, adapter.stamp, any_base=any_base)
        low_rank.check_fit(adapter, module, path)
        if isinstance(adapter, Differences):
            originals = _add(module, adapter, strength, path)
        else:
            config, tensors = peft_format.config_of(adapter), peft_format.tensors_of(adapter)
            originals = _attach_factors(model, config, tensors, path, strength)
    ATTACHED[module] = originals
    return len(originals)


def _attach_factors(
    model: AdaptableModel, config: Any, tensors: dict[str, torch.Tensor], source: Path, strength: float
) -> dict[str, torch.Tensor]:
    """Folds factors in by peft's own arithmetic; until they are all in their layers, nothing but layers is added."""
    config.inference_mode = False
    config.init_lora_weights = True  # drawn only to be overwritten: other beginnings change the base's weights
    module = model.module
    trainable = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    try:
        inject(model, config)
        peft_format.load_into(module, tensors, source)
        return _fold(module, strength)
    finally:
        remove_layers(module)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in trainable)


@torch.no_grad()
def _add(module: nn.Module, differences: Differences, strength: float, source: Path) -> dict[str, torch.Tensor]:
    """Adds differences to the weights, all or none; returns the weights from before by name."""
    state = module.state_dict()  # shares its storage with the module
    added = {}
    for layer, difference in differences.layers.items():
        weight = state[f"{layer}.weight"]
        added[f"{layer}.weight"] = weight + strength * difference.view(weight.shape).to(weight.device, weight.dtype)
    low_rank.check_finite(added, source)
    originals = {name: state[name].clone() for name in added}
    for name, value in added.items():
        state[name].copy_(value)
    return originals


def detach(model: AdaptableModel) -> None:
    """Restores the weights from before `attach`, bit for bit; does nothing when no adapter is attached."""
    originals = ATTACHED.pop(model.module, None)
    if originals is None:
        return
    state = model.module.state_dict()  # shares its storage with the module
    with torch.no_grad():
        for name, value in originals.items():
            state[name].copy_(value)


def check_base(model: AdaptableModel, source: Path, stamp: dict[str, Any], *, any_base: bool = False) -> None:
    """Refuses weights that were trained on another base model, unless `any_base`; those without a stamp are not
    checked."""
    trained_on = stamp.get("base_identity")
    if trained_on is None or any_base:
        return
    here = model.identity()
    if trained_on != here:
        raise CheckpointError(
            f"{source} was trained on the base model {trained_on}, and this is {here}; load the model that it was "
            "trained on, or allow another one with --any-base."
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
