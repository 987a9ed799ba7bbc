"""The files of an analysis: records, details, the journal that a killed run leaves, and whether a file is still the one measured.

``records.jsonl`` and ``records.parquet`` hold one tidy row a clip; ``details.jsonl`` one object a clip with what pages need beside it
(`Analysis.detail`) and the file's `stamp`. While a run goes on, every finished clip is one appended line of a journal.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eisbach.audio import audio_hash
from eisbach.errors import AudioError
from eisbach.files import atomic_write, storage_error, write_jsonl, write_text
from eisbach.types import Record

RECORDS, TABLE, DETAILS, JOURNAL = "records.jsonl", "records.parquet", "details.jsonl", ".records.partial.jsonl"
FILE_COLUMNS = ("path", "audio_hash", "analysis_version")

_SYNC_SECONDS = 1.0  # a power cut may cost this much of a run; a killed process costs nothing
_RACY_NS = (
    2_000_000_000  # a file written this shortly before it was read may have been written again within its clock's tick
)


@dataclass
class Known:
    """A finished clip: its record, and its line of ``details.jsonl`` (None where only the record was kept)."""

    record: Record
    detail: str | None


def stamp(path: str | Path) -> dict[str, int]:
    """What the file system says of a file: size, time of its last change of content and of any change, and now (ns).

    Raises
    ------
    AudioError
        The file is not there.
    """
    try:
        state = Path(path).stat()
    except OSError as error:
        raise AudioError(f"{path} cannot be read ({error.strerror or error}).") from error
    return {
        "size": state.st_size,
        "mtime_ns": state.st_mtime_ns,
        "ctime_ns": state.st_ctime_ns,
        "seen_ns": time.time_ns(),
    }


def same_state(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two stamps say that nobody wrote to the file in between."""
    return all(before.get(key) == after.get(key) for key in ("size", "mtime_ns", "ctime_ns"))


def still_same(name: str, audio_hash_before: str, detail: str | None) -> bool:
    """Whether a file still has the content it was measured with.

    An unchanged size and unchanged times settle it without reading the file, unless the file had been written so shortly before it was measured
    that the same times could hide another write; everything else is settled by its content's hash.
    """
    try:
        now = stamp(name)
        before = json.loads(detail).get("stamp", {}) if detail is not None else {}
        old_enough = before.get("seen_ns", 0) - max(now["mtime_ns"], now["ctime_ns"]) > _RACY_NS
        if old_enough and same_state(before, now):
            return True
        return audio_hash(name) == audio_hash_before
    except AudioError:
        return False


def known_clips(folder: Path, names: Sequence[str], columns: Sequence[str], version: str) -> dict[str, Known]:
    """What earlier runs finished and is still valid; a torn last line is dropped.

    Parameters
    ----------
    columns : sequence of str
        What a complete record holds; the keys of earlier calls are dropped.
    version : str
        Records of another analysis are dropped.
    """
    wanted = set(names)
    found: dict[str, Known] = {}

    def take(row: Mapping[str, Any], detail: str | None) -> None:
        name = row.get("path")
        if name in wanted and row.get("analysis_version") == version and all(column in row for column in columns):
            found[str(name)] = Known({column: row[column] for column in columns}, detail)

    details = {str(row.get("path")): (row.get("audio_hash"), text) for row, text in _rows(folder / DETAILS)}
    for row, _ in _rows(folder / RECORDS):
        of_hash, detail = details.get(str(row.get("path")), (None, None))
        take(row, detail if of_hash == row.get("audio_hash") else None)
    for row, _ in _rows(folder / JOURNAL):
        record, detail = row.get("record"), row.get("detail")
        if isinstance(record, dict):
            take(record, detail if isinstance(detail, str) else None)
    return {name: clip for name, clip in found.items() if still_same(name, str(clip.record["audio_hash"]), clip.detail)}


def _rows(file: Path) -> Iterator[tuple[dict[str, Any], str]]:
    try:
        with open(file, encoding="utf-8", errors="replace", newline="\n") as handle:
            for line in handle:
                with contextlib.suppress(json.JSONDecodeError):
                    row = json.loads(line)
                    if isinstance(row, dict):
                        yield row, line.rstrip("\n")
    except OSError:
        return


@contextlib.contextmanager
def journal(folder: Path | None) -> Iterator[Callable[[Known], None]]:
    """A function that appends a finished clip to the journal at once, whatever its length by then.

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    if folder is None:
        yield lambda clip: None
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / JOURNAL, "a", encoding="utf-8") as handle:
            synced = 0.0

            def append(clip: Known) -> None:
                nonlocal synced
                row = {"record": clip.record, "detail": clip.detail}
                handle.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                handle.flush()
                if time.monotonic() - synced > _SYNC_SECONDS:
                    os.fsync(handle.fileno())
                    synced = time.monotonic()

            handle.write("\n")  # ends a line that a kill may have torn
            yield append
    except OSError as error:
        raise storage_error(folder, error) from error


def write_records(records: Iterable[Record], folder: str | Path) -> None:
    """Writes ``records.jsonl`` and ``records.parquet``, each atomically; a column missing in a row is null there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(records)
    folder = Path(folder)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_jsonl(folder / RECORDS, rows)
    table = pa.Table.from_pylist([{key: row.get(key) for key in columns} for row in rows])
    atomic_write(folder / TABLE, lambda partial: pq.write_table(table, partial))


def write_details(lines: Iterable[str], folder: str | Path) -> None:
    """Writes ``details.jsonl``, atomically, from its lines."""
    write_text(Path(folder) / DETAILS, "".join(line + "\n" for line in lines))


def read_details(folder: str | Path) -> dict[str, dict[str, Any]]:
    """The details of an analysed folder by path: `sections`, `embedding`, `onsets`, `attacks`, `audio_hash`; empty without the file."""
    return {str(row["path"]): row for row, _ in _rows(Path(folder) / DETAILS) if "path" in row}
