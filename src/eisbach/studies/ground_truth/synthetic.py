"""Pieces whose structure is known by construction: the ground truth that every metric is tested on.

Each function returns a mono `Waveform` at 22.05 kHz that is a pure function of its arguments: `seed` chooses
timbres, pitches and rhythms, never the structure. Timbres differ in rolloff, formant, parity and inharmonicity, so that
a metric that only works on one sound shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft

from eisbach.types import Waveform

SAMPLE_RATE = 22050
_NOISE_DB = -66.0  # every piece carries a faint noise floor, as recordings do
_PENTATONIC = (0, 2, 4, 7, 9, 12, 14, 16)


@dataclass(frozen=True)
class Timbre:
    """A stationary harmonic spectrum.

    Attributes
    ----------
    rolloff : float
        Partial k has amplitude k ** -rolloff before the formant.
    formant_hz, formant_octaves : float
        Centre and width of a Gaussian resonance over log-frequency.
    odd : bool
        Only odd partials (a clarinet's).
    stretch : float
        Inharmonicity: partial k lies at k * (1 + stretch * k^2).
    decay : float
        Seconds to fall by 60 dB after the attack; infinity for a sustained sound.
    """

    rolloff: float
    formant_hz: float
    formant_octaves: float
    odd: bool
    stretch: float
    decay: float


def random_timbre(rng: np.random.Generator, *, sustained: bool = False) -> Timbre:
    """A timbre drawn over the range from flute-like to bell-like."""
    return Timbre(
        rolloff=float(rng.uniform(0.4, 2.0)),
        formant_hz=float(200.0 * 2.0 ** rng.uniform(0.0, 4.5)),
        formant_octaves=float(rng.uniform(0.6, 2.5)),
        odd=bool(rng.random() < 0.3),
        stretch=float(rng.choice([0.0, 0.0, 0.0005])),
        decay=float("inf") if sustained else float(rng.choice([0.5, 1.5, 4.0, np.inf])),
    )


def tone(midi: float, seconds: float, timbre: Timbre) -> np.ndarray:
    """One note of unit RMS before its envelope, 10 ms attack and 30 ms release, [shape=(n,), float32]."""
    count = max(1, round(seconds * SAMPLE_RATE))
    time = np.arange(count, dtype=np.float32) / SAMPLE_RATE
    fundamental = 440.0 * 2.0 ** ((midi - 69.0) / 12.0)
    partials = np.arange(1, 25, 2 if timbre.odd else 1, dtype=np.float64)
    hz = fundamental * partials * (1.0 + timbre.stretch * partials**2)
    octaves = np.log2(hz / timbre.formant_hz) / timbre.formant_octaves
    amplitude = partials**-timbre.rolloff * np.exp(-0.5 * octaves**2) + 1e-4
    amplitude, hz = amplitude[hz < 9500.0], hz[hz < 9500.0]
    amplitude = amplitude * np.sqrt(2.0 / np.sum(amplitude**2))
    keep = amplitude > 3e-3
    phases = np.linspace(0.0, 2.0, len(hz))
    out = _oscillators(count, hz[keep], amplitude[keep], phases[keep])
    if np.isfinite(timbre.decay):
        out *= np.exp(-6.9 * time / np.float32(timbre.decay))
    return out * _fade(count)


def _oscillators(count: int, hz: np.ndarray, amplitude: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """A sum of sinusoids, [shape=(count,), float32].

    Long ones come from one inverse transform, with frequencies rounded to its bins (under 0.5 Hz): ten times faster.
    """
    if count < 2 * SAMPLE_RATE:
        time = np.arange(count, dtype=np.float32) / SAMPLE_RATE
        out = np.zeros(count, dtype=np.float32)
        for a, f, phase in zip(amplitude, hz, phases, strict=True):
            out += np.float32(a) * np.sin(np.float32(2 * np.pi * f) * time + np.float32(phase))
        return out
    length = scipy.fft.next_fast_len(count, real=True)
    spectrum = np.zeros(length // 2 + 1, dtype=np.complex64)
    bins = np.round(hz * length / SAMPLE_RATE).astype(np.int64)
    np.add.at(spectrum, bins, (-0.5j * length * amplitude * np.exp(1j * phases)).astype(np.complex64))
    return np.asarray(scipy.fft.irfft(spectrum, length)[:count], dtype=np.float32)


def _fade(count: int) -> np.ndarray:
    envelope = np.ones(count, dtype=np.float32)
    attack, release = min(count // 2, SAMPLE_RATE // 100), min(count // 2, 3 * SAMPLE_RATE // 100)
    if attack:
        envelope[:attack] = np.linspace(0.0, 1.0, attack, dtype=np.float32)
    if release:
        envelope[-release:] *= np.linspace(1.0, 0.0, release, dtype=np.float32)
    return envelope


def phrase(seconds: float, rng: np.random.Generator, *, melodic: bool = True) -> np.ndarray:
    """`seconds` of music in one texture: a chord, and a melody over it when `melodic`; peak 1, [shape=(n,)]."""
    root = float(rng.integers(38, 66))
    backing, lead = random_timbre(rng, sustained=True), random_timbre(rng)
    count = round(seconds * SAMPLE_RATE)
    out = np.zeros(count, dtype=np.float32)
    for interval in rng.choice([(0, 4, 7), (0, 3, 7), (0, 5, 9), (0, 7, 10)]):
        out += 0.3 * tone(root + float(interval), seconds, backing)[:count]
    if melodic:
        step = 1.0 / float(rng.choice([2.0, 3.0, 4.0]))
        notes: dict[int, np.ndarray] = {}
        for index in range(int(seconds / step)):
            degree = int(rng.integers(len(_PENTATONIC)))
            if degree not in notes:
                notes[degree] = tone(root + 12.0 + _PENTATONIC[degree], step, lead)
            start = round(index * step * SAMPLE_RATE)
            note = notes[degree][: count - start]
            out[start : start + len(note)] += note
    return out / float(np.abs(out).max())


def _finish(samples: np.ndarray, seed: int, peak: float = 0.5) -> Waveform:
    """Adds the faint noise floor and sets the peak."""
    rng = np.random.default_rng([seed, 977])
    top = float(np.abs(samples).max())
    noise = rng.standard_normal(len(samples), dtype=np.float32) * np.float32(top * 10 ** (_NOISE_DB / 20))
    samples = samples + noise
    return Waveform((samples * (peak / np.abs(samples).max())).astype(np.float32)[None, :], SAMPLE_RATE)


def form(letters: str, section_seconds: float, seed: int) -> Waveform:
    """Sections that repeat exactly where a letter repeats, such as ``AABA``; every letter is its own texture and
    tune."""
    parts = {
        letter: phrase(section_seconds, np.random.default_rng([seed, ord(letter)])) for letter in sorted(set(letters))
    }
    return _finish(np.concatenate([parts[letter] for letter in letters]), seed)


def blocks(block_seconds: float, seed: int, duration: float = 72.0) -> Waveform:
    """Sustained chords in ever new timbres, one every `block_seconds`."""
    rng = np.random.default_rng([seed, 1])
    count = int(np.ceil(duration / block_seconds))
    parts = [phrase(block_seconds, rng, melodic=False) for _ in range(count)]
    return _finish(np.concatenate(parts)[: round(duration * SAMPLE_RATE)], seed)


def states(count: float, seed: int, duration: float = 64.0, dwell: float = 4.0) -> Waveform:
    """`count` different textures visited in turn for `dwell` seconds each, over and over."""
    rng = np.random.default_rng([seed, 2])
    parts = [phrase(dwell, rng, melodic=False) for _ in range(int(count))]
    visits = int(duration / dwell)
    return _finish(np.concatenate([parts[i % len(parts)] for i in range(visits)]), seed)


def drone(seed: int, duration: float = 40.0) -> Waveform:
    """One chord, sustained."""
    return _finish(phrase(duration, np.random.default_rng([seed, 3]), melodic=False), seed)


def pad(seed: int, duration: float = 40.0) -> Waveform:
    """A chord whose two timbres cross-fade slowly, by a few dB, without ever arriving anywhere."""
    rng = np.random.default_rng([seed, 4])
    root = float(rng.integers(38, 60))
    first, second = random_timbre(rng, sustained=True), random_timbre(rng, sustained=True)
    time = np.arange(round(duration * SAMPLE_RATE)) / SAMPLE_RATE
    swell = (0.5 + 0.25 * np.sin(2 * np.pi * time / rng.uniform(3.0, 9.0))).astype(np.float32)
    chords = [sum(tone(root + i, duration, t) for i in (0.0, 7.0, 12.0)) for t in (first, second)]
    return _finish(np.asarray(chords[0] * swell + chords[1] * (1.0 - swell)), seed)


def noise(seed: int, duration: float = 40.0) -> Waveform:
    """Stationary coloured noise."""
    rng = np.random.default_rng([seed, 5])
    spectrum = np.fft.rfft(rng.standard_normal(round(duration * SAMPLE_RATE)))
    hz = np.fft.rfftfreq(round(duration * SAMPLE_RATE), 1 / SAMPLE_RATE)
    spectrum *= np.maximum(hz, 50.0) ** -rng.uniform(0.0, 1.0)
    samples = np.fft.irfft(spectrum, round(duration * SAMPLE_RATE))
    return _finish((samples / np.abs(samples).max()).astype(np.float32), seed)


def loop(period: float, seed: int, duration: float = 40.0) -> Waveform:
    """A melodic phrase of `period` seconds, repeated exactly to the end."""
    cycle = phrase(period, np.random.default_rng([seed, 6]))
    count = round(duration * SAMPLE_RATE)
    return _finish(np.tile(cycle, -(-count // len(cycle)))[:count], seed)


def partial_loop(share: float, seed: int, period: float = 3.0, bars: int = 16) -> Waveform:
    """`bars` bars: for the first `share` of them one bar over and over, afterwards every bar is new."""
    rng = np.random.default_rng([seed, 7])
    same = phrase(period, rng)
    repeated = round(share * bars)
    return _finish(np.concatenate([same] * repeated + [phrase(period, rng) for _ in range(bars - repeated)]), seed)


def loop_variation(variation_db: float, seed: int, period: float = 4.0, repeats: int = 8) -> Waveform:
    """A loop whose every repetition has its own balance of low, middle and high, each drawn within +-`variation_db`."""
    rng = np.random.default_rng([seed, 14])
    cycle = phrase(period, rng)
    spectrum = np.fft.rfft(cycle)
    hz = np.fft.rfftfreq(len(cycle), 1 / SAMPLE_RATE)
    nodes = np.log2([60.0, 240.0, 960.0, 3840.0, 9000.0])
    parts = []
    for _ in range(repeats):
        gain_db = np.interp(np.log2(np.maximum(hz, 1.0)), nodes, rng.uniform(-1, 1, len(nodes)) * variation_db)
        parts.append(np.fft.irfft(spectrum * 10 ** (gain_db / 20), len(cycle)).astype(np.float32))
    return _finish(np.concatenate(parts), seed)


def motif_share(share: float, seed: int, section_seconds: float = 8.0, sections: int = 8) -> Waveform:
    """Sections of which a `share` repeats another section (pairwise); the others are all new."""
    rng = np.random.default_rng([seed, 9])
    pairs = round(share * sections / 2)
    repeated = [phrase(section_seconds, rng) for _ in range(pairs)]
    fresh = [phrase(section_seconds, rng) for _ in range(sections - 2 * pairs)]
    order = np.random.default_rng([seed, 10]).permutation(sections)
    parts = repeated + repeated + fresh
    return _finish(np.concatenate([parts[i] for i in order]), seed)


@lru_cache(maxsize=2)
def _chord(seed: int, duration: float) -> np.ndarray:
    return phrase(duration, np.random.default_rng([seed, 11]), melodic=False)


def crescendo(range_db: float, seed: int, duration: float = 30.0) -> Waveform:
    """One chord whose level rises by `range_db` dB, linearly in dB."""
    chord = _chord(seed, duration)
    gain = 10 ** (np.linspace(-range_db, 0.0, len(chord)) / 20)
    quiet = chord * gain.astype(np.float32)
    return Waveform((0.5 * quiet / np.abs(quiet).max()).astype(np.float32)[None, :], SAMPLE_RATE)


def onsets(rate: float, seed: int, duration: float = 24.0) -> Waveform:
    """Short struck notes, `rate` a second, at random pitches."""
    rng = np.random.default_rng([seed, 12])
    timbre = random_timbre(rng)
    timbre = Timbre(
        timbre.rolloff, timbre.formant_hz, timbre.formant_octaves, timbre.odd, timbre.stretch, float(rng.uniform(0.2,
        0.5))
    )  # fmt: skip
    count = round(duration * SAMPLE_RATE)
    out = np.zeros(count, dtype=np.float32)
    for start in np.arange(0.1, duration - 0.1, 1.0 / rate):
        first = round(float(start) * SAMPLE_RATE)
        note = tone(55.0 + float(rng.choice(_PENTATONIC)), 0.5, timbre)[: count - first]
        out[first : first + len(note)] += note
    return _finish(out, seed)


@lru_cache(maxsize=2)  # a ladder asks for the same sound rung after rung
def _two_bands(seed: int, duration: float) -> tuple[np.ndarray, np.ndarray]:
    """The low and the high half (split at 1.2 kHz) of one steady harmonic sound, [shape=(n,)] each."""
    rng = np.random.default_rng([seed, 13])
    count = round(duration * SAMPLE_RATE)
    fundamental = float(rng.uniform(110.0, 220.0))
    partials = np.arange(1, int(9500 / fundamental))
    hz, amplitude, phases = fundamental * partials, partials**-0.5, rng.uniform(0.0, 2 * np.pi, len(partials))
    low = hz <= 1200.0
    halves = [_oscillators(count, hz[side], amplitude[side], phases[side]) for side in (low, ~low)]
    return halves[0], halves[1]


def arc(degrees: float, seed: int, duration: float = 40.0) -> Waveform:
    """A walk along a circle in a plane of timbres: 360 degrees end where they began, 120 do not.

    The plane's axes are the levels of the low and of the high half of a spectrum, +-9 dB.
    """
    low, high = _two_bands(seed, duration)
    angle = np.linspace(0.0, np.deg2rad(degrees), len(low)) + 1.1 * seed
    gains = [10 ** (9.0 * wave(angle) / 20) for wave in (np.cos, np.sin)]
    return _finish((low * gains[0] + high * gains[1]).astype(np.float32), seed)


def contrast(difference_db: float, seed: int, section_seconds: float = 6.0, duration: float = 48.0) -> Waveform:
    """Alternating sections of one sound whose low and high halves differ by +-`difference_db` / 2 between sections."""
    low, high = _two_bands(seed, duration)
    time = np.arange(len(low)) / SAMPLE_RATE
    side = np.where((time // section_seconds) % 2 == 0, 0.5, -0.5)
    tilt = 10 ** (side * difference_db / 20)
    return _finish((low * tilt + high / tilt).astype(np.float32), seed)


@lru_cache(maxsize=2)  # a ladder asks for the same sound rung after rung
def _steady(seed: int, duration: float) -> np.ndarray:
    return phrase(duration, np.random.default_rng([seed, 21]), melodic=False)


def level_steps(difference_db: float, seed: int, dwell: float = 10.0, duration: float = 60.0) -> Waveform:
    """A held chord that alternates between two levels `difference_db` apart, `dwell` seconds each."""
    chord = _steady(seed, duration)
    time = np.arange(len(chord)) / SAMPLE_RATE
    quiet = (time // dwell) % 2 == 1
    gain = np.where(quiet, 10.0 ** (-difference_db / 20.0), 1.0).astype(np.float32)
    return Waveform((0.5 * chord * gain)[None, :], SAMPLE_RATE)


def tones_in_noise(noise_db: float, seed: int, duration: float = 20.0) -> Waveform:
    """A held harmonic sound in white noise of `noise_db` relative to the sound's own level."""
    low, high = _two_bands(seed, duration)
    sound = low + high
    rng = np.random.default_rng([seed, 22])
    level = float(np.sqrt(np.mean(sound**2))) * 10.0 ** (noise_db / 20.0)
    mixed = sound + rng.standard_normal(len(sound), dtype=np.float32) * np.float32(level)
    return Waveform((0.5 * mixed / np.abs(mixed).max()).astype(np.float32)[None, :], SAMPLE_RATE)


def circle(radius_db: float, seed: int, duration: float = 40.0) -> Waveform:
    """A full circle in a plane of timbres: the levels of the low and high half of a spectrum move by +-`radius_db`."""
    low, high = _two_bands(seed, duration)
    angle = np.linspace(0.0, 2.0 * np.pi, len(low)) + 1.1 * seed
    gains = [10.0 ** (radius_db * wave(angle) / 20.0) for wave in (np.cos, np.sin)]
    mixed = low * gains[0] + high * gains[1]
    rng = np.random.default_rng([seed, 23])
    mixed = mixed + rng.standard_normal(len(mixed), dtype=np.float32) * float(np.abs(mixed).max()) * 10**-3.3
    return Waveform((0.5 * mixed / np.abs(mixed).max()).astype(np.float32)[None, :], SAMPLE_RATE)
