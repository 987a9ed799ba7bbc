"""An audio file, opened: the one reader of sound, which counts what was read and believes no header."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.errors import AudioError, one_line

SAMPLE_RATES = (100, 768_000)
"""Hz: the lowest and the highest rate that is read."""
BLOCK_SAMPLES = 1 << 19
"""Samples of a block over all channels: 2 MB of float32, whatever the rate and the number of channels."""

_BLOCK_SECONDS = 30
_SALVAGE_FRAMES = 1024  # how finely a block that cannot be decoded as a whole is tried again
_MISSING_SECONDS = 0.05  # codecs' delays and last blocks are shorter
_MISSING_SHARE, _MISSING_ESTIMATED = 0.005, 0.1  # of a length that MP3 without a table only estimates
_CLAIM = re.compile(r"(?<!\w)(\d+) \(should be (\d+)\)")  # in libsndfile's log
_NO_LENGTH = ("Bytes/sec", "Block Align", "Bit Width")  # encoders of ADPCM round these; the data are whole
_UNKNOWN_FRAMES = 1 << 46  # what libsndfile says of streams without a length
_MAGIC = (
    (4, b"ftyp", "an MP4 or M4A file"), (0, b"\x1a\x45\xdf\xa3", "a Matroska or WebM file"), (8, b"AVI ",
    "an AVI video"),
    (0, b"\x30\x26\xb2\x75", "a Windows Media file"), (0, b"MThd", "a MIDI file"), (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"), (0, b"\xff\xf1", "raw AAC"), (0, b"\xff\xf9", "raw AAC"), (0, b"%PDF", "a PDF"),
    (0, b"\x89PNG", "a picture"), (0, b"\xff\xd8\xff", "a picture"), (0, b"#!AMR", "an AMR file"), (0, b"MAC ",
    "Monkey's Audio"),
    (0, b"wvpk", "a WavPack file"), (0, b"version https://git-lfs", "a Git LFS pointer (run 'git lfs pull')"),
)  # fmt: skip


def block_frames(channels: int, rate: int) -> int:
    """Samples a channel of a block: at most `BLOCK_SAMPLES` in all, and at most half a minute, which a resampler may
    blow up."""
    return max(1024, min(BLOCK_SAMPLES // channels, _BLOCK_SECONDS * rate))


def is_utf8(path: str | Path) -> bool:
    """Whether a name can be written as UTF-8: bytes of other encodings and halves of surrogate pairs cannot."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


class AudioFile:
    """An audio file, opened: everything that reads sound reads it through this, block by block, and counts what was
    read.

    A header is a claim: `declared_frames` is what it says, and only the blocks tell what there is.

    Parameters
    ----------
    path : str or Path

    Attributes
    ----------
    path : Path
    sample_rate, channels : int
    declared_frames : int or None
        Samples a channel by the header; None where it does not know.
    format : str
        libsndfile's name of the container: ``WAV``, ``FLAC``, ``MP3``, ``OGG``, ...
    complaints : list of str
        What the MP3 decoder wrote to standard error about this file (or about one that was decoded beside it).

    Raises
    ------
    AudioError
        Missing, not audio, or with a rate outside `SAMPLE_RATES`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.complaints: list[str] = []
        with self._opened() as handle:
            self.sample_rate, self.channels = int(handle.samplerate), int(handle.channels)
            self.format, frames = str(handle.format), int(handle.frames)
            # libsndfile trusts the file's size more than the header, and notes the difference in its log
            self._short_header = _claims_more(str(handle.extra_info), frames)
        self.declared_frames = frames if 0 <= frames < _UNKNOWN_FRAMES else None
        if not SAMPLE_RATES[0] <= self.sample_rate <= SAMPLE_RATES[1] or self.channels < 1:
            raise AudioError(
                f"{self.path} states {self.sample_rate} Hz and {self.channels} channels; rates of {SAMPLE_RATES[0]} to "
                f"{SAMPLE_RATES[1]} Hz are read: re-export it, or remove it."
            )

    def blocks(self, start: int = 0, frames: int | None = None, *, salvage: bool = False) -> Iterator[np.ndarray]:
        """What is there of `frames` (None: all) from `start`: arrays [shape=(n, channels), float32], n at least 1.

        Nothing but the order is checked: samples may be NaN. With `salvage`, a file that breaks off gives what can be
        decoded of it, and `missing` says the rest.

        Raises
        ------
        AudioError
            The file breaks off, or cannot be decoded; what came before has been given.
        """
        done = 0
        try:
            for block in self._read(start, frames, block_frames(self.channels, self.sample_rate)):
                done += len(block)
                yield block
        except _decoding_errors() as error:
            if salvage:
                with contextlib.suppress(*_decoding_errors()):
                    for block in self._read(
                        start + done, block_frames(self.channels, self.sample_rate), _SALVAGE_FRAMES
                    ):
                        done += len(block)
                        yield block
            if not salvage or not done:
                at = (start + done) / self.sample_rate
                raise AudioError(
                    f"{self.path} cannot be read as audio beyond {at:.2f} s ({error_reason(error)}); re-export it as "
                    "wav or flac, or remove it."
                ) from error

    def _read(self, start: int, frames: int | None, step: int) -> Iterator[np.ndarray]:
        left = frames
        with self._opened() as handle:
            if start:
                with self._listening():
                    handle.seek(start if self.declared_frames is None else min(start, self.declared_frames))
            while left is None or left > 0:
                with self._listening():
                    block = handle.read(step if left is None else min(step, left), dtype="float32", always_2d=True)
                if len(block) == 0:
                    return
                left = None if left is None else left - len(block)
                yield block

    def seconds(self, most: float | None = None) -> float:
        """How long the sound is, decoded and counted whatever the header says; counting stops at `most` seconds.

        Raises
        ------
        AudioError
            The file breaks off in what cannot be decoded.
        """
        frames = None if most is None else round(most * self.sample_rate)
        return sum(len(block) for block in self.blocks(0, frames)) / self.sample_rate

    def missing(self, frames: int) -> str | None:
        """What a file lacks of which `frames` samples a channel were read, in words; None when it is whole."""
        read = frames / self.sample_rate
        if self._short_header is not None:
            declared = read * self._short_header
        else:
            declared = read if self.declared_frames is None else self.declared_frames / self.sample_rate
        estimated = self.format in ("MP3", "MPEG")
        slack = max(_MISSING_SECONDS, estimated * (_MISSING_SHARE * declared + _MISSING_ESTIMATED))
        if declared - read > slack:
            return f"the header says {declared:.2f} s and the data end after {read:.2f} s"
        if self.format == "OGG" and not _ogg_ends(self.path):
            return f"the stream is cut off after {read:.2f} s"
        return None

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        import soundfile as sf

        if not is_file(self.path):
            raise AudioError(
                f"{one_line(str(self.path))} does not exist or is not a file; give the path of an audio file (.wav, "
                ".flac, .mp3, .ogg, ...)."
            )
        if not is_utf8(self.path):
            raise AudioError(f"{one_line(str(self.path))} has a name that is not UTF-8; rename it.")
        try:
            with _DECODER_LOG.taken(self.complaints):
                handle = sf.SoundFile(str(self.path))
        except _decoding_errors() as error:
            raise AudioError(
                f"{self.path} cannot be read as audio ({_content(self.path, error)}); re-export it as wav or flac, or "
                "remove it."
            ) from error
        try:
            yield handle
        finally:
            with _DECODER_LOG.taken(self.complaints):
                handle.close()

    def _listening(self) -> contextlib.AbstractContextManager[None]:
        return _DECODER_LOG.taken(self.complaints) if self.format in ("MP3", "MPEG") else contextlib.nullcontext()


def is_file(path: Path) -> bool:
    """`Path.is_file`, and no for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds NUL
        return False


def _decoding_errors() -> tuple[type[Exception], ...]:
    import soundfile as sf

    return (sf.LibsndfileError, RuntimeError, OSError, EOFError, TypeError, ValueError, MemoryError)


def error_reason(error: Exception) -> str:
    """What went wrong, on one line and without the path."""
    text = (
        getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error) or type(error).__name__
    )
    return " ".join(str(text).split()).rstrip(".")


def _content(path: Path, error: Exception) -> str:
    """Why a file is no audio, from its first bytes where those tell."""
    try:
        with open(path, "rb") as handle:
            head = handle.read(512)
    except OSError as refused:
        return error_reason(refused)
    if not head:
        return "it is an empty file"
    for place, magic, kind in _MAGIC:
        if head[place : place + len(magic)] == magic:
            return f"it is {kind}"
    if not any(head):
        return "it begins with zeros alone"
    with contextlib.suppress(UnicodeDecodeError):
        text = head[:-3].decode() if len(head) > 3 else head.decode()
        return "it is a web page" if "<html" in text.lower() or "<!doctype" in text.lower() else "it is text"
    reason = error_reason(error)
    return "no format of audio is recognised in it" if "pipe" in reason or "not recognised" in reason else reason


def _claims_more(log: str, frames: int) -> float | None:
    """How many times the data there are a header claims, from libsndfile's log; None where it agrees, or is of a
    stream."""
    for line in log.splitlines():
        size = _CLAIM.search(line)
        if size is None or any(word in line for word in _NO_LENGTH):
            continue
        claimed, real = size.groups()
        # writers that do not know the length yet leave the largest number, or none
        if int(claimed) > int(real) > 0 and int(claimed) < 0x7FFFF000:
            return int(claimed) / int(real)
    return None


def _ogg_ends(path: Path) -> bool:
    """Whether the last Ogg page is whole and marked as the stream's end (RFC 3533, section 6)."""
    with open(path, "rb") as handle:
        size = handle.seek(0, 2)
        handle.seek(max(0, size - (1 << 17)))  # a page holds at most 65,307 bytes
        tail = handle.read()
    start = tail.rfind(b"OggS")
    if start < 0 or len(tail) < start + 27:
        return False
    segments = tail[start + 26]
    table = tail[start + 27 : start + 27 + segments]
    whole = len(table) == segments and len(tail) >= start + 27 + segments + sum(table)
    return whole and bool(tail[start + 5] & 0x04)


class _DecoderLog:
    """libmpg123 writes to file descriptor 2, past Python and without a file's name: its lines are taken, all others go
    on.

    The descriptor is the process's, so what several threads decode at once is taken together and told to each of them.
    """

    _LINES = re.compile(rb"^(?:\[src/libmpg123[^\n]*|(?:Note|Warning): [^\n]*)\n?", re.MULTILINE)

    _OF_TAGS = "[src/libmpg123/id3.c"  # what is odd about a tag is nothing about the sound

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[list[str]] = []
        self._inside = 0
        self._real = -1
        self._file: Any = None

    @contextlib.contextmanager
    def taken(self, complaints: list[str]) -> Iterator[None]:
        with self._lock:
            self._begin()
            self._listeners.append(complaints)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._end()

    def _begin(self) -> None:
        if self._inside:
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - kept for the process's life
            self._real = os.dup(2)
            os.dup2(self._file.fileno(), 2)
        except OSError:  # no standard error, or nowhere for a file: the lines stay where they go
            self._real = -1

    def _end(self) -> None:
        listeners, self._listeners = self._listeners, []
        if self._real < 0:
            return
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()
        os.dup2(self._real, 2)
        os.close(self._real)
        self._real = -1
        if not os.lseek(self._file.fileno(), 0, os.SEEK_CUR):
            return
        os.lseek(self._file.fileno(), 0, os.SEEK_SET)
        text = self._file.read()
        os.lseek(self._file.fileno(), 0, os.SEEK_SET)
        os.ftruncate(self._file.fileno(), 0)
        lines = [line.decode("utf-8", "replace").strip() for line in self._LINES.findall(text)]
        lines = [line for line in lines if not line.startswith(self._OF_TAGS)]
        for complaints in listeners:
            complaints += [line for line in lines if line not in complaints]
        with contextlib.suppress(OSError):
            os.write(2, self._LINES.sub(b"", text))


_DECODER_LOG = _DecoderLog()
