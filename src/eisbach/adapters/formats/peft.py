"""peft's folder layout: `adapter_config.json` and `adapter_model.safetensors`, which peft itself loads.

Beside them lies `eisbach.json`, the stamp: which base model and which data the adapter was trained on. The same stamp
is in the metadata of the safetensors file, so that the weights keep it when they are copied alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eisbach.adapters.formats.low_rank import Factors, LowRankAdapter, check_finite
from eisbach.adapters.layers import ADAPTER_NAME, is_adapter_parameter
from eisbach.errors import CheckpointError, UserError
from eisbach.files import read_object, write_json
from eisbach.tensor_files import copy_named, read_header, read_metadata_object, read_tensors, write_tensors

CONFIG, WEIGHTS, STAMP = "adapter_config.json", "adapter_model.safetensors", "eisbach.json"
_PREFIX = "base_model.model."  # what peft's wrapper puts before the network's own names


def to_file_name(parameter: str) -> str:
    """The name in the file of a parameter of the injected network."""
    magnitude = f".lora_magnitude_vector.{ADAPTER_NAME}.weight"
    if parameter.endswith(magnitude):
        return _PREFIX + parameter.removesuffix(magnitude) + ".lora_magnitude_vector"
    return _PREFIX + parameter.replace(f".{ADAPTER_NAME}.", ".")


def adapter_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The adapter's weights of an injected network, under the names of the file."""
    return {
        to_file_name(name): parameter.detach()
        for name, parameter in module.named_parameters()
        if is_adapter_parameter(name)
    }


def config_values(config: Any) -> dict[str, Any]:
    """`adapter_config.json` for a `LoraConfig`: sets become sorted lists, so that equal runs write equal files."""
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    return {**values, "inference_mode": True}


def save(folder: Path, module: nn.Module, config: Any, stamp: Mapping[str, Any]) -> None:
    """Writes the adapter of an injected network.

    Raises
    ------
    StorageError
        The disk is full or the folder is not writable.
    """
    _write(folder, adapter_tensors(module), config, stamp)


def _write(folder: Path, weights: Mapping[str, torch.Tensor], config: Any, stamp: Mapping[str, Any]) -> None:
    metadata = {"format": "pt", "eisbach": json.dumps(dict(stamp), sort_keys=True)}
    write_json(folder / CONFIG, config_values(config))
    write_tensors(folder / WEIGHTS, weights, metadata)
    write_json(folder / STAMP, dict(stamp))


def read_config(folder: Path) -> Any:
    """The `LoraConfig` of a folder.

    Raises
    ------
    CheckpointError
        The file is missing, malformed or of another kind of adapter.
    """
    from peft import LoraConfig

    values = read_object(folder / CONFIG, "adapter configuration", error=CheckpointError)
    if values.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{folder / CONFIG} is of the kind {values.get('peft_type')!r}; only LORA adapters (LoRA, DoRA) are read."
        )
    try:
        return LoraConfig(**{key: value for key, value in values.items() if key != "peft_type"})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG} has values that this version of peft refuses ({error}).") from error


def read_stamp(folder: Path) -> dict[str, Any]:
    """The stamp beside the weights, or in them, or {} for an adapter that was made elsewhere."""
    if (folder / STAMP).is_file():
        try:
            return read_object(folder / STAMP, "adapter stamp")
        except UserError as error:
            raise CheckpointError(f"{folder / STAMP} is not readable; restore it or delete it.") from error
    return read_metadata_object(read_header(folder / WEIGHTS).metadata, "eisbach", folder / WEIGHTS)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights under the names of the file.

    Raises
    ------
    CheckpointError
        The file is missing, truncated or empty.
    """
    tensors = read_tensors(folder / WEIGHTS)
    if not tensors:
        raise CheckpointError(f"{folder / WEIGHTS} holds no weights.")
    return tensors


def load_into(module: nn.Module, tensors: Mapping[str, torch.Tensor], source: Path) -> int:
    """Copies the file's weights into an injected network and returns how many tensors matched: all of them.

    Raises
    ------
    CheckpointError
        A name is missing on either side or a shape differs; the sentence counts them and names the first.
    """
    parameters = {
        to_file_name(name): parameter for name, parameter in module.named_parameters() if is_adapter_parameter(name)
    }
    return copy_named(parameters, tensors, source)


_PARTS = {"lora_A.weight": "a", "lora_B.weight": "b", "lora_magnitude_vector": "magnitude"}
_NATIVE = "native_patterns"


def read_adapter(folder: Path) -> LowRankAdapter:
    """The adapter of a folder, without a model.

    Raises
    ------
    CheckpointError
        Unreadable, not finite, incomplete, or with an option that other formats cannot express.
    """
    config, tensors = read_config(folder), read_weights(folder)
    check_finite(tensors, folder / WEIGHTS)
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        layer, part = _split(name)
        if part is None:
            raise CheckpointError(
                f"{folder / WEIGHTS} holds '{name}', which is no factor of LoRA or DoRA; only the folder can carry it, no other format."
            )
        layers.setdefault(layer, {})[part] = tensor
    _check_plain(config, folder)
    wanted = {"a", "b", "magnitude"} if config.use_dora else {"a", "b"}
    scales = {}
    for layer, parts in layers.items():
        if set(parts) != wanted:
            raise CheckpointError(
                f"'{layer}' in {folder / WEIGHTS} has {', '.join(sorted(parts))} of {', '.join(sorted(wanted))}; the file is damaged."
            )
        scales[layer] = _scale(config, layer, parts, folder)
    stamp = read_stamp(folder)
    patterns = stamp.pop(_NATIVE, {})
    if not isinstance(patterns, dict):
        raise CheckpointError(f"the stamp in {folder} has {_NATIVE} that are no object; restore it or delete it.")
    rank = max(parts["a"].shape[0] for parts in layers.values())
    most = scales[max(scales, key=lambda layer: layers[layer]["a"].shape[0])]
    made = {layer: _uniform(parts, rank, scales[layer] / most) for layer, parts in layers.items()}
    return LowRankAdapter(made, rank, most * rank, float(config.lora_dropout or 0.0), stamp, patterns)


def _split(name: str) -> tuple[str, str | None]:
    inner = name.removeprefix(_PREFIX)
    for ending, part in _PARTS.items():
        if inner.endswith("." + ending):
            return inner.removesuffix("." + ending), part
    return inner, None


def _check_plain(config: Any, folder: Path) -> None:
    """Refuses options by which the same factors mean other weights."""
    start = config.init_lora_weights
    moved = isinstance(start, str) and start.lower().startswith(("pissa", "olora", "corda", "loftq"))
    options = {
        f"init_lora_weights {start}": moved,
        "fan_in_fan_out": bool(config.fan_in_fan_out),
        "layer_replication": bool(config.layer_replication),
        f"bias {config.bias}": config.bias != "none",
    }
    used = [name for name, on in options.items() if on]
    if used:
        raise CheckpointError(
            f"{folder / CONFIG} uses {', '.join(used)}, which other formats cannot express; train without it."
        )


def _scale(config: Any, layer: str, parts: Mapping[str, torch.Tensor], folder: Path) -> float:
    """alpha / rank of one layer, after checking the factors' shapes."""
    from peft.utils.other import get_pattern_key

    ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
    rank = ranks.get(get_pattern_key(ranks.keys(), layer), config.r)
    alpha = alphas.get(get_pattern_key(alphas.keys(), layer), config.lora_alpha)
    a, b = parts["a"], parts["b"]
    if (
        min(a.ndim, b.ndim) < 2
        or a.shape[0] != rank
        or b.shape[1] != rank
        or any(value.ndim > 2 and value.shape[2:] != (1,) for value in (a, b))
    ):
        raise CheckpointError(
            f"'{layer}' in {folder / WEIGHTS} has factors of {list(a.shape)} and {list(b.shape)}; factors of rank {rank} over single "
            "frames are read."
        )
    return float(alpha / (rank**0.5 if config.use_rslora else rank))


def _uniform(parts: Mapping[str, torch.Tensor], rank: int, factor: float) -> Factors:
    """One layer's factors at the common rank and scale: rows and columns of zeros, and B times what its own scale is larger."""
    a, b = parts["a"].flatten(1).float(), parts["b"].flatten(1).float()
    missing = rank - a.shape[0]
    a, b = torch.nn.functional.pad(a, (0, 0, 0, missing)), torch.nn.functional.pad(b, (0, missing)) * factor
    magnitude = None if "magnitude" not in parts else parts["magnitude"].flatten().float()
    return Factors(a, b, magnitude, convolution=parts["a"].ndim == 3)


def config_of(adapter: LowRankAdapter) -> Any:
    """peft's `LoraConfig` of an adapter: its layers by their full names."""
    from peft import LoraConfig

    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_dora=adapter.kind == "dora",
        target_modules=sorted(adapter.layers),
        bias="none",
    )


def tensors_of(adapter: LowRankAdapter) -> dict[str, torch.Tensor]:
    """An adapter's weights under the names and in the shapes of peft's file."""
    tensors = {}
    for layer, factors in adapter.layers.items():
        a, b, magnitude, convolution = factors.a, factors.b, factors.magnitude, factors.convolution
        prefix = f"{_PREFIX}{layer}."
        tensors[f"{prefix}lora_A.weight"] = a[..., None] if convolution else a
        tensors[f"{prefix}lora_B.weight"] = b[..., None] if convolution else b
        if magnitude is not None:
            tensors[f"{prefix}lora_magnitude_vector"] = magnitude.view(1, -1, 1) if convolution else magnitude
    return tensors


def write_adapter(folder: Path, adapter: LowRankAdapter) -> int:
    """Writes a folder in peft's layout, in fp32, and returns the number of its tensors.

    Raises
    ------
    StorageError
        The disk is full or the folder is not writable.
    """
    tensors = tensors_of(adapter)
    stamp = {**adapter.stamp, **({_NATIVE: adapter.native} if adapter.native else {})}
    _write(folder, tensors, config_of(adapter), stamp)
    return len(tensors)
