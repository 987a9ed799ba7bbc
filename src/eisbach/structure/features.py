"""The front end of every structure metric: one waveform in, a few small matrices out.

Mono, 22.05 kHz, silence trimmed at both ends; STFT 1024, hop 441 (exactly 50 frames a second), 64 Slaney mels from
30 Hz to 10 kHz, in dB below the clip's maximum and floored at -80 (so everything is invariant to gain). From these:

- *texture*, 2 a second: 16 bands (means of 4 neighbouring mels), their mean and standard deviation over 2 s: 32 dims;
- *chroma*, 4 a second: 12 pitch classes from an 8192-point transform (2.7 Hz bins), 65 Hz to 2.1 kHz;
- *level*: RMS over 0.4 s, hop 0.1 s, dB below the clip's loudest window.

Long audio: only the first `MAX_SECONDS` are analysed, and the clip is flagged ``capped``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eisbach.audio import check_samples, resample, to_mono
from eisbach.structure.spectra import chroma_filterbank, mel_filterbank, power_bands, power_to_db
from eisbach.types import Waveform

SAMPLE_RATE = 22050
"""Hz; everything is analysed at this rate."""
FRAME_RATE = 50.0
"""Mel frames a second."""
TEXTURE_RATE = 2.0
"""Texture frames a second."""
CHROMA_RATE = 4.0
"""Chroma frames a second."""
LEVEL_RATE = 10.0
"""Level frames a second."""
TEXTURE_WINDOW = 2.0
"""Seconds that one texture frame sees."""
MAX_SECONDS = 600.0
"""Longest stretch that is analysed; the rest of longer audio is left out and flagged."""
FLOOR_DB = 80.0
"""Everything is floored this far below the clip's maximum."""

_N_FFT, _HOP, _N_MELS, _LOW_HZ, _HIGH_HZ = 1024, 441, 64, 30.0, 10_000.0
_BANDS = 16
_CHROMA_FFT, _CHROMA_OVERSAMPLING = 8192, 2
_TRIM_DB = 65.0  # ends quieter than this below the loudest 20 ms are silence; a 60 dB crescendo keeps its start
_SILENCE_PEAK = 10 ** (-80 / 20)


@dataclass(frozen=True)
class Features:
    """What the metrics and the pictures read.

    Attributes
    ----------
    mel_db : np.ndarray [shape=(frames, 64), float32]
        50 frames a second, dB below the clip's maximum, in [-80, 0].
    mel_hz : np.ndarray [shape=(64,)]
        Centre frequencies.
    texture : np.ndarray [shape=(windows, 32), float64]
        16 band means and 16 band standard deviations over 2 s, dB, 2 windows a second; empty under 2 s.
    chroma : np.ndarray [shape=(chroma frames, 12), float32]
        4 frames a second, non-negative, unit maximum over the clip.
    level_db : np.ndarray [shape=(level frames,), float64]
        RMS over 0.4 s, 10 a second, dB below the clip's loudest, in [-80, 0]; empty under 0.4 s.
    duration : float
        Seconds that were analysed, after trimming and capping.
    trimmed_start : float
        Seconds of silence left out before the first frame.
    samples : np.ndarray [shape=(n,), float32]
        The analysed mono audio at 22.05 kHz (trimmed, capped, unscaled).
    """

    mel_db: np.ndarray
    mel_hz: np.ndarray
    texture: np.ndarray
    chroma: np.ndarray
    level_db: np.ndarray
    duration: float
    trimmed_start: float
    samples: np.ndarray


def extract_features(waveform: Waveform) -> Features:
    """The features of a waveform; a silent one gives features of zero duration.

    Raises
    ------
    AudioError
        Empty or non-finite samples.
    """
    check_samples(waveform.samples, "the waveform", allow_silent=True)
    samples, start = _prepare(waveform)
    filters = mel_filterbank(SAMPLE_RATE, _N_FFT, _N_MELS, _LOW_HZ, _HIGH_HZ)
    mel_hz = (filters * np.arange(filters.shape[1]) * (SAMPLE_RATE / _N_FFT)).sum(1) / filters.sum(1)
    if len(samples) == 0:
        empty = np.zeros(0)
        return Features(
            np.zeros((0, _N_MELS), np.float32), mel_hz, np.zeros((0, 2 * _BANDS)), np.zeros((0, 12), np.float32),
            empty, 0.0, start, np.zeros(0, np.float32),
        )  # fmt: skip
    mel_db = power_to_db(power_bands(samples, _N_FFT, _HOP, filters), FLOOR_DB)
    return Features(
        mel_db=mel_db,
        mel_hz=mel_hz,
        texture=texture_frames(mel_db),
        chroma=_chroma(samples),
        level_db=_level(samples),
        duration=len(samples) / SAMPLE_RATE,
        trimmed_start=start,
        samples=samples,
    )


def _prepare(waveform: Waveform) -> tuple[np.ndarray, float]:
    """Mono, 22.05 kHz, capped, trimmed: samples and the seconds trimmed off the start."""
    kept = waveform.samples[:, : int(MAX_SECONDS * waveform.sample_rate)]
    samples = resample(to_mono(Waveform(kept, waveform.sample_rate)), SAMPLE_RATE).samples[0]
    if len(samples) == 0 or float(np.abs(samples).max()) < _SILENCE_PEAK:
        return samples[:0], 0.0
    count = -(-len(samples) // _HOP)
    blocks = np.pad(samples, (0, count * _HOP - len(samples))).reshape(count, _HOP)
    energy = np.einsum("ij,ij->i", blocks, blocks, dtype=np.float64)
    loud = np.flatnonzero(energy > energy.max() * 10 ** (-_TRIM_DB / 10))
    first, last = loud[0] * _HOP, (loud[-1] + 1) * _HOP
    return np.ascontiguousarray(samples[first:last]), first / SAMPLE_RATE


def texture_frames(mel_db: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of 16 bands over 2 s, every 0.5 s, [shape=(windows, 32)]."""
    window, hop = int(TEXTURE_WINDOW * FRAME_RATE), int(FRAME_RATE / TEXTURE_RATE)
    if len(mel_db) < window:
        return np.zeros((0, 2 * _BANDS))
    bands = mel_db.astype(np.float64).reshape(len(mel_db), _BANDS, -1).mean(axis=2)
    sums = np.concatenate([np.zeros((1, _BANDS)), bands.cumsum(axis=0)])
    squares = np.concatenate([np.zeros((1, _BANDS)), (bands**2).cumsum(axis=0)])
    starts = np.arange(0, len(bands) - window + 1, hop)
    mean = (sums[starts + window] - sums[starts]) / window
    variance = (squares[starts + window] - squares[starts]) / window - mean**2
    return np.concatenate([mean, np.sqrt(np.maximum(variance, 0.0))], axis=1)


def texture_statistics(features: Features) -> np.ndarray | None:
    """Mean and standard deviation over time of the texture, dB, [shape=(64,)]; None for less than 2 s of sound."""
    if len(features.texture) == 0:
        return None
    return np.concatenate([features.texture.mean(axis=0), features.texture.std(axis=0)])


def _chroma(samples: np.ndarray) -> np.ndarray:
    """Square-root-compressed pitch-class energy, 4 a second, each the mean of two transforms."""
    filters = chroma_filterbank(SAMPLE_RATE, _CHROMA_FFT, 65.0, 2100.0)
    hop = SAMPLE_RATE / (CHROMA_RATE * _CHROMA_OVERSAMPLING)
    classes = np.sqrt(power_bands(samples, _CHROMA_FFT, hop, filters))
    whole = len(classes) // _CHROMA_OVERSAMPLING
    if whole == 0:
        return np.zeros((0, 12), np.float32)
    pooled = classes[: whole * _CHROMA_OVERSAMPLING].reshape(whole, _CHROMA_OVERSAMPLING, 12).mean(axis=1)
    top = float(pooled.max())
    return pooled / top if top > 0 else pooled


def _level(samples: np.ndarray) -> np.ndarray:
    window, hop = int(0.4 * SAMPLE_RATE), int(SAMPLE_RATE / LEVEL_RATE)
    if len(samples) < window:
        return np.zeros(0)
    energy = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    starts = np.arange(0, len(samples) - window + 1, hop)
    power = np.maximum(energy[starts + window] - energy[starts], 0.0)
    return power_to_db(power, FLOOR_DB).astype(np.float64)
