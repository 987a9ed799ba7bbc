"""Adapters of a tiny model for tests, far from where training starts them."""

from __future__ import annotations

from pathlib import Path

import torch

from eisbach import adapters
from eisbach.adapters.formats import peft as peft_format
from eisbach.backbones import load_backbone


def make_adapter(
    model: Path, folder: Path, seed: int, *, kind: str = "dora", rank: int = 3, alpha: float = 6.0, **stamp: str
) -> Path:
    """An adapter in peft's layout that names its base; `stamp` adds to the stamp, or replaces it."""
    backbone = load_backbone(str(model))
    stamp = {"base_identity": backbone.identity(), **stamp}  # before the network is adapted
    config = adapters.adapter_config(backbone, kind=kind, rank=rank, alpha=alpha)
    parameters = adapters.inject(backbone, config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    peft_format.save(folder, backbone.module, config, stamp)
    return folder
