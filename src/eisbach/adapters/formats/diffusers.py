"""A folder for diffusers' pipelines, in the form that the pipeline loads.

ACE-Step's pipeline has a loader: `pipe.load_lora_weights(folder)` reads `pytorch_lora_weights.safetensors` (LoRA and
DoRA; alpha / rank is folded into B, as the loader takes the rank for alpha where the file's metadata have no
`lora_adapter_metadata`: peft's configuration, which diffusers writes where it is given one). Stable Audio
3's and Stable Audio Open's have none (0.42: their networks are no `PeftAdapterMixin`), so there the folder has one in
peft's layout for each part that is adapted, and `PeftModel.from_pretrained(pipe.transformer, folder / "transformer")`
loads one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from eisbach.adapters.formats import host_names, peft
from eisbach.adapters.formats.low_rank import Factors, LowRankAdapter, read_file
from eisbach.errors import CheckpointError
from eisbach.tensor_files import read_metadata_object, write_tensors

LORA_FILE = "pytorch_lora_weights.safetensors"
_USUAL = ("transformer", "duration_embedder", "projection_model")
_WITH_LOADER = ("ACE-Step 1.5",)
_STAMP, _CONFIG = "eisbach", "lora_adapter_metadata"


def is_pipelines(folder: Path) -> bool:
    """Whether a folder holds a file of diffusers' loader, or folders in peft's layout that are named as a pipeline's
    parts."""
    return (folder / LORA_FILE).is_file() or any((folder / part / peft.CONFIG).is_file() for part in _USUAL)


def write_adapter(folder: Path, adapter: LowRankAdapter) -> int:
    """Writes the folder and returns the number of tensors.

    Raises
    ------
    UserError
        No pipeline of diffusers has these layers.
    StorageError
        The disk is full or the folder is not writable.
    """
    table = host_names.table_for("diffusers", adapter.layers)
    if table.model in _WITH_LOADER:
        return _write_file(folder / LORA_FILE, adapter)
    parts: dict[str, dict[str, Factors]] = {}
    for layer, factors in adapter.layers.items():
        part, _, name = layer.partition(".")
        parts.setdefault(part, {})[name] = factors
    return sum(peft.write_adapter(folder / part, replace(adapter, layers=layers)) for part, layers in parts.items())


def _write_file(path: Path, adapter: LowRankAdapter) -> int:
    tensors: dict[str, torch.Tensor] = {}
    for layer, factors in adapter.layers.items():
        tensors[f"{layer}.lora_A.weight"] = factors.a.contiguous()
        tensors[f"{layer}.lora_B.weight"] = (factors.b * adapter.scale).contiguous()
        if factors.magnitude is not None:
            tensors[f"{layer}.lora_magnitude_vector"] = factors.magnitude.contiguous()
    metadata = {"format": "pt"} | ({_STAMP: json.dumps(adapter.stamp, sort_keys=True)} if adapter.stamp else {})
    write_tensors(path, tensors, metadata)
    return len(tensors)


def _read_file(path: Path) -> LowRankAdapter:
    tensors, metadata = read_file(path)
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        layer, part = peft.split_name(name)
        if part is None or host_names.layer_of("diffusers", layer) is None:
            raise CheckpointError(
                f"{path} holds '{name}'; LoRA and DoRA of {' and '.join(_WITH_LOADER)}'s transformer are read, under "
                "diffusers' names."
            )
        layers.setdefault(layer, {})[part] = tensor.float()
    stamp = read_metadata_object(metadata, _STAMP, path)
    if not layers:
        raise CheckpointError(f"{path} holds no factors; fetch it again.")
    return replace(peft.of_layers(layers, _config(metadata, layers, path), path), stamp=stamp)


def _config(metadata: Mapping[str, str], layers: Mapping[str, Mapping[str, torch.Tensor]], path: Path) -> Any:
    """The `LoraConfig` that the loader plays the factors with: the file's own, or each layer's rank for its alpha."""
    from peft import LoraConfig

    told = read_metadata_object(metadata, _CONFIG, path)
    values = {name.removeprefix("transformer."): value for name, value in told.items()}
    if values:
        return peft.parse_config({"peft_type": "LORA", **values}, path)
    ranks = {layer: int(parts["a"].shape[0]) for layer, parts in layers.items() if "a" in parts and parts["a"].ndim}
    dora = any("magnitude" in parts for parts in layers.values())
    # Not through the layers' names as patterns, which peft matches by their endings.
    if len(set(ranks.values())) != 1 or not min(ranks.values()):
        raise CheckpointError(
            f"{path} states no configuration and has layers of the ranks {sorted(set(ranks.values()))}; one rank is "
            "read."
        )
    rank = next(iter(ranks.values()))
    return LoraConfig(r=rank, lora_alpha=rank, use_dora=dora)


def read_adapter(folder: Path) -> LowRankAdapter:
    """The adapter of a folder that `write_adapter` or diffusers wrote, or whose parts peft wrote.

    Raises
    ------
    CheckpointError
        A part cannot be read, or the parts are of different ranks, alphas or stamps.
    """
    if (folder / LORA_FILE).is_file():
        return _read_file(folder / LORA_FILE)
    parts = {file.parent.name: peft.read_adapter(file.parent) for file in sorted(folder.glob(f"*/{peft.CONFIG}"))}
    first = next(iter(parts.values()))
    layers: dict[str, Factors] = {}
    for name, adapter in parts.items():
        same = (adapter.rank, adapter.alpha, adapter.kind) == (first.rank, first.alpha, first.kind)
        if not same or adapter.stamp.get("base_identity") != first.stamp.get("base_identity"):
            raise CheckpointError(
                f"the parts of {folder} ({', '.join(parts)}) are of different ranks, alphas, kinds or base models; "
                "give one adapter."
            )
        layers |= {f"{name}.{layer}": factors for layer, factors in adapter.layers.items()}
    return replace(first, layers=layers)
