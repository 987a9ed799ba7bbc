"""Which stretch of which file is a row's clip, cutting it out, and remembering what was cut."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from eisbach.audio import SILENCE_PEAK, audio_hash, read_audio, write_audio
from eisbach.config import check_values
from eisbach.data.musiccaps_csv import MusicCapsRow
from eisbach.data.musiccaps_files import AudioFile
from eisbach.errors import AudioError, UserError
from eisbach.files import read_journal, storage_error

CLIPS, JOURNAL_NAME = "clips", "clips.jsonl"

TOLERANCE = 0.5
"""Seconds by which a length may differ from what it should be: containers and codecs round."""

SLOPPY = 2.0
"""A file that is longer than its row by more than `TOLERANCE` and by no more than this may be a clip cut generously as
well as a short whole video."""


class NotUsed(Exception):
    """A file that cannot be a row's clip: `kind` of `KINDS` and the reason."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


def place_clip(row: MusicCapsRow, audio: AudioFile, duration: float, *, rows_of_video: int = 1) -> tuple[float, float]:
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
        reason = (
            f"{name} lasts {duration:.1f} s and the row is {row.start:g} to {row.end:g} s, beyond its end: fetch the "
            "whole "
            f"video, or, if it is a clip, cut it to {length:g} s"
        )
        raise NotUsed("too_short", reason)
    if duration <= length + SLOPPY and row.start > TOLERANCE:
        reason = f"{name} lasts {duration:.1f} s, so it may be a clip or a whole video: cut it to {length:g} s"
        raise NotUsed("ambiguous", reason)
    return row.start, min(length, duration - row.start)


@dataclass(frozen=True)
class Cut:
    """A clip that lies in the folder, and what it was cut from.

    Attributes
    ----------
    id, path : str
        The row's id; the clip, relative to the folder.
    source, source_size, source_time
        Name, bytes and modification time of the file it was cut from.
    start, seconds : float
        The stretch that was asked for.
    duration : float
        Seconds that the clip lasts.
    size, audio_hash
        Bytes and SHA-256 of the clip.
    kept : bool
        Whether an earlier call made it.
    """

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


class Journal:
    """What earlier calls cut, one line a clip; a line that a death cut short is cut again."""

    def __init__(self, out: Path) -> None:
        self._path = out / JOURNAL_NAME
        self._cuts: dict[str, Cut] = {}
        for values in read_journal(self._path, "journal of cuts"):
            with contextlib.suppress(UserError):
                cut = check_values(Cut, {**values, "kept": True}, "an entry")
                self._cuts[cut.id] = cut

    def kept(self, wanted: Cut) -> Cut | None:
        """The same clip of the same file from an earlier call, if it is still there."""
        cut = self.clip(wanted.id)
        keys = ("path", "source", "source_size", "source_time", "start", "seconds")
        return None if cut is None or any(getattr(cut, key) != getattr(wanted, key) for key in keys) else cut

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
            begin = "" if self._ends_line() else "\n"
            with open(self._path, "a", encoding="utf-8") as handle:
                handle.write(begin + json.dumps(values, ensure_ascii=False) + "\n")
        except OSError as error:
            raise storage_error(self._path, error) from error
        self._cuts[cut.id] = cut

    def _ends_line(self) -> bool:
        if not self._path.is_file() or self._path.stat().st_size == 0:
            return True
        with open(self._path, "rb") as handle:
            handle.seek(-1, 2)
            return handle.read() == b"\n"


def cut_clip(row: MusicCapsRow, audio: AudioFile, rows_of_video: int, out: Path, journal: Journal) -> Cut:
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
    start, seconds = place_clip(row, audio, duration_of(audio.path), rows_of_video=rows_of_video)
    stat = audio.path.stat()
    path = f"{CLIPS}/{row.id}.flac"
    wanted = Cut(row.id, path, audio.path.name, stat.st_size, stat.st_mtime_ns, start, seconds)
    kept = journal.kept(wanted)
    if kept is not None:
        return kept
    waveform = read_audio(audio.path, start=start, duration=seconds, allow_silent=True)
    if waveform.duration < row.seconds - TOLERANCE:  # a header may promise more than there is
        raise NotUsed("too_short", f"{audio.path.name} ends {seconds - waveform.duration:.1f} s before the row does")
    if float(abs(waveform.samples).max()) < SILENCE_PEAK:
        raise NotUsed("silent", f"{audio.path.name} is silent from {start:g} to {start + seconds:g} s (below -80 dBFS)")
    write_audio(out / path, waveform)
    target = out / path
    return replace(wanted, duration=waveform.duration, size=target.stat().st_size, audio_hash=audio_hash(target))


def duration_of(path: Path) -> float:
    """Seconds of a file.

    Raises
    ------
    AudioError
        It cannot be read.
    """
    import soundfile as sf

    try:
        info = sf.info(str(path))
    except (sf.LibsndfileError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise AudioError(
            f"{path.name} cannot be read as audio ({reason}); convert it to wav, flac, mp3 or ogg"
        ) from error
    if not info.samplerate or info.frames <= 0:
        raise AudioError(f"{path.name} holds no samples; fetch it again")
    return float(info.frames / info.samplerate)
