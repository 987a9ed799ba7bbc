"""Which audio file belongs to which row of MusicCaps: by the video's id, and the times, in the file's name.

Understood, whatever the suffix: `ID`, `ID_30`, `ID_30_40` (seconds or milliseconds; `-`, `_`, a space or a dot between,
an `s` behind), `title [ID]`, `[ID]-[30-40]`, `title-ID`. An id may begin with `-` and hold `_`, so names are only ever
compared with the ids of the CSV, and never taken apart blindly.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eisbach.audio import AUDIO_SUFFIXES
from eisbach.data.musiccaps_csv import MusicCapsRow
from eisbach.errors import UserError
from eisbach.files import find_files

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
class AudioFile:
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

    files: dict[int, list[AudioFile]] = field(default_factory=dict)
    mistimed: dict[int, list[AudioFile]] = field(default_factory=dict)
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
    found: dict[str, tuple[str, float | None, float | None]] = {}
    for match in _BRACKETS.finditer(stem):
        if match[1] in ids:
            times = _TIMES.fullmatch(stem[match.end() :])
            found[match[1]] = (match[1], *_both(times))
    if not found:
        for length in lengths:
            if stem[:length] in ids and (times := _TIMES.fullmatch(stem[length:])) and stem[length] in " _-.[":
                found[stem[:length]] = (stem[:length], *_both(times))
    if not found:
        for length in lengths:
            if stem[-length:] in ids and stem[:-length].endswith("-"):
                found[stem[-length:]] = (stem[-length:], None, None)
    return list(found.values())


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
            audio = AudioFile(path, *readings[0])
            fitting = [row for row in videos[audio.ytid] if audio.start is None or _same_times(audio, row)]
            for row in fitting:
                matches.files.setdefault(row.number, []).append(audio)
            if not fitting:
                for row in videos[audio.ytid]:
                    matches.mistimed.setdefault(row.number, []).append(audio)
    for files in matches.files.values():
        files.sort(key=lambda item: (item.start is None, SUFFIXES.index(item.path.suffix.lower()), str(item.path)))
    return matches


def _same_times(audio: AudioFile, row: MusicCapsRow) -> bool:
    """Whether the name's times are the row's, in seconds or in milliseconds."""
    return any(
        audio.start is not None
        and abs(audio.start / unit - row.start) <= _SAME_TIME
        and (audio.end is None or abs(audio.end / unit - row.end) <= _SAME_TIME)
        for unit in (1.0, 1000.0)
    )
