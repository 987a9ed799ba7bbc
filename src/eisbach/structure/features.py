"""The front end of every structure metric: one recording in, a few small matrices out.

Mono, 22.05 kHz, silence trimmed at both ends; STFT 1024, hop 441 (exactly 50 frames a second), 64 Slaney mels from
30 Hz to 10 kHz, in dB below the clip's maximum and floored at -80 (so everything is invariant to gain). From these:

- *texture*, 2 a second: 16 bands (means of 4 neighbouring mels), their mean and standard deviation over 2 s: 32 dims;
- *chroma*, 4 a second: 12 pitch classes from an 8192-point transform (2.7 Hz bins), 65 Hz to 2.1 kHz;
- *tune*, 2 a second: pitch classes of the same transform by semitones that fit the piece's tuning, higher ones
  weighing more than lower ones, smoothed over 0.3 s: less what plays and more what is played than chroma is;
- *contrast*, 8 a second: peak over valley of seven octave bands of the same transform;
- *level*: RMS over 0.4 s, hop 0.1 s, dB below the clip's loudest window;
- *loudness*: K-weighted power of 0.1 s, over all channels.

A recording is read in blocks, and nothing at the rate of samples is kept of it: an hour needs what its frames need. It
is read twice (`survey` finds its level, its extent and its faults; the frames follow), from memory where it is short.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from scipy.ndimage import gaussian_filter1d

from eisbach.devices import place
from eisbach.structure.loudness_meter import BLOCKS_PER_SECOND, fade_lift
from eisbach.structure.sources import ArraySource, FileSource, Source
from eisbach.structure.spectra import (
    Bands,
    Contrast,
    FrameStream,
    SpectrumStream,
    chroma_filterbank,
    mel_filterbank,
    pitch_filterbank,
    power_to_db,
)
from eisbach.structure.survey import HOP, SAMPLE_RATE, Survey, survey
from eisbach.types import Waveform

FRAME_RATE = 50.0
"""Mel frames a second."""
TEXTURE_RATE = 2.0
"""Texture frames a second."""
CHROMA_RATE = 4.0
"""Chroma frames a second."""
TUNE_RATE = 2.0
"""Tune frames a second."""
TEXTURE_WINDOW = 2.0
"""Seconds that one texture frame sees."""
MAX_SECONDS = 7200.0
"""Longest stretch that is analysed; the rest of longer audio is left out and flagged."""
FLOOR_DB = 80.0
"""Everything is floored this far below the clip's maximum."""

_N_FFT, _N_MELS, _LOW_HZ, _HIGH_HZ = 1024, 64, 30.0, 10_000.0
_BANDS = 16
_CHROMA_FFT, _CHROMA_OVERSAMPLING = 8192, 2
_LOWEST_PITCH, _HIGHEST_PITCH = 42, 102  # MIDI; a tune's weight rises from 0 to 1 between them
_TREBLE = 1.5  # its power; over other accompaniments and orchestras .5 to 1 and 2 to 2.5 tell fewer tunes apart
_TUNE_SMOOTHING = 0.3  # seconds, standard deviation
_TUNE_BLOCK = 512  # frames taken at once, so that memory does not grow with copies of all
_LEVEL_WINDOW, _LEVEL_HOP = 20, 5  # in blocks of 20 ms: 0.4 s and 0.1 s
_ACTIVE_DB = 40.0  # frames further below the loudest are pauses and tails: their contrast is that of the noise floor


@dataclass(frozen=True)
class Features:
    """What the metrics and the pictures read.

    Attributes
    ----------
    mel_db : np.ndarray [shape=(frames, 64), float32]
        50 frames a second, dB below the clip's maximum, in [-80, 0].
    steady_db : np.ndarray [shape=(frames, 64), float32]
        The same with fades at the clip's ends undone (`fades`); the same array where there are none. `texture` and
        `chroma` are read off it: a fade is no development.
    mel_hz : np.ndarray [shape=(64,)]
        Centre frequencies.
    texture : np.ndarray [shape=(windows, 32), float64]
        16 band means and 16 band standard deviations over 2 s, dB, 2 windows a second; empty under 2 s.
    chroma : np.ndarray [shape=(chroma frames, 12), float32]
        4 frames a second, non-negative, unit maximum over the clip.
    tune : np.ndarray [shape=(tune frames, 12), float32]
        2 frames a second, non-negative, unit maximum over the clip.
    level_db : np.ndarray [shape=(level frames,), float64]
        RMS over 0.4 s, 10 a second, dB below the clip's loudest, in [-80, 0]; empty under 0.4 s.
    duration : float
        Seconds that were analysed, after trimming and capping.
    trimmed_start : float
        Seconds of silence left out before the first frame.
    contrast_db : np.ndarray [shape=(contrast frames, 7), float32]
        8 frames a second: peak over valley of the bands of `spectra.octave_contrast`, dB; NaN where the clip pauses.
    spectrum : np.ndarray [shape=(2049,), float64]
        Long-term power spectrum at 22.05 kHz.
    loudness_blocks : np.ndarray [shape=(blocks,), float64]
        K-weighted mean squares over all channels, 10 a second, between the trimmed ends; see `loudness_meter`.
    """

    mel_db: np.ndarray
    steady_db: np.ndarray
    mel_hz: np.ndarray
    texture: np.ndarray
    chroma: np.ndarray
    tune: np.ndarray
    level_db: np.ndarray
    duration: float
    trimmed_start: float
    contrast_db: np.ndarray
    spectrum: np.ndarray
    loudness_blocks: np.ndarray


_T = TypeVar("_T")
_results: dict[int, dict[str, Any]] = {}  # by id of the features, then by name of the function


def once_per_clip(function: Callable[[Features], _T]) -> Callable[[Features], _T]:
    """A function of features that is evaluated once for each `Features` object; its results must not be changed."""
    name = f"{function.__module__}.{function.__qualname__}"

    @wraps(function)
    def cached(features: Features) -> _T:
        key = id(features)
        if key not in _results:
            _results[key] = {}
            weakref.finalize(features, _results.pop, key, None)  # it may be gone already: `forget`
        stored = _results[key]
        if name not in stored:
            stored[name] = function(features)
        result: _T = stored[name]
        return result

    return cached


def forget(features: Features) -> None:
    """Lets go of what `once_per_clip` keeps of a clip, matrices above all, while the features themselves stay."""
    _results.pop(id(features), None)


@lru_cache(maxsize=1)
def _linear_algebra() -> Any:
    """The BLAS libraries of this process; made once, after numpy's and scipy's are loaded."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def one_thread() -> AbstractContextManager[Any]:
    """A context in which matrix products run on one thread, so that a number never depends on how many there are.

    A product that is split between threads adds in another order and differs in its last digits. The matrices here are
    small: two threads are no faster, and files are what `jobs` divides.
    """
    limit: AbstractContextManager[Any] = _linear_algebra().limit(limits=1, user_api="blas")
    return limit


def source_of(audio: Waveform | str | Path | Source) -> Source:
    """The blocks of a waveform or of a file.

    Raises
    ------
    AudioError
        Empty or non-finite samples; a file that is missing or not audio.
    """
    if isinstance(audio, Waveform):
        return ArraySource(audio)
    return FileSource(audio) if isinstance(audio, str | Path) else audio


def extract_features(audio: Waveform | str | Path | Source, *, device: str | None = None) -> Features:
    """The features of a waveform or of a file (up to `MAX_SECONDS`); a silent one gives features of zero duration.

    Parameters
    ----------
    audio : Waveform, path or Source
        A file is decoded in blocks.
    device : str or None
        A torch device for the transforms (``"cuda"``, or ``"auto"`` for a GPU where there is one); None computes with
        numpy. The results agree to 0.001 dB.

    Raises
    ------
    AudioError
        Empty or non-finite samples; a file that is missing or not audio.
    UserError
        A device that is not there.
    """
    source = source_of(audio)
    return features_of_survey(source, survey(source, MAX_SECONDS), device=device)


def mel_centres() -> np.ndarray:
    """Centre frequencies of the mel bands, Hz [shape=(64,)]."""
    filters = mel_filterbank(SAMPLE_RATE, _N_FFT, _N_MELS, _LOW_HZ, _HIGH_HZ)
    centres: np.ndarray = (filters * np.arange(filters.shape[1]) * (SAMPLE_RATE / _N_FFT)).sum(1) / filters.sum(1)
    return centres


def features_of_survey(source: Source, extent: Survey, *, device: str | None = None) -> Features:
    """The second pass: the features of what `survey` found in a source."""
    filters = mel_filterbank(SAMPLE_RATE, _N_FFT, _N_MELS, _LOW_HZ, _HIGH_HZ)
    mel_hz = mel_centres()
    if extent.silent:
        return _empty(mel_hz)
    torch_device = resolve_device(device)
    mels = FrameStream(_N_FFT, HOP, [Bands(filters)], torch_device)
    chroma_hop = SAMPLE_RATE / (CHROMA_RATE * _CHROMA_OVERSAMPLING)
    classes = Bands(chroma_filterbank(SAMPLE_RATE, _CHROMA_FFT, 65.0, 2100.0), trimmed=True)
    pitches = Bands(pitch_filterbank(SAMPLE_RATE, _CHROMA_FFT, _LOWEST_PITCH, _HIGHEST_PITCH), trimmed=True)
    tones = FrameStream(_CHROMA_FFT, chroma_hop, [classes, Contrast(SAMPLE_RATE, _CHROMA_FFT), pitches], torch_device)
    spectrum, level = SpectrumStream(), _Level()
    for chunk in extent.mono(source):
        for stream in (mels, tones, spectrum, level):
            stream.push(chunk)  # type: ignore[attr-defined]
    power, columns = mels.finish(), tones.finish()
    mel_db = steady_db = power_to_db(power, FLOOR_DB)
    lift = fade_lift(power.mean(axis=1), FRAME_RATE)
    if lift is not None:
        steady_db = power_to_db(power * (10.0 ** (lift / 10.0)).astype(np.float32)[:, None], FLOOR_DB)
        moments = np.arange(len(columns)) * (FRAME_RATE / (CHROMA_RATE * _CHROMA_OVERSAMPLING))
        columns *= (10.0 ** (np.interp(moments, np.arange(len(lift)), lift) / 10.0)).astype(np.float32)[:, None]
    return Features(
        mel_db=mel_db,
        steady_db=steady_db,
        mel_hz=mel_hz,
        texture=texture_frames(steady_db),
        chroma=_chroma(columns[:, :12]),
        tune=_tune(columns[:, 26:]),
        level_db=level.finish(),
        duration=(extent.last - extent.first) / SAMPLE_RATE,
        trimmed_start=extent.first / SAMPLE_RATE,
        contrast_db=_contrast(columns[:, 12:26]),
        spectrum=spectrum.finish(),
        loudness_blocks=extent.loudness_blocks[
            extent.first * BLOCKS_PER_SECOND // SAMPLE_RATE : -(-extent.last * BLOCKS_PER_SECOND // SAMPLE_RATE)
        ],
    )


def resolve_device(device: str | None) -> str | None:
    """The torch device to compute on: ``"auto"`` is a GPU where there is one and numpy elsewhere.

    Raises
    ------
    UserError
        A device that is not on this machine.
    """
    if device is None:
        return None
    chosen = str(place(device).device)
    return None if device == "auto" and chosen == "cpu" else chosen


def _empty(mel_hz: np.ndarray) -> Features:
    def none(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    return Features(
        none(0, _N_MELS), none(0, _N_MELS), mel_hz, np.zeros((0, 2 * _BANDS)), none(0, 12), none(0, 12), np.zeros(0),
        0.0, 0.0,
        none(0, 7), np.zeros(2049), np.zeros(0),
    )  # fmt: skip


def texture_frames(mel_db: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of 16 bands over 2 s, every 0.5 s, [shape=(windows, 32)]."""
    window, hop = int(TEXTURE_WINDOW * FRAME_RATE), int(FRAME_RATE / TEXTURE_RATE)
    if len(mel_db) < window:
        return np.zeros((0, 2 * _BANDS))
    bands = mel_db.reshape(len(mel_db), _BANDS, -1).mean(axis=2, dtype=np.float64)
    sums, squares = np.zeros((2, len(bands) + 1, _BANDS))
    np.cumsum(bands, axis=0, out=sums[1:])
    np.cumsum(np.square(bands, out=bands), axis=0, out=squares[1:])
    starts = np.arange(0, len(mel_db) - window + 1, hop)
    mean = (sums[starts + window] - sums[starts]) / window
    variance = (squares[starts + window] - squares[starts]) / window - mean**2
    return np.concatenate([mean, np.sqrt(np.maximum(variance, 0.0))], axis=1)


def texture_statistics(features: Features) -> np.ndarray | None:
    """Mean and standard deviation over time of the texture, dB, [shape=(64,)]; None for less than 2 s of sound."""
    if len(features.texture) == 0:
        return None
    return np.concatenate([features.texture.mean(axis=0), features.texture.std(axis=0)])


def _chroma(energy: np.ndarray) -> np.ndarray:
    """Square-root-compressed pitch-class energy, 4 a second, each the mean of two transforms."""
    classes = np.sqrt(energy)
    whole = len(classes) // _CHROMA_OVERSAMPLING
    if whole == 0:
        return np.zeros((0, 12), np.float32)
    pooled = classes[: whole * _CHROMA_OVERSAMPLING].reshape(whole, _CHROMA_OVERSAMPLING, 12).mean(axis=1)
    top = float(pooled.max())
    return pooled / top if top > 0 else pooled


def _tune(energy: np.ndarray) -> np.ndarray:
    """Pitch classes in which a tune is heard, 2 a second, from thirds of semitones [shape=(frames, 3 * pitches)].

    What tells one tune from another lies above its accompaniment, and what tells one orchestra from another is how
    strong each pitch is: hence the square root and the rising weight. Overtones add the same classes to every tone.
    """
    rate = round(CHROMA_RATE * _CHROMA_OVERSAMPLING)
    whole = len(energy) // (rate // round(TUNE_RATE))
    if whole == 0:
        return np.zeros((0, 12), np.float32)
    blocks = [slice(start, start + _TUNE_BLOCK) for start in range(0, len(energy), _TUNE_BLOCK)]
    # the third of a semitone on which the piece's tones lie
    tones = np.sum([np.sqrt(energy[block]).sum(axis=0, dtype=np.float64) for block in blocks], axis=0)
    tuning = int(tones.reshape(-1, 3).sum(axis=0).argmax())
    classes = np.concatenate([_tune_classes(energy[block], tuning) for block in blocks])
    classes = gaussian_filter1d(classes, _TUNE_SMOOTHING * rate, axis=0)
    pooled = classes[: whole * (rate // round(TUNE_RATE))].reshape(whole, -1, 12).mean(axis=1)
    top = float(pooled.max())
    return pooled / top if top > 0 else pooled


def _tune_classes(energy: np.ndarray, tuning: int) -> np.ndarray:
    """Weighted pitch classes of thirds of semitones, [shape=(frames, 12)]."""
    padded = np.pad(energy, ((0, 0), (1, 1)))
    semitones = np.sqrt(energy + 0.5 * (padded[:, :-2] + padded[:, 2:]))[:, tuning::3]
    weight = np.linspace(0.0, 1.0, semitones.shape[1], dtype=np.float32) ** _TREBLE
    octaves = -(-semitones.shape[1] // 12)
    padded = np.pad(semitones * weight, ((0, 0), (0, 12 * octaves - semitones.shape[1])))
    return np.roll(padded.reshape(len(energy), octaves, 12).sum(axis=1), _LOWEST_PITCH % 12, axis=1)


def _contrast(columns: np.ndarray) -> np.ndarray:
    """Peak over valley in dB, both floored 80 dB below the clip's highest peak; NaN where a frame is not active."""
    peaks, valleys = np.split(columns, 2, axis=1)
    top = float(peaks.max())
    if top <= 0.0:
        return np.full(peaks.shape, np.nan, dtype=np.float32)
    floor = top * 10.0 ** (-FLOOR_DB / 10.0)
    contrast = 10.0 * np.log10(np.maximum(peaks, floor) / np.maximum(valleys, floor))
    contrast[peaks.max(axis=1) < top * 10.0 ** (-_ACTIVE_DB / 10.0)] = np.nan
    return contrast.astype(np.float32)


class _Level:
    """RMS level over 0.4 s, from energies of 20 ms."""

    def __init__(self) -> None:
        self._held = np.zeros(0, np.float32)
        self._energy: list[np.ndarray] = []

    def push(self, samples: np.ndarray) -> None:
        joined = np.concatenate([self._held, samples]) if len(self._held) else samples
        whole = len(joined) // HOP
        blocks = joined[: whole * HOP].reshape(whole, HOP)
        self._energy.append(np.einsum("ij,ij->i", blocks, blocks, dtype=np.float64))
        self._held = joined[whole * HOP :]

    def finish(self) -> np.ndarray:
        """dB below the clip's loudest, [shape=(level frames,)]."""
        energy = np.concatenate(self._energy)
        if len(energy) < _LEVEL_WINDOW:
            return np.zeros(0)
        windows = np.lib.stride_tricks.sliding_window_view(energy, _LEVEL_WINDOW)[::_LEVEL_HOP].sum(axis=1)
        return power_to_db(windows, FLOOR_DB).astype(np.float64)
