"""Sounding notes: symusic plays single notes of the sound font; they are shaped and mixed here.

symusic 0.5.8 reads the font's samples and loops but neither note velocities nor the decay of plucked and struck
sounds, so each note is played once at full length, kept, and then given its dynamics, decay and release.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from eisbach.data.instruments import INSTRUMENTS, Instrument, sound_font
from eisbach.errors import UserError
from eisbach.types import Waveform

BANK_SECONDS = 5.0
"""Length of the notes kept; a longer one is made by joining halves of its steady part."""

_PLAYED_RATE = 44100  # the font's own rate; lower rates are resampled from it, which keeps high notes clean
_QUALITY = 0
_KEPT_BYTES = 400e6  # notes in memory for each process; the whole orchestra needs about 300 MB at 22.05 kHz
_LEVEL = 0.08  # RMS of a note at full velocity
NOTE_SCALE = 1.0 / 32768.0


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
        self._notes: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._kept = max(1, int(_KEPT_BYTES / (2 * BANK_SECONDS * sample_rate)))
        self._synthesizer = _synthesizer()

    def note(self, instrument: Instrument, pitch: int) -> np.ndarray:
        """One held note [shape=(n,), int16], `BANK_SECONDS` long; times `NOTE_SCALE` it is at reference loudness."""
        key = (instrument.program, int(pitch))
        if key in self._notes:
            self._notes.move_to_end(key)
            return self._notes[key]
        samples = self._play(instrument.program, int(pitch))
        self._notes[key] = samples
        if len(self._notes) > self._kept:
            self._notes.popitem(last=False)
        return samples

    def _play(self, program: int, pitch: int) -> np.ndarray:
        import soxr
        from symusic import core

        track = core.TrackSecond("note", program, False)
        track.notes.append(core.NoteSecond(0.0, BANK_SECONDS, pitch, 100))
        score = core.ScoreSecond(480)
        score.tracks.append(track)
        samples = np.asarray(self._synthesizer.render(score, False), dtype=np.float32)[0]
        if self.sample_rate != _PLAYED_RATE:
            samples = soxr.resample(samples, _PLAYED_RATE, self.sample_rate, quality="HQ").astype(np.float32)
        samples = samples[: round(BANK_SECONDS * self.sample_rate)]
        samples -= samples.mean()
        head = samples[: self.sample_rate // 2]
        loudness = float(np.sqrt(np.mean(np.square(head, dtype=np.float64))))
        samples = samples * np.float32(_LEVEL / max(loudness, 1e-6) / NOTE_SCALE)
        return np.clip(np.rint(samples), -32767, 32767).astype(np.int16)


@lru_cache(maxsize=1)
def _synthesizer() -> Any:
    try:
        from symusic import Synthesizer
    except ImportError as error:
        raise UserError(
            "symusic, which plays the scores, is not installed; run: pip install 'eisbach[demo]'."
        ) from error
    return Synthesizer(sf_path=str(sound_font()), sample_rate=_PLAYED_RATE, quality=_QUALITY)


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
            shaped = _shape(bank.note(instrument, pitch), instrument, duration, pitch, velocity, sample_rate)
            stop = min(total, start + len(shaped))
            mono[start:stop] += shaped[: stop - start]
        if stereo:
            angle = (track.pan + 1.0) * np.pi / 4
            out += np.array([[np.cos(angle)], [np.sin(angle)]], dtype=np.float32) * mono * np.float32(np.sqrt(2))
        else:
            out[0] += mono
    return Waveform(out, sample_rate)


def _shape(
    note: np.ndarray, instrument: Instrument, duration: float, pitch: int, velocity: float, sample_rate: int
) -> np.ndarray:
    """A note of the bank with its length, loudness, decay and release."""
    held = max(1, round(duration * sample_rate))
    tail = round(instrument.release * sample_rate)
    length = held + tail
    if length > len(note):
        note = _prolong(note, length)
    gain = np.float32(NOTE_SCALE * instrument.gain * (velocity / 127.0) ** 1.7)
    samples = note[:length] * gain
    if instrument.decay:
        t60 = max(0.25, instrument.decay * 2.0 ** (-(pitch - 60) / 24))
        curve = _decay_curve(round(t60 * 100), sample_rate)
        length = min(length, len(curve))
        held = min(held, length)
        samples = samples[:length] * curve[:length]
    samples[held:] *= _release_curve(tail)[: length - held]
    attack = min(length, sample_rate // 250)  # 4 ms: no clicks from samples that begin away from zero
    samples[:attack] *= _release_curve(attack)[::-1]
    return samples


@lru_cache(maxsize=256)
def _decay_curve(t60_hundredths: int, sample_rate: int) -> np.ndarray:
    # 1.3 times the decay time is 78 dB down
    time = np.arange(round(1.3 * t60_hundredths / 100 * sample_rate), dtype=np.float32) / sample_rate
    curve: np.ndarray = np.exp(time * np.float32(-6.9078 * 100 / t60_hundredths))
    return curve


@lru_cache(maxsize=64)
def _release_curve(length: int) -> np.ndarray:
    curve: np.ndarray = (0.5 + 0.5 * np.cos(np.linspace(0, np.pi, length, dtype=np.float32))).astype(np.float32)
    return curve


def _prolong(note: np.ndarray, length: int) -> np.ndarray:
    """A longer note: its steady second half again and again, joined with crossfades of a quarter of a second."""
    steady = note[len(note) // 2 :]
    fade = min(len(steady) // 4, 12000)
    ramp = np.sqrt(np.linspace(0, 1, fade, dtype=np.float32))
    pieces = np.zeros(max(length, len(note)) + len(steady), dtype=np.float32)
    pieces[: len(note)] = note
    end = len(note)
    while end < length:
        pieces[end - fade : end] *= ramp[::-1]
        pieces[end - fade : end] += steady[:fade] * ramp
        pieces[end : end + len(steady) - fade] = steady[fade:]
        end += len(steady) - fade
    return pieces[:length]
