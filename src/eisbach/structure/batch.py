"""Many files in, one record each out: parallel, resumable, and honest about what it left out."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from eisbach.audio import AUDIO_SUFFIXES, audio_hash
from eisbach.errors import AudioError, StorageError, UserError
from eisbach.files import atomic_write, write_jsonl
from eisbach.progress import Progress
from eisbach.structure.analyze import RECORD_COLUMNS, analysis_version, analyze
from eisbach.types import Record, RecordValue, SkipReport

_JOURNAL = ".records.partial.jsonl"
_FILE_COLUMNS = ("path", "audio_hash", "analysis_version")


@dataclass(frozen=True)
class Clip:
    """A file to analyse.

    Attributes
    ----------
    path : Path
    keys : mapping of str to RecordValue
        Columns that identify the clip (id, arm, prompt_id, seed, labels …); copied into its record.
    """

    path: Path
    keys: Mapping[str, RecordValue] = field(default_factory=dict)


def analyze_file(path: str | Path) -> Record:
    """The record of one file: `path`, `audio_hash`, `analysis_version`, and every column of `Analysis.record`.

    Raises
    ------
    AudioError
        The file is missing, unreadable, empty or holds NaN samples.
    """
    analysis = analyze(path)
    return {
        "path": str(path),
        "audio_hash": audio_hash(path),
        "analysis_version": analysis_version(),
        **analysis.record(),
    }


def analyze_files(
    clips: Sequence[str | Path | Clip],
    *,
    jobs: int = 1,
    out: str | Path | None = None,
    skips: SkipReport | None = None,
    quiet: bool = False,
) -> list[Record]:
    """One record for every readable file, in the order given.

    Parameters
    ----------
    clips : sequence of paths or Clip
    jobs : int
        Processes; 1 works in this one.
    out : path or None
        Folder for ``records.jsonl`` and ``records.parquet``. Finished records are kept there as they come, so the
        same call after an interruption computes only what is missing (a file is known by its content's hash).
    skips : SkipReport or None
        Receives the files that were left out, with the reason.
    quiet : bool
        No progress bar.

    Raises
    ------
    UserError
        No file at all, `jobs` under 1, the same path twice, or a key that is the name of a measured column.
    StorageError
        `out` cannot be written.
    """
    items = [clip if isinstance(clip, Clip) else Clip(Path(clip)) for clip in clips]
    if not items:
        raise UserError("there is nothing to analyse; give at least one audio file, folder or manifest.")
    if jobs < 1:
        raise UserError(f"jobs must be at least 1, not {jobs}.")
    names = [str(item.path) for item in items]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{twice} is given twice; name every file once.")
    _check_keys(items)
    skips = SkipReport() if skips is None else skips
    folder = None if out is None else Path(out)
    found = {} if folder is None else _known_records(folder, names)
    todo = [name for name in names if name not in found]
    with Progress(len(names), "analyse", done=len(found), quiet=quiet) as bar, _journal(folder) as journal:
        for name, record, reason in _run(todo, jobs):
            if record is None:
                skips.add(name, reason)
            else:
                found[name] = record
                journal(record)
            bar.advance()
    records = [{**item.keys, **found[str(item.path)]} for item in items if str(item.path) in found]
    if folder is not None:
        write_records(records, folder)
        (folder / _JOURNAL).unlink(missing_ok=True)
    return records


def _run(names: Sequence[str], jobs: int) -> Iterator[tuple[str, Record | None, str]]:
    """(path, record, "") or (path, None, reason), as they finish."""
    if jobs == 1 or len(names) < 2:
        for name in names:
            yield _attempt(name)
        return
    import multiprocessing

    # 'spawn': forking a process that has started BLAS or torch threads can hang it
    with ProcessPoolExecutor(min(jobs, len(names)), multiprocessing.get_context("spawn")) as pool:
        waiting: dict[Future[tuple[str, Record | None, str]], str] = {pool.submit(_attempt, n): n for n in names}
        lost = []
        try:
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    name = waiting.pop(future)
                    try:
                        yield future.result()
                    except BrokenProcessPool:
                        lost.append(name)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for name in lost:  # one dying process takes every waiting file with it: give each its own process
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            try:
                yield pool.submit(_attempt, name).result()
            except BrokenProcessPool:
                yield name, None, f"{name} killed the process that analysed it (out of memory?); shorten the file"


def _attempt(name: str) -> tuple[str, Record | None, str]:
    try:
        return name, analyze_file(name), ""
    except UserError as error:
        return name, None, str(error)
    except MemoryError:
        return name, None, f"{name} needs more memory than there is"


def _check_keys(items: Sequence[Clip]) -> None:
    measured = {*RECORD_COLUMNS, *_FILE_COLUMNS}
    clash = sorted({key for item in items for key in item.keys if key in measured})
    if clash:
        raise UserError(f"the keys {', '.join(clash)} are names of measured columns; rename those labels.")


def _known_records(folder: Path, names: Sequence[str]) -> dict[str, Record]:
    """Records of an earlier run whose file still has the same content; a torn last line is dropped."""
    wanted, columns = set(names), (*_FILE_COLUMNS, *RECORD_COLUMNS)
    found: dict[str, Record] = {}
    for file in (folder / "records.jsonl", folder / _JOURNAL):
        for row in _tolerant_rows(file):
            name = row.get("path")
            complete = all(column in row for column in columns)
            if name in wanted and complete and row["analysis_version"] == analysis_version():
                found[str(name)] = {column: row[column] for column in columns}  # keys are this call's, not the file's
    return {name: row for name, row in found.items() if _same_file(name, row)}


def _same_file(name: str, row: Record) -> bool:
    try:
        return audio_hash(name) == row.get("audio_hash")
    except AudioError:
        return False


def _tolerant_rows(file: Path) -> Iterator[Record]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            if isinstance(row, dict):
                yield row


@contextlib.contextmanager
def _journal(folder: Path | None) -> Iterator[Callable[[Record], None]]:
    """A function that appends a record to the journal at once, so that a killed run loses at most one."""
    if folder is None:
        yield lambda record: None
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / _JOURNAL, "a", encoding="utf-8") as handle:

            def append(record: Record) -> None:
                handle.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
                handle.flush()
                os.fsync(handle.fileno())

            yield append
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written ({error.strerror or error}); free some space or choose another folder."
        ) from error


def write_records(records: Iterable[Record], folder: str | Path) -> None:
    """Writes ``records.jsonl`` and ``records.parquet``, each atomically; a column missing in a row is null there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(records)
    folder = Path(folder)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_jsonl(folder / "records.jsonl", rows)
    table = pa.Table.from_pylist([{key: row.get(key) for key in columns} for row in rows])
    atomic_write(folder / "records.parquet", lambda partial: pq.write_table(table, partial))


def find_audio(folder: str | Path) -> list[Path]:
    """The audio files in a folder and its subfolders, sorted; hidden files and folders are left out.

    Raises
    ------
    UserError
        There are none.
    """
    folder = Path(folder)
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in AUDIO_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not found:
        raise UserError(f"{folder} holds no audio files ({', '.join(AUDIO_SUFFIXES)}); choose another folder.")
    return found
