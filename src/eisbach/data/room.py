"""A drawn room around dry sound: early reflections and a diffuse tail whose high notes die first."""

from __future__ import annotations

import numpy as np

from eisbach.types import Waveform

_DRY_SHARE = 0.25  # of the clips
_SECONDS = (0.25, 2.6)  # reverberation time (a fall by 60 dB) at low frequencies
_WET_DB = (-22.0, -4.0)  # level of the reverberation against the dry sound
_REFLECTIONS = 8


def in_room(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """The waveform in a room drawn from `rng`: of equal length, its channels with tails of their own.

    A quarter of the draws stays dry. Reverberation time (log-uniform), its fall towards high frequencies, the delay
    before the tail and the level are drawn.
    """
    from scipy.signal import fftconvolve

    dry = rng.random() < _DRY_SHARE
    seconds = float(np.exp(rng.uniform(*np.log(_SECONDS))))
    wet = 10 ** (float(rng.uniform(*_WET_DB)) / 20)
    if dry:
        return waveform
    response = np.stack([_response(seconds, waveform.sample_rate, rng) for _ in range(waveform.channels)])
    tail = fftconvolve(waveform.samples, response, axes=1)[:, : waveform.samples.shape[1]]
    loudness = [float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) for x in (waveform.samples, tail)]
    gain = wet * loudness[0] / max(loudness[1], 1e-9)
    return Waveform((waveform.samples + gain * tail).astype(np.float32), waveform.sample_rate)


def _response(seconds: float, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """An impulse response without its direct sound [shape=(n,)]."""
    from scipy.signal import butter, sosfilt

    count = round(1.1 * seconds * sample_rate)
    time = np.arange(count) / sample_rate
    noise = rng.standard_normal(count)
    corner = float(np.exp(rng.uniform(np.log(900.0), np.log(4000.0))))
    low = sosfilt(butter(1, corner, fs=sample_rate, output="sos"), noise)
    shorter = float(rng.uniform(0.35, 0.8))
    tail = low * 10 ** (-3 * time / seconds) + (noise - low) * 10 ** (-3 * time / (shorter * seconds))
    start = round(float(rng.uniform(0.005, 0.04)) * sample_rate)
    tail[: min(start, count)] *= 0.1
    early = np.minimum(count - 1, (rng.uniform(0.005, 0.06, _REFLECTIONS) * sample_rate).astype(int))
    tail[early] += rng.choice((-1.0, 1.0), _REFLECTIONS) * rng.uniform(1.0, 5.0, _REFLECTIONS)
    return np.asarray(tail)
