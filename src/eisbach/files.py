"""Text, JSON and JSON lines: read within limits or refused in one sentence, written whole or not at all.

Writing goes through a partial file and a rename, so that a death half-way loses nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import platform
import re
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from eisbach.errors import UserError, disk_error, storage_error

TEXT_LIMIT = 64 * 2**20
"""Bytes of a text or JSON file; no file that the program reads whole comes near it."""
LINES_LIMIT = 2**30
"""Bytes of a file of JSON lines, such as the manifest of a million clips."""
_PART = 2**20  # bytes read at once
_DEPTH_LIMIT = 100  # of nested JSON; Python's own limit is the depth of its stack, which differs from place to place
_DIGITS_LIMIT = 40  # a 128-bit number has 39; longer integers overflow wherever they are turned into a float

_ODD_NUMBER = re.compile(rf"\d{{{_DIGITS_LIMIT + 1}}}|[eE]\+?\d{{3}}")
_JSON_STRING = re.compile(r'"(?:[^"\\]+|\\.)*+"?', re.DOTALL)  # one that never ends is taken whole, once
_ODD_ESCAPE = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)|\x00")
_PARTIAL = re.compile(r"\..*\.(?P<pid>\d{1,10})-\d+(?:-(?P<host>[0-9a-f]{8}))?\.partial")
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_FOREIGN_AGE = 24 * 3600.0  # seconds after which another machine's partial file is nobody's
_cleared: set[str] = set()


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


def atomic_write(path: str | Path, write: Callable[[Path], object]) -> None:
    """Calls `write(partial_path)`, then renames the partial file onto `path`.

    The first write into a folder removes the partial files that killed processes left there.

    Raises
    ------
    StorageError
        The disk is full or the folder is not writable; `path` keeps its old content.
    """
    path = Path(path)
    # Of this thread alone: two threads may write the same file, such as the latents of two clips with equal audio.
    # Process and thread make it unique; of the name only a beginning, since a name may be as long as the disk allows.
    partial = path.with_name(f".{path.name[:40]}.{os.getpid()}-{threading.get_ident()}-{_HOST}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if str(path.parent) not in _cleared:
            _cleared.add(str(path.parent))
            clear_partials(path.parent)
        write(partial)
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the folder itself may be what is missing
            partial.unlink(missing_ok=True)
        refused = disk_error(error)
        if refused is None:
            raise
        raise storage_error(path, refused) from error


def clear_partials(folder: Path) -> None:
    """Removes the partial files in a folder (not below it) whose writer no longer lives; others' are left."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _PARTIAL.fullmatch(entry.name)
            if match is None or not entry.is_file(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError):  # another process may clear, or write, at the same time
                modified = entry.stat(follow_symlinks=False).st_mtime
                if match["host"] not in (None, _HOST):
                    abandoned = time.time() - modified > _FOREIGN_AGE
                else:
                    abandoned = not _writes(int(match["pid"]), modified)
                if abandoned:
                    Path(entry.path).unlink()


def _writes(pid: int, modified: float) -> bool:
    """Whether the process with this number may have written a file then: it lives, and did not start afterwards."""
    import psutil

    try:
        return bool(psutil.Process(pid).create_time() <= modified + 1.0)  # the clock of file systems is coarse
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes bytes atomically."""
    atomic_write(path, lambda partial: partial.write_bytes(content))


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Writes indented JSON atomically; NaN is refused (`ValueError`)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line, atomically."""
    write_text(path, "".join(json.dumps(dict(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_bytes(
    path: str | Path,
    what: str = "file",
    *,
    limit: int = TEXT_LIMIT,
    missing: str = "check the path",
    error: type[UserError] = UserError,
) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Parameters
    ----------
    path : str or Path
    what : str
        What the file is, for the message: "recipe".
    limit : int
        Bytes.
    missing : str
        What to do where there is no such file, for the message.
    error : type
        What is raised.

    Raises
    ------
    UserError
        There is no such file; it is a folder, a pipe or a device; it is too large; or the system refuses it (no
        permission, a name that is too long or has a NUL, links in a circle).
    """
    check_regular(path, what, missing=missing, error=error)
    try:
        with open(path, "rb") as file:
            content = bytearray()
            while len(content) <= limit and (
                part := file.read(_PART)
            ):  # a read of all of `limit` would take it at once
                content += part
    except OSError as fault:
        raise error(f"the {what} {path} cannot be read ({fault.strerror or fault}).") from fault
    if len(content) > limit:
        raise error(
            f"the {what} {path} cannot be read: it is larger than {limit / 2**20:.3g} MiB; none of its kind is."
        )
    return bytes(content)


def check_regular(
    path: str | Path, what: str = "file", *, missing: str = "check the path", error: type[UserError] = UserError
) -> None:
    """Nothing, when there is a regular file; what else is there is not opened (a pipe without a writer never opens).

    Raises
    ------
    UserError
        As in `read_bytes`, whose arguments these are.
    """
    name = f"the {what} {path}"
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError as fault:
        raise error(f"{name} does not exist; {missing}.") from fault
    except (OSError, ValueError) as fault:  # ValueError: a NUL, or what the file system's encoding lacks
        raise error(f"{name} cannot be read ({getattr(fault, 'strerror', None) or fault}).") from fault
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a device or a socket"
        raise error(f"{name} cannot be read: it is {kind}; give a file.")


def read_text(
    path: str | Path,
    what: str = "file",
    *,
    limit: int = TEXT_LIMIT,
    missing: str = "check the path",
    error: type[UserError] = UserError,
) -> str:
    """The UTF-8 text of a file, without a byte order mark; arguments and errors as in `read_bytes`."""
    content = read_bytes(path, what, limit=limit, missing=missing, error=error)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = content[: fault.start].count(b"\n") + 1
        raise error(
            f"the {what} {path} cannot be read: line {line} is not UTF-8 text; save it as UTF-8 (or it is no text "
            "file)."
        ) from fault


class JsonError(ValueError):
    """Why a text is not JSON that is read, without the name of its file."""


def parse_json(text: str) -> Any:
    """The value of a JSON text that any part of the program can work with.

    Raises
    ------
    JsonError
        Malformed; a key twice; nested more than 100 deep; NaN, Infinity or a number beyond a float's range; an integer
        of more than 40 digits; a NUL or half a surrogate pair in a text.
    """
    if text.count("[") + text.count("{") > _DEPTH_LIMIT:
        steps = (1 if c in "[{" else -1 for c in _JSON_STRING.sub("", text) if c in "[{]}")
        if any(depth > _DEPTH_LIMIT for depth in itertools.accumulate(steps)):
            raise JsonError(f"it is nested more than {_DEPTH_LIMIT} deep")
    numbers: dict[str, Any] = {}
    if _ODD_NUMBER.search(text):  # rare: reading every number by a function of ours takes twice as long
        numbers = {"parse_int": _parse_int, "parse_float": _parse_float}
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, **numbers)
    except json.JSONDecodeError as error:
        raise JsonError(f"line {error.lineno}: {error.msg}") from error
    except RecursionError as error:
        raise JsonError("it is nested too deep") from error
    if _ODD_ESCAPE.search(text):
        written = json.dumps(value, ensure_ascii=False)
        try:
            written.encode("utf-8")
        except UnicodeEncodeError as error:
            raise JsonError("a text in it has half a surrogate pair, which stands for no letter") from error
        if "\\u0000" in written.replace("\\\\", ""):
            raise JsonError("a text in it has a NUL character")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise JsonError(f"the key {twice[:60]!r} is written twice")
    return made


def _refuse_constant(name: str) -> Any:
    raise JsonError(f"{name} is no JSON number")


def _parse_int(digits: str) -> int:
    if len(digits.lstrip("-")) > _DIGITS_LIMIT:
        raise JsonError(f"an integer has {len(digits.lstrip('-'))} digits; at most {_DIGITS_LIMIT} are read")
    return int(digits)


def _parse_float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise JsonError(f"the number {digits[:40]} is beyond the range of a float")
    return value


def read_json(path: str | Path, what: str = "file", *, error: type[UserError] = UserError) -> Any:
    """A JSON file's content; `UserError` (or `error`) when missing, too large, malformed or as `parse_json` refuses
    it."""
    text = read_text(path, what, error=error)
    try:
        return parse_json(text)
    except JsonError as fault:
        raise error(f"the {what} {path} is not valid JSON ({fault}).") from fault


def read_object(path: str | Path, what: str = "file", *, error: type[UserError] = UserError) -> dict[str, Any]:
    """As `read_json`, of a file that holds one JSON object."""
    value = read_json(path, what, error=error)
    if not isinstance(value, dict):
        raise error(f"the {what} {path} holds a {type(value).__name__}; it must be one JSON object.")
    return value


def parse_object(text: str, name: str, *, error: type[UserError] = UserError) -> dict[str, Any]:
    """The JSON object of a text that came with something else, such as a file's metadata; `name` says whose it is."""
    try:
        value = parse_json(text)
    except JsonError as fault:
        raise error(f"{name} is not valid JSON ({fault}).") from fault
    if not isinstance(value, dict):
        raise error(f"{name} is a {type(value).__name__}; it must be one JSON object.")
    return value


def read_jsonl(path: str | Path, what: str = "file", *, error: type[UserError] = UserError) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; `UserError` (or `error`) names the line that is malformed."""
    text = read_text(path, what, limit=LINES_LIMIT, error=error)
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines() would also cut at U+2028 within a text
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except JsonError as fault:
            reason = str(fault).removeprefix("line 1: ")
            raise error(
                f"the {what} {path} is malformed at line {number} ({reason}); each line must be one JSON object."
            ) from fault
        if not isinstance(row, dict):
            raise error(
                f"the {what} {path} has a {type(row).__name__} at line {number}; each line must be one JSON object."
            )
        rows.append(row)
    return rows


def read_journal(path: str | Path, what: str = "journal") -> list[dict[str, Any]]:
    """The objects of a file that a process appended to until it died: lines that are not whole are passed over.

    Raises
    ------
    UserError
        The file cannot be read at all; one that does not exist holds nothing.
    """
    if not os.path.lexists(path):
        return []
    content = read_bytes(path, what, limit=LINES_LIMIT)
    rows = []
    for line in content.split(b"\n"):
        with contextlib.suppress(JsonError, UnicodeDecodeError):
            row = parse_json(line.decode("utf-8")) if line.strip() else None
            if isinstance(row, dict):
                rows.append(row)
    return rows
