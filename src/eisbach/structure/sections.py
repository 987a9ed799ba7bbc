"""Sections of a piece: where they begin, how clear each boundary is, and which of them are alike.

Conventions: four times a second a logistic model weighs the evidence of `novelty.boundary_evidence` (steps in sound,
harmony and rhythm on scales of 2 to 12 s, and how much of the repetition about a moment begins or ends there). Moments
are taken in the order of their probability, those under `threshold` and those nearer than `MIN_SECTION` to a better one
or to an end left out, as are those where neither sound nor harmony changes by more than `_STILL` (the slow beating of a
drone repeats too), then moved by at most a fifth of a second to where the mel-spectrogram (50 frames a second) changes
most. The constants are in ``assets/structure/boundaries.json``, written by ``bench/calibrate_boundaries.py`` from
synthetic forms and joined excerpts of real scores; the evidence is absolute, standardised or compared within a few
seconds, never normalised over the clip, so drones, noise and ramps have no sections.

Two sections are *alike* when their textures are within `_ALIKE_DB` of each other and their chroma, aligned within 1.5 s
and not transposed, correlates by at least `_ALIKE_COSINE`; letters go to groups by complete linkage, so that likeness
does not creep.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter1d

from eisbach.structure.features import CHROMA_RATE, FRAME_RATE, Features, once_per_clip
from eisbach.structure.novelty import Running, boundary_evidence, mel_bands, sound_steps

MIN_SECONDS = 8.0
MIN_SECTION = 4.0
"""Seconds: shorter sections are not told apart."""
_STILL = {"sound_db_4": 0.15, "turn_4": 0.1, "harmony_8": 0.2}
"""Evidence up to which nothing has changed: 0.9 dB in the bands, a tenth of a right angle's turn, a fifth of the
harmony's spread."""
_ALIKE_DB = 2.5
_ALIKE_COSINE = 0.75
_REFINE_SECONDS, _REFINE_WIDTH = 0.2, 2
_ALIGN_SECONDS = 1.5
_MIN_OVERLAP = 0.6  # of the longer of two sections
_MAX_LABELLED = 120  # sections compared pair by pair; the rest of very long pieces get letters of their own


@dataclass(frozen=True)
class Sections:
    """Sections of a clip; all times are seconds in the original file (silence at its start included).

    Attributes
    ----------
    boundaries : tuple of float
        Where a new section begins; the piece's start and end are not included.
    strengths : tuple of float
        The model's probability of each boundary, 0-1.
    labels : tuple of str
        One a section, one more than boundaries: 'A', 'B', … 'Z', 'AA', …; empty when nothing could be analysed.
    start, end : float
        Of the analysed stretch.
    """

    boundaries: tuple[float, ...] = ()
    strengths: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    start: float = 0.0
    end: float = 0.0


@lru_cache(maxsize=1)
def boundary_model() -> dict[str, Any]:
    """The calibrated constants: `weights` (evidence -> weight), `bias`, `threshold`, and what they were calibrated
    on."""
    asset = resources.files("eisbach").joinpath("assets/structure/boundaries.json")
    return dict(json.loads(asset.read_text(encoding="utf-8")))


def probability_of(evidence: np.ndarray, names: tuple[str, ...], weights: np.ndarray, bias: float) -> np.ndarray:
    """The model's probability of a boundary at every moment; 0 where nothing has changed (`_STILL`),
    [shape=(moments,)]."""
    still = np.all([evidence[:, names.index(name)] <= limit for name, limit in _STILL.items()], axis=0)
    logit = np.clip(evidence @ weights + bias, -60.0, 60.0)
    return np.where(still, 0.0, 1.0 / (1.0 + np.exp(-logit)))


@once_per_clip
def _boundary_probability(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Moments (s from the start of the analysed stretch, 4 a second) and the probability that a section begins
    there."""
    model = boundary_model()
    times, evidence, names = boundary_evidence(features)
    weights = np.array([model["weights"][name] for name in names])
    return times, probability_of(evidence, names, weights, float(model["bias"]))


@once_per_clip
def find_sections(features: Features) -> Sections:
    """The sections of a clip; empty, without labels, when less than 8 s were analysed."""
    start, duration = float(features.trimmed_start), float(features.duration)
    if duration < MIN_SECONDS:
        return Sections(start=start, end=start + duration)
    times, probability = _boundary_probability(features)
    chosen = pick_boundaries(times, probability, duration, float(boundary_model()["threshold"]))
    refined = _refine(features, times[chosen])
    return Sections(
        boundaries=tuple(float(start + time) for time in refined),
        strengths=tuple(float(value) for value in probability[chosen]),
        labels=_labels(features, np.concatenate([[0.0], refined, [duration]])),
        start=start,
        end=start + duration,
    )


def pick_boundaries(times: np.ndarray, probability: np.ndarray, duration: float, threshold: float) -> np.ndarray:
    """Indices of the boundaries, in order of time: likeliest first, none under `threshold` or within `MIN_SECTION` of
    another or an end."""
    open_places = (probability >= threshold) & (times >= MIN_SECTION - 1.0) & (times <= duration - MIN_SECTION + 1.0)
    chosen = []
    for index in np.argsort(-probability, kind="stable"):
        if open_places[index]:
            chosen.append(int(index))
            open_places &= np.abs(times - times[index]) >= MIN_SECTION
    return np.array(sorted(chosen), dtype=int)


def _refine(features: Features, times: np.ndarray) -> np.ndarray:
    """Each time moved to the clearest step of the mels nearby, on the grid of 50 frames a second."""
    if not len(times):
        return times
    reach = round(_REFINE_SECONDS * FRAME_RATE)
    near = times[:, None] + np.arange(-reach, reach + 1) / FRAME_RATE
    (steps,) = sound_steps(features.mel_db, near.ravel(), (_REFINE_WIDTH,)).values()
    return np.asarray(near[np.arange(len(times)), steps.reshape(near.shape).argmax(axis=1)])


def _labels(features: Features, edges: np.ndarray) -> tuple[str, ...]:
    """Letters of the sections between `edges` (s), by complete linkage in order of time."""
    spans = [(float(first), float(last)) for first, last in pairwise(edges)]
    chroma = features.chroma - features.chroma.mean(axis=1, keepdims=True)
    chroma = uniform_filter1d(chroma, 3, axis=0) if len(chroma) else chroma
    bands = Running(mel_bands(features), FRAME_RATE)
    textures = [
        np.concatenate(bands.stretch(first + 0.2, last - 0.2)) for first, last in spans
    ]  # the joints' own sound left out
    alike = np.eye(len(spans), dtype=bool)
    compared = min(len(spans), _MAX_LABELLED)
    for i in range(compared):
        for j in range(i):
            near = float(np.sqrt(np.mean((textures[i] - textures[j]) ** 2))) <= _ALIKE_DB
            alike[i, j] = alike[j, i] = near and chroma_likeness(chroma, spans[i], spans[j]) >= _ALIKE_COSINE
    groups: list[list[int]] = []
    for i in range(len(spans)):
        home = next((group for group in groups if all(alike[i, j] for j in group)), None)
        if home is None:
            groups.append([i])
        else:
            home.append(i)
    names = {index: _letter(number) for number, group in enumerate(groups) for index in group}
    return tuple(names[i] for i in range(len(spans)))


def chroma_likeness(chroma: np.ndarray, span: tuple[float, float], other: tuple[float, float]) -> float:
    """Highest cosine of two stretches (s) of centred chroma over offsets up to 1.5 s; -1 when they overlap too
    little."""
    first, second = (
        chroma[round(float(begin) * CHROMA_RATE) : round(float(end) * CHROMA_RATE)] for begin, end in (span, other)
    )
    best = -1.0
    reach = round(_ALIGN_SECONDS * CHROMA_RATE)
    for offset in range(-reach, reach + 1):
        a, b = first[max(0, -offset) :], second[max(0, offset) :]
        size = min(len(a), len(b))
        if size < 8 or size < _MIN_OVERLAP * max(len(first), len(second)):
            continue
        a, b = a[:size], b[:size]
        norm = float(np.linalg.norm(a) * np.linalg.norm(b))
        best = max(best, float(np.sum(a * b)) / norm) if norm > 0 else best
    return best


def _letter(number: int) -> str:
    name = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        name = chr(65 + digit) + name
    return name
