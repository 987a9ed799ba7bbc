"""The ladders once more, over other sounds: instruments unlike one another, any tempo, any length, periods off the
frame grid.

`synthetic` is what the metrics were made with, and varies one additive tone; these pieces are what they are checked
with. Here are six ways of making sound (plucked, struck, sung, frequency-modulated, brassy, percussive noise) and a
`band` that plays them in any tempo, with onsets that fall between the frames of an analysis. All functions are pure
functions of their arguments; the sample rate is 22.05 kHz.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import scipy.signal

from eisbach.studies.ground_truth.synthetic import SAMPLE_RATE
from eisbach.types import Waveform

_GOLDEN = 0.6180339887  # shares and offsets that no grid divides
_FLOOR_DB = -62.0  # every piece carries a faint noise floor, as recordings do


def finish(samples: np.ndarray, seed: int) -> Waveform:
    """A waveform of peak 0.6 with its noise floor."""
    rng = np.random.default_rng([seed, 41])
    top = max(float(np.abs(samples).max()), 1e-9)
    noise = rng.standard_normal(len(samples), dtype=np.float32) * np.float32(top * 10 ** (_FLOOR_DB / 20))
    mixed = samples + noise
    return Waveform((0.6 * mixed / np.abs(mixed).max()).astype(np.float32)[None, :], SAMPLE_RATE)


def _length_of(seed: int, least: float, most: float) -> float:
    """A length in seconds between `least` and `most` that follows from `seed` and divides no grid."""
    return least + (most - least) * ((seed + 1) * _GOLDEN % 1.0)


def varied_form(letters: str, section_seconds: float, seed: int) -> Waveform:
    """Sections by letter, each a band of its own; equal letters are equal music."""
    parts = {letter: band(section_seconds, seed * 101 + ord(letter)) for letter in sorted(set(letters))}
    return finish(np.concatenate([parts[letter] for letter in letters]), seed)


def varied_loop(period: float, seed: int, duration: float = 40.0) -> Waveform:
    """A band's phrase of `period` seconds, repeated exactly to the end."""
    cycle = band(period, seed * 103 + 5)
    count = round(duration * SAMPLE_RATE)
    return finish(np.tile(cycle, -(-count // len(cycle)))[:count], seed)


def varied_crescendo(range_db: float, seed: int) -> Waveform:
    """Music, not a chord, whose every second has the same level but for a rise of `range_db` dB from start to end."""
    music = _levelled(band(_length_of(seed, 31.0, 47.0), seed + 700))
    gain = 10 ** (np.linspace(-range_db, 0.0, len(music)) / 20)
    swelling = music * gain.astype(np.float32)
    return Waveform((0.6 * swelling / np.abs(swelling).max()).astype(np.float32)[None, :], SAMPLE_RATE)


def varied_level_steps(difference_db: float, seed: int) -> Waveform:
    """Levelled music that alternates between two levels, 11.3 s each."""
    music = _levelled(band(67.8, seed + 800))
    time = np.arange(len(music)) / SAMPLE_RATE
    gain = np.where((time // 11.3) % 2 == 1, 10.0 ** (-difference_db / 20.0), 1.0).astype(np.float32)
    return Waveform((0.6 * music * gain / np.abs(music).max()).astype(np.float32)[None, :], SAMPLE_RATE)


def _levelled(music: np.ndarray) -> np.ndarray:
    """The same music with an even level: divided by its RMS over half a second, smoothed, with little room for
    pauses."""
    window = SAMPLE_RATE // 2
    power = np.concatenate([np.zeros(1), np.cumsum(np.square(music, dtype=np.float64))])
    edges = np.clip(np.arange(len(music))[:, None] + np.array([-window // 2, window // 2]), 0, len(music))
    rms = np.sqrt((power[edges[:, 1]] - power[edges[:, 0]]) / np.maximum(edges[:, 1] - edges[:, 0], 1))
    return np.asarray(music / np.maximum(rms, 0.05 * rms.max()), dtype=np.float32)


def varied_onsets(rate: float, seed: int) -> Waveform:
    """Short notes of a random instrument with a clear attack, `rate` a second, each up to a twentieth of a period off
    its beat."""
    rng = np.random.default_rng([seed, 42])
    duration = _length_of(seed, 21.0, 33.0)
    names = [name for name in INSTRUMENTS if name not in ("sung", "brassy")]
    instrument, bright = names[seed % len(names)], round(float(rng.uniform(0.2, 0.8)), 2)
    out = np.zeros(round(duration * SAMPLE_RATE), np.float32)
    for start in np.arange(0.1, duration - 0.2, 1.0 / rate):
        late = float(rng.uniform(0.0, 0.05)) / rate
        place(out, float(start) + late, note(instrument, 48 + int(rng.integers(24)), 0.35, bright))
    return finish(out, seed)


def varied_states(count: float, seed: int) -> Waveform:
    """`count` bands that take turns of 5.3 s, over and over."""
    parts = [band(5.3, seed * 107 + 900 + index) for index in range(int(count))]
    return finish(np.concatenate([parts[visit % len(parts)] for visit in range(16)]), seed)


def varied_blocks(block_seconds: float, seed: int, duration: float = 90.0, tempo: float | None = None) -> Waveform:
    """Ever new bands, one every `block_seconds`, all at one tempo (40 to 120 beats a minute unless told): slow notes
    are no blocks."""
    tempo = _length_of(seed, 40.0, 120.0) if tempo is None else tempo
    count = int(np.ceil(duration / block_seconds))
    parts = [band(block_seconds, seed * 113 + index, tempo=tempo) for index in range(count)]
    return finish(np.concatenate(parts)[: round(duration * SAMPLE_RATE)], seed)


def _voices(seed: int, seconds: float) -> list[np.ndarray]:
    """Two bars of different bands, one below and one above 1.1 kHz, each repeated: what moves is only their balance."""
    voices = []
    for index, kind in enumerate(("lowpass", "highpass")):
        bar = band(_length_of(seed + index, 2.1, 4.3), seed * 109 + 300 + index)
        sections = scipy.signal.butter(6, 1100.0, kind, fs=SAMPLE_RATE, output="sos")
        filtered = scipy.signal.sosfilt(sections, np.tile(bar, 2))[len(bar) :]  # the second round has no transient
        filtered = filtered / np.sqrt(np.mean(filtered**2))
        count = round(seconds * SAMPLE_RATE)
        voices.append(np.tile(filtered, -(-count // len(bar)))[:count].astype(np.float32))
    return voices


def varied_arc(degrees: float, seed: int) -> Waveform:
    """Two bands whose levels walk along a circle (+-9 dB each): 360 degrees end where they began."""
    first, second = _voices(seed, _length_of(seed, 43.0, 61.0))
    angle = np.linspace(0.0, np.deg2rad(degrees), len(first)) + 0.7 * seed
    gains = [10.0 ** (9.0 * wave(angle) / 20.0) for wave in (np.cos, np.sin)]
    return finish((first * gains[0] + second * gains[1]).astype(np.float32), seed)


def varied_circle(radius_db: float, seed: int) -> Waveform:
    """Two bands whose levels walk along a full circle of `radius_db`."""
    first, second = _voices(seed, _length_of(seed, 43.0, 61.0))
    angle = np.linspace(0.0, 2.0 * np.pi, len(first)) + 0.7 * seed
    gains = [10.0 ** (radius_db * wave(angle) / 20.0) for wave in (np.cos, np.sin)]
    return finish((first * gains[0] + second * gains[1]).astype(np.float32), seed)


def varied_contrast(difference_db: float, seed: int) -> Waveform:
    """Two bands whose balance jumps by `difference_db` every 9.7 s."""
    first, second = _voices(seed, 58.2)
    time = np.arange(len(first)) / SAMPLE_RATE
    side = np.where((time // 9.7) % 2 == 0, 0.5, -0.5)
    tilt = 10.0 ** (side * difference_db / 20.0)
    return finish((first * tilt + second / tilt).astype(np.float32), seed)


def varied_noise(noise_db: float, seed: int) -> Waveform:
    """Music in white noise of `noise_db` relative to its own level."""
    music = band(23.7, seed + 600)
    noise = np.random.default_rng([seed, 43]).standard_normal(len(music), dtype=np.float32)
    return finish(music + noise * np.float32(10.0 ** (noise_db / 20.0)), seed)


def shuffle_pieces(samples: np.ndarray, seconds: float, rate: int, seed: int) -> np.ndarray:
    """The same pieces of `seconds` in an order in which none comes behind its own predecessor, with 5 ms fades at the
    joints.

    Parameters
    ----------
    samples : np.ndarray [shape=(..., n)]
        What is left over after the last whole piece is cut off; under three pieces it comes back as it is.
    """
    length, rng = round(seconds * rate), np.random.default_rng([seed, 59])
    count = samples.shape[-1] // length
    if count < 3:
        return samples
    order = rng.permutation(count)
    while (np.diff(order) == 1).any():
        order = rng.permutation(count)
    fade = np.minimum(1.0, np.minimum(np.arange(length), np.arange(length)[::-1]) / (0.005 * rate)).astype(np.float32)
    return np.concatenate([samples[..., place * length : (place + 1) * length] * fade for place in order], axis=-1)


def shuffled(piece: Waveform, seconds: float, seed: int) -> Waveform:
    """A piece cut into pieces of `seconds` and shuffled."""
    return Waveform(shuffle_pieces(piece.samples, seconds, piece.sample_rate, seed), piece.sample_rate)


_MODES = {0: (0, 2, 4, 7, 9), 1: (0, 3, 5, 7, 10), 2: (0, 2, 4, 5, 7, 9, 11), 3: (0, 2, 3, 5, 7, 8, 10)}


def _time(seconds: float) -> np.ndarray:
    return np.arange(max(1, round(seconds * SAMPLE_RATE))) / SAMPLE_RATE


def _hz(midi: float) -> float:
    return float(440.0 * 2.0 ** ((midi - 69.0) / 12.0))


def plucked(midi: float, seconds: float, brightness: float) -> np.ndarray:
    """A string: high partials die first."""
    time, partials = _time(seconds), np.arange(1, 1 + min(20, int(9000 / _hz(midi))))
    decay = 1.2 / (1.0 + (1.6 - brightness) * 0.25 * partials)
    waves = np.sin(2 * np.pi * _hz(midi) * partials[:, None] * time) * np.exp(-time / decay[:, None])
    return np.asarray(partials**-1.1 @ waves)


def struck(midi: float, seconds: float, brightness: float) -> np.ndarray:
    """A bar or bell: inharmonic partials."""
    time = _time(seconds)
    ratios = np.array([1.0, 2.76, 5.40, 8.93])
    ratios = ratios[ratios * _hz(midi) < 9000]
    weights = (0.5 + 0.5 * brightness) ** np.arange(len(ratios))
    return np.asarray(
        weights @ (np.sin(2 * np.pi * _hz(midi) * ratios[:, None] * time) * np.exp(-time * ratios[:, None] * 1.5))
    )


def _sung(midi: float, seconds: float, brightness: float) -> np.ndarray:
    """A voice: vibrato through two formants, which do not move with the pitch."""
    time = _time(seconds)
    phase = 2 * np.pi * _hz(midi) * (time + 0.0016 * np.sin(2 * np.pi * 5.3 * time) / (2 * np.pi * 5.3) * 8)
    partials = np.arange(1, 1 + min(24, int(9000 / _hz(midi))))
    centres = np.array([[500.0 + 300.0 * brightness], [1200.0 + 1300.0 * brightness]])
    weights = np.exp(-0.5 * (np.log2(partials * _hz(midi) / centres) / 0.35) ** 2).sum(axis=0) + 0.02
    attack = np.minimum(1.0, time / 0.06) * np.minimum(1.0, (time[-1] - time) / 0.05 + 1e-3)
    return np.asarray((weights / partials**0.5) @ np.sin(partials[:, None] * phase)) * attack


def modulated(midi: float, seconds: float, brightness: float) -> np.ndarray:
    """Frequency modulation with a falling index (Chowning 1973)."""
    time = _time(seconds)
    index = (1.0 + 5.0 * brightness) * np.exp(-time * 2.0)
    carrier = 2 * np.pi * _hz(midi) * time
    return np.sin(carrier + index * np.sin(1.41 * carrier)) * np.exp(-time * 1.2)


def _brassy(midi: float, seconds: float, brightness: float) -> np.ndarray:
    """A wind instrument: the louder, the brighter."""
    time = _time(seconds)
    swell = np.minimum(1.0, time / 0.09) * np.minimum(1.0, (time[-1] - time) / 0.06 + 1e-3)
    partials = np.arange(1, 1 + min(16, int(9000 / _hz(midi))))
    rolloff = np.exp(-partials[:, None] * (0.9 - 0.6 * brightness) * (1.7 - swell))
    return np.asarray((rolloff * np.sin(2 * np.pi * _hz(midi) * partials[:, None] * time)).sum(axis=0)) * swell


def _beaten(midi: float, seconds: float, brightness: float) -> np.ndarray:
    """A drum: a short burst of band-passed noise; `midi` sets the band."""
    time = _time(seconds)
    noise = np.random.default_rng(int(midi) * 7 + int(brightness * 100)).standard_normal(len(time))
    low = 80.0 * 2.0 ** ((midi - 40.0) / 8.0)
    edges = np.clip([low, low * (2.0 + 4.0 * brightness)], 40.0, 10_500.0)
    sections = scipy.signal.butter(2, edges, "bandpass", fs=SAMPLE_RATE, output="sos")
    return np.asarray(scipy.signal.sosfilt(sections, noise)) * np.exp(-time * (18.0 - 10.0 * brightness))


Instrument = Callable[[float, float, float], np.ndarray]
INSTRUMENTS: dict[str, Instrument] = {
    "plucked": plucked, "struck": struck, "sung": _sung, "modulated": modulated, "brassy": _brassy, "beaten": _beaten,
}  # fmt: skip
"""Name -> function of (MIDI pitch, seconds, brightness 0-1): samples of any level."""

_PITCHED = tuple(name for name in INSTRUMENTS if name != "beaten")


@lru_cache(maxsize=256)
def note(instrument: str, midi: int, seconds: float, brightness: float) -> np.ndarray:
    """One note of unit RMS, [shape=(n,), float32], with a release of at most 20 ms."""
    samples = INSTRUMENTS[instrument](midi, seconds, brightness)
    release = min(len(samples) // 4, SAMPLE_RATE // 50)
    if release:
        samples[-release:] *= np.linspace(1.0, 0.0, release)
    return np.asarray(samples / max(1e-9, float(np.sqrt(np.mean(samples**2)))), dtype=np.float32)


def place(out: np.ndarray, start: float, samples: np.ndarray, gain: float = 1.0) -> None:
    """Adds a note at `start` seconds; what would lie beyond the end is cut."""
    first = round(start * SAMPLE_RATE)
    part = samples[: max(0, len(out) - first)]
    out[first : first + len(part)] += np.float32(gain) * part


def band(seconds: float, seed: int, *, tempo: float | None = None, players: int | None = None) -> np.ndarray:
    """`seconds` of one texture: two instruments, chords and a melody, often drums; unit RMS, [shape=(n,), float32].

    Tempo (beats a minute), key, mode, instruments, registers and rhythm follow from `seed`; beats do not divide any
    frame grid. With `players`, a second seed, tempo, key, mode and instruments follow from that one: several tunes by
    one band.
    """
    rng = np.random.default_rng([seed, 31])
    band_rng = rng if players is None else np.random.default_rng([players, 37])
    beat = 60.0 / (float(band_rng.uniform(57.0, 171.0)) if tempo is None else tempo)
    mode, root = _MODES[int(band_rng.integers(4))], int(band_rng.integers(36, 60))
    lead, backing = (str(name) for name in band_rng.choice(_PITCHED, 2, replace=False))
    bright = band_rng.uniform(0.0, 1.0, 3).round(2)
    out = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    bar, octave = int(rng.choice([3, 4, 5])), 12 * int(rng.integers(1, 3))
    drums = rng.random(2 * bar) < 0.45 if rng.random() < 0.6 else np.zeros(2 * bar, bool)
    for index in range(int(seconds / beat) + 1):
        start = index * beat
        if index % bar == 0:
            degree = int(rng.integers(len(mode)))
            for step in (0, 2, 4):
                pitch = root + mode[(degree + step) % len(mode)] + 12 * ((degree + step) // len(mode))
                place(out, start, note(backing, pitch, round(bar * beat, 4), float(bright[0])), 0.5)
        for half in (0.0, 0.5):
            if rng.random() < 0.6:
                pitch = root + octave + mode[int(rng.integers(len(mode)))]
                place(out, start + half * beat, note(lead, pitch, round(0.7 * beat, 4), float(bright[1])), 0.8)
            if drums[(2 * index + int(2 * half)) % (2 * bar)]:
                place(out, start + half * beat, note("beaten", 40 + 12 * int(half * 2), 0.2, float(bright[2])), 0.5)
    return out / max(1e-9, float(np.sqrt(np.mean(out**2))))
