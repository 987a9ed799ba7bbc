"""MusicCaps' CSV (`musiccaps-public.csv`; Agostinelli et al. 2023, 5,521 rows of ten seconds), checked row by row, and
which audio file belongs to which row: by the video's id, and the times, in the file's name.

Understood, whatever the suffix: `ID`, `ID_30`, `ID_30_40` (seconds or milliseconds; `-`, `_`, a space or a dot between,
an `s` behind), `title [ID]`, `[ID]-[30-40]`, `title-ID`. An id may begin with `-` and hold `_`, so names are only ever
compared with the ids of the CSV, and never taken apart blindly.
"""

from __future__ import annotations

import ast
import csv
import io
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eisbach.audio import AUDIO_SUFFIXES
from eisbach.errors import UserError
from eisbach.files import find_files, write_text

_REQUIRED = ("ytid", "start_s", "end_s", "aspect_list", "caption")
_OPTIONAL = ("audioset_positive_labels", "author_id", "is_balanced_subset", "is_audioset_eval")

_YTID = re.compile(r"[A-Za-z0-9_-]+")
_FLAGS = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True)
class MusicCapsRow:
    """One row.

    Attributes
    ----------
    number : int
        1 for the first row after the header.
    ytid : str
        The video's id.
    start, end : float
        Seconds within the video.
    caption : str
    aspects : tuple of str
    audioset : tuple of str
        AudioSet's labels of the clip.
    author : str
        Number of the musician who wrote the caption.
    balanced, evaluation : bool or None
        Of the balanced subset; of AudioSet's evaluation part. None when the CSV does not say.
    """

    number: int
    ytid: str
    start: float
    end: float
    caption: str
    aspects: tuple[str, ...] = ()
    audioset: tuple[str, ...] = ()
    author: str = ""
    balanced: bool | None = None
    evaluation: bool | None = None

    @property
    def id(self) -> str:
        """ytid_start_end: unique in the CSV."""
        return f"{self.ytid}_{self.start:g}_{self.end:g}"

    @property
    def seconds(self) -> float:
        """Length of the clip."""
        return self.end - self.start


@dataclass(frozen=True)
class RowFault:
    """A row that is not used, and why."""

    number: int
    kind: str
    reason: str


@dataclass(frozen=True)
class MusicCapsTable:
    """What a CSV holds.

    Attributes
    ----------
    rows : tuple of MusicCapsRow
        Well-formed, each (ytid, start, end) once.
    faults : tuple of RowFault
        The others: "malformed" or "duplicate".
    columns : tuple of str
        The header.
    originals : mapping of int to list of str
        The cells of each well-formed row, by its number.
    """

    rows: tuple[MusicCapsRow, ...]
    faults: tuple[RowFault, ...]
    columns: tuple[str, ...]
    originals: Mapping[int, list[str]]


def read_rows(path: str | Path, *, strict: bool = False) -> MusicCapsTable:
    """The rows of MusicCaps' CSV; malformed and repeated ones are listed apart.

    Parameters
    ----------
    path : str or Path
    strict : bool
        Refuse the file when any row is malformed or comes twice.

    Raises
    ------
    UserError
        No such file, not UTF-8, columns missing, a quotation mark that is never closed, no usable row; with `strict`,
        any fault. The sentence names the row.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; give the path of musiccaps-public.csv.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); it must be UTF-8 text.") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns = _header(reader, path)
    rows: list[MusicCapsRow] = []
    faults: list[RowFault] = []
    originals: dict[int, list[str]] = {}
    seen: dict[tuple[str, float, float], int] = {}
    for number, cells in _numbered(reader, path):
        try:
            if isinstance(cells, str):
                raise ValueError(cells)
            row = _parse(number, columns, cells)
        except ValueError as error:
            faults.append(RowFault(number, "malformed", f"row {number} (line {reader.line_num}) {error}"))
            continue
        key = (row.ytid, row.start, row.end)
        if key in seen:
            reason = f"row {number} (line {reader.line_num}) is {row.id}, as row {seen[key]} is; the first is used"
            faults.append(RowFault(number, "duplicate", reason))
            continue
        seen[key] = number
        rows.append(row)
        originals[number] = cells
    if strict and faults:
        raise UserError(
            f"{path} has {len(faults)} rows that cannot be used (the first: {faults[0].reason}); mend them."
        )
    if not rows:
        why = f" (the first: {faults[0].reason})" if faults else ""
        raise UserError(f"{path} has no usable row{why}; give musiccaps-public.csv as it was published.")
    return MusicCapsTable(tuple(rows), tuple(faults), columns, originals)


def _header(reader: Iterator[list[str]], path: Path) -> tuple[str, ...]:
    try:
        columns = tuple(cell.strip() for cell in next(reader, []))
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file: its first line cannot be read ({error}).") from error
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        shown = ", ".join(columns[:12]) or "nothing"
        raise UserError(
            f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)} (its first line has: "
            f"{shown[:200]}); MusicCaps' CSV has {', '.join((*_REQUIRED, *_OPTIONAL))}, separated by commas."
        )
    if len(set(columns)) < len(columns):
        raise UserError(f"{path} names a column twice in its first line; name each once.")
    return columns


def _numbered(reader: Iterator[list[str]], path: Path) -> Iterator[tuple[int, list[str] | str]]:
    """The rows that are not blank, counted from 1; a text says why a row cannot be read.

    A quote that is never closed swallows all that follows: refused, not skipped.
    """
    number = 0
    while True:
        cells: list[str] | str
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error):
                raise UserError(
                    f"{path} has a quotation mark after row {number} that is never closed, so the rest cannot be read; "
                    f"mend row {number + 1}."
                ) from error
            cells = f"cannot be read ({error})"
        if isinstance(cells, str) or any(cell.strip() for cell in cells):
            number += 1
            yield number, cells


def _parse(number: int, columns: Sequence[str], cells: Sequence[str]) -> MusicCapsRow:
    """A row; `ValueError` says what is wrong with it, as the end of a sentence."""
    if len(cells) != len(columns):
        raise ValueError(f"has {len(cells)} cells where the header has {len(columns)}")
    values = {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
    if not _YTID.fullmatch(values["ytid"]):
        raise ValueError(f"has the ytid {values['ytid'][:40]!r}; letters, digits, - and _ are allowed")
    start, end = _seconds("start_s", values["start_s"]), _seconds("end_s", values["end_s"])
    if not end > start:
        raise ValueError(f"ends at {end:g} s and starts at {start:g} s; the end must come later")
    if not values["caption"]:
        raise ValueError("has no caption")
    audioset = values.get("audioset_positive_labels", "")
    return MusicCapsRow(
        number=number,
        ytid=values["ytid"],
        start=start,
        end=end,
        caption=values["caption"],
        aspects=_aspects(values["aspect_list"]),
        audioset=tuple(part.strip() for part in audioset.split(",") if part.strip()),
        author=values.get("author_id", ""),
        balanced=_flag("is_balanced_subset", values.get("is_balanced_subset")),
        evaluation=_flag("is_audioset_eval", values.get("is_audioset_eval")),
    )


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"has the {name} {text[:40]!r}; a number of seconds from 0 is needed")
    return value


def _aspects(text: str) -> tuple[str, ...]:
    """The list as it is published: a Python list of texts."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"has the aspect_list {text[:40]!r}; a list such as ['slow', 'cello'] is needed")
    return tuple(item.strip() for item in value if item.strip())


def _flag(name: str, text: str | None) -> bool | None:
    if text is None or text == "":
        return None
    if text.lower() not in _FLAGS:
        raise ValueError(f"has the {name} {text[:40]!r}; True or False is needed")
    return _FLAGS[text.lower()]


def write_missing(path: Path, table: MusicCapsTable, numbers: Sequence[int]) -> None:
    """The rows of these numbers, as they stand in the CSV, under its header: what is still to be fetched."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.originals[number] for number in numbers)
    write_text(path, out.getvalue())


SUFFIXES = (
    *AUDIO_SUFFIXES, ".opus", ".oga", ".aif", ".aiff", ".m4a", ".aac", ".mp4", ".webm", ".mka", ".mkv", ".wma",
)  # fmt: skip
"""Endings that are looked at, those preferred first. Not all of them can be read: what cannot is reported, not
overlooked."""

_NUMBER = r"(\d+(?:\.\d+)?)s?"
_TIMES = re.compile(rf"[\s_.-]*\[?{_NUMBER}(?:\s*[-_ ]+\s*{_NUMBER})?\]?")
_BRACKETS = re.compile(r"\[([A-Za-z0-9_-]+)\]")
_SAME_TIME = 0.5  # seconds: names often hold rounded times


@dataclass(frozen=True)
class FetchedFile:
    """A file and what its name says.

    Attributes
    ----------
    path : Path
    ytid : str
    start, end : float or None
        As in the name; None when it says nothing.
    """

    path: Path
    ytid: str
    start: float | None = None
    end: float | None = None


@dataclass
class Matches:
    """Files by row.

    Attributes
    ----------
    files : for each row's number, the files that may hold it: those named with its times first, wav and flac before the
    others.
    mistimed : for each row's number, files of its video whose names hold other times.
    unmatched : files that name no video of the CSV.
    ambiguous : files that name several.
    """

    files: dict[int, list[FetchedFile]] = field(default_factory=dict)
    mistimed: dict[int, list[FetchedFile]] = field(default_factory=dict)
    unmatched: list[Path] = field(default_factory=list)
    ambiguous: list[tuple[Path, tuple[str, ...]]] = field(default_factory=list)


def find_fetched(folder: str | Path, *, leave_out: Path | None = None) -> list[Path]:
    """The audio files in a folder and below it, sorted; hidden ones and those below `leave_out` are not looked at.

    Raises
    ------
    UserError
        No such folder, or no audio in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder that holds the audio you fetched.")
    avoid = None if leave_out is None else leave_out.resolve()
    paths = [
        path
        for path in find_files(folder, SUFFIXES)
        if not (avoid is not None and path.resolve().is_relative_to(avoid))
    ]
    if not paths:
        raise UserError(f"{folder} holds no audio; put the files you fetched into it, named by their ytid.")
    return paths


def name_readings(stem: str, ids: Collection[str]) -> list[tuple[str, float | None, float | None]]:
    """What a name may say: (id, start, end), the plainest kind of reading only; empty when no id of the CSV is in
    it."""
    if stem in ids:
        return [(stem, None, None)]
    lengths = sorted({len(item) for item in ids}, reverse=True)
    readings: dict[str, tuple[str, float | None, float | None]] = {}
    for match in _BRACKETS.finditer(stem):
        if match[1] in ids:
            times = _TIMES.fullmatch(stem[match.end() :])
            readings[match[1]] = (match[1], *_both(times))
    if not readings:
        for length in lengths:
            if stem[:length] in ids and (times := _TIMES.fullmatch(stem[length:])) and stem[length] in " _-.[":
                readings[stem[:length]] = (stem[:length], *_both(times))
    if not readings:
        for length in lengths:
            if stem[-length:] in ids and stem[:-length].endswith("-"):
                readings[stem[-length:]] = (stem[-length:], None, None)
    return list(readings.values())


def _both(times: re.Match[str] | None) -> tuple[float | None, float | None]:
    if times is None:
        return None, None
    return float(times[1]), None if times[2] is None else float(times[2])


def match_files(rows: Sequence[MusicCapsRow], paths: Iterable[Path]) -> Matches:
    """The files of each row."""
    videos: dict[str, list[MusicCapsRow]] = {}
    for row in rows:
        videos.setdefault(row.ytid, []).append(row)
    matches = Matches()
    for path in paths:
        readings = name_readings(path.stem, videos.keys())
        if not readings:
            matches.unmatched.append(path)
        elif len(readings) > 1:
            matches.ambiguous.append((path, tuple(ytid for ytid, _, _ in readings)))
        else:
            audio = FetchedFile(path, *readings[0])
            fitting = [row for row in videos[audio.ytid] if audio.start is None or _same_times(audio, row)]
            for row in fitting:
                matches.files.setdefault(row.number, []).append(audio)
            if not fitting:
                for row in videos[audio.ytid]:
                    matches.mistimed.setdefault(row.number, []).append(audio)
    for files in matches.files.values():
        files.sort(key=lambda item: (item.start is None, SUFFIXES.index(item.path.suffix.lower()), str(item.path)))
    return matches


def _same_times(audio: FetchedFile, row: MusicCapsRow) -> bool:
    """Whether the name's times are the row's, in seconds or in milliseconds."""
    return any(
        audio.start is not None
        and abs(audio.start / unit - row.start) <= _SAME_TIME
        and (audio.end is None or abs(audio.end / unit - row.end) <= _SAME_TIME)
        for unit in (1.0, 1000.0)
    )
