"""The result of a run: the adapter or the model that people play, stamped with what it was trained on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eisbach import __version__
from eisbach.adapters.formats import full
from eisbach.adapters.formats import peft as peft_format
from eisbach.errors import StorageError
from eisbach.files import read_object, write_json
from eisbach.tensor_files import read_tensors, write_tensors
from eisbach.training.checkpoint import AVERAGE, open_checkpoint, storage_errors
from eisbach.training.logging import MetricsFile
from eisbach.training.run_folder import RunFolder
from eisbach.training.trainer import Trainer


def publish(trainer: Trainer, folder: RunFolder) -> dict[str, Any]:
    """Writes `adapter/` or `model/` (the averaged weights when an average is kept) and returns the content of
    result.json."""
    config = trainer.config
    kind = "model" if trainer.adapter is None else "adapter"
    stamp = {
        "kind": kind,
        "eisbach_version": __version__,
        "steps": trainer.step,
        "averaged": trainer.average is not None,
        "clips": trainer.data.clips,
        **trainer.origin,
        "weighting": config.weighting.model_dump(mode="json"),
    }

    def write(target: Path) -> None:
        if trainer.adapter is None:
            trainer.backbone.save(target)
            write_json(target / peft_format.STAMP, stamp)
        else:
            peft_format.save(target, trainer.backbone.module, trainer.adapter, stamp)

    with trainer.averaged():
        replace_folder(folder.root / kind, write)
    return {"steps": trainer.step, "kind": kind, "path": kind, **_last_losses(folder.metrics), "stamp": stamp}


def publish_checkpoint(folder: Path, target: Path) -> None:
    """Writes what a checkpoint would play as `target`, an adapter or fully trained weights with their stamp: the
    averaged weights, where an average was kept, as at the end of a run.

    Raises
    ------
    CheckpointError
        The checkpoint is damaged.
    StorageError
        The disk is full or the folder is not writable.
    """
    checkpoint = open_checkpoint(folder)
    config = folder / peft_format.CONFIG
    weights = folder / (peft_format.WEIGHTS if config.is_file() else full.WEIGHTS)
    average = folder / AVERAGE
    tensors = read_tensors(average if average.is_file() else weights)
    if average.is_file() and config.is_file():
        tensors = {peft_format.to_file_name(name): value for name, value in tensors.items()}
    kept = ("base_identity", "manifest_hash", "recipe_hash")
    origin = {key: checkpoint.state[key] for key in kept if key in checkpoint.state}
    stamp = {"steps": checkpoint.step, "averaged": average.is_file(), **origin}

    def write(partial: Path) -> None:
        if config.is_file():
            write_json(partial / peft_format.CONFIG, read_object(config, "adapter configuration"))
        write_tensors(partial / weights.name, tensors, {"format": "pt"})
        write_json(partial / peft_format.STAMP, stamp)

    replace_folder(target, write)


def replace_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Calls `write(partial folder)` and renames it onto `target`; what is there and is not written anew stays.

    Raises
    ------
    StorageError
        The disk is full or the folder is not writable, or something of somebody else's is in the way of what is
        written; `target` stays as it was.
    """
    partial, old = target.with_name(f".{target.name}.partial"), target.with_name(f".{target.name}.old")
    with storage_errors(target):
        shutil.rmtree(partial, ignore_errors=True)
        _move_rest(old, target)  # of a process that died in between
        partial.mkdir(parents=True)
        try:
            write(partial)
            for name in _contents(target):
                parents = [parent for parent in name.parents if (partial / parent).is_file()]
                if parents or ((partial / name).is_dir() and not (target / name).is_dir()):
                    raise StorageError(f"{target / name} is in the way of what is written there; move it elsewhere.")
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if target.exists():
            target.rename(old)
        partial.rename(target)
        _move_rest(old, target)


def _contents(folder: Path) -> list[Path]:
    """Files, links and empty folders below a folder, relative to it."""
    below = sorted(folder.rglob("*"))
    ends = [path for path in below if path.is_symlink() or not path.is_dir() or not any(path.iterdir())]
    return [path.relative_to(folder) for path in ends]


def _move_rest(old: Path, target: Path) -> None:
    """Moves what `target` lacks from the folder that was put aside, which then goes."""
    if old.exists() and not target.exists():
        old.rename(target)
    for name in _contents(old):
        if not (target / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (old / name).rename(target / name)
    shutil.rmtree(old, ignore_errors=True)


def _last_losses(metrics: Path) -> dict[str, Any]:
    """The last training loss and the last held-out loss of the metrics file."""
    last: dict[str, Any] = {"loss": None, "held_out_loss": None}
    for row in MetricsFile(metrics).rows():
        last |= {key: row[key] for key in last if row.get(key) is not None}
    return last
