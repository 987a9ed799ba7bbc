"""Audio as `data:` addresses, small enough that a page with eighty half-minutes can be mailed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from eisbach.audio import read_audio, write_blocks
from eisbach.audio_file import AudioFile
from eisbach.errors import AudioError
from eisbach.progress import Progress

BUDGET_BYTES = 16_000_000
"""What all audio of a page may take at most, as base64 text."""
_AIM_BYTES = 6_000_000  # what it takes while the bit rate can be lowered for it

_RATE = 22_050  # Hz; MPEG-2 layer III encodes it from 8 to 160 kbit/s
_HIGHEST, _LOWEST = 64_000, 24_000  # bit/s
_MOST_SECONDS = 600.0  # of one clip


@dataclass(frozen=True)
class EmbeddedAudio:
    """A playable clip, or why there is none.

    Attributes
    ----------
    uri : str
        `data:audio/mpeg;base64,…` (Ogg Vorbis where libsndfile cannot write MP3); empty when `fault` is not.
    seconds : float
    fault : str
        One sentence; empty when the clip can be played.
    """

    uri: str
    seconds: float
    fault: str = ""


def embed_all(paths: Sequence[Path], *, budget: int = BUDGET_BYTES, quiet: bool = True) -> list[EmbeddedAudio]:
    """Every file as mono audio at one bit rate: about 6 MB of base64 in all, and never more than `budget` bytes.

    The rate stays between 24 and 64 kbit/s; where all would not fit at the lowest, only the beginnings of the longest
    clips are taken. A file that cannot be read gets its fault instead of sound.
    """
    lengths = [_seconds(path) for path in paths]
    total, bits = sum(lengths), 0.75 * 8 * min(budget, _AIM_BYTES)
    rate = _HIGHEST if total <= 0 else int(min(_HIGHEST, max(_LOWEST, bits / total)))
    most = _longest(lengths, 0.75 * 8 * budget / rate)
    with ThreadPoolExecutor(2) as pool, Progress(len(paths), "embed audio", quiet=quiet) as bar:

        def one(path: Path) -> EmbeddedAudio:
            return embed(path, rate, most)

        results = []
        for result in pool.map(one, paths):
            results.append(result)
            bar.advance()
    return results


def _longest(lengths: Sequence[float], room: float) -> float:
    """Seconds that no clip may exceed so that all of them together last at most `room` seconds; ten minutes if they
    fit."""
    for index, length in enumerate(sorted(lengths)):
        share = room / (len(lengths) - index)
        if length > share:
            return share
        room -= length
    return _MOST_SECONDS


def embed(path: Path, bit_rate: int = 48_000, most: float = _MOST_SECONDS) -> EmbeddedAudio:
    """One file as mono 22.05 kHz MP3 at about `bit_rate` bit/s; at most its first `most` seconds (ten minutes)."""
    import soundfile as sf

    try:
        waveform = read_audio(path, duration=most, sample_rate=_RATE, mono=True, allow_silent=True)
    except AudioError:
        return EmbeddedAudio("", 0.0, "The audio file is missing or cannot be read.")
    buffer = io.BytesIO()
    samples = waveform.samples.clip(-1.0, 1.0)
    if "MP3" in sf.available_formats():
        # libsndfile maps level 0 to the format's highest constant rate (160 kbit/s here) and 1 to its lowest (8).
        level = min(1.0, max(0.0, (160_000 - bit_rate) / (160_000 - 8_000)))
        options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT"}
        mime = "audio/mpeg"
    else:
        level, options, mime = 0.8, {"format": "OGG", "subtype": "VORBIS"}, "audio/ogg"
    write_blocks(buffer, samples, _RATE, compression_level=level, **options)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return EmbeddedAudio(f"data:{mime};base64,{text}", waveform.duration)


def _seconds(path: Path) -> float:
    try:
        return AudioFile(path).seconds(_MOST_SECONDS)
    except AudioError:
        return 0.0
