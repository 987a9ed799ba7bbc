"""A backbone's own folder: `config.json`, which names the format, and `model.safetensors`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors.torch import save_file

from eisbach.errors import CheckpointError
from eisbach.files import atomic_write, read_json, write_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def write_saved(folder: Path, model_format: str, config: BaseModel, state: Mapping[str, torch.Tensor]) -> None:
    """Writes both files; the configuration last, so that a folder with it is whole."""
    tensors = {key: value.cpu().contiguous() for key, value in state.items()}
    atomic_write(folder / WEIGHTS, lambda partial: save_file(tensors, str(partial), metadata={"format": model_format}))
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
    values: Any = read_json(folder / CONFIG, "model configuration")
    if not isinstance(values, dict) or values.pop("format", None) != model_format:
        raise CheckpointError(f"{folder} does not hold {expected}.")
    return values
