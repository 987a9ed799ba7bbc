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

from eisbach.adapters.inject import ADAPTER_NAME, is_adapter_parameter
from eisbach.errors import CheckpointError, UserError
from eisbach.files import atomic_write, read_json, write_json
from eisbach.tensor_files import copy_named, read_tensors

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
    from safetensors.torch import save_file

    tensors = {name: value.cpu().contiguous() for name, value in adapter_tensors(module).items()}
    metadata = {"format": "pt", "eisbach": json.dumps(dict(stamp), sort_keys=True)}
    write_json(folder / CONFIG, config_values(config))
    atomic_write(folder / WEIGHTS, lambda partial: save_file(tensors, partial, metadata=metadata))
    write_json(folder / STAMP, dict(stamp))


def read_config(folder: Path) -> Any:
    """The `LoraConfig` of a folder.

    Raises
    ------
    CheckpointError
        The file is missing, malformed or of another kind of adapter.
    """
    from peft import LoraConfig

    try:
        values = read_json(folder / CONFIG, "adapter configuration")
    except UserError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(values, dict) or values.get("peft_type") != "LORA":
        kind = values.get("peft_type") if isinstance(values, dict) else type(values).__name__
        raise CheckpointError(f"{folder / CONFIG} is of the kind {kind!r}; only LORA adapters (LoRA, DoRA) are read.")
    try:
        return LoraConfig(**{key: value for key, value in values.items() if key != "peft_type"})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG} has values that this version of peft refuses ({error}).") from error


def read_stamp(folder: Path) -> dict[str, Any]:
    """The stamp beside the weights, or in them, or {} for an adapter that was made elsewhere."""
    from safetensors import SafetensorError, safe_open

    if (folder / STAMP).is_file():
        try:
            return dict(read_json(folder / STAMP, "adapter stamp"))
        except (UserError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder / STAMP} is not readable; restore it or delete it.") from error
    try:
        with safe_open(str(folder / WEIGHTS), framework="pt") as file:
            return dict(json.loads((file.metadata() or {}).get("eisbach", "{}")))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{folder / WEIGHTS} is missing, truncated or not a safetensors file ({error})."
        ) from error


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
