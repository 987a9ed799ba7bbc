"""Flat and shuffled twins of a recording, made of its own sound: what it would be if it stood still, looped, were a
texture, or had lost its order; and the fades, files and hiss through which it must be known again.

All take samples [shape=(channels, n), float32], their rate in Hz and a generator, and give as many samples back
(shuffles: as many whole pieces as there are).

| twin | kind | what it is |
|---|---|---|
| loop 1.5-5 s, 5-12 s | loop | the loudest of six stretches again and again, joined hard or over 10 or 50 ms |
| stretched chord | still | a moment of 0.25 to 1.2 s held by new phases while it glides over at most 1.2 s |
| surrogate | texture | the whole recording with random phases |
| grains | texture | grains of 60 to 400 ms from anywhere in 2 to 16 s of it |
| noise | texture | noise of its spectrum; the level of both halves wanders by up to 6 dB |
| shuffle 1-3 s, 3-5 s, 8 s | shuffled | pieces of equal or of random length, none behind its own predecessor |
"""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import scipy.signal

from eisbach.audio import resample, write_blocks
from eisbach.structure.energy import phase_randomise
from eisbach.types import Waveform

Maker = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def _loudest(samples: np.ndarray, length: int, starts: np.ndarray) -> int:
    """Of the starts, that of the stretch with the most energy."""
    return int(max(starts, key=lambda start: float(np.square(samples[:, start : start + length]).sum())))


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Log-uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def looped(samples: np.ndarray, rate: int, period: float, fade: float, rng: np.random.Generator) -> np.ndarray:
    """A stretch of `period` seconds tiled, cross-faded over `fade` seconds."""
    overlap = int(fade * rate)
    length = min(int(period * rate), samples.shape[1] - overlap - 1)
    start = _loudest(samples, length, rng.integers(0, samples.shape[1] - length - overlap, 6))
    cycle = samples[:, start : start + length + overlap].copy()
    if overlap:
        ramp = np.linspace(0.0, 1.0, overlap, dtype=np.float32)
        cycle[:, :overlap] = cycle[:, :overlap] * ramp + cycle[:, length:] * ramp[::-1]
    return np.tile(cycle[:, :length], -(-samples.shape[1] // length))[:, : samples.shape[1]]


def _loop(low: float, high: float) -> Maker:
    def make(samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
        period = _between(rng, low, high)
        return looped(samples, rate, period, float(rng.choice([0.0, 0.01, 0.05])), rng)

    return make


def stretched_chord(samples: np.ndarray, rate: int, rng: np.random.Generator, most_glide: float = 1.2) -> np.ndarray:
    """One moment held (as Paulstretch holds it): overlapping windows with random phases, over at most `most_glide`
    seconds of the sound."""
    window = int(_between(rng, 0.25, 1.2) * rate)
    window -= window % 2
    glide = float(rng.uniform(0.0, most_glide)) * rate
    first = _loudest(samples, window, rng.integers(0, int(samples.shape[1] - window - glide - 1), 8))
    shape, total = np.hanning(window + 1)[:-1], samples.shape[1]
    out = np.zeros((samples.shape[0], total + 2 * window))
    for place in range(0, total + window, window // 4):
        start = int(first + glide * place / (total + window))
        spectrum = np.fft.rfft(samples[:, start : start + window] * shape, axis=1)
        spectrum = np.abs(spectrum) * np.exp(2j * np.pi * rng.random(spectrum.shape[1]))
        out[:, place : place + window] += np.fft.irfft(spectrum, window, axis=1) * shape
    return out[:, window : window + total].astype(np.float32)


def _surrogate(samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    return phase_randomise(Waveform(samples, rate), int(rng.integers(1 << 30))).samples


def grains(samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """A cloud of overlapping grains, all from one stretch."""
    stretch = int(_between(rng, 2.0, 16.0) * rate)
    size = int(float(rng.uniform(0.06, 0.4)) * rate)
    first = _loudest(samples, stretch, rng.integers(0, max(1, samples.shape[1] - stretch), 6))
    shape = np.hanning(size).astype(np.float32)
    out = np.zeros((samples.shape[0], samples.shape[1] + size), np.float32)
    for place in range(0, samples.shape[1], size // 4):
        start = first + int(rng.integers(0, max(1, stretch - size)))
        grain = samples[:, start : start + size]
        out[:, place : place + grain.shape[1]] += grain * shape[: grain.shape[1]]
    return out[:, : samples.shape[1]]


def noise(samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Mono noise of the recording's spectrum (smoothed over 60 Hz); the levels of both halves of its power wander."""
    total = samples.shape[1]
    power = np.square(np.abs(np.fft.rfft(samples.astype(np.float64), axis=1))).mean(axis=0)
    kernel = np.hanning(int(total / rate * 60) | 1)
    power = np.maximum(scipy.signal.fftconvolve(power, kernel / kernel.sum(), mode="same"), 0.0)
    spectrum = np.sqrt(power) * np.exp(2j * np.pi * rng.random(power.shape))
    memory, depth = _between(rng, 0.2, 2.0), float(rng.uniform(0.0, 6.0))  # seconds, dB
    middle = int(np.searchsorted(power.cumsum(), power.sum() / 2))
    out = np.zeros(total)
    for part in (slice(0, middle), slice(middle, None)):
        band = np.zeros_like(spectrum)
        band[part] = spectrum[part]
        steps = int(total / rate * 20) + 2
        keep, pushes = np.exp(-1.0 / (20.0 * memory)), rng.standard_normal(steps)
        pushes[0] = 0.0
        level = scipy.signal.lfilter([np.sqrt(1.0 - keep**2)], [1.0, -keep], pushes)
        gain = np.interp(np.arange(total) / rate, np.arange(steps) / 20.0, depth * level)
        out += np.fft.irfft(band, total) * 10 ** (gain / 20.0)
    return out[None].astype(np.float32)


def _shuffled_pieces(
    samples: np.ndarray, rate: int, shortest: float, longest: float, rng: np.random.Generator
) -> np.ndarray:
    """Pieces of `shortest` to `longest` seconds in an order in which none comes behind its own predecessor; fades of 2,
    5 or 20 ms."""
    ends, time = [], 0.0
    while time < samples.shape[1] / rate:
        time += rng.uniform(shortest, longest)
        ends.append(int(time * rate))
    bounds = [0, *[end for end in ends if end < samples.shape[1] - rate // 2], samples.shape[1]]
    pieces = [samples[:, first:last].copy() for first, last in pairwise(bounds)]
    order = rng.permutation(len(pieces))
    while len(pieces) >= 4 and (np.diff(order) == 1).any():
        order = rng.permutation(len(pieces))
    fade = int(float(rng.choice([0.002, 0.005, 0.02])) * rate)
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    for piece in pieces:
        piece[:, :fade] *= ramp
        piece[:, -fade:] *= ramp[::-1]
    return np.concatenate([pieces[place] for place in order], axis=1)


def _shuffle(shortest: float, longest: float, equal: float) -> Maker:
    def make(samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
        low, high = (shortest, longest) if rng.random() < 0.5 else (equal, equal)
        return _shuffled_pieces(samples, rate, low, high, rng)

    return make


TWINS: dict[str, tuple[str, Maker]] = {
    "loop 1.5-5 s": ("loop", _loop(1.5, 5.0)),
    "loop 5-12 s": ("loop", _loop(5.0, 12.0)),
    "stretched chord": ("still", stretched_chord),
    "surrogate": ("texture", _surrogate),
    "grains": ("texture", grains),
    "noise": ("texture", noise),
    "shuffle 1-3 s": ("shuffled", _shuffle(1.0, 3.0, 2.0)),
    "shuffle 3-5 s": ("shuffled", _shuffle(3.0, 5.0, 4.0)),
    "shuffle 8 s": ("shuffled", _shuffle(8.0, 8.0, 8.0)),
}
"""Name → kind and maker."""


def through_file(waveform: Waveform, form: str, subtype: str, rate: int | None = None) -> Waveform:
    """A waveform written as `form` (at `rate` Hz where it is given), and read again."""
    import soundfile as sf

    sent = waveform if rate is None else resample(waveform, rate)
    buffer = io.BytesIO()
    peak = max(1.0, float(np.abs(sent.samples).max()) / 0.95)  # lossy decoders overshoot
    write_blocks(buffer, (sent.samples / peak).astype(np.float32), int(sent.sample_rate), format=form, subtype=subtype)
    buffer.seek(0)
    data, rate = sf.read(buffer, dtype="float32", always_2d=True)
    return Waveform(np.ascontiguousarray(data.T), int(rate))


def with_hiss(waveform: Waveform, decibels: float, rng: np.random.Generator) -> Waveform:
    """White noise `decibels` (negative) about the clip's RMS level added."""
    level = float(np.sqrt(np.mean(np.square(waveform.samples)))) * 10 ** (decibels / 20)
    hiss = np.float32(level) * rng.standard_normal(waveform.samples.shape, dtype=np.float32)
    return Waveform((waveform.samples + hiss).astype(np.float32), waveform.sample_rate)


def fade_gain(seconds: float, rate: float, rise: float, fall: float, shape: str) -> np.ndarray:
    """Gain of a fade in over `rise` and out over `fall` seconds, [shape=(n,)]: linear, cosine or exponential (60
    dB)."""
    time = np.arange(round(seconds * rate)) / rate
    gain = np.ones(len(time))
    for length, distance in ((rise, time), (fall, time[-1] - time)):
        ramp = np.clip(distance / length, 0.0, 1.0) if length else np.ones(len(time))
        if shape == "cosine":
            gain *= np.sin(np.pi / 2 * ramp) ** 2
        elif shape == "exponential":
            gain *= 10 ** (3.0 * (ramp - 1.0))
        else:
            gain *= ramp
    return gain
