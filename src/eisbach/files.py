"""Writing files so that a death half-way loses nothing: everything goes through a partial file and a rename."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from eisbach.errors import StorageError, UserError


def walk_files(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder, hidden files and folders left out, in no order.

    Something may write there meanwhile: a subfolder that vanishes while it is looked at is passed over (`Path.rglob`
    raises). Links to folders are yielded and not followed; links to nowhere are yielded.

    Raises
    ------
    UserError
        A folder may not be read: passing it over would hide files.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise UserError(f"the folder {error.filename} cannot be read ({error.strerror}); check its permissions.")

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if Path(root, name).is_symlink()]
        yield from (Path(root, name) for name in [*names, *links] if not name.startswith("."))


def find_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files below a folder with one of these endings (lower case, with the dot), hidden ones left out, sorted."""
    return sorted(path for path in walk_files(folder) if path.suffix.lower() in suffixes and path.is_file())


def files_of_kind(folder: str | Path, suffixes: Collection[str], kind: str, wanted: str) -> list[Path]:
    """As `find_files`, at least one.

    Parameters
    ----------
    folder : str or Path
    suffixes : tuple of str
    kind : str
        What the files are, for the message: "audio".
    wanted : str
        What to give instead of something that is no folder.

    Raises
    ------
    UserError
        The folder does not exist, or holds no such file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give {wanted}.")
    paths = find_files(folder, suffixes)
    if not paths:
        raise UserError(f"{folder} holds no {kind}; put {', '.join(suffixes)} files into it.")
    return paths


def atomic_write(path: str | Path, write: Callable[[Path], None]) -> None:
    """Calls `write(partial_path)`, then renames the partial file onto `path`.

    Raises
    ------
    StorageError
        The disk is full or the folder is not writable; `path` keeps its old content.
    """
    path = Path(path)
    # Of this thread alone: two threads may write the same file, such as the latents of two clips with equal audio.
    # Process and thread make it unique; of the name only a beginning, since a name may be as long as the disk allows.
    partial = path.with_name(f".{path.name[:40]}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the folder itself may be what is missing
            partial.unlink(missing_ok=True)
        refused = _disk_error(error)
        if refused is None:
            raise
        raise storage_error(path, refused) from error


def storage_error(path: str | Path, error: OSError) -> StorageError:
    """What a user is told when the system refused to write a path."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return StorageError(f"{path} could not be written: a file is where a folder should be; choose another folder.")
    return StorageError(
        f"{path} could not be written ({error.strerror or error}); free some space or choose another folder."
    )


def _disk_error(error: BaseException) -> OSError | None:
    """The system's error; None when the disk is not to blame."""
    if isinstance(error, OSError):
        return error
    safetensors = sys.modules.get("safetensors")  # it wraps the system's errors in one of its own
    if safetensors is not None and isinstance(error, safetensors.SafetensorError) and "I/O error" in str(error):
        return OSError(str(error).rpartition("I/O error: ")[2])
    return None


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    atomic_write(path, lambda partial: _write_text(partial, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes indented JSON atomically; NaN is refused (`ValueError`)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line, atomically."""
    write_text(path, "".join(json.dumps(dict(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_json(path: str | Path, what: str = "file") -> Any:
    """A JSON file's content; `UserError` when missing or malformed."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"the {what} {path} does not exist; check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the {what} {path} cannot be read ({error}).") from error
    except json.JSONDecodeError as error:
        raise UserError(f"the {what} {path} is not valid JSON (line {error.lineno}: {error.msg}).") from error


def read_jsonl(path: str | Path, what: str = "file") -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; `UserError` names the line that is malformed."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"the {what} {path} does not exist; check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the {what} {path} cannot be read ({error}).") from error
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines() would also cut at U+2028 within a text
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"the {what} {path} is malformed at line {number} ({error.msg}); each line must be one JSON object."
            ) from error
        if not isinstance(row, dict):
            raise UserError(
                f"the {what} {path} has a {type(row).__name__} at line {number}; each line must be one JSON object."
            )
        rows.append(row)
    return rows
