"""Instruments unlike one another, for synthetic pieces that no single kind of sound can stand for.

`synthetic` varies one additive tone. Here are six ways of making sound (plucked, struck, sung, frequency-modulated,
brassy, percussive noise) and a band that plays them in any tempo, with onsets that fall between the frames of an
analysis. All functions are pure functions of their arguments; the sample rate is 22.05 kHz.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import scipy.signal

from eisbach.studies.ground_truth.synthetic import SAMPLE_RATE

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


def sung(midi: float, seconds: float, brightness: float) -> np.ndarray:
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


def brassy(midi: float, seconds: float, brightness: float) -> np.ndarray:
    """A wind instrument: the louder, the brighter."""
    time = _time(seconds)
    swell = np.minimum(1.0, time / 0.09) * np.minimum(1.0, (time[-1] - time) / 0.06 + 1e-3)
    partials = np.arange(1, 1 + min(16, int(9000 / _hz(midi))))
    rolloff = np.exp(-partials[:, None] * (0.9 - 0.6 * brightness) * (1.7 - swell))
    return np.asarray((rolloff * np.sin(2 * np.pi * _hz(midi) * partials[:, None] * time)).sum(axis=0)) * swell


def beaten(midi: float, seconds: float, brightness: float) -> np.ndarray:
    """A drum: a short burst of band-passed noise; `midi` sets the band."""
    time = _time(seconds)
    noise = np.random.default_rng(int(midi) * 7 + int(brightness * 100)).standard_normal(len(time))
    low = 80.0 * 2.0 ** ((midi - 40.0) / 8.0)
    edges = np.clip([low, low * (2.0 + 4.0 * brightness)], 40.0, 10_500.0)
    sections = scipy.signal.butter(2, edges, "bandpass", fs=SAMPLE_RATE, output="sos")
    return np.asarray(scipy.signal.sosfilt(sections, noise)) * np.exp(-time * (18.0 - 10.0 * brightness))


Instrument = Callable[[float, float, float], np.ndarray]
INSTRUMENTS: dict[str, Instrument] = {
    "plucked": plucked, "struck": struck, "sung": sung, "modulated": modulated, "brassy": brassy, "beaten": beaten,
}  # fmt: skip
"""Name -> function of (MIDI pitch, seconds, brightness 0-1): samples of any level."""

PITCHED = tuple(name for name in INSTRUMENTS if name != "beaten")


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
    lead, backing = (str(name) for name in band_rng.choice(PITCHED, 2, replace=False))
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
