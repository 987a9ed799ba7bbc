"""The manifest: one row a clip, the one format that every stage reads.

A manifest is a JSON-lines file; `path` is POSIX and relative to the folder that holds it, so that the folder can
be moved. Loading is strict: every fault of every row is found and they are reported together. A manifest that was
written elsewhere than into its audio (because that may not be written to, say) has a `manifest.audio.json` beside it,
which names the folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from eisbach.audio import KnownHashes
from eisbach.audio_file import is_utf8
from eisbach.data.files_below import FilesBelow
from eisbach.data.sources import no_manifest
from eisbach.errors import ManifestError
from eisbach.files import LINES_LIMIT, JsonError, parse_json, read_json, read_text, write_json, write_jsonl

MANIFEST_NAME = "manifest.jsonl"
Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")


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
    weight : float or None
        How much the clip counts in training against others, at least 0; None (and no such key in the file) is 1.
    weight_above : float or None
        Noise level t in [0, 1] from which on `weight` holds, 1 below; None is every noise level.
    """

    id: str
    path: str
    caption: str
    duration: float
    labels: dict[str, str] = field(default_factory=dict)
    audio_hash: str = ""
    split: Split = "train"
    weight: float | None = None
    weight_above: float | None = None


@dataclass(frozen=True)
class Manifest:
    """Rows, the folder of the manifest, and the folder that their paths are relative to (the same unless told)."""

    rows: tuple[ManifestRow, ...]
    root: Path
    audio_root: Path

    def __init__(self, rows: Iterable[ManifestRow], root: str | Path, audio_root: str | Path | None = None) -> None:
        object.__setattr__(self, "rows", tuple(rows))
        object.__setattr__(self, "root", Path(root))
        object.__setattr__(self, "audio_root", Path(root if audio_root is None else audio_root))

    def with_rows(self, rows: Iterable[ManifestRow]) -> Manifest:
        """Other rows of the same folder."""
        return Manifest(rows, self.root, self.audio_root)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[ManifestRow]:
        return iter(self.rows)

    def audio_path(self, row: ManifestRow) -> Path:
        """Where the audio of `row` lies."""
        return self.audio_root / row.path

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
        return self.with_rows(
            row
            for row in self.rows
            if (split is None or row.split == split)
            and all(row.labels.get(key) in values for key, values in wanted.items())
        )


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
    given = Path(path)
    path = given / MANIFEST_NAME if given.is_dir() else given
    if (absent := no_manifest(given, path)) is not None:
        raise absent
    text = read_text(path, "manifest", limit=LINES_LIMIT, error=ManifestError)
    lines = text.split("\n")  # splitlines() would also cut at U+2028 within a caption
    audio_root = _read_audio_root(path)
    files = FilesBelow(audio_root)
    rows: list[ManifestRow] = []
    faults: list[str] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row, own = _parse_row(line)
        if row is not None:
            if row.id in first_line:
                own.append(f"id '{row.id}' is already used at line {first_line[row.id]}; give each clip its own id")
            first_line.setdefault(row.id, number)
            place, fault = files.find(row.path)
            if fault is not None and (check_files or place is not None):
                own.append(fault)
            rows.append(row if place is None or place == row.path else replace(row, path=place))
        faults += [f"line {number}: {fault}" for fault in own]
    if not rows and not faults:
        faults = ["it has no rows; add clips to it"]
    if faults:
        raise ManifestError(f"{path} {fault_list(faults)}")
    return Manifest(rows, path.parent, audio_root)


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
        own = row_faults(row)
        if row.id in seen:
            own.append("the id is used twice")
        seen.add(row.id)
        faults += [f"row '{row.id}': {fault}" for fault in own]
    if faults:
        raise ManifestError(f"the manifest for {path} {fault_list(faults)}")
    _write_audio_root(path, manifest.audio_root)
    write_jsonl(path, (row_values(row) for row in manifest))
    return path


def row_faults(row: ManifestRow) -> list[str]:
    """Every fault of a row's values that `load_manifest` would name."""
    return _check_values(row_values(row))


def row_values(row: ManifestRow) -> dict[str, Any]:
    """A row as a manifest writes it: weights that nobody gave are left out."""
    return {key: value for key, value in asdict(row).items() if not (key in _OPTIONAL and value is None)}


def fault_list(faults: Sequence[str]) -> str:
    """The faults as the end of a sentence: "has 2 faults: ...", the first ten of them."""
    more = len(faults) - _SHOWN
    head = f"has {len(faults)} fault{'s' if len(faults) > 1 else ''}: "
    return head + "; ".join(faults[:_SHOWN]) + (f"; and {more} more." if more > 0 else ".")


_KEYS = tuple(item.name for item in fields(ManifestRow))
_OPTIONAL = ("weight", "weight_above")


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
    for key in ("duration", *_OPTIONAL):
        if values.get(key) is not None:
            values[key] = float(values[key])
    return ManifestRow(**values), []


def _check_values(values: Mapping[str, Any]) -> list[str]:
    """Every fault of one row's values."""
    faults = []
    if unknown := [key for key in values if key not in _KEYS]:
        faults.append(f"unknown key {', '.join(map(repr, unknown))}; allowed are {', '.join(_KEYS)}")
    if missing := [key for key in _KEYS if key not in values and key not in _OPTIONAL]:
        faults.append(f"missing key {', '.join(map(repr, missing))}; add it")
    checks: dict[str, Callable[[Any], str | None]] = {
        "id": lambda v: None if isinstance(v, str) and v else "must be a non-empty string",
        "path": _path_fault,
        "caption": lambda v: None if isinstance(v, str) else "must be a string",
        "duration": _duration_fault,
        "labels": _labels_fault,
        "audio_hash": _hash_fault,
        "split": lambda v: None if v in SPLITS else f"must be one of {', '.join(SPLITS)}",
        "weight": lambda v: _number_fault(v, math.inf, "must be a finite number of at least 0"),
        "weight_above": lambda v: _number_fault(v, 1.0, "must be a noise level t in [0, 1]"),
    }
    if values.get("weight_above") is not None and values.get("weight") is None:
        faults.append("'weight_above' says from where 'weight' holds, and there is none; add it")
    for key, check in checks.items():
        if key not in values:
            continue
        fault = check(values[key]) or _text_fault(values[key])
        if fault:
            shown = ascii(values[key]) if "UTF-8" in fault else repr(values[key])
            faults.append(f"'{key}' {fault} (got {shown if len(shown) < 60 else shown[:57] + '...'})")
    return faults


def _text_fault(value: Any) -> str | None:
    """What no text may hold, in a value or in the labels."""
    texts = [value] if isinstance(value, str) else [*value, *value.values()] if isinstance(value, dict) else []
    for text in texts:
        if isinstance(text, str) and not is_utf8(text):
            return "holds bytes or half a character that UTF-8 cannot write; write it again"
        if isinstance(text, str) and "\0" in text:
            return "holds a NUL character; take it out"
    return None


def _path_fault(value: Any) -> str | None:
    if not isinstance(value, str) or not value:
        return "must be a non-empty string"
    if "\\" in value:
        return "must use forward slashes"
    path = PurePosixPath(value)
    if len(value.encode()) > 3000 or any(len(part.encode()) > 255 for part in path.parts):
        return "is longer than the name of any file"
    if path.is_absolute() or (len(value) > 1 and value[1] == ":"):
        return "must be relative to the manifest's folder; move the audio under it"
    if ".." in path.parts:
        return "must not leave the manifest's folder with '..'; move the audio under it"
    return None


def _duration_fault(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "must be a number of seconds"
    return None if math.isfinite(value) and value > 0 else "must be positive and finite"


def _number_fault(value: Any, most: float, what: str) -> str | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if value is None or (number and math.isfinite(value) and 0 <= value <= most) else what


def _labels_fault(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "must be an object of strings"
    bad = [key for key, item in value.items() if not isinstance(item, str)]
    return f"must map strings to strings; quote the value of {', '.join(map(repr, bad))}" if bad else None


def _hash_fault(value: Any) -> str | None:
    good = isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value)
    return None if good else "must be a SHA-256 in 64 lower-case hex characters"


_AUDIO_ROOT = ".audio.json"  # beside a manifest whose audio lies elsewhere


def _read_audio_root(manifest: Path) -> Path:
    """The folder that the paths of a manifest are relative to: its own, or what `_write_audio_root` noted.

    Raises
    ------
    ManifestError
        The note is malformed.
    """
    beside = manifest.with_suffix(_AUDIO_ROOT)
    if not beside.is_file():
        return manifest.parent
    values = read_json(beside, "place of a manifest's audio")
    folder = values.get("audio") if isinstance(values, dict) else None
    if not isinstance(folder, str) or not Path(folder).is_absolute():
        raise ManifestError(f'{beside} must hold {{"audio": "FOLDER"}} with an absolute path; make the manifest again.')
    return Path(folder)


def _write_audio_root(manifest: Path, audio_root: Path) -> None:
    """Notes beside a manifest that its audio lies elsewhere, or takes such a note away."""
    beside = manifest.with_suffix(_AUDIO_ROOT)
    if audio_root.resolve() != manifest.parent.resolve():
        write_json(beside, {"audio": str(audio_root.resolve())})
    elif beside.is_file():
        beside.unlink()


def check_unchanged(manifest: Manifest, row: ManifestRow, known: KnownHashes) -> Path:
    """Where the audio of a row lies; `ManifestError` when its bytes are not those that the manifest was made of."""
    audio = manifest.audio_path(row)
    if known.hash_of(audio) != row.audio_hash:
        raise ManifestError(
            f"{audio} has changed since its manifest was made (clip '{row.id}'); make the manifest again with "
            "'eisbach data folder', or restore the file."
        )
    return audio
