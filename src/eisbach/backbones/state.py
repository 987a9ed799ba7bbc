"""A backbone's own weights: without an adapter's, their hash (which adapters and caches are stamped with), and their
folder, `config.json`, which names the format, and `model.safetensors`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from eisbach.errors import CheckpointError
from eisbach.files import read_object, write_json
from eisbach.tensor_files import write_tensors

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def adapter_free_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The network's tensors by name, detached.

    Raises
    ------
    CheckpointError
        The network carries an adapter, which wraps layers and renames their tensors.
    """
    state = module.state_dict()
    if any("lora_" in key for key in state):
        raise CheckpointError("the backbone carries an adapter; detach or merge it before saving or naming the base.")
    return {name: tensor.detach() for name, tensor in state.items()}


def identity_of(name: str, config: Mapping[str, Any], module: nn.Module) -> str:
    """`name` and 16 digits of a hash of configuration and weights, in half precision, as they are shipped.

    Never kept from one call to the next: weights that are changed through `.data`, as merging an adapter does, leave no
    trace to tell an old hash by.

    Raises
    ------
    CheckpointError
        The network carries an adapter.
    """
    digest = hashlib.sha256(json.dumps(dict(config), sort_keys=True).encode())
    for key, tensor in sorted(adapter_free_state(module).items()):
        digest.update(key.encode())
        digest.update(tensor.half().cpu().contiguous().numpy().tobytes())
    return f"{name}-{digest.hexdigest()[:16]}"


def write_saved(folder: Path, model_format: str, config: BaseModel, state: Mapping[str, torch.Tensor]) -> None:
    """Writes both files; the configuration last, so that a folder with it is whole."""
    write_tensors(folder / WEIGHTS, state, {"format": model_format})
    write_json(folder / CONFIG, {"format": model_format, **config.model_dump(mode="json")})


def read_saved(folder: Path, model_format: str, expected: str) -> dict[str, Any]:
    """The configuration in a folder that `write_saved` wrote, without its format.

    Parameters
    ----------
    folder : Path
    model_format : str
    expected : str
        What the folder should hold, for the message.

    Raises
    ------
    CheckpointError
        A file is missing, or the model is of another format.
    """
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder} is not a model folder: {CONFIG} and {WEIGHTS} are expected in it.")
    values = read_object(folder / CONFIG, "model configuration", error=CheckpointError)
    if values.pop("format", None) != model_format:
        raise CheckpointError(f"{folder} does not hold {expected}.")
    return values
