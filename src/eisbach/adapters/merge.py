"""An adapter made part of the model: one model folder that plays it everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from eisbach.adapters.attach import attach
from eisbach.adapters.convert import detect_or_none, read
from eisbach.adapters.layers import ATTACHED, AdaptableModel
from eisbach.errors import UserError
from eisbach.files import write_json

RECORD = "merged.json"
"""File in the merged model's folder: what was merged into what."""


class SavableModel(AdaptableModel, Protocol):
    """A backbone, as far as merging needs it."""

    def save(self, folder: str | Path) -> None:
        """Writes the model."""


def merge(model: AdaptableModel, path: str | Path, strength: float = 1.0, *, any_base: bool = False) -> dict[str, Any]:
    """Folds an adapter into the model for good (it can be adapted again) and returns a record of it.

    Raises
    ------
    CheckpointError, ConfigError
        As in `eisbach.adapters.attach`.
    """
    base = model.identity()
    changed = attach(model, path, strength, any_base=any_base)
    del ATTACHED[model.module]
    stamp = read(path).stamp if detect_or_none(path) in ("sa3", "peft", "diffusers") else {}
    return {
        "base_identity": base,
        "adapter": str(path),
        "strength": strength,
        "tensors_changed": changed,
        "stamp": stamp,
    }


def save_merged(
    model: SavableModel, path: str | Path, out: str | Path, strength: float = 1.0, *, any_base: bool = False
) -> dict[str, Any]:
    """Merges an adapter and writes the whole model, which `load_backbone(out)` reads; returns the record.

    Raises
    ------
    UserError
        There is something at `out`.
    CheckpointError, ConfigError
        As in `eisbach.adapters.attach`.
    StorageError
        The disk is full or the folder is not writable.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; give a new folder for the merged model.")
    record = merge(model, path, strength, any_base=any_base)
    model.save(out)
    record["merged_identity"] = model.identity()
    write_json(out / RECORD, record)
    return record
