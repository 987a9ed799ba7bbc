"""Sections of a piece: where they begin, how clear each boundary is, and which of them are alike.

Conventions: four times a second a logistic model weighs the evidence of `novelty.boundary_evidence` (steps in sound,
harmony and rhythm on scales of 2 to 12 s, and how much of the repetition about a moment begins or ends there). Moments
are taken in the order of their probability, those under `threshold` and those nearer than `MIN_SECTION` to a better one
or to an end left out, as are those where neither sound nor harmony changes by more than `_STILL` (the slow beating of a
drone repeats too), then moved by at most a fifth of a second to where the mel-spectrogram (50 frames a second) changes
most. The constants are in ``assets/structure/boundaries.json``, written by ``bench/calibrate_boundaries.py`` from
synthetic forms and joined excerpts of real scores; the evidence is absolute, standardised or compared within a few
seconds, never normalised over the clip, so drones, noise and ramps have no sections.

Where a passage is heard again whole (a stripe of `stripes.find_stripes` of 12 s or more), what the model says of a
moment and of its counterpart is averaged, so that both hearings fall into the same sections.

Two sections are *alike* when their textures are within `_ALIKE_DB` of each other and their chroma, aligned within 1.5 s
and not transposed, correlates by at least `_ALIKE_COSINE`; letters go to groups by complete linkage, so that likeness
does not creep. A group whose *tune* (`Features.tune`, in any of 12 transpositions, up to a tenth faster or slower) is
that of an earlier group is a variation of it: A, A′, A″.

The *large form* leaves out boundaries that a likelier one stands near (an eighth of the piece, 12 to 40 s).
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

from eisbach.structure.features import CHROMA_RATE, FRAME_RATE, TUNE_RATE, Features, once_per_clip
from eisbach.structure.novelty import RATE, Running, boundary_evidence, mel_bands, sound_steps
from eisbach.structure.stripes import find_stripes

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
_TUNE_COSINE, _TUNE_TEMPO = 0.7, 0.1
_MIN_TUNE = 12  # frames, 6 s: likeness of shorter tunes says little
_COPY_SECONDS, _COPY_EDGE = 12.0, 2.0
_LARGE_SHARE, _LARGE_SECONDS = 0.125, (12.0, 40.0)
_PRIME = "′"
_CLASSES = np.arange(12)[None, :]
_TRANSPOSED = (np.arange(12)[None, :] + np.arange(12)[:, None]) % 12
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
        One a section, one more than boundaries: 'A', 'B', … 'Z', 'AA', …, with a prime where it is the tune of another
        group transposed or on other instruments; empty when nothing could be analysed.
    start, end : float
        Of the analysed stretch.
    large : tuple of float
        Those of the boundaries that bound the large form.
    large_labels : tuple of str
        One a part of the large form.
    """

    boundaries: tuple[float, ...] = ()
    strengths: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    start: float = 0.0
    end: float = 0.0
    large: tuple[float, ...] = ()
    large_labels: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def boundary_model() -> dict[str, Any]:
    """The calibrated constants: `weights` (evidence -> weight), `bias`, `threshold`, and what they were calibrated
    on."""
    asset = resources.files("eisbach").joinpath("assets/structure/boundaries.json")
    return dict(json.loads(asset.read_text(encoding="utf-8")))


def probability_of(
    evidence: np.ndarray, names: tuple[str, ...], weights: np.ndarray, bias: float, copies: np.ndarray
) -> np.ndarray:
    """The model's probability of a boundary at every moment; 0 where nothing has changed (`_STILL`),
    [shape=(moments,)]. `copies` are those of `copied_stretches`."""
    still = np.all([evidence[:, names.index(name)] <= limit for name, limit in _STILL.items()], axis=0)
    logit = np.clip(evidence @ weights + bias, -60.0, 60.0)
    total, count = logit.copy(), np.ones(len(logit))
    for first, last, lag in copies.tolist():
        here, there = slice(first, last), slice(first + lag, last + lag)
        total[here] += logit[there]
        total[there] += logit[here]
        count[here] += 1.0
        count[there] += 1.0
    logit = total / count
    return np.where(still, 0.0, 1.0 / (1.0 + np.exp(-logit)))


def copied_stretches(features: Features, moments: int) -> np.ndarray:
    """First and last moment of what is heard again whole, and how many moments later, [shape=(copies, 3), int]; each
    copy once, however many neighbouring lags show it."""
    stripes = find_stripes(features)
    scale, edge = RATE / stripes.rate, round(_COPY_EDGE * RATE)
    chosen: list[tuple[int, int, int]] = []
    for length, lag, first in sorted(
        zip((stripes.last - stripes.first).tolist(), stripes.lag.tolist(), stripes.first.tolist(), strict=True),
        reverse=True,
    ):
        if length < _COPY_SECONDS * stripes.rate or lag < length * 0.5:
            continue
        begin, end, later = round(first * scale) + edge, round((first + length) * scale) - edge, round(lag * scale)
        end = min(end, moments - later)
        near = any(abs(later - old) <= edge and begin < last and first_ < end for first_, last, old in chosen)
        if end > begin and not near:
            chosen.append((begin, end, later))
    return np.array(chosen, dtype=int).reshape(-1, 3)


@once_per_clip
def _boundary_probability(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Moments (s from the start of the analysed stretch, 4 a second) and the probability that a section begins
    there."""
    model = boundary_model()
    times, evidence, names = boundary_evidence(features)
    weights = np.array([model["weights"][name] for name in names])
    return times, probability_of(evidence, names, weights, float(model["bias"]), copied_stretches(features, len(times)))


@once_per_clip
def find_sections(features: Features) -> Sections:
    """The sections of a clip; empty, without labels, when less than 8 s were analysed."""
    start, duration = float(features.trimmed_start), float(features.duration)
    if duration < MIN_SECONDS:
        return Sections(start=start, end=start + duration)
    times, probability = _boundary_probability(features)
    chosen = pick_boundaries(times, probability, duration, float(boundary_model()["threshold"]))
    refined = _refine(features, times[chosen])
    apart = float(np.clip(_LARGE_SHARE * duration, *_LARGE_SECONDS))
    large = refined[pick_boundaries(refined, probability[chosen], duration, 0.0, apart)]
    return Sections(
        boundaries=tuple(float(start + time) for time in refined),
        strengths=tuple(float(value) for value in probability[chosen]),
        labels=_labels(features, np.concatenate([[0.0], refined, [duration]])),
        start=start,
        end=start + duration,
        large=tuple(float(start + time) for time in large),
        large_labels=_labels(features, np.concatenate([[0.0], large, [duration]])),
    )


def pick_boundaries(
    times: np.ndarray, probability: np.ndarray, duration: float, threshold: float, apart: float = MIN_SECTION
) -> np.ndarray:
    """Indices of the boundaries, in order of time: likeliest first, none under `threshold`, within `apart` (s) of
    another, or within that less a second of an end."""
    open_places = (probability >= threshold) & (times >= apart - 1.0) & (times <= duration - apart + 1.0)
    chosen = []
    for index in np.argsort(-probability, kind="stable"):
        if open_places[index]:
            chosen.append(int(index))
            open_places &= np.abs(times - times[index]) >= apart
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
    names: dict[int, str] = {}
    tune = features.tune - features.tune.mean(axis=1, keepdims=True)
    families: list[list[list[int]]] = []
    for group in groups:
        own = next((family for family in families if _same_tune(tune, spans, family, group)), None)
        if own is None:
            families.append(own := [])
        own.append(group)
        letter = _letter(families.index(own)) + _PRIME * (len(own) - 1)
        names |= dict.fromkeys(group, letter)
    return tuple(names[i] for i in range(len(spans)))


def _same_tune(tune: np.ndarray, spans: list[tuple[float, float]], family: list[list[int]], group: list[int]) -> bool:
    """Whether a group of sections plays the tune of a family's first; beyond `_MAX_LABELLED` sections nothing does."""
    first, own = family[0][0], group[0]
    return max(first, own) < _MAX_LABELLED and tune_likeness(tune, spans[first], spans[own]) >= _TUNE_COSINE


def tune_likeness(tune: np.ndarray, span: tuple[float, float], other: tuple[float, float]) -> float:
    """Highest cosine of two stretches (s) of a centred tune over offsets up to 1.5 s, 12 transpositions and, where
    their lengths differ by up to a tenth, as much in tempo; -1 when they overlap by less than 6 s."""
    first, second = (
        tune[round(float(begin) * TUNE_RATE) : round(float(end) * TUNE_RATE)] for begin, end in (span, other)
    )
    ratio = len(second) / max(len(first), 1)
    versions = [second]
    if 0.0 < abs(ratio - 1.0) <= _TUNE_TEMPO:
        places = np.linspace(0.0, len(second) - 1.0, len(first))
        versions.append(np.stack([np.interp(places, np.arange(len(second)), row) for row in second.T], axis=1))
    best = -1.0
    reach = round(_ALIGN_SECONDS * TUNE_RATE)
    for version in versions:
        for offset in range(-reach, reach + 1):
            a, b = first[max(0, -offset) :], version[max(0, offset) :]
            size = min(len(a), len(b))
            if size < _MIN_TUNE or size < _MIN_OVERLAP * max(len(first), len(second)):
                continue
            # cosines of all transpositions: (12 x 12) products of classes, summed along their diagonals
            products = a[:size].T @ b[:size]
            norm = float(np.linalg.norm(a[:size]) * np.linalg.norm(b[:size]))
            if norm > 0.0:
                best = max(best, float(products[_CLASSES, _TRANSPOSED].sum(axis=1).max()) / norm)
    return best


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
