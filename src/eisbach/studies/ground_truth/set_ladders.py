"""Sets of clips whose relations are known by construction: the ground truth of the set metrics.

A *take* here is a list of notes (time, pitch, timbre) that is rendered when audio is wanted. `seed` chooses everything
but the quantity that the ladder turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eisbach.studies.ground_truth.synthetic import SAMPLE_RATE, Timbre, phrase, random_timbre, tone
from eisbach.types import Waveform

_SCALE = (0, 2, 3, 5, 7, 8, 10, 12, 14, 15)


@dataclass(frozen=True)
class Notes:
    """`times` (s), `pitches` (MIDI) and `timbres` (index), [shape=(n,)] each, for `duration` seconds."""

    times: np.ndarray
    pitches: np.ndarray
    timbres: np.ndarray
    duration: float


def random_notes(seed: int, duration: float = 20.0) -> Notes:
    """A melody in ever changing note lengths and two timbres."""
    rng = np.random.default_rng([seed, 21])
    lengths = rng.choice([0.25, 0.25, 0.5, 0.5, 0.75, 1.0], size=int(duration / 0.2))
    times = 0.2 + np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
    times = times[times < duration - 0.3]
    return Notes(times, 50.0 + rng.choice(_SCALE, len(times)), rng.integers(0, 2, len(times)), duration)


def substitute(notes: Notes, share: float, seed: int) -> Notes:
    """A `share` of the notes replaced by others: other pitch and timbre, and moved by up to 0.2 s."""
    rng = np.random.default_rng([seed, 22])
    chosen = rng.permutation(len(notes.times))[: round(share * len(notes.times))]
    times, pitches, timbres = notes.times.copy(), notes.pitches.copy(), notes.timbres.copy()
    times[chosen] += rng.uniform(-0.2, 0.2, len(chosen))
    pitches[chosen] = 50.0 + rng.choice(_SCALE, len(chosen))
    timbres[chosen] = rng.integers(0, 2, len(chosen))
    order = np.argsort(times)
    return Notes(np.maximum(times[order], 0.05), pitches[order], timbres[order], notes.duration)


def jitter(notes: Notes, seconds: float, seed: int) -> Notes:
    """Every note moved by Gaussian noise of `seconds`."""
    rng = np.random.default_rng([seed, 23])
    times = np.maximum(notes.times + seconds * rng.standard_normal(len(notes.times)), 0.05)
    order = np.argsort(times)
    return Notes(times[order], notes.pitches[order], notes.timbres[order], notes.duration)


def render(notes: Notes, seed: int, *, tempo: float = 1.0, gain: float = 0.5, transpose: float = 0.0) -> Waveform:
    """Struck notes in two timbres chosen by `seed`, `tempo` times as fast, with peak `gain`."""
    rng = np.random.default_rng([seed, 24])
    timbres = [_struck(rng) for _ in range(2)]
    count = round(notes.duration / tempo * SAMPLE_RATE)
    out = np.zeros(count, dtype=np.float32)
    made: dict[tuple[float, int], np.ndarray] = {}
    for time, pitch, timbre in zip(notes.times, notes.pitches, notes.timbres, strict=True):
        key = (float(pitch), int(timbre))
        if key not in made:
            made[key] = tone(key[0] + transpose, 0.5, timbres[key[1]])
        first = round(float(time) / tempo * SAMPLE_RATE)
        note = made[key][: max(0, count - first)]
        out[first : first + len(note)] += note
    noise = np.random.default_rng([seed, 25]).standard_normal(count, dtype=np.float32)
    out += noise * np.float32(np.abs(out).max() * 10 ** (-66.0 / 20))
    return Waveform((gain * out / np.abs(out).max()).astype(np.float32)[None], SAMPLE_RATE)


def _struck(rng: np.random.Generator) -> Timbre:
    base = random_timbre(rng)
    return Timbre(
        base.rolloff, base.formant_hz, base.formant_octaves, base.odd, base.stretch, float(rng.uniform(0.2, 0.5))
    )


def jittered_boundaries(
    seconds: float, seed: int, *, prompts: int = 16, takes: int = 4, sections: int = 5, duration: float = 60.0
) -> tuple[list[np.ndarray], list[float], list[int]]:
    """Boundaries, durations and prompts of takes that move each of their prompt's boundaries by Gaussian noise of
    `seconds`.

    Infinite `seconds`: boundaries uniform over the clip, independent of the prompt.
    """
    rng = np.random.default_rng([seed, 26])
    rows: list[np.ndarray] = []
    for _ in range(prompts):
        shared = rng.uniform(0.0, duration, sections)
        for _ in range(takes):
            moved = (
                rng.uniform(0.0, duration, sections)
                if np.isinf(seconds)
                else shared + seconds * rng.standard_normal(sections)
            )
            rows.append(np.sort(moved[(moved > 0.0) & (moved < duration)]))
    return rows, [duration] * len(rows), [i // takes for i in range(len(rows))]


def section_takes(lengths: Sequence[float], seed: int) -> Waveform:
    """Sections of the given lengths, each a texture of its own chosen by `seed`: takes that share a seed share their
    sound."""
    parts = [phrase(length, np.random.default_rng([seed, 27, index])) for index, length in enumerate(lengths)]
    samples = np.concatenate(parts)
    return Waveform((0.5 * samples / np.abs(samples).max()).astype(np.float32)[None], SAMPLE_RATE)


def separated_rows(
    share: float, seed: int, *, prompts: int = 24, takes: int = 4, d: int = 16
) -> tuple[np.ndarray, list[int]]:
    """Rows of an embedding of which prompts account for a `share` of the variance, and their prompts."""
    rng = np.random.default_rng([seed, 28])
    index = np.repeat(np.arange(prompts), takes)
    between, within = rng.standard_normal((prompts, d))[index], rng.standard_normal((len(index), d))
    return np.sqrt(share) * between + np.sqrt(1.0 - share) * within, index.tolist()


def splice(
    target: Waveform, source: Waveform, start: float, source_start: float, seconds: float, gain: float
) -> Waveform:
    """`seconds` of `source`, times `gain`, in place of what `target` has at `start`, with 20 ms crossfades."""
    rate = target.sample_rate
    out = target.samples.copy()
    first, begin, count = round(start * rate), round(source_start * rate), round(seconds * rate)
    fade = np.minimum(1.0, np.minimum(np.arange(count), np.arange(count)[::-1]) / (0.02 * rate)).astype(np.float32)
    excerpt = np.float32(gain) * source.samples[:, begin : begin + count]
    out[:, first : first + count] = out[:, first : first + count] * (1.0 - fade) + excerpt * fade
    return Waveform(out, rate)
