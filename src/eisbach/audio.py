"""Reading, writing and resampling audio: the one door through which sound enters and leaves."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.audio_file import AudioFile, error_reason, is_file, is_utf8
from eisbach.errors import AudioError, StorageError, UserError, one_line
from eisbach.files import atomic_write, read_json, walk_files, write_json
from eisbach.types import Skipped, Waveform

AUDIO_SUFFIXES = (
    ".wav", ".flac", ".mp3", ".ogg", ".aif", ".aifc", ".aiff", ".au", ".avr", ".bwf", ".caf", ".mp2", ".oga", ".opus",
    ".rf64",
    ".snd", ".sph", ".voc", ".w64", ".wave",
)  # fmt: skip
"""File endings that `eisbach` looks for in folders: what libsndfile reads."""
UNREAD_SUFFIXES = (
    ".3gp", ".aac", ".ac3", ".alac", ".amr", ".ape", ".dff", ".dsf", ".dts", ".m4a", ".m4b", ".m4p", ".mka", ".mkv",
    ".mov", ".mp4",
    ".mpc", ".ra", ".rm", ".shn", ".spx", ".tak", ".tta", ".webm", ".wma", ".wv",
)  # fmt: skip
"""Endings of other audio: named as left out."""
SILENCE_PEAK = 10 ** (-80 / 20)
"""Below this peak (-80 dBFS) audio counts as silent."""

_LOUDEST_PEAK = 32.0  # 30 dB over full scale: no mix is that hot, and the smallest integer scale is 128
_RACY_NS = (
    2_000_000_000  # a file written this shortly before it was looked at may be written again within its clock's tick
)
_WRITE_FRAMES = 1 << 16
_WRITTEN = {".flac": "FLAC", ".wav": "WAV", ".ogg": "OGG"}


@dataclass(frozen=True)
class AudioListing:
    """The audio of a folder.

    Attributes
    ----------
    files : list of Path
        What can be tried, sorted.
    left_out : list of Skipped
        Audio that is not read, each with its path relative to the folder and the reason.
    """

    files: list[Path]
    left_out: list[Skipped]


def list_audio(folder: str | Path) -> AudioListing:
    """The audio files in a folder and its subfolders; hidden files and folders are passed over.

    Raises
    ------
    UserError
        The path is no folder, or the folder may not be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; give a folder that holds audio ({', '.join(AUDIO_SUFFIXES[:4])}, ...)."
        )
    files, left_out = [], []
    for path in sorted(walk_files(folder)):
        reason = _why_left_out(path)
        if reason is not None:
            left_out.append(Skipped(path.relative_to(folder).as_posix(), reason))
        elif path.suffix.lower() in AUDIO_SUFFIXES:
            files.append(path)
    return AudioListing(files, left_out)


def _why_left_out(path: Path) -> str | None:
    """Why a path is audio that is not read; None for audio that is, and for everything else."""
    ending = path.suffix.lower()
    if path.is_symlink() and path.is_dir():
        return "is a link to a folder, which is not followed; give that folder, or copy it"
    if ending in UNREAD_SUFFIXES:
        return f"{ending} is not read; convert it (ffmpeg -i NAME{ending} NAME.flac)"
    if ending not in AUDIO_SUFFIXES:
        return None
    if not is_utf8(path):
        return "has a name that is not UTF-8; rename it"
    if not path.is_file():
        return "is a link to nothing; restore what it names" if path.is_symlink() else "is not a file; remove it"
    return None


def read_audio(
    path: str | Path,
    *,
    start: float = 0.0,
    duration: float | None = None,
    sample_rate: int | None = None,
    mono: bool = False,
    allow_silent: bool = False,
) -> Waveform:
    """A file's audio, or a section of it, checked.

    Parameters
    ----------
    path : str or Path
        Whatever libsndfile reads. Only the section asked for is decoded.
    start, duration : float
        Section in seconds; `duration=None` reads to the end.
    sample_rate : int or None
        Resample to this rate (soxr, high quality); None keeps the file's own.
    mono : bool
        Average the channels.
    allow_silent : bool
        When False, a section whose peak is under -80 dBFS is refused.

    Raises
    ------
    AudioError
        Missing, unreadable, empty (also: shorter than one sample at `sample_rate`), NaN-bearing, on an integer's scale
        or silent.
    """
    file = AudioFile(path)
    first = max(0, round(start * file.sample_rate))
    count = None if duration is None else max(0, round(duration * file.sample_rate))
    parts = [block.T for block in file.blocks(first, count)]
    samples = np.concatenate(parts, axis=1) if parts else np.zeros((file.channels, 0), np.float32)
    samples = np.ascontiguousarray(samples)
    check_samples(samples, str(path), allow_silent=allow_silent)
    check_scale(float(np.abs(samples).max()), str(path))
    waveform = Waveform(samples, file.sample_rate)
    if mono:
        waveform = to_mono(waveform)
    if sample_rate is not None:
        waveform = resample(waveform, sample_rate)
        check_samples(waveform.samples, f"{path} at {sample_rate} Hz", allow_silent=True)
    return waveform


def check_samples(samples: np.ndarray, name: str, *, allow_silent: bool = False) -> None:
    """Raises `AudioError` when samples are empty, non-finite or (unless allowed) silent."""
    if samples.size == 0 or samples.shape[-1] == 0:
        raise AudioError(f"{name} holds no samples; remove it or record it again.")
    if not np.isfinite(samples).all():
        bad = int((~np.isfinite(samples)).sum())
        raise AudioError(f"{name} holds {bad} NaN or infinite samples; re-export it from its source.")
    if not allow_silent and float(np.abs(samples).max()) < SILENCE_PEAK:
        raise AudioError(f"{name} is silent (peak below -80 dBFS); remove it or record it again.")


def check_scale(peak: float, name: str) -> None:
    """Raises `AudioError` when floating-point samples lie on an integer's scale, where 1 should be full scale."""
    if peak > _LOUDEST_PEAK:
        raise AudioError(
            f"{name} peaks at {peak:.6g}, where full scale is 1: its floating-point samples are on an integer's scale; "
            "divide them (16 bit: by 32768), or export it again."
        )


def to_mono(waveform: Waveform) -> Waveform:
    """The mean of all channels, as one channel."""
    if waveform.channels == 1:
        return waveform
    return Waveform(waveform.samples.mean(axis=0, keepdims=True), waveform.sample_rate)


def resample(waveform: Waveform, sample_rate: int) -> Waveform:
    """The same sound at another rate (soxr HQ)."""
    if waveform.sample_rate == sample_rate:
        return waveform
    import soxr

    out = soxr.resample(waveform.samples.T, waveform.sample_rate, sample_rate, quality="HQ")
    return Waveform(np.ascontiguousarray(out.T, dtype=np.float32), sample_rate)


def write_audio(path: str | Path, waveform: Waveform) -> None:
    """Writes FLAC (16 bit), WAV or OGG by the file's ending, atomically; clips above full scale are scaled to it.

    Raises
    ------
    AudioError
        Empty or non-finite samples, or a file ending that is not written.
    StorageError
        The disk is full or the folder cannot be written; an older file of this name stays.
    """
    import soundfile as sf

    path = Path(path)
    if path.suffix.lower() not in _WRITTEN:
        raise AudioError(f"{path} cannot be written as '{path.suffix}'; choose one of {', '.join(_WRITTEN)}.")
    check_samples(waveform.samples, str(path), allow_silent=True)
    peak = float(np.abs(waveform.samples).max())
    samples = waveform.samples / peak * 0.999 if peak > 1.0 else waveform.samples

    def write(partial: Path) -> None:
        try:
            write_blocks(str(partial), samples, waveform.sample_rate, format=_WRITTEN[path.suffix.lower()])
            whole = (
                sf.info(str(partial)).frames == samples.shape[1]
            )  # Vorbis ends early on a full disk, and says nothing
        except (sf.LibsndfileError, AssertionError) as error:
            raise _write_fault(partial, samples.nbytes, str(error).rstrip(".")) from error
        if not whole:
            raise _write_fault(partial, samples.nbytes, "the file is cut short")

    atomic_write(path, write)


def write_blocks(
    target: Any, samples: np.ndarray, sample_rate: int, *, format: str, subtype: str | None = None, **options: Any
) -> None:
    """Encodes samples [shape=(channels, n)] into a path or a file object; `options` are soundfile's own.

    Block by block, because libsndfile's Vorbis encoder crashes on a minute at once.
    """
    import soundfile as sf

    with sf.SoundFile(target, "w", sample_rate, len(samples), format=format, subtype=subtype, **options) as handle:
        for first in range(0, samples.shape[1], _WRITE_FRAMES):
            handle.write(samples[:, first : first + _WRITE_FRAMES].T)


def _write_fault(partial: Path, size: int, reason: str) -> OSError:
    """libsndfile says "System error" whatever the system said: a disk without room for `size` bytes was full."""
    if shutil.disk_usage(partial.parent).free < size:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return OSError(reason)


def audio_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes (hex, 64 characters), read in blocks."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    except (OSError, ValueError) as error:
        raise AudioError(f"{one_line(str(path))} cannot be read ({error_reason(error)}).") from error
    return digest.hexdigest()


def stamp(path: str | Path) -> dict[str, int]:
    """What the file system says of a file: size, time of its last change of content and of any change, and now (ns).

    Raises
    ------
    AudioError
        The file is not there.
    """
    try:
        state = Path(path).stat()
    except (OSError, ValueError) as error:
        raise AudioError(f"{one_line(str(path))} cannot be read ({error_reason(error)}).") from error
    return {
        "size": state.st_size,
        "mtime_ns": state.st_mtime_ns,
        "ctime_ns": state.st_ctime_ns,
        "seen_ns": time.time_ns(),
    }


def same_stamp(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two stamps say that nobody wrote to the file in between."""
    return all(before.get(key) == after.get(key) for key in ("size", "mtime_ns", "ctime_ns"))


def proves_unchanged(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """`same_stamp`, and the file was old enough at the first stamp for its times to show every later write."""
    seen = before.get("seen_ns")
    old = isinstance(seen, int) and seen - max(after["mtime_ns"], after["ctime_ns"]) > _RACY_NS
    return old and same_stamp(before, after)


class KnownHashes:
    """Hashes of files, remembered with their size and times: a file that nobody touched since is not read again.

    Parameters
    ----------
    path : Path
        Where they are remembered; a file that cannot be understood is forgotten.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        self._changed = False
        with contextlib.suppress(UserError):
            values = read_json(path, "list of hashes") if is_file(path) else {}
            self._known = (
                {key: item for key, item in values.items() if isinstance(item, dict)}
                if isinstance(values, dict)
                else {}
            )

    def hash_of(self, path: Path) -> str:
        """`audio_hash`; `AudioError` when the file cannot be read."""
        key, now = str(path.resolve()), stamp(path)
        before = self._known.get(key, {})
        if isinstance(before.get("audio_hash"), str) and proves_unchanged(before, now):
            return str(before["audio_hash"])
        digest = audio_hash(path)
        self._known[key] = {**now, "audio_hash": digest}
        self._changed = True
        return digest

    def save(self) -> None:
        """Writes what was learned."""
        if self._changed:
            with contextlib.suppress(StorageError):  # it only saves time
                write_json(self._path, self._known)
