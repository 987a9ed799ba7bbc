"""A diffusers autoencoder in a folder, its own or a pipeline's: found by its class, loaded whole, named by its
weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from eisbach.codecs.weight_files import State, component_config, load_component
from eisbach.errors import CheckpointError
from eisbach.files import read_json


def find_autoencoder(folder: str | Path, class_name: str) -> Path | None:
    """The folder itself, or its `vae`, when its `config.json` names the class `class_name`; None otherwise."""
    for place in (Path(folder), Path(folder) / "vae"):
        file = place / "config.json"
        values: Any = read_json(file, "configuration") if file.is_file() else None
        if isinstance(values, dict) and values.get("_class_name") == class_name:
            return place
    return None


def load_autoencoder(
    folder: str | Path, class_name: str, adapt: Callable[[State, State], State] | None = None
) -> tuple[Any, dict[str, Any]]:
    """The network, in fp32, and its options.

    Parameters
    ----------
    folder : str or Path
        Of the autoencoder alone, or of a pipeline with it as `vae`.
    class_name : str
        Of the class in diffusers.
    adapt
        As in `load_component`.

    Raises
    ------
    CheckpointError
        No such autoencoder, truncated files, options that are not known, or weights that do not fit.
    """
    place = find_autoencoder(folder, class_name)
    if place is None:
        raise CheckpointError(
            f"{folder} holds no {class_name} (config.json names none, nor does vae/config.json); give the folder of "
            "the "
            "pipeline or of its autoencoder."
        )
    import diffusers

    kind = getattr(diffusers, class_name)
    config = component_config(place, kind)
    return load_component(place, kind, f"the autoencoder in {place}", config, adapt), config


def exact_identity(name: str, config: Mapping[str, Any], module: nn.Module) -> str:
    """`name` and 16 digits of a hash of options and weights, bit for bit: cached latents are keyed by it."""
    digest = hashlib.sha256(json.dumps(dict(config), sort_keys=True).encode())
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return f"{name}-{digest.hexdigest()[:16]}"
