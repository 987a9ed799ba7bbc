"""Fully trained weights as a difference from their base: `model.safetensors` under the network's own names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from eisbach.adapters.formats.low_rank import check_finite
from eisbach.errors import CheckpointError, UserError
from eisbach.files import read_object
from eisbach.tensor_files import check_fit, read_tensors

WEIGHTS, STAMP = "model.safetensors", "eisbach.json"


def read_stamp(folder: Path) -> dict[str, Any]:
    """What the weights were trained on, or {} when they carry no stamp."""
    if not (folder / STAMP).is_file():
        return {}
    try:
        return read_object(folder / STAMP, "stamp")
    except UserError as error:
        raise CheckpointError(f"{folder / STAMP} is not readable; restore it or delete it.") from error


def read(module: nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    """The folder's floating-point weights, by the network's names.

    Raises
    ------
    CheckpointError
        The file is truncated or not finite, or its names or shapes are not the network's (the sentence counts them).
    """
    trained, state = read_tensors(folder / WEIGHTS), module.state_dict()
    check_fit(state, trained, folder / WEIGHTS)
    weights = {name: value for name, value in trained.items() if state[name].is_floating_point()}
    check_finite(weights, folder / WEIGHTS)
    return weights


@torch.no_grad()
def blend(module: nn.Module, folder: Path, strength: float) -> dict[str, torch.Tensor]:
    """Moves the network's weights towards the folder's by `strength`; returns the weights from before, by name.

    Raises
    ------
    CheckpointError
        As `read`.
    """
    trained, state = read(module, folder), module.state_dict()
    originals = {name: value.clone() for name, value in state.items()}
    for name, weight in trained.items():
        value, target = state[name], weight.to(state[name].device, state[name].dtype)
        value.copy_(target if strength == 1.0 else value + strength * (target - value))
    return originals
