"""Safetensors files of named tensors: read whole or refused, and put into a network only when every name and shape fits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from eisbach.errors import CheckpointError


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, by name.

    Raises
    ------
    CheckpointError
        The file is missing, truncated or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise CheckpointError(f"{path} is missing.")
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file ({error}).") from error


def check_fit(
    expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], source: str | Path, owner: str = "model"
) -> None:
    """Nothing, when `tensors` has exactly the names and shapes of `expected`.

    Parameters
    ----------
    expected, tensors : tensors by name
        What is to be filled, and what was read.
    source : str or Path
        Where `tensors` came from, for the message.
    owner : str
        What has the expected tensors, for the message.

    Raises
    ------
    CheckpointError
        They differ; the sentence counts what matches, is missing and is unknown, and names the first.
    """
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        first = f"the file lacks '{missing[0]}'" if missing else f"the {owner} has no '{unknown[0]}'"
        raise CheckpointError(
            f"{source} does not fit the {owner}: {len(expected) - len(missing)} of {len(expected)} tensors match, "
            f"{len(missing)} are missing and {len(unknown)} unknown ({first})."
        )
    for name, tensor in expected.items():
        if tensor.shape != tensors[name].shape:
            raise CheckpointError(
                f"{source} does not fit the {owner}: '{name}' has shape {list(tensors[name].shape)}, the {owner} needs "
                f"{list(tensor.shape)}."
            )


@torch.no_grad()
def copy_named(
    targets: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], source: str | Path, owner: str = "model"
) -> int:
    """Copies `tensors` into `targets` of the same names and shapes, all of them or none; returns how many.

    Raises
    ------
    CheckpointError
        As in `check_fit`.
    """
    check_fit(targets, tensors, source, owner)
    for name, target in targets.items():
        target.copy_(tensors[name])
    return len(targets)
