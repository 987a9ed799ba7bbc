"""Checkpoints: safetensors in a folder that appears whole or not at all, and is checked before it is believed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from eisbach.errors import CheckpointError, StorageError, disk_error
from eisbach.files import read_object, write_json
from eisbach.tensor_files import write_tensors

_STATE = "state.json"
AVERAGE = "average.safetensors"
"""Averaged weights of a checkpoint, where an average is kept."""
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk.

    Attributes
    ----------
    folder : Path
    step : int
        Steps that had been taken.
    state : dict
        What was passed as `state` when it was written.
    """

    folder: Path
    step: int
    state: dict[str, Any]


class _File(BaseModel):
    bytes: int
    sha256: str


class _State(BaseModel):
    """What every `state.json` has; the rest is what `write_checkpoint` was given."""

    step: int
    files: dict[str, _File]


@contextmanager
def storage_errors(target: Path) -> Iterator[None]:
    """Turns the ways in which a write can fail into one `StorageError` that names `target`."""
    try:
        yield
    except (OSError, StorageError) as error:
        refused = disk_error(error if isinstance(error, OSError) else error.__cause__)
        reason = str(error) if refused is None else refused.strerror or str(refused)
        raise StorageError(
            f"{target} could not be written ({reason}); what was saved before is intact: free some space and run "
            "the same command again."
        ) from error


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _flush(path: Path) -> None:
    """Forces a file or folder to the disk, so that the rename cannot overtake the content in a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_checkpoint(
    root: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    texts: Mapping[str, Any],
    state: Mapping[str, Any],
    keep: int,
    permanent: Collection[int] = (),
) -> Path:
    """Writes `root/step-NNNNNN/` through a hidden folder and a rename, then removes older ones as `prune` does.

    Parameters
    ----------
    tensors : file name -> tensors by name
        Written as safetensors.
    texts : file name -> JSON value
    state : mapping
        What resuming compares and continues from; stored with the size and SHA-256 of every other file.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written; older checkpoints are untouched.
    """
    folder = root / f"step-{step:06d}"
    if folder.exists():
        return folder  # the same step of the same run: equal content by construction
    partial = root / f".step-{step:06d}.partial"
    with storage_errors(folder):
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for name, values in tensors.items():
                write_tensors(partial / name, values, {"format": "pt"})
            for name, value in texts.items():
                write_json(partial / name, value)
            files = {path.name: _digest(path) for path in sorted(partial.iterdir())}
            write_json(partial / _STATE, {"step": step, **state, "files": files})
            for path in partial.iterdir():
                _flush(path)
            partial.rename(folder)
            _flush(root)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    prune(root, keep, permanent)
    return folder


def to_host(tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, dict[str, torch.Tensor]]:
    """Copies on the CPU that later updates do not touch; a device is waited for once, after all of them."""
    copies = {
        file: {name: value.detach().to("cpu", non_blocking=True, copy=True) for name, value in values.items()}
        for file, values in tensors.items()
    }
    for device in {value.device for values in tensors.values() for value in values.values()}:
        if device.type not in ("cpu", "meta"):
            torch.accelerator.synchronize(device)
    return copies


class CheckpointWriter:
    """Writes checkpoints in a thread, one at a time, while training goes on.

    What it is given must not change any more (`to_host`). A checkpoint appears whole or not at all, as with
    `write_checkpoint`, and a process that dies waits for none. Used as a context, it waits for the last one; its errors
    come out of the next call, or there.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[Path] | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.wait()
        except StorageError as failure:
            if error is None:
                raise
            error.add_note(str(failure))  # what ended the run comes first
        finally:
            self._thread.shutdown()

    def write(self, *arguments: Any) -> None:
        """Starts `write_checkpoint(*arguments)` once the one before is written.

        Raises
        ------
        StorageError
            The one before could not be written.
        """
        self.wait()
        self._pending = self._thread.submit(write_checkpoint, *arguments)

    def check(self) -> None:
        """Raises what went wrong in a checkpoint that has ended; waits for nothing."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Returns when the last checkpoint is on the disk, or raises what went wrong."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def prune(root: Path, keep: int, permanent: Collection[int] = ()) -> None:
    """Removes what a killed process left half-written, and all checkpoints but the newest `keep` and those of the steps
    `permanent`."""
    for pattern in (".step-*.partial", ".step-*.removed"):
        for folder in root.glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)
    passing = [path for path in list_checkpoints(root) if step_of(path) not in permanent]
    for old in passing[:-keep]:
        _remove(old)


def _remove(folder: Path) -> None:
    """Removes a checkpoint; a death half-way leaves a hidden folder, never half a checkpoint."""
    hidden = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def step_of(folder: Path) -> int:
    """The step in the name of a checkpoint's folder."""
    return int(folder.name.removeprefix("step-"))


def list_checkpoints(root: Path) -> list[Path]:
    """The folders named step-NNNNNN that hold a state file, oldest first."""
    places = [(int(match[1]), path) for path in root.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(places) if (path / _STATE).is_file()]


def newest_checkpoint(root: Path) -> Checkpoint | None:
    """The newest complete checkpoint, its files checked against the sizes and hashes it was written with.

    Folders without a state file are not complete and are passed over.

    Raises
    ------
    CheckpointError
        The newest one is damaged; the sentence names the fault and the last good checkpoint before it.
    """
    folders = list_checkpoints(root)
    if not folders:
        return None
    try:
        return open_checkpoint(folders[-1])
    except CheckpointError as error:
        good = next((path for path in reversed(folders[:-1]) if _is_good(path)), None)
        way_out = (
            f"delete that folder to continue from {good}" if good else "delete that folder to start from the beginning"
        )
        raise CheckpointError(f"{error} ({way_out}).") from error


def _is_good(folder: Path) -> bool:
    try:
        open_checkpoint(folder)
    except CheckpointError:
        return False
    return True


def open_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint whose files are all there and unchanged.

    Raises
    ------
    CheckpointError
        One sentence that says which file is missing, truncated or altered.
    """
    try:
        state = read_object(folder / _STATE, "state of a checkpoint")
        record = _State.model_validate(state)
    except ValueError as error:  # a ValidationError is one
        raise CheckpointError(f"the checkpoint {folder} has no readable {_STATE}") from error
    step, files = record.step, {name: file.model_dump() for name, file in record.files.items()}
    for name, recorded in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"the checkpoint {folder} is damaged: {name} is missing")
        size = path.stat().st_size
        if size != recorded["bytes"]:
            raise CheckpointError(
                f"the checkpoint {folder} is damaged: {name} has {size} bytes instead of {recorded['bytes']}"
            )
        if _digest(path)["sha256"] != recorded["sha256"]:
            raise CheckpointError(f"the checkpoint {folder} is damaged: the content of {name} has changed")
    return Checkpoint(folder, step, state)
