"""The run folder: what is in it, whether a configuration may continue it, and its stamp of origin."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from eisbach import __version__
from eisbach.config import build_config, check_values, read_yaml, save_config
from eisbach.errors import CheckpointError, ConfigError
from eisbach.files import read_json, write_json
from eisbach.output_folder import flatten, refuse_other_settings
from eisbach.training.checkpoint import list_checkpoints
from eisbach.training.config import TrainConfig

_FREE_KEYS = (
    "out",
    "trackers",
    "log_every",
    "log_samples",
    "demos",
    "stop",
    "checkpoint.every",
    "checkpoint.keep",
    "checkpoint.steps",
    "data.cache",
    "gradient_checkpointing",
    "compile",
    "device",
)
"""Keys that may change when a run is continued, with all below them: none of them changes the weights by more than
rounding."""

_AS_BEFORE: dict[str, Any] = {"compile": False}
"""What the recipe's hash holds in place of keys that it once counted."""

_LATER: dict[str, Any] = {"optimiser.type": "adamw"}
"""Keys that came later, with the value that stands for runs of before: at it they are no part of the hash."""

_ORIGIN = {"base_identity": "model", "manifest_hash": "training set", "recipe_hash": "recipe"}
STAMP_FORMAT = 2
"""How the hashes of a checkpoint's stamp are made; another number means that other hashes say nothing of other content.
1 (which no stamp carried) counted paths."""
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
    def sample_log(self) -> Path:
        """One row a sample of a step, where `log_samples` is on."""
        return self.root / "sample_log.jsonl"

    @property
    def checkpoints(self) -> Path:
        """step-NNNNNN/ folders."""
        return self.root / "checkpoints"

    @property
    def result(self) -> Path:
        """Written last: the run is finished."""
        return self.root / "result.json"

    def finished(self) -> dict[str, Any] | None:
        """What a finished run's `result.json` says; None when it is not finished.

        Raises
        ------
        UserError
            It is damaged.
        """
        if not self.result.is_file():
            return None
        result = read_json(self.result, "result")
        return check_values(_Result, result, f"the result {self.result}").model_dump()


class _Result(BaseModel):
    """What a later run reads of `result.json`."""

    steps: int
    stamp: dict[str, Any]
    stop: dict[str, Any] = {}


def recipe_hash(config: TrainConfig) -> str:
    """Hash of every key that decides the weights, paths left out: a checkpoint is stamped with hashes of what they lead
    to.

    With a constant schedule the number of steps does not decide a step.
    """
    free = {*_FREE_KEYS, *_content_keys(config)} | ({"steps"} if config.schedule == "constant" else set())
    values = flatten(config.model_dump(mode="json"))
    settings = {
        key: value
        for key, value in values.items()
        if not any(key == name or key.startswith(f"{name}.") for name in free)
        and not (key in _LATER and value == _LATER[key])
    } | _AS_BEFORE
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _content_keys(config: TrainConfig) -> tuple[str, ...]:
    """Keys whose content is hashed beside the recipe (the set with its weights) or stands in it (a signature's level),
    or that are names of what lies in the package; a model's configuration (`create`) is none."""
    read = ("weighting.options.act_above.curve", "weighting.options.act_above.share")
    keys = ("data.manifest", "data.images.folder", "data.weights", *read)
    return (*keys, "model") if isinstance(config.model, str) else keys


def check_settings(folder: RunFolder, config: TrainConfig) -> None:
    """Refuses a folder with a run of other settings; adding steps to a constant schedule is a continuation.

    A folder in which nothing has been saved yet takes any configuration, so that a mistake in the first attempt does
    not block the second. What paths lead to is for `check_origin`.

    Raises
    ------
    ConfigError
        The settings that differ, or a folder without its `config.yaml`, or no folder.
    """
    if folder.root.exists() and not folder.root.is_dir():
        raise ConfigError(f"out is {folder.root}, which is a file; name a folder.")
    if not (folder.result.is_file() or list_checkpoints(folder.checkpoints)):
        return
    if not folder.config.is_file():
        raise ConfigError(f"{folder.root} holds checkpoints but no config.yaml; choose another out.")
    old = build_config(TrainConfig, read_yaml(folder.config), str(folder.config))
    free = [*_FREE_KEYS, *(set(_content_keys(old)) & set(_content_keys(config)))]
    if old.schedule == config.schedule == "constant" and config.steps > old.steps:
        free.append("steps")
    refuse_other_settings(folder.root, "a training run", old.model_dump(), config.model_dump(), free=free)


def check_origin(
    folder: RunFolder, theirs: Mapping[str, Any], mine: Mapping[str, Any], stamp_format: int = STAMP_FORMAT
) -> None:
    """Refuses to go on with a run on another model or on other data: `theirs` is what a checkpoint or a result says.

    A `stamp_format` other than this version's says why hashes differ that were made of the same.

    Raises
    ------
    CheckpointError
        Says which differs; or that the stamp was made by an earlier version, whose hashes cannot be compared.
    """
    for key, what in _ORIGIN.items():
        if key in mine and theirs.get(key) != mine[key]:
            if stamp_format != STAMP_FORMAT:
                raise CheckpointError(
                    f"{folder.root} holds an unfinished run of an earlier version of eisbach, which stamped its "
                    f"checkpoints by other rules, so that nothing says whether this is its {what}; finish it with that "
                    "version, or choose another out."
                )
            raise CheckpointError(
                f"{folder.root} holds a run on another {what}: {_short(theirs.get(key))} there, and "
                f"{_short(mine[key])} now; "
                f"restore the {what}, or choose another out."
            )


def _short(identity: object) -> str:
    text = str(identity)
    return text if len(text) <= 40 else f"{text[:12]}…"


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
    installed = {"eisbach": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def note(message: str, quiet: bool) -> None:
    """A sentence on standard error."""
    if not quiet:
        print(f"eisbach train: {message}", file=sys.stderr)
