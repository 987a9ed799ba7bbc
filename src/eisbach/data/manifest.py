"""The manifest: one row a clip, the one format that every stage reads.

A manifest is a JSON-lines file; `path` is POSIX and relative to the folder that holds it, so that the folder can
be moved. Loading is strict: every fault of every row is found and they are reported together.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from eisbach.audio import audio_hash
from eisbach.data.threads import in_threads
from eisbach.errors import AudioError, ManifestError
from eisbach.files import LINES_LIMIT, JsonError, parse_json, read_text, write_jsonl

MANIFEST_NAME = "manifest.jsonl"
Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")
HELD_OUT_SHARE = 0.1
"""Share of pieces (or of clips without a piece) that the hash puts into the held-out split."""

_SHOWN = 10


@dataclass(frozen=True)
class ManifestRow:
    """One clip.

    Attributes
    ----------
    id : str
        Unique within the manifest.
    path : str
        POSIX, relative to the manifest's folder.
    caption : str
        What the clip sounds like; may be empty when the user asked for no captions.
    duration : float
        Seconds, positive.
    labels : dict of str to str
        `kind`, `flat`, `piece`, ...: for judging and splitting, never fed to a model or a weighting.
    audio_hash : str
        SHA-256 of the file's bytes, 64 hex characters.
    split : {"train", "held_out"}
    """

    id: str
    path: str
    caption: str
    duration: float
    labels: dict[str, str] = field(default_factory=dict)
    audio_hash: str = ""
    split: Split = "train"


@dataclass(frozen=True)
class Manifest:
    """Rows and the folder that their paths are relative to."""

    rows: tuple[ManifestRow, ...]
    root: Path

    def __init__(self, rows: Iterable[ManifestRow], root: str | Path) -> None:
        object.__setattr__(self, "rows", tuple(rows))
        object.__setattr__(self, "root", Path(root))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[ManifestRow]:
        return iter(self.rows)

    def audio_path(self, row: ManifestRow) -> Path:
        """Where the audio of `row` lies."""
        return self.root / row.path

    def select(self, *, split: str | None = None, labels: Mapping[str, str | Iterable[str]] | None = None) -> Manifest:
        """The rows of one split whose labels have the given values (a value, or any of several).

        Raises
        ------
        ManifestError
            A split that does not exist.
        """
        if split is not None and split not in SPLITS:
            raise ManifestError(f"there is no split '{split}'; choose one of {', '.join(SPLITS)}.")
        wanted = {key: {value} if isinstance(value, str) else set(value) for key, value in (labels or {}).items()}
        return Manifest(
            (
                row
                for row in self.rows
                if (split is None or row.split == split)
                and all(row.labels.get(key) in values for key, values in wanted.items())
            ),
            self.root,
        )


def assign_split(audio_hash: str, labels: Mapping[str, str] | None = None) -> Split:
    """The split of a clip: by hash of its piece when it has one, else of its audio, so that it never changes.

    About `HELD_OUT_SHARE` of the pieces are held out; a piece is never on both sides.
    """
    piece = (labels or {}).get("piece")
    key = hashlib.sha256(piece.encode()).hexdigest() if piece else audio_hash
    return "held_out" if int(key[:12], 16) / 16**12 < HELD_OUT_SHARE else "train"


def load_manifest(path: str | Path, *, check_files: bool = True) -> Manifest:
    """A manifest from its file (or from the folder that holds `manifest.jsonl`), checked row by row.

    Parameters
    ----------
    path : str or Path
    check_files : bool
        Also require that every audio file exists.

    Raises
    ------
    ManifestError
        Names the file and, for the first ten faults, the line, the fault and the mend; the number of all faults.
    """
    path = Path(path)
    if path.is_dir():
        path = path / MANIFEST_NAME
    missing = "make one with 'eisbach data folder' or 'eisbach data render'"
    text = read_text(path, "manifest", limit=LINES_LIMIT, missing=missing, error=ManifestError)
    lines = text.split("\n")  # splitlines() would also cut at U+2028 within a caption
    rows: list[ManifestRow] = []
    faults: list[str] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row, found = _parse_row(line)
        if row is not None:
            if row.id in first_line:
                found.append(f"id '{row.id}' is already used at line {first_line[row.id]}; give each clip its own id")
            first_line.setdefault(row.id, number)
            if check_files and not (path.parent / row.path).is_file():
                found.append(f"file '{row.path}' does not exist; restore it or remove the row")
            rows.append(row)
        faults += [f"line {number}: {fault}" for fault in found]
    if not rows and not faults:
        faults = ["it has no rows; add clips to it"]
    if faults:
        raise ManifestError(f"{path} {_summary(faults)}")
    return Manifest(rows, path.parent)


def save_manifest(manifest: Manifest, path: str | Path | None = None) -> Path:
    """Writes the manifest atomically and returns its path (`<root>/manifest.jsonl` unless told).

    Raises
    ------
    ManifestError
        A row that `load_manifest` would refuse, or a path outside the manifest's folder.
    """
    path = manifest.root / MANIFEST_NAME if path is None else Path(path)
    if path.parent.resolve() != manifest.root.resolve():
        raise ManifestError(
            f"{path} is not in the manifest's folder {manifest.root}, so its relative paths would break; "
            "save it there, or merge it into the other folder."
        )
    faults = []
    seen: set[str] = set()
    for row in manifest:
        found = _check_values(asdict(row))
        if row.id in seen:
            found.append("the id is used twice")
        seen.add(row.id)
        faults += [f"row '{row.id}': {fault}" for fault in found]
    if faults:
        raise ManifestError(f"the manifest for {path} {_summary(faults)}")
    write_jsonl(path, (asdict(row) for row in manifest))
    return path


def merge(manifests: Sequence[Manifest], root: str | Path) -> Manifest:
    """One manifest in the folder `root` that names the clips of all of them; nothing is copied.

    Ids that collide get the name of their source folder in front (`folder/id`) and a number if that is taken too.

    Raises
    ------
    ManifestError
        Audio that does not lie under `root`, because manifests may not point outside their folder.
    """
    base = Path(root).resolve()
    rows: list[ManifestRow] = []
    used: set[str] = set()
    faults: list[str] = []
    for manifest in manifests:
        folder = manifest.root.resolve()
        for row in manifest:
            target = folder / row.path
            if not target.is_relative_to(base):
                faults.append(f"'{target}' is outside it")
                continue
            new_id, number = row.id, 2
            if new_id in used:
                new_id = f"{folder.name}/{row.id}"
            while new_id in used:
                new_id = f"{folder.name}/{row.id}-{number}"
                number += 1
            used.add(new_id)
            rows.append(replace(row, id=new_id, path=target.relative_to(base).as_posix()))
    if faults:
        raise ManifestError(f"the folder {base} cannot hold the merged manifest: it {_summary(faults)}")
    return Manifest(rows, root)


def common_root(manifests: Sequence[Manifest]) -> Path:
    """The deepest folder that holds every manifest: where `merge` can put their union."""
    return Path(os.path.commonpath([str(manifest.root.resolve()) for manifest in manifests]))


def hash_files(
    paths: Sequence[Path], *, jobs: int = 4, quiet: bool = True, on_error: Callable[[Path, str], None] | None = None
) -> dict[Path, str]:
    """SHA-256 of each file, read in parallel threads; unreadable files go to `on_error` or raise `AudioError`."""

    def one(path: Path) -> str | AudioError:
        try:
            return audio_hash(path)
        except AudioError as error:
            return error

    hashes: dict[Path, str] = {}
    with in_threads(paths, one, jobs=jobs, title="hash", quiet=quiet) as results:
        for path, result in results:
            if isinstance(result, str):
                hashes[path] = result
            elif on_error is not None:
                on_error(path, str(result))
            else:
                raise result
    return hashes


def _summary(faults: Sequence[str]) -> str:
    more = len(faults) - _SHOWN
    head = f"has {len(faults)} fault{'s' if len(faults) > 1 else ''}: "
    return head + "; ".join(faults[:_SHOWN]) + (f"; and {more} more." if more > 0 else ".")


_KEYS = tuple(item.name for item in fields(ManifestRow))


def _parse_row(line: str) -> tuple[ManifestRow | None, list[str]]:
    try:
        values = parse_json(line)
    except JsonError as error:
        return None, [f"not valid JSON ({str(error).removeprefix('line 1: ')}); write one object a line"]
    if not isinstance(values, dict):
        return None, [f"a {type(values).__name__} instead of an object; write one JSON object a line"]
    faults = _check_values(values)
    if faults:
        return None, faults
    values["duration"] = float(values["duration"])
    return ManifestRow(**values), []


def _check_values(values: Mapping[str, Any]) -> list[str]:
    """Every fault of one row's values."""
    faults = []
    if unknown := [key for key in values if key not in _KEYS]:
        faults.append(f"unknown key {', '.join(map(repr, unknown))}; allowed are {', '.join(_KEYS)}")
    if missing := [key for key in _KEYS if key not in values]:
        faults.append(f"missing key {', '.join(map(repr, missing))}; add it")
    checks: dict[str, Callable[[Any], str | None]] = {
        "id": lambda v: None if isinstance(v, str) and v else "must be a non-empty string",
        "path": _path_fault,
        "caption": lambda v: None if isinstance(v, str) else "must be a string",
        "duration": _duration_fault,
        "labels": _labels_fault,
        "audio_hash": _hash_fault,
        "split": lambda v: None if v in SPLITS else f"must be one of {', '.join(SPLITS)}",
    }
    for key, check in checks.items():
        if key in values and (fault := check(values[key])):
            shown = repr(values[key])
            faults.append(f"'{key}' {fault} (got {shown if len(shown) < 60 else shown[:57] + '...'})")
    return faults


def _path_fault(value: Any) -> str | None:
    if not isinstance(value, str) or not value:
        return "must be a non-empty string"
    if "\\" in value:
        return "must use forward slashes"
    path = PurePosixPath(value)
    if path.is_absolute() or (len(value) > 1 and value[1] == ":"):
        return "must be relative to the manifest's folder; move the audio under it"
    if ".." in path.parts:
        return "must not leave the manifest's folder with '..'; move the audio under it"
    return None


def _duration_fault(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "must be a number of seconds"
    return None if math.isfinite(value) and value > 0 else "must be positive and finite"


def _labels_fault(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "must be an object of strings"
    bad = [key for key, item in value.items() if not isinstance(item, str)]
    return f"must map strings to strings; quote the value of {', '.join(map(repr, bad))}" if bad else None


def _hash_fault(value: Any) -> str | None:
    good = isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value)
    return None if good else "must be a SHA-256 in 64 lower-case hex characters"
