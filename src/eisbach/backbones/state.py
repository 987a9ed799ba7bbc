"""A backbone's own weights: without an adapter's, and the hash that adapters and caches are stamped with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from eisbach.errors import CheckpointError


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
