"""Many files in, one record each out: parallel, resumable, and honest about what it left out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eisbach.audio import audio_hash, same_stamp, stamp
from eisbach.errors import AudioError, UserError
from eisbach.executors import open_executor
from eisbach.progress import Progress
from eisbach.structure.analyze import RECORD_COLUMNS, analysis_version, analyze
from eisbach.structure.features import resolve_device
from eisbach.structure.record_files import (
    FILE_COLUMNS,
    MeasuredClip,
    journal,
    measured_clips,
    write_analysis,
)
from eisbach.types import Record, RecordValue, SkipReport

_Outcome = tuple[str, MeasuredClip | None, str]


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


def analyze_file(path: str | Path, *, device: str | None = None) -> Record:
    """The record of one file: `path`, `audio_hash`, `analysis_version`, and every column of `Analysis.record`.

    Raises
    ------
    AudioError
        The file is missing, unreadable, empty or holds NaN samples.
    """
    return measure_file(path, detail=False, device=device).record


def measure_file(path: str | Path, *, detail: bool = True, device: str | None = None) -> MeasuredClip:
    """One file's record, its stamp, and with `detail` its line of ``details.jsonl`` (`Analysis.detail` with its
    identity).

    Raises
    ------
    AudioError
        The file is missing, unreadable, empty or holds NaN samples, or somebody wrote to it meanwhile.
    """
    before = stamp(path)
    analysis = analyze(path, device=device)
    identity: Record = {"path": str(path), "audio_hash": audio_hash(path), "analysis_version": analysis_version()}
    if not same_stamp(before, stamp(path)):
        raise AudioError(f"{path} was written to while it was analysed; analyse it again when it is complete.")
    line = None
    if detail:
        line = json.dumps({**identity, **analysis.detail()}, ensure_ascii=False, allow_nan=False)
    return MeasuredClip({**identity, **analysis.record()}, line, before)


def analyze_files(
    clips: Sequence[str | Path | Clip],
    *,
    jobs: int = 1,
    out: str | Path | None = None,
    skips: SkipReport | None = None,
    quiet: bool = False,
    device: str | None = None,
    details: dict[str, str] | None = None,
) -> list[Record]:
    """One record for every readable file, in the order given.

    Parameters
    ----------
    clips : sequence of paths or Clip
    jobs : int
        Processes; 1 works in this one.
    out : path or None
        Folder for ``records.jsonl``, ``records.parquet`` and ``details.jsonl``; nothing is written when no file can be
        analysed. Finished clips are kept as they come, so the same call after an interruption computes what is missing.
        A file counts as unchanged when its size and times are, and otherwise when its content's hash is.
    skips : SkipReport or None
        Receives the files that were left out, with the reason.
    quiet : bool
        No progress bar.
    device : str or None
        See `features.extract_features`.
    details : dict of str to str or None
        Receives each clip's line of ``details.jsonl`` by path, also where there is no `out`.

    Raises
    ------
    UserError
        No file at all, `jobs` under 1, the same path twice, a key that is the name of a measured column, or a device
        that is not there.
    StorageError
        `out` cannot be written.
    """
    items = [clip if isinstance(clip, Clip) else Clip(Path(clip)) for clip in clips]
    names = _check(items, jobs)
    device = resolve_device(device)
    skips = SkipReport() if skips is None else skips
    folder = None if out is None else Path(out)
    measured = {} if folder is None else _measured_before(folder, names)
    todo = [name for name in names if name not in measured]
    new_folder = folder is not None and not folder.exists()
    with Progress(len(names), "analyse", done=len(measured), quiet=quiet) as bar, journal(folder) as keep:
        for name, clip, reason in _run(todo, jobs, folder is not None or details is not None, device):
            if clip is None:
                skips.add(name, reason)
            else:
                measured[name] = clip
                keep(clip)
            bar.advance()
    pairs = [(item, measured[str(item.path)]) for item in items if str(item.path) in measured]
    records = [{**item.keys, **clip.record} for item, clip in pairs]
    if details is not None:
        details.update((str(item.path), clip.detail) for item, clip in pairs if clip.detail is not None)
    if folder is not None:
        write_analysis(folder, records, [clip for _, clip in pairs])
        _leave_no_empty_folder(folder, new_folder and not records)
    return records


def _leave_no_empty_folder(folder: Path, in_vain: bool) -> None:
    if in_vain:
        with contextlib.suppress(OSError):  # somebody else's files may have come meanwhile
            folder.rmdir()


def _measured_before(folder: Path, names: Sequence[str]) -> dict[str, MeasuredClip]:
    """Clips that an analysis of this version left in the folder, whole."""
    measured = measured_clips(folder, names, (*FILE_COLUMNS, *RECORD_COLUMNS), analysis_version())
    return {name: clip for name, clip in measured.items() if clip.detail is not None}


def _check(items: Sequence[Clip], jobs: int) -> list[str]:
    """The paths, once nothing is wrong with the call."""
    if not items:
        raise UserError("there is nothing to analyse; give at least one audio file, folder or manifest.")
    if jobs < 1:
        raise UserError(f"jobs must be at least 1, not {jobs}.")
    names, seen = [str(item.path) for item in items], set()
    for name in names:
        if name in seen:
            raise UserError(f"{name} is given twice; name every file once.")
        seen.add(name)
    measured = {*RECORD_COLUMNS, *FILE_COLUMNS}
    clash = sorted({key for item in items for key in item.keys if key in measured})
    if clash:
        raise UserError(f"the keys {', '.join(clash)} are names of measured columns; rename those labels.")
    return names


def _run(names: Sequence[str], jobs: int, detail: bool, device: str | None) -> Iterator[_Outcome]:
    """(path, clip, "") or (path, None, reason), as they finish."""

    def dead(index: int) -> _Outcome:
        name = names[index]
        return name, None, f"{name} killed the process that analysed it twice (out of memory?); shorten the file"

    with open_executor(jobs, len(names)) as executor:
        for _, outcome in executor.each(_attempt, [(name, detail, device) for name in names], dead=dead):
            yield outcome


def _attempt(name: str, detail: bool, device: str | None) -> _Outcome:
    try:
        return name, measure_file(name, detail=detail, device=device), ""
    except UserError as error:
        return name, None, str(error)
    except MemoryError:
        return name, None, f"{name} needs more memory than there is"
    except ImportError:  # a missing package is missing for every file
        raise
    except Exception as error:  # one odd file must not cost the other ten thousand, nor vanish
        return name, None, f"{name} could not be analysed ({type(error).__name__}: {error}); please report it"


def sample_clips(clips: Sequence[Clip], most: int) -> list[Clip]:
    """At most `most` clips: every group in turn, evenly spread over each group's order, so that none is favoured.

    The same clips give the same sample; their order is kept.
    """
    if len(clips) <= most:
        return list(clips)
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(str(clip.keys.get("group", "")), []).append(clip)
    shares = _shares([len(members) for members in groups.values()], most)
    chosen = {
        id(members[round((index + 0.5) * len(members) / share - 0.5)])
        for members, share in zip(groups.values(), shares, strict=True)
        for index in range(share)
    }
    return [clip for clip in clips if id(clip) in chosen]


def _shares(sizes: Sequence[int], most: int) -> list[int]:
    """How many to take of each group: one each in turn until there is no room or nothing left."""
    shares = [0] * len(sizes)
    room = most
    while room and any(share < size for share, size in zip(shares, sizes, strict=True)):
        for index, size in enumerate(sizes):
            if room and shares[index] < size:
                shares[index] += 1
                room -= 1
    return shares
