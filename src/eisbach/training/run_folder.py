"""The run folder: what is in it, whether a configuration may continue it, and its stamp of origin."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from eisbach import __version__
from eisbach.config import build_config, check_values, read_yaml, save_config
from eisbach.errors import ConfigError, StorageError
from eisbach.files import read_json, write_json
from eisbach.training.checkpoint import list_checkpoints
from eisbach.training.config import TrainConfig

FREE_KEYS = (
    "out",
    "tensorboard",
    "log_every",
    "checkpoint.every",
    "checkpoint.keep",
    "data.cache",
    "gradient_checkpointing",
)
"""Keys that may change when a run is continued: none of them changes the weights."""

_PACKAGES = ("torch", "diffusers", "peft", "accelerate", "safetensors", "numpy")


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run folder."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.root / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One row a logged step."""
        return self.root / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """step-NNNNNN/ folders."""
        return self.root / "checkpoints"

    @property
    def result(self) -> Path:
        """Written last: the run is finished."""
        return self.root / "result.json"

    def finished_steps(self) -> int:
        """Steps of a finished run; 0 when it is not finished."""
        if not self.result.is_file():
            return 0
        return check_values(_Result, read_json(self.result, "result"), f"the result {self.result}").steps


class _Result(BaseModel):
    """What a later run reads of `result.json`."""

    steps: int


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def recipe_hash(config: TrainConfig) -> str:
    """Hash of every key that decides the weights. With a constant schedule the number of steps does not decide a step."""
    free = (*FREE_KEYS, "steps") if config.schedule == "constant" else FREE_KEYS
    kept = {key: value for key, value in flatten(config.model_dump(mode="json")).items() if key not in free}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def changed_keys(old: TrainConfig, new: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Keys that differ and matter, with both values. Adding steps to a constant schedule is a continuation."""
    before, now = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    changed = {
        key: (before.get(key), now.get(key))
        for key in sorted(before.keys() | now.keys())
        if key not in FREE_KEYS and before.get(key) != now.get(key)
    }
    if old.schedule == new.schedule == "constant" and new.steps > old.steps:
        changed.pop("steps", None)
    return changed


def open_run(config: TrainConfig) -> RunFolder:
    """The run folder of a configuration, checked but not yet written to.

    A folder in which nothing has been saved yet takes any configuration, so that a mistake in the first attempt does not
    block the second.

    Raises
    ------
    ConfigError
        The folder holds a run of another configuration (the changed keys are listed), or is no folder.
    """
    folder = RunFolder(Path(config.out))
    if folder.root.exists() and not folder.root.is_dir():
        raise ConfigError(f"out is {folder.root}, which is a file; name a folder.")
    if not (folder.result.is_file() or list_checkpoints(folder.checkpoints)):
        return folder
    if not folder.config.is_file():
        raise ConfigError(f"{folder.root} holds checkpoints but no config.yaml; choose another out.")
    old = build_config(TrainConfig, read_yaml(folder.config), str(folder.config))
    if changed := changed_keys(old, config):
        listed = "; ".join(f"{key} was {was!r} and is now {now!r}" for key, (was, now) in changed.items())
        raise ConfigError(
            f"{folder.root} holds a run of another configuration: {listed}; choose another out, or delete the folder."
        )
    return folder


@contextmanager
def exclusive(folder: RunFolder) -> Iterator[None]:
    """Holds the run folder for this process; the hold ends with the process, however it ends.

    Raises
    ------
    ConfigError
        Another process is at work in the folder.
    StorageError
        The folder cannot be made or written.
    """
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        handle = (folder.root / ".lock").open("a")
    except OSError as error:
        raise StorageError(
            f"the run folder {folder.root} cannot be made or written ({error.strerror or error}); choose another out."
        ) from error
    with handle:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"another process is at work in {folder.root}; wait for it, stop it, or choose another out."
                ) from error
            except OSError:
                pass  # a file system without locks
        yield


def describe_run(folder: RunFolder, config: TrainConfig) -> None:
    """Writes `config.yaml` and `versions.json`.

    Raises
    ------
    StorageError
        The folder cannot be made or written.
    """
    save_config(config, folder.config)
    write_json(folder.root / "versions.json", versions())


def versions() -> dict[str, str]:
    """Versions of this package, Python and what the numbers depend on."""
    found = {"eisbach": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def note(message: str, quiet: bool) -> None:
    """A sentence on standard error."""
    if not quiet:
        print(f"eisbach train: {message}", file=sys.stderr)
