"""The files of an analysis: records, details, the journal that a killed run leaves, and whether a file is still the one
measured.

``records.jsonl`` and ``records.parquet`` hold one tidy row a clip, ``details.jsonl`` one object a clip with what pages
need beside it (`Analysis.detail`). They say what was heard and nothing of when or how: the same clips give the same
bytes, whatever the clock, the number of processes, and whether a run was killed in between. What the file system said
of every clip stands apart, in a hidden file that only saves a rerun from reading the audio again. While a run goes on,
every finished clip is one appended line of a journal.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eisbach.audio import audio_hash, proves_unchanged, stamp
from eisbach.errors import UserError, storage_error
from eisbach.files import (
    LINES_LIMIT,
    JsonError,
    atomic_write,
    parse_json,
    read_bytes,
    write_jsonl,
    write_text,
)
from eisbach.types import Record

RECORDS, _TABLE, _DETAILS = "records.jsonl", "records.parquet", "details.jsonl"
JOURNAL, STAMPS = ".records.partial.jsonl", ".stamps.jsonl"
FILE_COLUMNS = ("path", "audio_hash", "analysis_version")

_SYNC_SECONDS = 1.0  # a power cut may cost this much of a run; a killed process costs nothing


@dataclass
class MeasuredClip:
    """A finished clip.

    Attributes
    ----------
    record : Record
    detail : str or None
        Its line of ``details.jsonl``; None where only the record was kept.
    stamp : dict
        `audio.stamp` before it was measured; empty where nothing is known.
    """

    record: Record
    detail: str | None = None
    stamp: dict[str, Any] = field(default_factory=dict)


def is_unchanged(clip: MeasuredClip) -> bool:
    """Whether a clip's file still has the content it was measured with.

    An unchanged size and unchanged times settle it without reading the file, unless the file had been written so
    shortly before it was measured that the same times could hide another write; everything else is settled by its
    content's hash.
    """
    try:
        if proves_unchanged(clip.stamp, stamp(str(clip.record["path"]))):
            return True
        return audio_hash(str(clip.record["path"])) == clip.record["audio_hash"]
    except UserError:
        return False


def measured_clips(folder: Path, names: Sequence[str], columns: Sequence[str], version: str) -> dict[str, MeasuredClip]:
    """What earlier runs finished and is still valid, by path; a torn last line is dropped.

    Parameters
    ----------
    folder : Path
    names : sequence of str
        Paths that matter now.
    columns : sequence of str
        What a complete record holds; the keys of earlier calls are dropped.
    version : str
        Records of another analysis are dropped.
    """
    wanted = set(names)
    clips: dict[str, MeasuredClip] = {}

    def take(record: Any, detail: Any, stamp: Any) -> None:
        if not isinstance(record, dict) or not all(
            isinstance(record.get(column, []), str | int | float | None) for column in columns
        ):
            return
        if record["path"] in wanted and record["analysis_version"] == version:
            clips[str(record["path"])] = MeasuredClip(
                {column: record[column] for column in columns},
                detail if isinstance(detail, str) else None,
                stamp if isinstance(stamp, dict) else {},
            )

    details, stamps = {}, {}
    for row, line in _rows(folder / _DETAILS):
        if "stamp" in row:  # written before stamps stood apart
            stamps[str(row.get("path"))] = row.pop("stamp")
            line = json.dumps(row, ensure_ascii=False)
        details[str(row.get("path")), str(row.get("audio_hash"))] = line
    stamps |= {str(row.get("path")): row.get("stamp") for row, _ in _rows(folder / STAMPS)}
    for record, _ in _rows(folder / RECORDS):
        path = str(record.get("path"))
        take(record, details.get((path, str(record.get("audio_hash")))), stamps.get(path))
    for row, _ in _rows(folder / JOURNAL):
        take(row.get("record"), row.get("detail"), row.get("stamp"))
    return {name: clip for name, clip in clips.items() if is_unchanged(clip)}


def _rows(file: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The whole lines of a file, parsed and as they stand; none where there is no such file."""
    if not file.exists():
        return
    for line in read_bytes(file, "record of an analysis", limit=LINES_LIMIT).split(b"\n"):
        with contextlib.suppress(JsonError):
            text = line.decode("utf-8", "replace")
            row = parse_json(text) if text.strip() else None
            if isinstance(row, dict):
                yield row, text


@contextlib.contextmanager
def journal(folder: Path | None) -> Iterator[Callable[[MeasuredClip], None]]:
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

            def append(clip: MeasuredClip) -> None:
                nonlocal synced
                row = {"record": clip.record, "detail": clip.detail, "stamp": clip.stamp}
                handle.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                handle.flush()
                if time.monotonic() - synced > _SYNC_SECONDS:
                    os.fsync(handle.fileno())
                    synced = time.monotonic()

            handle.write("\n")  # ends a line that a kill may have torn
            yield append
    except OSError as error:
        raise storage_error(folder, error) from error


def write_analysis(folder: Path, records: Sequence[Record], clips: Sequence[MeasuredClip]) -> None:
    """Writes the files of an analysis, each atomically, and takes the journal away; without a clip nothing is written.

    Parameters
    ----------
    folder : Path
    records : sequence of Record
        The rows of the tables: what `clips` measured, with the keys of this call.
    clips : sequence of MeasuredClip
        In the same order.
    """
    if records:
        write_text(folder / _DETAILS, "".join(clip.detail + "\n" for clip in clips if clip.detail is not None))
        write_jsonl(folder / STAMPS, [{"path": clip.record["path"], "stamp": clip.stamp} for clip in clips])
        write_tables(records, folder)
    (folder / JOURNAL).unlink(missing_ok=True)


def write_tables(records: Iterable[Record], folder: Path) -> None:
    """Writes ``records.jsonl`` and ``records.parquet``; a column missing in a row is null there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(records)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_jsonl(folder / RECORDS, rows)
    table = pa.Table.from_pylist([{key: row.get(key) for key in columns} for row in rows])
    atomic_write(folder / _TABLE, lambda partial: pq.write_table(table, partial))


def read_details(folder: str | Path) -> dict[str, dict[str, Any]]:
    """The details of an analysed folder by path: `sections`, `embedding`, `onsets`, `attacks`, `sketch`,
    `audio_hash`; empty without."""
    return {str(row["path"]): row for row, _ in _rows(Path(folder) / _DETAILS) if "path" in row}
