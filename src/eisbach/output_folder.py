"""Output folders: one process at work in each, and the settings that made what it holds.

A command that continues its own work keeps its settings in the folder. `claim` writes them, or refuses a folder whose
content was made with others and names what differs. Settings are compared by value and not by spelling: paths are left
out of what is compared, and stand there as hashes of what they lead to (`weights_identity`, a manifest's hash).
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eisbach.errors import ConfigError, StorageError
from eisbach.files import read_json, read_jsonl, write_json

_SHOWN_DIFFERENCES = 6
_SHOWN_CHARACTERS = 60
_BESIDE = ("r", "lora_alpha", "use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "bias")
_INSIDE = ("alpha", "adapter_type")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; lists stay whole.

    >>> flatten({"data": {"split": "train"}, "steps": 3})
    {'data.split': 'train', 'steps': 3}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """The settings whose values differ, by dotted key, each with (before, now).

    A setting that is missing equals None, so that an option which came later than the folder changes nothing.

    Parameters
    ----------
    before, now : mapping
        Plain values, as JSON or YAML gives them: tuples equal lists.
    free : collection of str
        Keys that may differ, with everything below them.
    """
    old, new = (flatten(json.loads(json.dumps(values, default=str))) for values in (before, now))
    return {
        key: (old.get(key), new.get(key))
        for key in dict.fromkeys([*new, *old])
        if old.get(key) != new.get(key) and not any(key == name or key.startswith(f"{name}.") for name in free)
    }


def refuse_other_settings(
    folder: str | Path,
    what: str,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    free: Collection[str] = (),
    way_out: str = "set them back to continue, or choose another output folder",
) -> None:
    """Refuses a folder that holds `what` ("clips", "a training run") made with settings other than `now`.

    `way_out` says what to do then.

    Raises
    ------
    ConfigError
        Names the settings that differ, with both values.
    """
    changed = differences(before, now, free)
    if not changed:
        return
    named = [f"{key} was {_short(was)} and is now {_short(value)}" for key, (was, value) in changed.items()]
    more = f"; and {len(named) - _SHOWN_DIFFERENCES} more" if len(named) > _SHOWN_DIFFERENCES else ""
    raise ConfigError(
        f"{folder} holds {what} with other settings: {'; '.join(named[:_SHOWN_DIFFERENCES])}{more}; {way_out}."
    )


def claim(folder: str | Path, file: str, what: str, settings: Mapping[str, Any], *, free: Collection[str] = ()) -> None:
    """Writes `settings` to the JSON file of this name in a folder, or refuses as `refuse_other_settings`."""
    path = Path(folder) / file
    if path.is_file():
        before = read_json(path, f"settings of {what}")
        refuse_other_settings(folder, what, before if isinstance(before, dict) else {}, settings, free=free)
    write_json(path, settings)


def _short(value: Any) -> str:
    shown = "not set" if value is None else repr(value)
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[: _SHOWN_CHARACTERS - 1] + "…"


def check_writable(folder: str | Path) -> None:
    """Nothing, when an output folder is there or can be made, as far as can be seen without making it.

    Raises
    ------
    StorageError
        It is a file, lies below one, or may not be written.
    """
    folder = Path(folder)
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise StorageError(f"the output folder {folder} cannot be made: {nearest} is a file; choose another.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise StorageError(f"the output folder {folder} cannot be written: {nearest} may not be; choose another.")


def share_folder(folder: Path, store: str | Path | None, kind: str, settings: Mapping[str, Any]) -> None:
    """Makes `folder` a link to where work of these settings lies in a store, so that whoever needs it makes it once.

    Nothing happens without a store, or where `folder` is there already.

    Parameters
    ----------
    folder : Path
    store : str, Path or None
    kind : str
        What is made; things of one kind are told apart by their settings alone.
    settings : mapping
        Everything that decides the content, as plain values, and no paths.
    """
    if store is None or os.path.lexists(folder):
        return
    text = json.dumps(settings, sort_keys=True, default=str)
    place = Path(store).absolute() / kind / hashlib.sha256(text.encode()).hexdigest()[:24]
    place.mkdir(parents=True, exist_ok=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(os.path.relpath(place, folder.parent.resolve()), target_is_directory=True)


class BusyFolderError(ConfigError):
    """Another process is at work in an output folder."""


@contextmanager
def exclusive(folder: str | Path) -> Iterator[None]:
    """Holds an output folder for this process; the hold ends with the process, however it ends.

    Raises
    ------
    BusyFolderError
        Another process is at work in the folder.
    ConfigError
        It is a file.
    StorageError
        The folder cannot be made or written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"the output folder {folder} is a file; name a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("a")
    except OSError as error:
        raise StorageError(
            f"the output folder {folder} cannot be made or written ({error.strerror or error}); choose another."
        ) from error
    with handle:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyFolderError(
                    f"another process is at work in {folder}; wait for it, stop it, or choose another output folder."
                ) from error
            except OSError:
                pass  # a file system without locks
        yield


def weights_identity(path: str | Path) -> str:
    """A hash of what a safetensors file plays, or the files of a folder and of the folders in it.

    Names, shapes, types and bytes of the tensors count, and an adapter's own settings (scale, kind), whether they
    stand in the file (`lora_config`) or beside it (`adapter_config.json`). What else is written into the files, its
    order and spelling, and the names of files and folders do not.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted([*path.glob("*.safetensors"), *path.glob("*/*.safetensors")])
    digest = hashlib.sha256()
    for identity in sorted(_file_identity(file, alone=path.is_file()) for file in files):
        digest.update(identity)
    return digest.hexdigest()


def _file_identity(path: Path, *, alone: bool) -> bytes:
    """SHA-256 over the tensors of a safetensors file in the order of their names, read in blocks, and the settings
    that it is played with; beside a file that is given `alone`, none are looked for."""
    digest = hashlib.sha256()
    config = path.with_name("adapter_config.json")
    with path.open("rb") as file:
        try:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > path.stat().st_size:
                raise ValueError("a header longer than the file")
            header = json.loads(file.read(size))
            texts = header.pop("__metadata__", {})
            for name, entry in sorted(header.items()):
                start, end = entry["data_offsets"]
                digest.update(f"{name}:{entry['dtype']}:{entry['shape']};".encode())
                file.seek(8 + size + start)
                while start < end and (block := file.read(min(1 << 20, end - start))):
                    digest.update(block)
                    start += len(block)
            digest.update(_settings_inside(texts, header, stated_beside=not alone and config.is_file()))
        except (ValueError, struct.error, KeyError, TypeError, AttributeError, RecursionError):
            # no safetensors file: whoever loads it says so; its bytes tell it from others
            file.seek(0)
            return hashlib.file_digest(file, "sha256").digest()
    if not alone and config.is_file():
        values = read_json(config, "adapter's configuration")
        digest.update(_plain(values if isinstance(values, dict) else {}, _BESIDE))
    return digest.digest()


def _settings_inside(texts: Mapping[str, str], header: Mapping[str, Any], *, stated_beside: bool) -> bytes:
    """The scale and kind that a native Stable Audio 3 file or one of diffusers states; an alpha that the first leaves
    out is its rank. Peft's configuration in a header only repeats the one beside the file, where there is one."""
    config = json.loads(texts.get("lora_config", "{}"))
    ranks = (entry["shape"][0] for name, entry in header.items() if name.endswith((".lora_A", ".M_xs")))
    rank = config.get("rank") or next(ranks, None)
    if config.get("alpha") in (None, rank):
        config["alpha"] = None
    if config.get("adapter_type") == "lora":
        config["adapter_type"] = None
    told = {} if stated_beside else json.loads(texts.get("lora_adapter_metadata", "{}"))
    return _plain(config, _INSIDE) + _plain({key.rpartition(".")[2]: value for key, value in told.items()}, _BESIDE)


def _plain(values: Mapping[str, Any], keys: Collection[str]) -> bytes:
    """The settings of these names in one spelling: 8 and 8.0, or False and none, are one; b"" when all are off."""
    chosen = json.dumps({key: values[key] for key in keys if values.get(key)}, sort_keys=True)
    return b"" if chosen == "{}" else json.dumps(json.loads(chosen, parse_int=float)).encode()


def user_cache(name: str) -> Path:
    """A folder of the user's own cache: ``$EISBACH_CACHE/NAME``, else ``eisbach/NAME`` in the system's place for
    caches."""
    if chosen := os.environ.get("EISBACH_CACHE"):
        return Path(chosen) / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eisbach" / name


class Finished:
    """Pieces of a run by their key; each is computed once and written as soon as it is there.

    Parameters
    ----------
    file : Path
        One JSON row a piece; a row that a killed process left half-written is computed again.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._drop_torn_row()
        self.rows: dict[str, Any] = {row["key"]: row["value"] for row in read_jsonl(file)} if file.is_file() else {}

    def _drop_torn_row(self) -> None:
        if self.file.is_file():
            text = self.file.read_bytes()
            whole = text[: text.rfind(b"\n") + 1]
            if whole != text:
                self.file.write_bytes(whole)

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """The piece of this key: as it was written, or computed now and written. A value is what JSON can hold."""
        if key not in self.rows:
            self.add(key, compute())
        return self.rows[key]

    def add(self, key: str, value: Any) -> None:
        """Writes a piece, at once."""
        self.rows[key] = json.loads(json.dumps(value))
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "value": value}) + "\n")


def curve_stamp(options: Mapping[str, Any] | None) -> dict[str, str]:
    """A hash of the curve that a schedule reads: another measurement under the same name is another schedule. Empty
    without one."""
    curve = (options or {}).get("curve")
    if curve is None:
        return {}
    return {"schedule_curve": hashlib.sha256(Path(curve).read_bytes()).hexdigest()[:16]}
