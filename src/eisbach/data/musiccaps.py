"""MusicCaps: its CSV and whatever audio a person could fetch, as a manifest of clips with captions and aspects.

Nothing is downloaded. Files are found by the video's id in their name (`musiccaps_table`); a whole video is cut to the
row's start and end, a clip that is already cut is taken as it is. Which of the two a file is, its name and its length
tell (`place_clip`); a file for which they do not is reported and not used.
"""

from __future__ import annotations

import contextlib
import json
import string
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eisbach.audio import SILENCE_PEAK, audio_hash, read_audio, write_audio
from eisbach.audio_file import AudioFile
from eisbach.config import check_values
from eisbach.data.manifest import MANIFEST_NAME, Manifest, ManifestRow, Split, save_manifest
from eisbach.data.musiccaps_table import (
    FetchedFile,
    Matches,
    MusicCapsRow,
    MusicCapsTable,
    find_fetched,
    match_files,
    read_rows,
    write_missing,
)
from eisbach.data.splits import assign_split
from eisbach.errors import AudioError, UserError, storage_error
from eisbach.files import read_journal, write_json
from eisbach.progress import in_threads

HELD_OUT = ("hash", "eval", "balanced", "none")
KINDS = ("missing", "unreadable", "too_short", "ambiguous", "silent", "malformed", "duplicate")
"""Why a row or a file is not used."""

_CLIPS, _JOURNAL_NAME, _REPORT_NAME, _MISSING_NAME = "clips", "clips.jsonl", "report.json", "missing.csv"

TOLERANCE = 0.5
"""Seconds by which a length may differ from what it should be: containers and codecs round."""

_SLOPPY = 2.0
"""A file that is longer than its row by more than `TOLERANCE` and by no more than this may be a clip cut generously as
well as a short whole video."""


class NotUsed(Exception):
    """A file that cannot be a row's clip: `kind` of `KINDS` and the reason."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


def place_clip(row: MusicCapsRow, audio: FetchedFile, duration: float, rows_of_video: int = 1) -> tuple[float, float]:
    """(start, seconds) of a row's clip within a file of a given length.

    The rule, with L the row's length (10 s in MusicCaps) and 0.5 s of tolerance:

    - the name holds the row's times: it is a clip, so it must last L;
    - otherwise a file that lasts L is a clip; if the CSV has several rows of its video, it is ambiguous which;
    - a longer file is the whole video, and must last until the row's end; up to L + 2 s long, with a start other than
      zero, it might be a clip cut generously too: ambiguous.

    Raises
    ------
    NotUsed
        "too_short" or "ambiguous".
    """
    length, name = row.seconds, audio.path.name
    if duration < length - TOLERANCE:
        raise NotUsed("too_short", f"{name} lasts {duration:.1f} s, less than the {length:g} s of the row")
    is_clip = abs(duration - length) <= TOLERANCE
    if audio.start is not None:
        if not is_clip:
            reason = f"{name} lasts {duration:.1f} s and its name says {length:g} s: cut it, or name it {row.ytid}"
            raise NotUsed("ambiguous", reason)
        return 0.0, min(duration, length)
    if is_clip:
        if rows_of_video > 1:
            reason = f"{name} is a clip of a video with {rows_of_video} rows: name it {row.id}"
            raise NotUsed("ambiguous", reason)
        return 0.0, min(duration, length)
    if duration + TOLERANCE < row.end:
        times = f"{name} lasts {duration:.1f} s and the row is {row.start:g} to {row.end:g} s, beyond its end"
        raise NotUsed("too_short", f"{times}: fetch the whole video, or, if it is a clip, cut it to {length:g} s")
    if duration <= length + _SLOPPY and row.start > TOLERANCE:
        reason = f"{name} lasts {duration:.1f} s, so it may be a clip or a whole video: cut it to {length:g} s"
        raise NotUsed("ambiguous", reason)
    return row.start, min(length, duration - row.start)


@dataclass(frozen=True)
class Cut:
    """A clip that lies in the folder: the stretch that was asked for of which file (its bytes and modification time),
    the clip's own length, bytes and SHA-256, and whether an earlier call made it."""

    id: str
    path: str
    source: str
    source_size: int
    source_time: int
    start: float
    seconds: float
    duration: float = 0.0
    size: int = 0
    audio_hash: str = ""
    kept: bool = False


class _Journal:
    """What earlier calls cut, one line a clip; a line that a death cut short is cut again."""

    def __init__(self, out: Path) -> None:
        self._path = out / _JOURNAL_NAME
        self._cuts: dict[str, Cut] = {}
        for values in read_journal(self._path, "journal of cuts"):
            with contextlib.suppress(UserError):
                cut = check_values(Cut, {**values, "kept": True}, "an entry")
                self._cuts[cut.id] = cut

    def cut_of(self, row: MusicCapsRow, audio: FetchedFile, rows_of_video: int) -> Cut | None:
        """The row's clip of the same file from an earlier call; None where the CSV's other rows may decide anew."""
        cut, state = self.clip(row.id), audio.path.stat()
        source = (audio.path.name, state.st_size, state.st_mtime_ns)
        if cut is None or (cut.source, cut.source_size, cut.source_time) != source:
            return None
        return cut if rows_of_video == 1 or audio.start is not None or cut.start > 0 else None

    def clip(self, identity: str) -> Cut | None:
        """What an earlier call cut for a row, if it is still there."""
        cut = self._cuts.get(identity)
        if cut is None:
            return None
        target = self._path.parent / cut.path
        return cut if target.is_file() and target.stat().st_size == cut.size else None

    def add(self, cut: Cut) -> None:
        """Appends a clip; `StorageError` when the disk is full."""
        values = {key: value for key, value in asdict(cut).items() if key != "kept"}
        try:
            with open(self._path, "a", encoding="utf-8") as handle:  # a new line first: the last one may be torn
                handle.write("\n" + json.dumps(values, ensure_ascii=False))
        except OSError as error:
            raise storage_error(self._path, error) from error
        self._cuts[cut.id] = cut


def _cut_clip(row: MusicCapsRow, audio: FetchedFile, rows_of_video: int, out: Path, journal: _Journal) -> Cut:
    """The row's clip, cut from a file and written into `out` unless an earlier call did so.

    Raises
    ------
    NotUsed
        "too_short", "ambiguous" or "silent".
    AudioError
        The file cannot be read.
    StorageError
        The disk is full.
    """
    earlier = journal.cut_of(row, audio, rows_of_video)
    if earlier is not None:
        return earlier
    # a whole video may last hours: how far it goes beyond its row decides nothing
    enough = None if audio.start is not None else max(row.end, row.seconds + _SLOPPY) + 2 * TOLERANCE
    start, seconds = place_clip(row, audio, AudioFile(audio.path).seconds(enough), rows_of_video)
    state, path = audio.path.stat(), f"{_CLIPS}/{row.id}.flac"
    waveform = read_audio(audio.path, start=start, duration=seconds, allow_silent=True)
    if float(abs(waveform.samples).max()) < SILENCE_PEAK:
        raise NotUsed("silent", f"{audio.path.name} is silent from {start:g} to {start + seconds:g} s (below -80 dBFS)")
    target = out / path
    write_audio(target, waveform)
    return Cut(
        row.id, path, audio.path.name, state.st_size, state.st_mtime_ns, start, seconds, waveform.duration,
        target.stat().st_size, audio_hash(target),
    )  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A row (its number in the CSV, from 1) or a file that is not used: its kind, of `KINDS`, the clip's id or the
    file's name, and why."""

    kind: str
    row: int | None
    item: str
    reason: str


@dataclass(frozen=True)
class MusicCapsReport:
    """What became of the CSV and the files: rows of the CSV, clips in the manifest and their seconds, clips that this
    call cut, all that is not used, and files that name no video of the CSV."""

    rows: int
    found: int
    seconds: float
    fresh: int
    findings: tuple[Finding, ...]
    unmatched: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """Number of findings of each kind, in the order of `KINDS`; 0 included."""
        return {kind: sum(item.kind == kind for item in self.findings) for kind in KINDS}

    def summary(self) -> dict[str, int]:
        """The numbers to show: rows, clips, each kind of finding, files without a row."""
        return {"rows": self.rows, "found": self.found, **self.counts(), "unmatched files": len(self.unmatched)}

    def as_json(self) -> dict[str, Any]:
        """Everything, for report.json."""
        values = asdict(self)
        return {"rows": self.rows, "found": self.found, "counts": self.counts(), **values}


def _check_template(template: str) -> None:
    """Nothing, when a caption can be made of `template`; `UserError` otherwise."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(
            f"the caption template '{template}' cannot be read ({error}); write {{{{ for a brace."
        ) from error
    fields = [(name, spec, how) for _, name, spec, how in parts if name is not None]
    if not fields or any(name not in ("caption", "aspects") or spec or how for name, spec, how in fields):
        raise UserError(
            f"the caption template '{template}' must hold {{caption}} or {{aspects}}, or both, and no other field."
        )


def build_musiccaps(
    table: str | Path, audio: str | Path, out: str | Path, *, template: str = "{caption}", held_out: str = "hash",
    strict: bool = False, jobs: int = 4, quiet: bool = False,
) -> tuple[Manifest, MusicCapsReport]:  # fmt: skip
    """Writes the clips, `manifest.jsonl`, `missing.csv` and `report.json`; the same call again cuts only what is new.

    Parameters
    ----------
    table, audio : str or Path
        musiccaps-public.csv, and the folder of the files that could be fetched; folders below it too.
    out : str or Path
        Clips go to `clips/` in it, as FLAC at the file's own rate and channels.
    template : str
        A caption, with `{caption}` and `{aspects}` (joined by commas) filled in.
    held_out : "hash", "eval", "balanced" or "none"
        Which clips are held out: about a tenth, by hash of the video; AudioSet's evaluation part; the balanced subset;
        none.
    strict : bool
        Refuse a CSV with malformed or repeated rows.
    jobs : int
        Threads.

    Raises
    ------
    UserError
        The CSV or the folder cannot be used, the option does not exist, `out` holds another manifest, or no clip was
        found.
    """
    out = Path(out)
    read, matches = _read(Path(table), Path(audio), out, template, held_out, strict)
    rows, findings, fresh = _cut_clips(read, matches, out, template, held_out, jobs, quiet)
    if not rows:
        first = next((item for item in findings if item.kind not in ("missing", "malformed", "duplicate")), None)
        why = f"the first: {first.reason}" if first else "no file's name holds a ytid of the CSV"
        raise UserError(f"none of the {len(read.rows)} rows of {table} has usable audio in {audio} ({why}).")
    have = {row.id for row in rows}
    write_missing(out / _MISSING_NAME, read, [row.number for row in read.rows if row.id not in have])
    names = tuple(path.name for path in matches.unmatched)
    total = len(read.rows) + len(read.faults)
    report = MusicCapsReport(total, len(rows), sum(row.duration for row in rows), fresh, tuple(findings), names)
    write_json(out / _REPORT_NAME, report.as_json())
    manifest = Manifest(rows, out)
    save_manifest(manifest)
    return manifest, report


def _cut_clips(
    table: MusicCapsTable, matches: Matches, out: Path, template: str, held_out: str, jobs: int, quiet: bool
) -> tuple[list[ManifestRow], list[Finding], int]:
    """Rows of the manifest, what is not used, and how many clips were cut now."""
    findings = [Finding(fault.kind, fault.number, f"row {fault.number}", fault.reason) for fault in table.faults]
    findings += [
        Finding("ambiguous", None, path.name, f"{path.name} names {len(ids)} videos of the CSV ({', '.join(ids)})")
        for path, ids in matches.ambiguous
    ]
    videos = Counter(row.ytid for row in table.rows)
    journal = _Journal(out)
    rows: list[ManifestRow] = []
    fresh = 0

    def find(row: MusicCapsRow) -> tuple[Cut | None, list[Finding]]:
        return _find_clip(row, matches, videos[row.ytid], out, journal)

    with in_threads(table.rows, find, jobs=jobs, title="cut", quiet=quiet) as results:
        for row, (cut, not_used) in results:
            findings += not_used
            if cut is None:
                continue
            if not cut.kept:
                fresh += 1
                journal.add(cut)
            clip = _manifest_row(row, cut, template, held_out)
            if clip.caption:
                rows.append(clip)
            else:
                reason = f"row {row.number} has no aspects to caption it"
                findings.append(Finding("malformed", row.number, row.id, reason))
    return rows, findings, fresh


def preview(
    table: str | Path, audio: str | Path, out: str | Path, *, template: str = "{caption}", held_out: str = "hash",
    strict: bool = False,
) -> dict[str, int]:  # fmt: skip
    """What the names tell before any audio is read: rows, rows with a file, rows without, faults, files without a
    row."""
    read, matches = _read(Path(table), Path(audio), Path(out), template, held_out, strict)
    return {
        "rows": len(read.rows) + len(read.faults),
        "with_a_file": len(matches.files),
        "without_a_file": len(read.rows) - len(matches.files),
        "malformed_or_repeated": len(read.faults),
        "unmatched_files": len(matches.unmatched),
    }


def _read(
    table: Path, audio: Path, out: Path, template: str, held_out: str, strict: bool
) -> tuple[MusicCapsTable, Matches]:
    """The CSV and the files, after checking every option."""
    _check_template(template)
    if held_out not in HELD_OUT:
        raise UserError(f"clips cannot be held out by '{held_out}'; choose {', '.join(HELD_OUT)}.")
    read = read_rows(table, strict=strict)
    _check_flags(read, held_out, table)
    if (out / MANIFEST_NAME).exists() and not (out / _JOURNAL_NAME).exists():
        raise UserError(f"{out} holds a manifest that MusicCaps did not make; choose another --out.")
    if audio.resolve().is_relative_to((out / _CLIPS).resolve()):
        raise UserError(f"{audio} is where the clips of {out} are written; choose another --out.")
    return read, match_files(read.rows, find_fetched(audio, leave_out=out / _CLIPS))


def _check_flags(table: MusicCapsTable, held_out: str, source: Path) -> None:
    column = {"eval": "is_audioset_eval", "balanced": "is_balanced_subset"}.get(held_out)
    if column is None:
        return
    for row in table.rows:
        if (row.evaluation if held_out == "eval" else row.balanced) is None:
            raise UserError(
                f"row {row.number} of {source} has no {column}; hold out by hash, or use the published CSV."
            )


def _find_clip(
    row: MusicCapsRow, matches: Matches, rows_of_video: int, out: Path, journal: _Journal
) -> tuple[Cut | None, list[Finding]]:
    """The clip of the first of its files that can be used; the others are duplicates, or have their own reason."""
    files = matches.files.get(row.number, [])
    if not files:
        earlier = journal.clip(row.id)
        if earlier is not None:  # the file it was cut from may be gone; the clip is here
            return earlier, []
        other = matches.mistimed.get(row.number, [])
        reason = "no file's name holds its ytid"
        if other:
            times = f"{other[0].start:g}" + ("" if other[0].end is None else f" to {other[0].end:g}")
            reason = f"{other[0].path.name} says {times} s and the row is {row.start:g} to {row.end:g} s"
        return None, [Finding("missing", row.number, row.id, reason)]
    cut: Cut | None = None
    findings = []
    for audio in files:
        if cut is not None:
            reason = f"{audio.path.name} is not needed: {cut.source} is used"
            findings.append(Finding("duplicate", row.number, audio.path.name, reason))
            continue
        try:
            cut = _cut_clip(row, audio, rows_of_video, out, journal)
        except NotUsed as error:
            findings.append(Finding(error.kind, row.number, row.id, error.reason))
        except AudioError as error:
            findings.append(Finding("unreadable", row.number, row.id, str(error)))
    return cut, findings


def _manifest_row(row: MusicCapsRow, cut: Cut, template: str, held_out: str) -> ManifestRow:
    caption = template.format(caption=row.caption, aspects=", ".join(row.aspects)).strip()
    labels = {"piece": row.ytid, "aspects": "; ".join(row.aspects), "audioset": ",".join(row.audioset)}
    labels |= {"author": row.author} if row.author else {}
    split: Split
    if held_out == "hash":
        split = assign_split(cut.audio_hash, labels)
    elif held_out == "none":
        split = "train"
    else:
        split = "held_out" if (row.evaluation if held_out == "eval" else row.balanced) else "train"
    return ManifestRow(row.id, cut.path, caption, cut.duration, labels, cut.audio_hash, split)
