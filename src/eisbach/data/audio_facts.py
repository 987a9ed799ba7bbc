"""What one audio file is like, as a codec hears it.

Files are read in blocks: memory stays bounded whatever their length. Silence and clipping are judged on what a codec is
given (mixed, and for silence resampled, as it does), because that is what trains: channels that cancel each other, or
sound above the codec's band, are silence to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eisbach.audio import SILENCE_PEAK, check_scale
from eisbach.audio_file import AudioFile
from eisbach.errors import AudioError
from eisbach.structure.energy import bandwidth_hz
from eisbach.structure.spectra import SpectrumStream

CLIPPED_SHARE = 1e-4
"""Share of samples at full scale from which a file counts as clipped (isolated peaks do not)."""
SHORT_SECONDS, LONG_SECONDS = 1.0, 1800.0
CANCELLED_DB = 13.0
"""Level lost by mixing from which channels count as cancelling each other: unrelated channels lose 3 dB."""

_FULL_SCALE = 0.999


@dataclass(frozen=True)
class CodecInput:
    """What a codec is given: its rate (Hz), its number of channels, and whether it mixes audio of more to mono. Rate
    and channels by default are those of the embedded codec, which mixes.
    """

    sample_rate: int = 32000
    channels: int = 2
    mixes: bool = False


@dataclass(frozen=True)
class AudioFacts:
    """What was found.

    Attributes
    ----------
    duration : float
        Seconds that were read, whatever the header says.
    sample_rate, channels : int
    peak : float
        Largest absolute sample of the channels, mixed as the codec mixes them.
    clipped : float
        Share of the samples, mixed as the codec mixes them, at or above 0.999 of full scale in runs of at least three.
    problem : str or None
        Why the file cannot be used at all; None when it can.
    missing : str or None
        What the file lacks of what its header says.
    lost_db : float
        Level that mixing the channels loses.
    complaints : tuple of str
        Errors that the decoder reported while it went on.
    bandwidth : float
        Hz below which everything lies that is heard, see `structure.energy.bandwidth_hz`; NaN where nothing was read.
    """

    duration: float
    sample_rate: int
    channels: int
    peak: float
    clipped: float
    problem: str | None = None
    missing: str | None = None
    lost_db: float = 0.0
    complaints: tuple[str, ...] = ()
    bandwidth: float = float("nan")


def unusable(problem: str) -> AudioFacts:
    """The facts of a file that cannot be read."""
    return AudioFacts(0.0, 0, 0, 0.0, 0.0, problem)


def inspect_audio(path: str | Path, heard: CodecInput | None = None) -> AudioFacts:
    """The facts of one file as a codec hears it; a file that cannot be used has `problem` set, nothing is raised."""
    heard = CodecInput(mixes=True) if heard is None else heard
    try:
        file = AudioFile(path)
        mixed = heard.channels == 1 and file.channels > 1
        given = _Given(file.sample_rate, heard.sample_rate)
        tally = _Tally()
        for block in file.blocks():
            tally.add(block)
            if mixed:
                block = block.mean(axis=1, keepdims=True)
            tally.add_given(block)
            given.add(block)
        given.finish()
        check_scale(tally.peak, "it")
    except AudioError as error:
        return unusable(_without_name(error, path))
    duration = tally.frames / file.sample_rate
    errors = tuple(line for line in file.complaints if "error:" in line)
    return AudioFacts(
        duration, file.sample_rate, file.channels, tally.given_peak, tally.clipped / max(1, tally.given_samples),
        _problem(tally, given, file.channels, heard), file.missing(tally.frames), tally.lost_db() if mixed else 0.0,
        errors, bandwidth_hz(tally.spectrum.finish(), file.sample_rate),
    )  # fmt: skip


def _problem(tally: _Tally, given: _Given, channels: int, heard: CodecInput) -> str | None:
    if tally.frames == 0:
        return "holds no samples"
    if tally.bad:
        return f"holds {tally.bad} NaN or infinite samples"
    if tally.peak < SILENCE_PEAK:
        return "is silent (peak below -80 dBFS)"
    if tally.frames < 2:
        return "holds a single frame"
    if 1 < heard.channels < channels and not heard.mixes:
        return f"has {channels} channels and the codec codes {heard.channels}; mix it down first"
    if tally.given_peak < SILENCE_PEAK:
        return "is silent once its channels are mixed: they cancel each other; turn one of them around, or keep one"
    if not given.sounds:
        return (
            f"is silent at the codec's {heard.sample_rate} Hz: all of its sound lies above "
            f"{heard.sample_rate / 2000:g} kHz"
        )
    return None


class _Tally:
    """Running facts of the samples as they are in the file."""

    def __init__(self) -> None:
        self.frames = self.bad = self.clipped = self.given_samples = 0
        self.peak = self.given_peak = 0.0
        self._energy = self._mixed_energy = 0.0
        self.spectrum = SpectrumStream()

    def add(self, block: np.ndarray) -> None:
        self.frames += len(block)
        finite = np.isfinite(block)
        self.bad += int(block.size - finite.sum())
        size = np.abs(np.where(finite, block, 0.0))
        self.peak = max(self.peak, float(size.max(initial=0.0)))
        if not self.bad:
            self.spectrum.push(block.mean(axis=1, dtype=np.float32))
        self._energy += float(np.square(size, dtype=np.float64).sum()) / block.shape[1]

    def add_given(self, block: np.ndarray) -> None:
        """Adds the block as it is mixed for the codec [shape=(n, channels)]."""
        if self.bad:
            return
        size = np.abs(block)
        self.given_peak = max(self.given_peak, float(size.max(initial=0.0)))
        self._mixed_energy += float(np.square(block, dtype=np.float64).sum())
        full = size >= _FULL_SCALE
        if len(full) > 2 and full.any():
            self.clipped += int((full[:-2] & full[1:-1] & full[2:]).sum())
        self.given_samples += block.size

    def lost_db(self) -> float:
        """How much quieter the mean of the channels is than the channels."""
        if not self._energy or not self._mixed_energy:
            return 0.0
        return max(0.0, 10 * float(np.log10(self._energy / self._mixed_energy)))


class _Given:
    """Whether anything sounds at the codec's rate; nothing is resampled any more once something did."""

    def __init__(self, rate: int, codec_rate: int) -> None:
        self.sounds = False
        self._rates = (rate, codec_rate)
        self._stream: object = None

    def add(self, block: np.ndarray) -> None:
        self._push(block, last=False)

    def finish(self) -> None:
        if self._stream is not None:
            self._push(np.zeros((0, self._channels), np.float32), last=True)

    def _push(self, block: np.ndarray, *, last: bool) -> None:
        if self.sounds:
            return
        if self._rates[0] > self._rates[1]:  # at a higher rate than the file's own nothing is lost
            import soxr

            if self._stream is None:
                self._channels = block.shape[1]
                self._stream = soxr.ResampleStream(*self._rates, self._channels, dtype="float32", quality="HQ")
            block = self._stream.resample_chunk(np.ascontiguousarray(block), last=last)  # type: ignore[attr-defined]
        self.sounds = bool((np.abs(block) >= SILENCE_PEAK).any())


def _without_name(error: AudioError, path: str | Path) -> str:
    """The sentence without the file's name, which stands beside it wherever facts are shown."""
    return str(error).removeprefix(f"{path} ").rstrip(".")
