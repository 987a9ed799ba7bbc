"""Synthetic pieces whose sections and repeats are known to the sample: the ground truth of boundaries and repetition.

A tune (chords and melody over them) and a sound (two timbres, register, density) are drawn apart, so that a piece can
change one and keep the other. As in `synthetic`, every function is a pure function of its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from eisbach.studies.ground_truth.synthetic import SAMPLE_RATE, Timbre, _finish, phrase, random_timbre, tone
from eisbach.types import Waveform

_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 9, 10), (0, 2, 4, 7, 9))


@dataclass(frozen=True)
class Tune:
    """What is played: a chord each `beats_per_chord` beats and a melody, for one section.

    Attributes
    ----------
    root : int
        MIDI number of the key.
    scale : tuple of int
        Semitones above it.
    chords : np.ndarray [shape=(chords,)]
        Scale degrees.
    melody : np.ndarray [shape=(notes,)]
        Scale degrees, one a beat subdivision; -1 is a rest.
    """

    root: int
    scale: tuple[int, ...]
    chords: np.ndarray
    melody: np.ndarray


@dataclass(frozen=True)
class Sound:
    """How it is played: the timbres of chords and melody, the melody's octave, and the balance between the two."""

    backing: Timbre
    lead: Timbre
    octave: int
    balance: float


@dataclass(frozen=True)
class SectionedPiece:
    """A waveform with its sections: `edges` (s, [shape=(sections + 1,)], 0 and the end included) and `labels`."""

    waveform: Waveform
    edges: np.ndarray
    labels: tuple[str, ...]


def _random_tune(rng: np.random.Generator, seconds: float, beat: float) -> Tune:
    """A tune that lasts at least `seconds` at `beat` seconds a beat."""
    scale = _SCALES[int(rng.integers(len(_SCALES)))]
    beats = int(np.ceil(seconds / beat)) + 1
    melody = np.cumsum(rng.integers(-2, 3, 2 * beats)) + rng.integers(0, len(scale))
    melody = np.where(rng.random(2 * beats) < 0.2, -1, melody % (2 * len(scale)))
    return Tune(int(rng.integers(40, 56)), scale, rng.integers(0, len(scale), beats // 2 + 1), melody)


def _random_sound(rng: np.random.Generator) -> Sound:
    """Timbres, register and balance."""
    return Sound(
        random_timbre(rng, sustained=bool(rng.random() < 0.6)), random_timbre(rng), int(rng.integers(1, 3)),
        float(rng.uniform(0.2, 0.6))
    )  # fmt: skip


def play(tune: Tune, sound: Sound, seconds: float, beat: float) -> np.ndarray:
    """A section of exactly `seconds`, RMS 0.1, [shape=(n,), float32]."""
    count = round(seconds * SAMPLE_RATE)
    out = np.zeros(count + SAMPLE_RATE, dtype=np.float32)
    notes: dict[tuple[int, int], np.ndarray] = {}

    def add(start: float, pitch: int, length: float, timbre: Timbre, gain: float, kind: int) -> None:
        first = round(start * SAMPLE_RATE)
        if first >= count:
            return
        if (pitch, kind) not in notes:
            notes[pitch, kind] = tone(float(pitch), length, timbre)
        note = notes[pitch, kind][: len(out) - first]
        out[first : first + len(note)] += np.float32(gain) * note

    def pitch(degree: int) -> int:
        octave, step = divmod(degree, len(tune.scale))
        return tune.root + 12 * octave + tune.scale[step]

    for index, degree in enumerate(tune.chords):
        for third in (0, 2, 4):
            add(index * 2 * beat, pitch(int(degree) + third), 2 * beat, sound.backing, sound.balance, 0)
    for index, degree in enumerate(tune.melody):
        if degree >= 0:
            add(index * beat / 2, pitch(int(degree)) + 12 * sound.octave, beat / 2, sound.lead, 1.0 - sound.balance, 1)
    out = out[:count]
    return np.asarray(0.1 * out / np.sqrt(np.mean(out**2) + 1e-12), dtype=np.float32)


def sectioned(
    letters: str, lengths: Sequence[float], seed: int, *, changes: str = "both", beat: float = 0.5
) -> SectionedPiece:
    """A piece of known sections.

    Parameters
    ----------
    letters : str
        One a section; equal letters are played alike.
    lengths : sequence of float
        Seconds of each letter in order of first appearance; one value serves all.
    seed : int
    changes : {"both", "tune", "sound"}
        What tells letters apart; with "sound" the tune goes on as it began, with "tune" the timbres do.
    beat : float
        Seconds.
    """
    distinct = list(dict.fromkeys(letters))
    seconds = {letter: lengths[i % len(lengths)] for i, letter in enumerate(distinct)}
    longest = max(seconds.values())
    parts: dict[str, np.ndarray] = {}
    for index, letter in enumerate(distinct):
        tune_of, sound_of = (0 if changes == "sound" else index), (0 if changes == "tune" else index)
        tune = _random_tune(np.random.default_rng([seed, 31, tune_of]), longest, beat)
        sound = _random_sound(np.random.default_rng([seed, 32, sound_of]))
        parts[letter] = play(tune, sound, seconds[letter], beat)
    samples = np.concatenate([parts[letter] for letter in letters])
    edges = np.concatenate([[0.0], np.cumsum([len(parts[letter]) / SAMPLE_RATE for letter in letters])])
    return SectionedPiece(_finish(samples, seed), edges, tuple(letters))


def repeated_stretch(seconds: float, seed: int, duration: float = 72.0) -> Waveform:
    """Music that is new throughout, except that one passage of `seconds` is heard twice, 40 s apart (off the frame
    grid)."""
    rng = np.random.default_rng([seed, 33])
    parts = [phrase(6.0, rng) for _ in range(int(np.ceil(duration / 6.0)))]
    samples = np.concatenate(parts)[: round(duration * SAMPLE_RATE)]
    first, second, count = round(3.21 * SAMPLE_RATE), round(43.37 * SAMPLE_RATE), round(seconds * SAMPLE_RATE)
    samples[second : second + count] = samples[first : first + count]
    return _finish(samples, seed)


def refrain(times: float, seed: int, section_seconds: float, sections: int = 6) -> Waveform:
    """`sections` sections of which one is heard `times` times, evenly spread; all others are new."""
    rng = np.random.default_rng([seed, 34])
    places = set(np.round(np.linspace(0, sections - 1, int(times))).astype(int).tolist())
    same = phrase(section_seconds, rng)
    parts = [same if index in places else phrase(section_seconds, rng) for index in range(sections)]
    return _finish(np.concatenate(parts), seed)


def returning_tunes(share: float, seed: int, section_seconds: float = 9.7, sections: int = 8) -> Waveform:
    """Sections of which a `share` is the tune of another section (pairwise) on other instruments, up to 5 semitones
    higher or lower and up to 6% faster or slower; the others are tunes of their own.

    All have one key, one tempo and one row of chords, so that nothing but the tune says what returns.
    """
    rng = np.random.default_rng([seed, 35])
    beat = float(rng.uniform(0.4, 0.6))
    pairs = round(share * sections / 2)
    ground = _random_tune(rng, 1.1 * section_seconds, beat)
    parts = []

    def band() -> Sound:
        return replace(_random_sound(rng), balance=float(rng.uniform(0.1, 0.25)))  # a tune lies above its chords

    for number in range(sections - pairs):
        own = _random_tune(rng, 1.1 * section_seconds, beat)
        tune = replace(ground, melody=own.melody)
        parts.append(play(tune, band(), section_seconds, beat))
        if number < pairs:
            moved = replace(tune, root=tune.root + int(rng.choice((-5, -3, -2, 2, 3, 5))))
            tempo = float(rng.uniform(0.94, 1.06))
            parts.append(play(moved, band(), section_seconds * tempo, beat * tempo))
    order = np.random.default_rng([seed, 36]).permutation(sections)
    return _finish(np.concatenate([parts[i] for i in order]), seed)
