"""The ladders once more, over other sounds: instruments unlike one another, any tempo, any length, periods off the
frame grid.

`synthetic` is what the metrics were made with; these pieces, played by `synthetic_sounds.band`, are what they are
checked with.
"""

from __future__ import annotations

import numpy as np
import scipy.signal

from eisbach.studies.ground_truth.synthetic import SAMPLE_RATE
from eisbach.studies.ground_truth.synthetic_sounds import INSTRUMENTS, band, note, place
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


def length_of(seed: int, least: float, most: float) -> float:
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
    music = _levelled(band(length_of(seed, 31.0, 47.0), seed + 700))
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
    duration = length_of(seed, 21.0, 33.0)
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
    tempo = length_of(seed, 40.0, 120.0) if tempo is None else tempo
    count = int(np.ceil(duration / block_seconds))
    parts = [band(block_seconds, seed * 113 + index, tempo=tempo) for index in range(count)]
    return finish(np.concatenate(parts)[: round(duration * SAMPLE_RATE)], seed)


def _voices(seed: int, seconds: float) -> list[np.ndarray]:
    """Two bars of different bands, one below and one above 1.1 kHz, each repeated: what moves is only their balance."""
    voices = []
    for index, kind in enumerate(("lowpass", "highpass")):
        bar = band(length_of(seed + index, 2.1, 4.3), seed * 109 + 300 + index)
        sections = scipy.signal.butter(6, 1100.0, kind, fs=SAMPLE_RATE, output="sos")
        filtered = scipy.signal.sosfilt(sections, np.tile(bar, 2))[len(bar) :]  # the second round has no transient
        filtered = filtered / np.sqrt(np.mean(filtered**2))
        count = round(seconds * SAMPLE_RATE)
        voices.append(np.tile(filtered, -(-count // len(bar)))[:count].astype(np.float32))
    return voices


def varied_arc(degrees: float, seed: int) -> Waveform:
    """Two bands whose levels walk along a circle (+-9 dB each): 360 degrees end where they began."""
    first, second = _voices(seed, length_of(seed, 43.0, 61.0))
    angle = np.linspace(0.0, np.deg2rad(degrees), len(first)) + 0.7 * seed
    gains = [10.0 ** (9.0 * wave(angle) / 20.0) for wave in (np.cos, np.sin)]
    return finish((first * gains[0] + second * gains[1]).astype(np.float32), seed)


def varied_circle(radius_db: float, seed: int) -> Waveform:
    """Two bands whose levels walk along a full circle of `radius_db`."""
    first, second = _voices(seed, length_of(seed, 43.0, 61.0))
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
    """The same pieces of `seconds` in an order in which none comes behind its own predecessor, with 5 ms fades at the joints.

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
