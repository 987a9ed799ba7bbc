"""Synthetic pieces whose level, noise and spectral contrast are known by construction; see `synthetic`."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from eisbach.studies.ground_truth.synthetic import SAMPLE_RATE, _two_bands, phrase
from eisbach.types import Waveform


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
