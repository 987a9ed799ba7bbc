"""A written adapter as its host plays it, held against what it was written from.

None of our readers takes part. peft and diffusers load what was written themselves. Stability's and ComfyUI's programs
cannot be installed beside this one, so there the file is opened with safetensors and each weight is computed by the
formula that the host's code states; the rows' order is that of `eisbach.stable_audio3_keys`.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eisbach import stable_audio3_keys as keys
from eisbach.adapters.attach import attach, detach
from eisbach.adapters.effect import Levels, PredictingModel, predictions
from eisbach.adapters.formats import diffusers, peft
from eisbach.adapters.formats.host_names import layer_of
from eisbach.errors import CheckpointError
from eisbach.pretrained import peft_network

_PARAMETRISED = ".parametrizations.weight.0."  # Stability: models/lora
_UNET = "diffusion_model."  # ComfyUI: comfy/lora.py
_TINY = 1e-12
_ROUNDING = 1e-5  # equal weights at another place in memory may sum in another order


@dataclass(frozen=True)
class Proof:
    """How far a host's playing is from ours.

    Attributes
    ----------
    how : str
        Who loaded it, or whose formula computed it: "loaded by peft 0.21.0".
    deviation : float
        RMS difference of the network's predictions, as a share of the prediction.
    change : float
        What the adapter does to the prediction, as a share of it.
    """

    how: str
    deviation: float
    change: float


def reference_of(model: PredictingModel, source: str | Path, levels: Levels, *, any_base: bool = False) -> torch.Tensor:
    """What the model predicts with an adapter; it is without one before and after."""
    attach(model, source, any_base=any_base)
    try:
        return predictions(model, levels)
    finally:
        detach(model)


def prove(model: PredictingModel, to: str, written: Path, levels: Levels, reference: torch.Tensor) -> Proof:
    """Plays a written adapter as its host does.

    Parameters
    ----------
    model : a backbone without an adapter
    to : one of `convert.FORMATS`
    written : Path
    levels : Levels
        Where it is played.
    reference : torch.Tensor
        What the adapter predicts there (`reference_of`).

    Raises
    ------
    CheckpointError
        The host finds no layer for a part of the file.
    """
    base = predictions(model, levels)
    with _LOADERS[to](model.module, written) as how:
        played = predictions(model, levels)
    size = float(base.norm())
    if float((predictions(model, levels) - base).norm()) > _ROUNDING * size:
        raise CheckpointError(f"{written}, {how}, left the network changed; load the model again.")
    return Proof(how, float((played - reference).norm()) / size, float((reference - base).norm()) / size)


@contextmanager
def _by_peft(module: nn.Module, folder: Path) -> Iterator[str]:
    with _wrapped(module, folder):
        yield f"loaded by peft {importlib.metadata.version('peft')}"


@contextmanager
def _by_diffusers(module: nn.Module, folder: Path) -> Iterator[str]:
    """The pipeline's own loader where it has one, else peft on each of the pipeline's parts."""
    version = importlib.metadata.version("diffusers")
    file = folder / diffusers.LORA_FILE
    if file.is_file():
        network: Any = module.get_submodule("transformer")
        network.load_lora_adapter(str(folder), prefix="transformer", weight_name=file.name)
        try:
            yield f"loaded by diffusers {version}"
        finally:
            network.unload_lora()
        return
    parts = sorted(config.parent for config in folder.glob(f"*/{peft.CONFIG}"))
    with _all(module, parts):
        yield f"loaded by peft {importlib.metadata.version('peft')} onto the parts of diffusers {version}"


@contextmanager
def _all(module: nn.Module, parts: list[Path]) -> Iterator[None]:
    if not parts:
        yield
        return
    with _wrapped(module.get_submodule(parts[0].name), parts[0]), _all(module, parts[1:]):
        yield


@contextmanager
def _wrapped(network: nn.Module, folder: Path) -> Iterator[None]:
    """peft puts its layers into the network itself, and takes them out again."""
    required = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    training = network.training
    wrapped = peft_network(network, folder)
    try:
        yield
    finally:
        wrapped.unload()
        network.train(training)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(required[name])


@contextmanager
def _by_formula(module: nn.Module, changes: dict[str, Callable[[torch.Tensor], torch.Tensor]]) -> Iterator[None]:
    """The network with weights that are computed in the host's order of rows."""
    weights = {layer: module.get_submodule(layer).weight for layer in changes}
    kept = {layer: torch.as_tensor(weight).detach().clone() for layer, weight in weights.items()}
    try:
        with torch.no_grad():
            for layer, change in changes.items():
                width = kept[layer].flatten(1).shape[1]
                theirs = keys.rows_to_native(layer, kept[layer].flatten(1).float(), width)
                ours = keys.rows_to_diffusers(layer, change(theirs), width)
                torch.as_tensor(weights[layer]).copy_(ours.view_as(kept[layer]))
        yield
    finally:
        with torch.no_grad():
            for layer, value in kept.items():
                torch.as_tensor(weights[layer]).copy_(value)


@contextmanager
def _by_stability(module: nn.Module, file: Path) -> Iterator[str]:
    """``W + alpha / rank B A``, of "dora-rows" its rows divided by their norm, times the magnitudes (Stability's
    `models/lora`)."""
    tensors, metadata = _opened(file, module)
    config = json.loads(metadata["lora_config"])
    scale, rows = config["alpha"] / config["rank"], config["adapter_type"] == "dora-rows"

    def change(layer: str) -> Callable[[torch.Tensor], torch.Tensor]:
        part = {name: tensors[f"{layer}{_PARAMETRISED}{name}"] for name in ("lora_A", "lora_B")}
        magnitude = tensors.get(f"{layer}{_PARAMETRISED}magnitude")

        def changed(weight: torch.Tensor) -> torch.Tensor:
            v = weight + scale * part["lora_B"] @ part["lora_A"]
            if not rows or magnitude is None:
                return v
            return v / (v.norm(dim=1, keepdim=True) + _TINY) * magnitude.flatten()[:, None]

        return changed

    theirs = sorted({name.partition(_PARAMETRISED)[0] for name in tensors})
    with _by_formula(module, {_layer("sa3", name, file): change(name) for name in theirs}):
        yield "read by safetensors alone, computed by Stability's formula"


@contextmanager
def _by_comfyui(module: nn.Module, file: Path) -> Iterator[str]:
    """``W + D``, ``W + alpha / rank B A``, or with `dora_scale` d that times ``d / (‖W‖ + eps)`` (`comfy/lora.py`,
    `comfy/weight_adapter`)."""
    tensors, _ = _opened(file, module)
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.removeprefix(_UNET).partition(".lora_") if ".lora_" in name else _ended(name)
        layers.setdefault(layer, {})[part] = tensor

    def change(part: dict[str, torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        def changed(weight: torch.Tensor) -> torch.Tensor:
            if "diff" in part:
                return weight + part["diff"].flatten(1)
            up, down = part["B.weight"].flatten(1), part["A.weight"].flatten(1)
            v = weight + float(part["alpha"]) / down.shape[0] * up @ down
            if "dora_scale" not in part:
                return v
            norm = weight.norm(dim=1, keepdim=True) + torch.finfo(torch.float32).eps
            return v * part["dora_scale"].flatten(1) / norm

        return changed

    with _by_formula(module, {_layer("comfyui", name, file): change(part) for name, part in layers.items()}):
        yield "read by safetensors alone, computed by ComfyUI's formula"


def _ended(name: str) -> tuple[str, str, str]:
    return name.removeprefix(_UNET).rpartition(".")


def _opened(file: Path, module: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    from safetensors import safe_open

    device = next(module.parameters()).device
    with safe_open(str(file), framework="pt") as opened:
        return {name: opened.get_tensor(name).float().to(device) for name in opened.keys()}, dict(opened.metadata())  # noqa: SIM118


def _layer(to: str, name: str, file: Path) -> str:
    ours = layer_of(to, name)
    if ours is None:
        raise CheckpointError(f"{file} names '{name}', and {to} has no such layer.")
    return ours


_LOADERS = {"peft": _by_peft, "diffusers": _by_diffusers, "sa3": _by_stability, "comfyui": _by_comfyui}
