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
_MARGIN = 0.98  # headers and whole frames come on top of a bit rate

_BIT_RATES = {32_000: (320_000, 32_000), 22_050: (160_000, 8_000)}
"""Sample rate → bit/s that libsndfile's levels 0 and 1 mean (MPEG-1 and MPEG-2 layer III)."""
MOST_SECONDS = 600.0  # of one clip


@dataclass(frozen=True)
class Encoding:
    """How the clips of a page are written: all alike, so that none sounds better by its file.

    Attributes
    ----------
    sample_rate : int
        Hz.
    channels : int
        The most that are kept; of other clips their mean.
    bit_rate : int
        bit/s. A clip of one channel takes two thirds of what two take, and is as wide.
    """

    sample_rate: int
    channels: int
    bit_rate: int

    def of_channels(self, channels: int) -> int:
        """bit/s of a clip of so many channels."""
        return self.bit_rate if channels == self.channels else round(self.bit_rate * 2 / 3)

    def __str__(self) -> str:
        return f"{'stereo' if self.channels > 1 else 'mono'}, {self.sample_rate // 1000} kHz"


# The log-mel spectrum of six recordings over their top 80 dB errs by 2.5, 1.4 and 9.8 dB in the first three, by 5.8 in
# stereo at 80 kbit/s and by 12.8 at 22 kHz even with 64: most of it is what the encoder cuts off above.
ENCODINGS = (
    Encoding(32_000, 2, 96_000),
    Encoding(32_000, 1, 64_000),
    Encoding(32_000, 1, 48_000),
    Encoding(22_050, 1, 40_000),
    Encoding(22_050, 1, 32_000),
    Encoding(22_050, 1, 24_000),
)
"""From the best to the smallest."""


def _room(budget: int) -> float:
    """Bits of sound in so many bytes of base64."""
    return _MARGIN * 0.75 * 8 * budget


def seconds_of(encoding: Encoding, budget: int = BUDGET_BYTES) -> float:
    """How much of an encoding fits."""
    return _room(budget) / encoding.bit_rate


def encoding_for(seconds: float, budget: int = BUDGET_BYTES) -> Encoding:
    """The best encoding of which so many seconds take no more than `budget` bytes of base64; else the smallest."""
    bits = _room(budget)
    return next((encoding for encoding in ENCODINGS if encoding.bit_rate * seconds <= bits), ENCODINGS[-1])


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
    encoding : Encoding
    """

    uri: str
    seconds: float
    fault: str = ""
    encoding: Encoding = ENCODINGS[0]


def embed_all(
    paths: Sequence[Path], *, budget: int = BUDGET_BYTES, seconds: float = MOST_SECONDS, quiet: bool = True
) -> list[EmbeddedAudio]:
    """The first `seconds` of every file in one encoding: never more than `budget` bytes of base64 in all.

    Stereo to 15 kHz while it fits, then the mean of the channels, then narrower (`ENCODINGS`); where all would not fit
    even then, only the beginnings of the longest clips are taken. A file that cannot be read gets its fault instead of
    sound.
    """
    lengths = [min(seconds, _seconds(path)) for path in paths]
    encoding = encoding_for(sum(lengths), budget)
    most = min(seconds, _longest(lengths, seconds_of(encoding, budget)))
    with ThreadPoolExecutor(2) as pool, Progress(len(paths), "embed audio", quiet=quiet) as bar:

        def one(path: Path) -> EmbeddedAudio:
            return embed(path, encoding, most)

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
    return MOST_SECONDS


def embed(path: Path, encoding: Encoding = ENCODINGS[0], most: float = MOST_SECONDS) -> EmbeddedAudio:
    """One file as MP3; at most its first `most` seconds (ten minutes)."""
    import soundfile as sf

    try:
        mono = AudioFile(path).channels > encoding.channels
        waveform = read_audio(path, duration=most, sample_rate=encoding.sample_rate, mono=mono, allow_silent=True)
    except AudioError:
        return EmbeddedAudio("", 0.0, "The audio file is missing or cannot be read.")
    buffer = io.BytesIO()
    samples = waveform.samples.clip(-1.0, 1.0)
    if "MP3" in sf.available_formats():
        highest, lowest = _BIT_RATES[encoding.sample_rate]
        level = min(1.0, max(0.0, (highest - encoding.of_channels(len(samples))) / (highest - lowest)))
        options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT"}
        mime = "audio/mpeg"
    else:
        level, options, mime = 0.8, {"format": "OGG", "subtype": "VORBIS"}, "audio/ogg"
    write_blocks(buffer, samples, encoding.sample_rate, compression_level=level, **options)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return EmbeddedAudio(f"data:{mime};base64,{text}", waveform.duration, encoding=encoding)


def _seconds(path: Path) -> float:
    try:
        return AudioFile(path).seconds(MOST_SECONDS)
    except AudioError:
        return 0.0
