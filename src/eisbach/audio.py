"""Reading, writing and resampling audio: the one door through which sound enters and leaves."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.errors import AudioError
from eisbach.files import atomic_write
from eisbach.types import Waveform

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
"""File endings that `eisbach` looks for in folders."""

_WRITE_FRAMES = 1 << 16
_WRITTEN = {".flac": "FLAC", ".wav": "WAV", ".ogg": "OGG"}
_SILENCE_PEAK = 10 ** (-80 / 20)


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
        wav, flac, mp3 or ogg: whatever libsndfile reads. Only the section asked for is decoded.
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
        Missing, unreadable, empty (also: shorter than one sample at `sample_rate`), NaN-bearing or silent.
    """
    import soundfile as sf

    path = Path(path)
    if not path.is_file():
        raise AudioError(
            f"{path} does not exist or is not a file; give the path of an audio file ({', '.join(AUDIO_SUFFIXES)})."
        )
    try:
        with sf.SoundFile(str(path)) as handle:
            rate = int(handle.samplerate)
            first = max(0, round(start * rate))
            count = -1 if duration is None else max(0, round(duration * rate))
            if first:
                handle.seek(min(first, handle.frames))
            data = handle.read(count, dtype="float32", always_2d=True)
    except (sf.LibsndfileError, RuntimeError, OSError, EOFError) as error:
        raise AudioError(
            f"{path} cannot be read as audio ({error}); re-export it as wav or flac, or remove it."
        ) from error
    samples = np.ascontiguousarray(data.T)
    check_samples(samples, str(path), allow_silent=allow_silent)
    waveform = Waveform(samples, rate)
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
    if not allow_silent and float(np.abs(samples).max()) < _SILENCE_PEAK:
        raise AudioError(f"{name} is silent (peak below -80 dBFS); remove it or record it again.")


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
    except OSError as error:
        raise AudioError(f"{path} cannot be read ({error}).") from error
    return digest.hexdigest()
