"""A backbone's own folder: `config.json`, which names the format, and `model.safetensors`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from eisbach.errors import CheckpointError
from eisbach.files import read_object, write_json
from eisbach.tensor_files import write_tensors

CONFIG, WEIGHTS = "config.json", "model.safetensors"


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
