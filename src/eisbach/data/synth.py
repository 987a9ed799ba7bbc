"""Sounding many notes: single notes of the sound font are kept, given length, loudness and release, and mixed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from eisbach.data.instruments import INSTRUMENTS, Instrument, sound_font
from eisbach.data.soundfont import Envelope, SoundFont
from eisbach.types import Waveform

NOTE_SCALE = 1.0 / 32768.0
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


class NoteBank:
    """Single notes of the sound font at one sample rate, played when first asked for and kept while memory allows."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._font = get_font()
        self._notes: OrderedDict[tuple[int, int], tuple[np.ndarray, Envelope]] = OrderedDict()
        self._bytes = 0

    def note(self, instrument: Instrument, pitch: int) -> tuple[np.ndarray, Envelope]:
        """A note without its envelope [shape=(n,), int16; times `NOTE_SCALE` at reference loudness] and the
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
        samples = samples * np.float32(_LEVEL / max(loudness, 1e-5) / NOTE_SCALE)
        return np.clip(np.rint(samples), -32767, 32767).astype(np.int16), envelope


def dies_away(envelope: Envelope) -> bool:
    """Whether a held note ends by itself (plucked and struck sounds)."""
    return envelope.sustain >= 60.0


@lru_cache(maxsize=1)
def get_font() -> SoundFont:
    """The process's sound font."""
    return SoundFont(sound_font())


@lru_cache(maxsize=4)
def get_bank(sample_rate: int) -> NoteBank:
    """The process's bank of notes at one sample rate."""
    return NoteBank(sample_rate)


def synthesise(tracks: Sequence[Track], seconds: float, sample_rate: int, *, stereo: bool = False) -> Waveform:
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
    """
    bank = get_bank(sample_rate)
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
    factor = np.float32(NOTE_SCALE * gain * (velocity / 127.0) ** 1.7)
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
