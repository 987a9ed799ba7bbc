"""Where samples come from, block by block: an array in memory or a file that is never decoded as a whole.

A source can be read more than once and always yields the same blocks, so that a first pass may find out how loud a recording
is and where it begins, and a second one may compute what depends on that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from eisbach.audio import AUDIO_SUFFIXES, check_samples
from eisbach.errors import AudioError
from eisbach.types import Waveform

BLOCK_SAMPLES = 1 << 19
"""Samples of a block over all channels: 2 MB of float32, whatever the rate and the number of channels."""

_SALVAGE_FRAMES = 1024  # how finely a block that cannot be decoded as a whole is tried again
_FORMATS = {
    ".wav": {"WAV", "WAVEX", "RF64", "W64"}, ".flac": {"FLAC"}, ".mp3": {"MP3", "MPEG"}, ".ogg": {"OGG"},
}  # fmt: skip
_INEXACT_HEADERS = {"MP3", "MPEG"}  # their length is an estimate


class Source(Protocol):
    """Audio that can be read in blocks, repeatedly."""

    @property
    def sample_rate(self) -> float:
        """Hz."""

    @property
    def channels(self) -> int:
        """Number of channels."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def blocks(self) -> Iterator[np.ndarray]:
        """Blocks [shape=(channels, n), float32], finite, in order; together the whole recording.

        Raises
        ------
        AudioError
            Samples that are NaN or infinite, or a file that cannot be decoded at all.
        """

    def faults(self, frames: int) -> list[str]:
        """Flags about the recording itself, given how many samples a channel were read: ``truncated``, ``mislabelled``."""

    def declared_seconds(self) -> float:
        """The length that the header states, seconds; 0 when nothing states one."""


class ArraySource:
    """A waveform in memory."""

    name = "the waveform"

    def __init__(self, waveform: Waveform) -> None:
        check_samples(waveform.samples, self.name, allow_silent=True)
        if waveform.samples.ndim != 2:
            raise AudioError(f"samples must be (channels, n), not {waveform.samples.shape}; add the channel axis.")
        if not waveform.sample_rate > 0:
            raise AudioError(f"a sample rate must be positive, not {waveform.sample_rate} Hz.")
        self._waveform = waveform

    @property
    def sample_rate(self) -> float:
        """Hz."""
        return self._waveform.sample_rate

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self._waveform.channels

    def blocks(self) -> Iterator[np.ndarray]:
        """See `Source.blocks`."""
        samples = self._waveform.samples
        step = _block_frames(self.channels)
        for first in range(0, samples.shape[1], step):
            yield np.ascontiguousarray(samples[:, first : first + step], dtype=np.float32)

    def faults(self, frames: int) -> list[str]:
        """None: an array is what it is."""
        return []

    def declared_seconds(self) -> float:
        """Its length."""
        return self._waveform.duration


class FileSource:
    """An audio file.

    Raises
    ------
    AudioError
        Missing, not audio, or without samples.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        if not self._path.is_file():
            raise AudioError(
                f"{path} does not exist or is not a file; give the path of an audio file ({', '.join(AUDIO_SUFFIXES)})."
            )
        with self._open() as handle:
            self._rate, self._channels = int(handle.samplerate), int(handle.channels)
            self._declared, self._format = int(handle.frames), str(handle.format)
            # libsndfile trusts the file's size more than its header, and notes the difference in its log
            self._short_header = "(should be" in handle.extra_info
        if self._rate <= 0 or self._channels <= 0:
            raise AudioError(f"{path} states {self._rate} Hz and {self._channels} channels; re-export it.")
        if self._declared == 0:
            raise AudioError(f"{path} holds no samples; remove it or record it again.")

    @property
    def name(self) -> str:
        """Its path."""
        return str(self._path)

    @property
    def sample_rate(self) -> float:
        """Hz."""
        return self._rate

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self._channels

    def blocks(self) -> Iterator[np.ndarray]:
        """See `Source.blocks`. A file that breaks off yields what can be decoded of it."""
        done, step = 0, _block_frames(self._channels)
        try:
            with self._open() as handle:
                while len(data := handle.read(step, dtype="float32", always_2d=True)):
                    done += len(data)
                    yield self._checked(data)
        except _decoding_errors() as error:
            rest = self._salvage(done, step)
            if done + len(rest) == 0:
                raise self._unreadable(error) from error
            if len(rest):
                yield self._checked(rest)
        else:
            if done == 0:
                raise AudioError(f"{self._path} holds no samples; remove it or record it again.")

    def _salvage(self, first: int, count: int) -> np.ndarray:
        """What can be decoded of the block that starts at `first`, [shape=(n, channels)]."""
        parts: list[np.ndarray] = []
        try:
            with self._open() as handle:
                if first:
                    handle.seek(first)
                while sum(map(len, parts)) < count:
                    data = handle.read(_SALVAGE_FRAMES, dtype="float32", always_2d=True)
                    if len(data) == 0:
                        break
                    parts.append(data)
        except _decoding_errors():
            pass
        return np.concatenate(parts) if parts else np.zeros((0, self._channels), np.float32)

    def _checked(self, data: np.ndarray) -> np.ndarray:
        samples = np.ascontiguousarray(data.T)
        # one sum finds out whether there is any NaN or infinity; only then is it worth looking where
        if not np.isfinite(samples.sum(dtype=np.float64)):
            check_samples(samples, str(self._path), allow_silent=True)
        return samples

    def faults(self, frames: int) -> list[str]:
        """``truncated`` when there is less audio than the file states, ``mislabelled`` when its ending names another format."""
        slack = 0.005 * self._declared + 0.1 * self._rate if self._format in _INEXACT_HEADERS else 0
        truncated = self._short_header or frames < self._declared - slack
        if self._format == "OGG" and not truncated:
            truncated = not _ogg_ends(self._path)
        formats = _FORMATS.get(self._path.suffix.lower())
        mislabelled = formats is not None and self._format not in formats
        return ["truncated"] * truncated + ["mislabelled"] * mislabelled

    def declared_seconds(self) -> float:
        """What its header states (for raw formats: what its size gives)."""
        return self._declared / self._rate

    def _open(self) -> Any:
        import soundfile as sf

        try:
            return sf.SoundFile(str(self._path))
        except _decoding_errors() as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> AudioError:
        return AudioError(f"{self._path} cannot be read as audio ({error}); re-export it as wav or flac, or remove it.")


def _block_frames(channels: int) -> int:
    return max(4096, BLOCK_SAMPLES // channels)


def _decoding_errors() -> tuple[type[Exception], ...]:
    import soundfile as sf

    return (sf.LibsndfileError, RuntimeError, OSError, EOFError, TypeError)


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
