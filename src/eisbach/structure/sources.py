"""Where samples come from, block by block: an array in memory or a file that is never decoded as a whole.

A source can be read more than once and always yields the same blocks, so that a first pass may find out how loud a
recording is and where it begins, and a second one may compute what depends on that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from eisbach.audio import check_samples, check_scale
from eisbach.audio_file import SAMPLE_RATES, AudioFile, block_frames
from eisbach.errors import AudioError
from eisbach.types import Waveform

_WAVE, _OGG, _MPEG = {"WAV", "WAVEX", "RF64", "W64"}, {"OGG"}, {"MP3", "MPEG"}
_FORMATS = {
    ".wav": _WAVE, ".wave": _WAVE, ".bwf": _WAVE, ".rf64": _WAVE, ".w64": _WAVE, ".flac": {"FLAC"}, ".mp3": _MPEG,
    ".mp2": _MPEG, ".ogg": _OGG, ".oga": _OGG, ".opus": _OGG, ".aif": {"AIFF"}, ".aiff": {"AIFF"}, ".aifc": {"AIFF"},
    ".au": {"AU"}, ".caf": {"CAF"},
}  # fmt: skip


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
        """Flags about the recording itself, given how many samples a channel were read: ``truncated``,
        ``mislabelled``."""

    def declared_seconds(self) -> float:
        """The length that the header states, seconds; 0 when nothing states one."""


class ArraySource:
    """A waveform in memory."""

    name = "the waveform"

    def __init__(self, waveform: Waveform) -> None:
        check_samples(waveform.samples, self.name, allow_silent=True)
        if waveform.samples.ndim != 2:
            raise AudioError(f"samples must be (channels, n), not {waveform.samples.shape}; add the channel axis.")
        low, high = SAMPLE_RATES
        if not low <= waveform.sample_rate <= high:
            raise AudioError(f"a sample rate must lie within {low} to {high} Hz, not be {waveform.sample_rate}.")
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
        step = block_frames(self.channels, int(self.sample_rate))
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
        Missing, not audio, without samples, or at a rate that is not read.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = AudioFile(path)
        if self._file.declared_frames == 0:
            raise AudioError(f"{path} holds no samples; remove it or record it again.")

    @property
    def name(self) -> str:
        """Its path."""
        return str(self._file.path)

    @property
    def sample_rate(self) -> float:
        """Hz."""
        return self._file.sample_rate

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self._file.channels

    def blocks(self) -> Iterator[np.ndarray]:
        """See `Source.blocks`. A file that breaks off yields what can be decoded of it."""
        done = 0
        for block in self._file.blocks(salvage=True):
            done += len(block)
            samples = np.ascontiguousarray(block.T)
            # one sum finds out whether there is any NaN or infinity; only then is it worth looking where
            if not np.isfinite(samples.sum(dtype=np.float64)):
                check_samples(samples, self.name, allow_silent=True)
            check_scale(max(float(samples.max()), -float(samples.min())), self.name)
            yield samples
        if done == 0:
            raise AudioError(f"{self.name} holds no samples; remove it or record it again.")

    def faults(self, frames: int) -> list[str]:
        """``truncated`` when there is less audio than the file states, ``mislabelled`` when its ending names another
        format."""
        formats = _FORMATS.get(self._file.path.suffix.lower())
        mislabelled = formats is not None and self._file.format not in formats
        return ["truncated"] * (self._file.missing(frames) is not None) + ["mislabelled"] * mislabelled

    def declared_seconds(self) -> float:
        """What its header states (for raw formats: what its size gives); 0 when it does not know."""
        return (self._file.declared_frames or 0) / self._file.sample_rate
