"""Which recordings of a set are one recording in another container, or at another gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eisbach.audio_file import AudioFile
from eisbach.data.audio_facts import AudioFacts
from eisbach.data.audio_folder import Sample
from eisbach.progress import in_threads

_CURVE_POINTS = 64
_SAME_CORRELATION, _SAME_SECONDS, _SAME_HERTZ = 0.9995, 0.1, 0.03


def same_sounding(samples: Sequence[Sample], *, jobs: int = 4, quiet: bool = False) -> list[tuple[str, str]]:
    """The names of samples that sound like one before them, each with that one's name.

    Samples that cannot be read, or have the same bytes as one before them, are passed over.
    """
    first = {sample.audio_hash: sample for sample in reversed(samples) if sample.facts.problem is None}
    heard = [sample for sample in samples if first.get(sample.audio_hash) is sample]

    def listen(sample: Sample) -> _Sound:
        return _listen(sample.name, sample.path, sample.facts)

    with in_threads(heard, listen, jobs=jobs, title="listen", quiet=quiet) as results:
        sounds = [sound for _, sound in results]
    return _twins(sounds)


@dataclass(frozen=True)
class _Sound:
    """What containers, gain and sample rate hardly change: length, level over time, brightness.

    `curve` is the level in dB at 64 points, centred and of unit length, or zero where the level never moves;
    `hertz` is the root mean square frequency.
    """

    name: str
    duration: float
    curve: np.ndarray
    hertz: float


def _listen(name: str, path: Path, facts: AudioFacts) -> _Sound:
    energy, counts, slope = np.zeros(_CURVE_POINTS), np.zeros(_CURVE_POINTS), 0.0
    frames = max(1, round(facts.duration * facts.sample_rate))
    at = 0
    for block in AudioFile(path).blocks():
        mono = block.mean(axis=1, dtype=np.float64)
        place = np.minimum((at + np.arange(len(mono))) * _CURVE_POINTS // frames, _CURVE_POINTS - 1)
        energy += np.bincount(place, np.square(mono), _CURVE_POINTS)
        counts += np.bincount(place, minlength=_CURVE_POINTS)
        slope += float(np.square(np.diff(mono)).sum())
        at += len(mono)
    level = 10 * np.log10(energy / np.maximum(counts, 1) + 1e-10)
    curve = level - level.mean()
    size = float(np.linalg.norm(curve))
    hertz = float(np.sqrt(slope / max(energy.sum(), 1e-12))) * facts.sample_rate / (2 * np.pi)
    return _Sound(name, facts.duration, curve / size if size > 1.0 else np.zeros_like(curve), hertz)


def _twins(sounds: Sequence[_Sound]) -> list[tuple[str, str]]:
    twins: list[tuple[str, str]] = []
    if len(sounds) < 2:
        return twins
    matrix = np.stack([sound.curve for sound in sounds]).astype(np.float32)
    lengths, hertz = (np.array([getattr(sound, name) for sound in sounds]) for name in ("duration", "hertz"))
    for index in range(1, len(sounds)):
        same = (
            (matrix[:index] @ matrix[index] > _SAME_CORRELATION)
            & (np.abs(lengths[:index] - lengths[index]) < _SAME_SECONDS)
            & (np.abs(hertz[:index] - hertz[index]) < _SAME_HERTZ * hertz[index])
        )
        if same.any():
            twins.append((sounds[index].name, sounds[int(np.argmax(same))].name))
    return twins
