"""The General MIDI orchestra and its sound: instruments, the ensembles that a score can be given to, and many notes at
once.

Single notes of the sound font are kept, given length, loudness and release, and mixed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from eisbach.data.soundfont import Envelope, SoundFont
from eisbach.errors import UserError
from eisbach.types import Waveform


@dataclass(frozen=True)
class Instrument:
    """A voice of the sound font.

    Attributes
    ----------
    name : str
        As captions call it.
    program : int
        General MIDI program, from 0.
    low, high : int
        Lowest and highest MIDI pitch that it plays well.
    gain : float
        Loudness among the others, as a factor.
    """

    name: str
    program: int
    low: int
    high: int
    gain: float = 1.0


INSTRUMENTS: dict[str, Instrument] = {
    instrument.name: instrument
    for instrument in (
        Instrument("piano", 0, 21, 102, 1.2),
        Instrument("harpsichord", 6, 29, 89, 0.7),
        Instrument("celesta", 8, 60, 108, 0.8),
        Instrument("glockenspiel", 9, 72, 108, 0.6),
        Instrument("music box", 10, 60, 100, 0.8),
        Instrument("vibraphone", 11, 53, 89, 0.9),
        Instrument("marimba", 12, 43, 96, 1.2),
        Instrument("xylophone", 13, 65, 108, 1.2),
        Instrument("church organ", 19, 36, 96, 0.9),
        Instrument("guitar", 24, 40, 84, 1.2),
        Instrument("violin", 40, 55, 98),
        Instrument("viola", 41, 48, 86),
        Instrument("cello", 42, 36, 76, 1.4),
        Instrument("contrabass", 43, 24, 60, 1.4),
        Instrument("tremolo strings", 44, 36, 90),
        Instrument("pizzicato strings", 45, 36, 90, 1.2),
        Instrument("pizzicato contrabass", 45, 24, 55, 1.5),
        Instrument("harp", 46, 24, 100, 1.2),
        Instrument("strings", 48, 28, 96),
        Instrument("low strings", 49, 24, 62, 1.4),
        Instrument("choir", 52, 41, 84),
        Instrument("trumpet", 56, 54, 84, 0.8),
        Instrument("trombone", 57, 36, 72, 0.8),
        Instrument("tuba", 58, 24, 58, 1.4),
        Instrument("french horn", 60, 36, 77),
        Instrument("brass", 61, 34, 84, 0.8),
        Instrument("oboe", 68, 58, 91),
        Instrument("english horn", 69, 52, 81),
        Instrument("bassoon", 70, 34, 75, 1.4),
        Instrument("contrabassoon", 70, 22, 53, 1.4),
        Instrument("clarinet", 71, 50, 91),
        Instrument("piccolo", 72, 74, 108, 0.7),
        Instrument("flute", 73, 60, 96),
        Instrument("recorder", 74, 60, 96),
    )
}


@dataclass(frozen=True)
class Ensemble:
    """Instruments from high to low, and the families of scores (`scores.Piece.family`) that suit them.

    Attributes
    ----------
    name : str
        Name in options and labels.
    instruments : tuple of str
        From the highest part to the lowest.
    families : tuple of str
        Empty: suits all.
    weight : float
        How often it is drawn.
    shift : int
        Octaves by which the whole score is moved before it is fitted to the instruments.
    """

    name: str
    instruments: tuple[str, ...]
    families: tuple[str, ...] = ()
    weight: float = 1.0
    shift: int = 0

    def members(self) -> list[Instrument]:
        """The instruments themselves."""
        return [INSTRUMENTS[name] for name in self.instruments]


ENSEMBLES: dict[str, Ensemble] = {
    ensemble.name: ensemble
    for ensemble in (
        Ensemble("string quartet", ("violin", "violin", "viola", "cello"), ("quartet", "chorale", "madrigal", "mass"),
        2.0),
        Ensemble("strings", ("violin", "strings", "strings", "contrabass"), weight=1.5),
        Ensemble("low strings", ("cello", "low strings", "contrabass"), weight=1.6, shift=-1),
        Ensemble("contrabass and cello", ("cello", "contrabass"), weight=1.2, shift=-1),
        Ensemble("bassoon and contrabass", ("bassoon", "contrabass"), weight=1.2, shift=-1),
        Ensemble("bassoons", ("bassoon", "bassoon", "contrabassoon"), weight=1.0, shift=-1),
        Ensemble("low winds", ("english horn", "bassoon", "contrabassoon", "contrabass"), weight=0.8, shift=-1),
        Ensemble("low brass", ("french horn", "trombone", "tuba"), weight=0.8, shift=-1),
        Ensemble("pizzicato", ("pizzicato strings", "pizzicato strings", "pizzicato contrabass"), weight=1.4),
        Ensemble("low pizzicato", ("pizzicato contrabass", "contrabass"), weight=0.8, shift=-1),
        Ensemble("celesta", ("celesta",), weight=1.4, shift=1),
        Ensemble("celesta and pizzicato", ("celesta", "pizzicato strings", "pizzicato strings"), weight=1.6),
        Ensemble("celesta and harp", ("celesta", "harp"), weight=1.2, shift=1),
        Ensemble("glockenspiel and flute", ("glockenspiel", "flute", "flute"), weight=0.8, shift=1),
        Ensemble("music box", ("music box",), ("tune", "song", "rag", "chorale", "quartet"), 0.8, shift=1),
        Ensemble("horns", ("french horn", "french horn", "french horn"), weight=1.0),
        Ensemble("horn and strings", ("french horn", "strings", "low strings"), weight=1.0),
        Ensemble("brass", ("trumpet", "french horn", "trombone", "tuba"), weight=1.2),
        Ensemble("trumpet and organ", ("trumpet", "church organ"), ("chorale", "mass", "madrigal", "tune"), 0.6),
        Ensemble("harpsichord", ("harpsichord",), weight=1.2),
        Ensemble("harpsichord and strings", ("violin", "harpsichord", "cello"), weight=1.0),
        Ensemble("harp", ("harp",), weight=0.9),
        Ensemble("winds", ("flute", "oboe", "clarinet", "bassoon"), weight=1.6),
        Ensemble("high winds", ("piccolo", "flute", "oboe"), weight=0.8, shift=1),
        Ensemble("flute and harp", ("flute", "harp"), weight=0.8),
        Ensemble("oboe and bassoon", ("oboe", "english horn", "bassoon"), weight=0.8),
        Ensemble("clarinet and strings", ("clarinet", "strings", "cello"), weight=0.9),
        Ensemble("recorders", ("recorder", "recorder", "recorder"), ("tune", "madrigal", "chorale"), 0.5),
        Ensemble("choir", ("choir", "choir"), ("chorale", "mass", "madrigal"), 1.0),
        Ensemble("choir and organ", ("choir", "church organ"), ("chorale", "mass", "madrigal"), 0.8),
        Ensemble("organ", ("church organ",), ("chorale", "mass", "madrigal", "quartet"), 1.0),
        Ensemble("piano", ("piano",), weight=1.5),
        Ensemble("piano and cello", ("piano", "cello"), weight=0.8),
        Ensemble("violin and piano", ("violin", "piano"), weight=0.8),
        Ensemble("marimba", ("marimba", "marimba"), weight=0.7),
        Ensemble("vibraphone and marimba", ("vibraphone", "marimba"), weight=0.6),
        Ensemble("xylophone and bassoon", ("xylophone", "bassoon"), weight=0.7),
        Ensemble("guitar", ("guitar",), weight=0.8),
        Ensemble("guitar and flute", ("flute", "guitar"), weight=0.6),
        Ensemble("tremolo strings", ("tremolo strings", "tremolo strings", "contrabass"), weight=0.6),
        Ensemble("orchestra", ("flute", "oboe", "strings", "french horn", "contrabass"), weight=1.6),
        Ensemble("full orchestra", ("violin", "trumpet", "strings", "brass", "low strings"), weight=1.0),
    )
}  # fmt: skip


def ensembles_for(family: str, styles: tuple[str, ...] | None = None) -> list[Ensemble]:
    """The ensembles that suit a family of scores, in a fixed order; `styles` restricts them by name.

    Raises
    ------
    UserError
        A style that is no ensemble.
    """
    if styles:
        if unknown := [name for name in styles if name not in ENSEMBLES]:
            raise UserError(f"there is no ensemble '{unknown[0]}'; choose from: {', '.join(ENSEMBLES)}.")
        return [ENSEMBLES[name] for name in styles]
    return [ensemble for ensemble in ENSEMBLES.values() if not ensemble.families or family in ensemble.families]


def fit_octave(pitch: np.ndarray, instrument: Instrument) -> int:
    """The number of semitones (a multiple of 12) that brings most notes into the instrument's range."""
    options = np.arange(-48, 49, 12)
    outside = [int(((pitch + o < instrument.low) | (pitch + o > instrument.high)).sum()) for o in options]
    best = min(range(len(options)), key=lambda i: (outside[i], abs(int(options[i]))))
    return int(options[best])


def fold_into(pitch: np.ndarray, instrument: Instrument) -> np.ndarray:
    """Pitches with those outside the range moved by octaves until they fit."""
    span = instrument.high - instrument.low
    if span < 12:
        raise ValueError(f"{instrument.name} has a range under an octave")
    low = np.where(pitch < instrument.low, pitch + 12 * -(-(instrument.low - pitch) // 12), pitch)
    return np.where(low > instrument.high, low - 12 * -(-(low - instrument.high) // 12), low)


@lru_cache(maxsize=1)
def sound_font() -> Path:
    """The sound font inside pretty_midi's package; `UserError` when it is not installed."""
    from importlib.util import find_spec

    spec = find_spec("pretty_midi")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("pretty_midi, whose sound font is played, is not installed; run: pip install pretty_midi.")
    path = Path(next(iter(spec.submodule_search_locations))) / "TimGM6mb.sf2"
    if not path.is_file():
        raise UserError(f"the sound font {path} is missing; reinstall pretty_midi>=0.2.10.")
    return path


_NOTE_SCALE = 1.0 / 32768.0
_HELD_SECONDS = 3.0  # length kept of notes that last; longer ones are made by joining their steady part
_DECAY_SECONDS = 6.0  # longest length kept of notes that die away
_SILENT_DB = 75.0
_KEPT_BYTES = 400e6  # notes in memory for each process; the whole orchestra needs about 250 MB at 22.05 kHz
_LEVEL = 0.08  # RMS of the first half second of a note at full velocity
_PLAYED_RATE = 44100  # the font is played at about its own rate and resampled, which keeps high notes clean


@dataclass(frozen=True)
class Track:
    """The notes that one instrument plays.

    Attributes
    ----------
    instrument : str
        Name in `INSTRUMENTS`.
    onset, duration : np.ndarray [shape=(n,), float64]
        Seconds.
    pitch : np.ndarray [shape=(n,), int]
        MIDI numbers within the instrument's range.
    velocity : np.ndarray [shape=(n,), float64]
        1 to 127.
    pan : float
        -1 (left) to 1 (right).
    """

    instrument: str
    onset: np.ndarray
    duration: np.ndarray
    pitch: np.ndarray
    velocity: np.ndarray
    pan: float = 0.0


class _NoteBank:
    """Single notes of the sound font at one sample rate, played when first asked for and kept while memory allows."""

    def __init__(self, sample_rate: int, font: SoundFont) -> None:
        self.sample_rate = sample_rate
        self._font = font
        self._notes: OrderedDict[tuple[int, int], tuple[np.ndarray, Envelope]] = OrderedDict()
        self._bytes = 0

    def note(self, instrument: Instrument, pitch: int) -> tuple[np.ndarray, Envelope]:
        """A note without its envelope [shape=(n,), int16; times `_NOTE_SCALE` at reference loudness] and the
        envelope."""
        key = (instrument.program, int(pitch))
        if key in self._notes:
            self._notes.move_to_end(key)
            return self._notes[key]
        made = self._play(*key)
        self._notes[key] = made
        self._bytes += made[0].nbytes
        while self._bytes > _KEPT_BYTES and len(self._notes) > 1:
            self._bytes -= self._notes.popitem(last=False)[1][0].nbytes
        return made

    def _play(self, program: int, pitch: int) -> tuple[np.ndarray, Envelope]:
        import soxr

        envelope = self._font.envelope(program, pitch)
        seconds = min(_DECAY_SECONDS, envelope.audible(_SILENT_DB)) if dies_away(envelope) else _HELD_SECONDS
        samples = self._font.note(program, pitch, seconds, _PLAYED_RATE)
        if self.sample_rate != _PLAYED_RATE:
            samples = soxr.resample(samples, _PLAYED_RATE, self.sample_rate, quality="HQ").astype(np.float32)
        head = samples[: self.sample_rate // 2]
        loudness = float(np.sqrt(np.mean(np.square(head, dtype=np.float64))))
        samples = samples * np.float32(_LEVEL / max(loudness, 1e-5) / _NOTE_SCALE)
        return np.clip(np.rint(samples), -32767, 32767).astype(np.int16), envelope


def dies_away(envelope: Envelope) -> bool:
    """Whether a held note ends by itself (plucked and struck sounds)."""
    return envelope.sustain >= 60.0


@lru_cache(maxsize=4)
def get_font(path: str | None = None) -> SoundFont:
    """The process's sound font in a file; pretty_midi's when None."""
    return SoundFont(sound_font() if path is None else path)


@lru_cache(maxsize=4)
def _get_bank(sample_rate: int, font: str | None) -> _NoteBank:
    """The process's bank of a font's notes at one sample rate."""
    return _NoteBank(sample_rate, get_font(font))


def synthesise(
    tracks: Sequence[Track], seconds: float, sample_rate: int, *, stereo: bool = False, font: str | None = None
) -> Waveform:
    """The sound of all tracks together.

    Parameters
    ----------
    tracks : sequence of Track
    seconds : float
        Length of the result; what sounds beyond it is cut.
    sample_rate : int
        Hz.
    stereo : bool
        Two channels with the tracks' panning (equal power), else one.
    font : str or None
        Sound font file; pretty_midi's when None.
    """
    bank = _get_bank(sample_rate, font)
    total = round(seconds * sample_rate)
    out = np.zeros((2 if stereo else 1, total), dtype=np.float32)
    for track in tracks:
        mono = np.zeros(total, dtype=np.float32)
        instrument = INSTRUMENTS[track.instrument]
        for onset, duration, pitch, velocity in zip(
            track.onset.tolist(), track.duration.tolist(), track.pitch.tolist(), track.velocity.tolist(), strict=True
        ):
            start = round(onset * sample_rate)
            if not 0 <= start < total:
                continue
            held = min(duration, seconds - onset)
            shaped = _shape(*bank.note(instrument, pitch), instrument.gain, held, velocity, sample_rate)
            stop = min(total, start + len(shaped))
            mono[start:stop] += shaped[: stop - start]
        if stereo:
            angle = (track.pan + 1.0) * np.pi / 4
            out += np.array([[np.cos(angle)], [np.sin(angle)]], dtype=np.float32) * mono * np.float32(np.sqrt(2))
        else:
            out[0] += mono
    return Waveform(out, sample_rate)


def _shape(
    note: np.ndarray, envelope: Envelope, gain: float, duration: float, velocity: float, sample_rate: int
) -> np.ndarray:
    """A note of the bank with its length, loudness, envelope and release."""
    held = max(1, round(duration * sample_rate))
    tail = round(float(np.clip(0.5 * envelope.release, 0.05, 0.9)) * sample_rate)
    length = held + tail
    if dies_away(envelope):
        length = min(length, len(note))
    elif length > len(note):
        note = _prolong(note, length)
    factor = np.float32(_NOTE_SCALE * gain * (velocity / 127.0) ** 1.7)
    samples: np.ndarray = note[:length] * factor
    samples *= _level(envelope, sample_rate, -(-length // (4 * sample_rate)))[:length]
    if held < length:
        samples[held:] *= _release_curve(tail)[: length - held]
    attack = min(length, sample_rate // 250)  # 4 ms: no clicks from samples that begin away from zero
    samples[:attack] *= _release_curve(attack)[::-1]
    return samples


@lru_cache(maxsize=2048)
def _level(envelope: Envelope, sample_rate: int, blocks: int) -> np.ndarray:
    """The envelope over `blocks` times four seconds."""
    return envelope.level(blocks * 4 * sample_rate, sample_rate)


@lru_cache(maxsize=64)
def _release_curve(length: int) -> np.ndarray:
    curve: np.ndarray = (0.5 + 0.5 * np.cos(np.linspace(0, np.pi, length, dtype=np.float32))).astype(np.float32)
    return curve


def _prolong(note: np.ndarray, length: int) -> np.ndarray:
    """A longer note: its steady second half again and again, joined with crossfades."""
    steady = note[len(note) // 2 :].astype(np.float32)
    fade = len(steady) // 4
    ramp = np.sqrt(np.linspace(0, 1, fade, dtype=np.float32))
    out = np.zeros(max(length, len(note)) + len(steady), dtype=np.float32)
    out[: len(note)] = note
    end = len(note)
    while end < length:
        out[end - fade : end] *= ramp[::-1]
        out[end - fade : end] += steady[:fade] * ramp
        out[end : end + len(steady) - fade] = steady[fade:]
        end += len(steady) - fade
    return out[:length]
