"""Reading a SoundFont file and sounding single notes of it (SoundFont Technical Specification 2.04).

SoundFont 2 (.sf2), and MuseScore's version 3 of it (.sf3), in which every sample is an Ogg Vorbis stream of its own.

The sampler of symusic 0.5.8 takes the wrong key zone of instruments that have several: a piano's C sharp 4 sounds at
3.2 times its frequency, a violin's E 5 at 5.6 times, and no note decays or follows its velocity. So the font is
read here. What the font's zones say about keys, tuning, loops, attenuation, the volume envelope and the low-pass
filter is followed; its modulators, vibrato and reverb are not.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from eisbach.errors import UserError
from eisbach.files import read_bytes

# generator numbers, section 8.1.3
_FILTER, _DELAY, _ATTACK, _HOLD, _DECAY, _SUSTAIN, _RELEASE, _KEY_TO_DECAY = 8, 33, 34, 35, 36, 37, 38, 40
_INSTRUMENT, _KEYS, _VELOCITIES, _ATTENUATION, _COARSE, _FINE, _SAMPLE, _MODES = 41, 43, 44, 48, 51, 52, 53, 54
_SCALE, _ROOT = 56, 58
_DEFAULTS = {
    _FILTER: 13500, _DELAY: -12000, _ATTACK: -12000, _HOLD: -12000, _DECAY: -12000, _RELEASE: -12000, _SCALE: 100,
    _ROOT: -1,
}  # fmt: skip
_NOT_ADDED = {_INSTRUMENT, _KEYS, _VELOCITIES, _SAMPLE, _MODES, _ROOT}  # a preset may not set or add to these
_MOST_BYTES = 1 << 31
_KEY_COUNT = 128
_COMPRESSED = 0x10  # a sample's type in version 3: start and end are bytes, loop points samples from its beginning
_VELOCITY = 100  # decides between layers; loudness is given later


@dataclass(frozen=True)
class Envelope:
    """How a held note's level runs.

    Attributes
    ----------
    attack, hold, release : float
        Seconds; `release` is the time of a fall by 100 dB.
    decay : float
        dB a second after the hold.
    sustain : float
        dB below full at which the decay ends.
    """

    attack: float
    hold: float
    decay: float
    sustain: float
    release: float

    def audible(self, decibels: float) -> float:
        """Seconds until a held note has fallen by `decibels`; infinite when it never does."""
        if self.sustain < decibels or self.decay <= 0:
            return float("inf")
        return self.attack + self.hold + decibels / self.decay

    def level(self, count: int, sample_rate: int) -> np.ndarray:
        """Gain of each of `count` samples of a held note [shape=(count,), float32]."""
        time = np.arange(count, dtype=np.float32) / np.float32(sample_rate)
        fall = np.clip((time - np.float32(self.attack + self.hold)) * np.float32(self.decay), 0, self.sustain)
        gain = np.power(np.float32(10), fall * np.float32(-0.05))
        if self.attack > 0:
            gain *= np.minimum(1, time / np.float32(self.attack))
        return gain.astype(np.float32)


@dataclass(frozen=True)
class _Sample:
    start: int
    end: int
    loop_start: int
    loop_end: int
    rate: int
    root: int
    correction: int
    compressed: bool = False


class SoundFont:
    """A font in memory.

    Raises
    ------
    UserError
        The file is no SoundFont 2, or a damaged one: what its tables name must be there.
    """

    def __init__(self, path: str | Path) -> None:
        data = read_bytes(path, "sound font", limit=_MOST_BYTES)
        if data[:4] != b"RIFF" or data[8:12] != b"sfbk":
            raise UserError(f"{path} is not a SoundFont file; give an .sf2 or .sf3 file.")
        self.path = str(path)
        try:
            self._read(dict(_chunks(data, 12, len(data))))
            fault = self._fault()
        except KeyError as error:
            fault = f"it has no chunk {error}"
        except (struct.error, ValueError, IndexError, RecursionError) as error:
            fault = f"a table is cut short: {error}"
        if fault is not None:
            raise UserError(f"the sound font {path} is damaged ({fault}); fetch it again.")

    def _read(self, chunks: dict[bytes, bytes]) -> None:
        self._sound = chunks[b"smpl"]
        generators = [list(struct.iter_unpack("<Hh", chunks[name])) for name in (b"pgen", b"igen")]
        bags = [[bag[0] for bag in struct.iter_unpack("<HH", chunks[name])] for name in (b"pbag", b"ibag")]
        instruments = [entry[1] for entry in struct.iter_unpack("<20sH", chunks[b"inst"])]
        self._instruments = [
            _zones(bags[1], generators[1], first, last, _SAMPLE) for first, last in pairwise(instruments)
        ]
        headers = list(struct.iter_unpack("<20sHHHIII", chunks[b"phdr"]))
        self._presets = {
            (header[2], header[1]): _zones(bags[0], generators[0], header[3], following[3], _INSTRUMENT)
            for header, following in pairwise(headers)
        }
        self._samples = [
            _Sample(start, end, loop_start, loop_end, rate, root, correction, bool(kind & _COMPRESSED))
            for _, start, end, loop_start, loop_end, rate, root, correction, _, kind in struct.iter_unpack(
                "<20sIIIIIBbHH", chunks[b"shdr"]
            )
        ]

    def _fault(self) -> str | None:
        """What a zone names and the font lacks; None when it is whole."""
        presets = [zone for zones in self._presets.values() for zone in zones]
        zones = [zone for instrument in self._instruments for zone in instrument]
        if any(not 0 <= zone[_INSTRUMENT] < len(self._instruments) for zone in presets):
            return "a preset names an instrument that is not there"
        if any(not 0 <= zone[_SAMPLE] < len(self._samples) for zone in zones):
            return "an instrument names a sample that is not there"
        for sample in (self._samples[zone[_SAMPLE]] for zone in zones):
            last = sample.end if sample.compressed else 2 * sample.end
            if not (sample.start < sample.end and last <= len(self._sound) and sample.rate > 0):
                return "a sample lies beyond the end of the sound"
        return None

    def note(self, program: int, pitch: int, seconds: float, sample_rate: int) -> np.ndarray:
        """One note without its envelope [shape=(n,), float32].

        Parameters
        ----------
        program : int
            General MIDI program of bank 0.
        pitch : int
            MIDI number.

        Raises
        ------
        UserError
            The font has no sound for this program on any key.
        """
        total = np.zeros(round(seconds * sample_rate), dtype=np.float32)
        for zone in self._sounding(program, pitch):
            total += self._play(zone, pitch, len(total), sample_rate)
        return total

    def envelope(self, program: int, pitch: int) -> Envelope:
        """The envelope of a note's first layer; raises as `note` does."""
        return _envelope(self._sounding(program, pitch)[0], pitch)

    def _sounding(self, program: int, pitch: int) -> list[dict[int, int]]:
        # Fonts differ in how far a voice reaches (FluidR3's contrabass to key 57): beyond it the nearest key's sound is
        # played, retuned, however far that is. A program that sounds on some key sounds on every key.
        for distance in range(_KEY_COUNT):
            for key in (pitch - distance, pitch + distance):
                if zones := list(self._layers(program, key)):
                    return zones
        raise UserError(
            f"the sound font {self.path} has no sound for program {program}; give a font of all General MIDI programs."
        )

    def _layers(self, program: int, pitch: int) -> Iterator[dict[int, int]]:
        for preset in self._presets.get((0, program), []):
            if not _matches(preset, pitch):
                continue
            for zone in self._instruments[preset[_INSTRUMENT]]:
                if not _matches(zone, pitch):
                    continue
                merged = {**_DEFAULTS, **zone}
                for key, value in preset.items():
                    if key not in _NOT_ADDED:
                        merged[key] = merged.get(key, 0) + value
                yield merged

    def _wave(self, zone: dict[int, int], sample: _Sample) -> tuple[np.ndarray, int, int]:
        """The sound of a zone [shape=(n,), float32] and where its loop begins and ends within it."""
        # generators 0..3 and their coarse versions (units of 32768) move the sample's points
        moved = [
            zone.get(fine, 0) + 32768 * zone.get(coarse, 0) for fine, coarse in ((0, 4), (1, 12), (2, 45), (3, 50))
        ]
        if sample.compressed:
            wave, start, end = self._decoded(sample), moved[0], moved[1]
            wave = wave[start : len(wave) + min(0, end)]
        else:
            start = sample.start + moved[0]
            data = np.frombuffer(self._sound, dtype="<i2", count=len(self._sound) // 2)
            wave = data[start : sample.end + moved[1]].astype(np.float32) / 32768.0
        return wave, sample.loop_start + moved[2] - start, sample.loop_end + moved[3] - start

    def _decoded(self, sample: _Sample) -> np.ndarray:
        import soundfile

        try:
            wave: np.ndarray = soundfile.read(io.BytesIO(self._sound[sample.start : sample.end]), dtype="float32")[0]
        except soundfile.LibsndfileError as error:
            raise UserError(f"the sound font {self.path} holds a sample that is no Ogg Vorbis ({error}).") from error
        return wave

    def _play(self, zone: dict[int, int], pitch: int, count: int, sample_rate: int) -> np.ndarray:
        sample = self._samples[zone[_SAMPLE]]
        wave, loop_start, loop_end = self._wave(zone, sample)
        root = zone[_ROOT] if zone[_ROOT] >= 0 else sample.root
        cents = (pitch - root) * zone[_SCALE] + 100 * zone.get(_COARSE, 0) + zone.get(_FINE, 0) + sample.correction
        step = 2.0 ** (min(cents, 12 * 1200) / 1200.0) * sample.rate / sample_rate  # no note is tuned twelve octaves up
        position = np.arange(count, dtype=np.float64) * step
        if zone.get(_MODES, 0) & 1 and loop_end - loop_start > 1:
            length = loop_end - loop_start
            position = np.where(position < loop_end, position, loop_start + (position - loop_start) % length)
            # a few samples behind the loop's end, so that interpolation runs into the loop's beginning
            wave = np.concatenate([wave[:loop_end], wave[loop_start : loop_start + 4]])
        inside = position < len(wave) - 3
        out = np.zeros(count, dtype=np.float32)
        out[inside] = _interpolate(wave, position[inside])
        out *= np.float32(10 ** (-max(0, zone.get(_ATTENUATION, 0)) / 200.0))
        return _low_pass(out, 8.176 * 2.0 ** (zone[_FILTER] / 1200.0), sample_rate)


def _chunks(data: bytes, position: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    while position + 8 <= end:
        name, size = data[position : position + 4], struct.unpack_from("<I", data, position + 4)[0]
        if name == b"LIST":
            yield from _chunks(data, position + 12, position + 8 + size)
        else:
            yield name, data[position + 8 : position + 8 + size]
        position += 8 + size + size % 2


def _zones(
    bags: list[int], generators: list[tuple[int, int]], first: int, last: int, link: int
) -> list[dict[int, int]]:
    """The zones of a preset or an instrument, each with the values of its global zone beneath its own."""
    zones: list[dict[int, int]] = []
    common: dict[int, int] = {}
    for bag in range(first, last):
        values = dict(generators[bags[bag] : bags[bag + 1]])
        if link in values:
            zones.append({**common, **values})
        elif bag == first:
            common = values
    return zones


def _matches(zone: dict[int, int], pitch: int) -> bool:
    def inside(key: int, value: int) -> bool:
        packed = zone.get(key, 0x7F00) & 0xFFFF
        return packed & 0xFF <= value <= packed >> 8

    return inside(_KEYS, pitch) and inside(_VELOCITIES, _VELOCITY)


def _envelope(zone: dict[int, int], pitch: int) -> Envelope:
    def seconds(key: int) -> float:
        return float(2.0 ** (zone[key] / 1200.0))

    decay = seconds(_DECAY) * 2.0 ** (zone.get(_KEY_TO_DECAY, 0) * (60 - pitch) / 1200.0)
    return Envelope(
        attack=seconds(_DELAY) + seconds(_ATTACK),
        hold=seconds(_HOLD),
        decay=100.0 / max(decay, 1e-3),  # the decay's time is that of a fall by 100 dB, section 8.1.2
        sustain=float(np.clip(zone.get(_SUSTAIN, 0) / 10.0, 0.0, 100.0)),
        release=seconds(_RELEASE),
    )


def _interpolate(wave: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Four-point Hermite interpolation (Catmull-Rom)."""
    index = position.astype(np.int64)
    x = (position - index).astype(np.float32)
    a, b, c, d = (wave[np.maximum(index + shift, 0)] for shift in (-1, 0, 1, 2))
    out: np.ndarray = b + 0.5 * x * (c - a + x * (2 * a - 5 * b + 4 * c - d + x * (3 * (b - c) + d - a)))
    return out


def _low_pass(samples: np.ndarray, cutoff: float, sample_rate: int) -> np.ndarray:
    if cutoff > 0.4 * sample_rate:
        return samples
    from scipy.signal import butter, sosfilt

    filtered: np.ndarray = sosfilt(butter(2, cutoff, fs=sample_rate, output="sos"), samples).astype(np.float32)
    return filtered
