"""Onset-level detail diversity: how differently the takes of one prompt place and play their notes.

Conventions: a clip is the sequence of its onsets. Each carries its *attack* (the rise of 32 mel bands, in dB, from just
before the onset to just after it, of unit length: what enters, not how loud) and its *step* (log2 of the time to the
next onset over the clip's median: rhythm, not tempo). Two takes are compared by an edit distance: keeping two onsets
costs between 0 (same attack, same step) and 1, leaving one out costs a half, and the total is divided by the mean
number of onsets, so that it lies in [0, 1]. Unrelated takes of one style still share note values and sounds; the
distance is therefore divided by the same distance when one take's onsets are rotated: 0 = the same details, 1 = no more
alike than the same material in another order; unrelated melodies of one scale read up to 1.2, because even a reordered
melody keeps its own notes. Nothing depends on gain, tempo or the position of the first onset. A pair of which a take
has fewer than eight onsets, or whose rotated distance is under 0.02 (an even pulse of one sound has no detail), is
undefined.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from eisbach.errors import UserError
from eisbach.structure.features import FRAME_RATE, Features
from eisbach.structure.rhythm import onset_times
from eisbach.structure.sets.alignment import takes_of
from eisbach.structure.sets.intervals import Estimate, jackknife

RANGE = (0.0, math.inf)
_MIN_ONSETS = 8
_MAX_ONSETS = 1000
"""Onsets compared at most, from the start of a take: two minutes of eight a second."""
_ATTACK_BANDS = 32
_BEFORE, _AFTER = 3, 4  # frames of 20 ms on either side of an onset
_GAP = 0.5
_STEP_SCALE = 0.4  # octaves of note length; a quarter for a dotted one costs 0.66, for a half 0.96
_ROTATIONS = 7
_NO_DETAIL = 0.02


@dataclass(frozen=True)
class OnsetEvents:
    """A clip's onsets.

    Attributes
    ----------
    times : np.ndarray [shape=(n,)]
        Seconds, ascending.
    attacks : np.ndarray [shape=(n, 32)]
        Rise of each mel band, non-negative, rows of unit length (or zero), in 255 steps before they are scaled to it.
    """

    times: np.ndarray
    attacks: np.ndarray


def onset_events(features: Features) -> OnsetEvents:
    """Onsets of a clip with their attacks."""
    times = onset_times(features)
    frames = np.round((times - features.trimmed_start) * FRAME_RATE).astype(np.int64)
    mel = np.asarray(features.mel_db, dtype=np.float64)
    pooled = mel.reshape(len(mel), _ATTACK_BANDS, mel.shape[1] // _ATTACK_BANDS).mean(axis=2)
    attacks = np.zeros((len(times), _ATTACK_BANDS))
    for row, frame in enumerate(frames):
        before = pooled[max(0, frame - _BEFORE) : max(1, frame)].mean(axis=0)
        after = pooled[min(frame, len(pooled) - 1) : frame + _AFTER].max(axis=0)
        attacks[row] = np.maximum(after - before, 0.0)
    return OnsetEvents(times, _units_of(_steps_of(attacks)))


def _steps_of(attacks: np.ndarray) -> np.ndarray:
    """Each row in 255 steps of its largest band, uint8: so that an attack read back from a file equals the one
    measured."""
    top = attacks.max(axis=1, keepdims=True, initial=0.0)
    return np.round(255.0 * np.divide(attacks, top, out=np.zeros_like(attacks), where=top > 0.0)).astype(np.uint8)


def _units_of(steps: np.ndarray) -> np.ndarray:
    attacks = steps.astype(np.float64)
    norms = np.linalg.norm(attacks, axis=1, keepdims=True)
    return np.divide(attacks, norms, out=np.zeros_like(attacks), where=norms > 0.0)


def pack_attacks(events: OnsetEvents) -> str:
    """The attacks of the first `_MAX_ONSETS` onsets as text: base64 of 32 bytes an onset."""
    return base64.b64encode(_steps_of(events.attacks[:_MAX_ONSETS]).tobytes()).decode("ascii")


def unpack_events(times: Sequence[float], packed: str) -> OnsetEvents:
    """The events whose times and `pack_attacks` these are; onsets beyond the packed ones are left out."""
    steps = np.frombuffer(base64.b64decode(packed), dtype=np.uint8).reshape(-1, _ATTACK_BANDS)
    return OnsetEvents(np.asarray(times[: len(steps)], dtype=np.float64), _units_of(steps))


def _substitution_costs(first: OnsetEvents, second: OnsetEvents) -> np.ndarray:
    """Cost of taking one onset for another, half for its attack and half for its step, in [0, 1], [shape=(n, m)]."""
    attack = 1.0 - np.clip(first.attacks @ second.attacks.T, 0.0, 1.0)
    # a unit vector's cosine with itself is 1 up to rounding; two silent attacks are alike
    silent = np.logical_and.outer(np.abs(first.attacks).max(axis=1) == 0.0, np.abs(second.attacks).max(axis=1) == 0.0)
    attack = np.where(silent | (attack < 1e-9), 0.0, attack)
    gap = np.abs(_steps(first.times)[:, None] - _steps(second.times)[None, :]) / _STEP_SCALE
    return 0.5 * attack + 0.5 * (1.0 - np.exp(-0.5 * gap**2))


def _steps(times: np.ndarray) -> np.ndarray:
    """log2 of every inter-onset interval over their median; the last onset repeats the one before."""
    intervals = np.maximum(np.diff(times), 1e-3)
    steps = np.log2(intervals / np.median(intervals))
    return np.append(steps, steps[-1])


def edit_distance(costs: np.ndarray) -> np.ndarray:
    """Cheapest alignment of two sequences over their mean length, [shape=(...,)], in [0, 1].

    Parameters
    ----------
    costs : np.ndarray [shape=(..., n, m)]
        Substitution costs; leaving one element out costs a half.
    """
    n, m = costs.shape[-2:]
    # with D[i, j] = table[i, j] + (i + j) / 2 a gap is free, and along a row the running minimum replaces the inner
    # loop
    above = np.zeros((*costs.shape[:-2], m + 1))
    for i in range(n):
        diagonal = np.concatenate(
            [above[..., :1], np.minimum(above[..., 1:], above[..., :-1] + costs[..., i, :] - 2 * _GAP)], -1
        )
        above = np.minimum.accumulate(diagonal, axis=-1)
    return np.maximum(above[..., -1] + _GAP * (n + m), 0.0) / (0.5 * (n + m))


def pair_diversity(first: OnsetEvents, second: OnsetEvents) -> float:
    """Edit distance of two takes over that of rotated ones, >= 0; NaN where undefined."""
    return _pair_diversity(*(_Take(_first(take)) for take in (first, second)))


class _Take:
    """A take's onsets, and its distance from itself rotated, which every pair of it asks for."""

    def __init__(self, events: OnsetEvents) -> None:
        self.events = events

    @cached_property
    def rotated(self) -> float:
        return _rotated(_substitution_costs(self.events, self.events))


def _pair_diversity(first: _Take, second: _Take) -> float:
    a, b = first.events, second.events
    if min(len(a.times), len(b.times)) < _MIN_ONSETS:
        return math.nan
    costs = _substitution_costs(a, b)
    own = float(edit_distance(costs))
    # each take against itself rotated, too: the same material in another order, whatever the pair has in common
    rotated = np.mean([first.rotated, second.rotated, _rotated(costs)])
    return own / float(rotated) if rotated >= _NO_DETAIL else math.nan


def _rotated(costs: np.ndarray) -> float:
    m = costs.shape[1]
    amounts = np.unique(np.round(np.arange(1, _ROTATIONS + 1) * m / (_ROTATIONS + 1)).astype(int))
    return float(edit_distance(np.stack([np.roll(costs, amount, axis=1) for amount in amounts])).mean())


def _first(events: OnsetEvents) -> OnsetEvents:
    return OnsetEvents(events.times[:_MAX_ONSETS], events.attacks[:_MAX_ONSETS])


def detail_diversity(events: Sequence[OnsetEvents], prompts: Sequence[object], *, level: float = 0.95) -> Estimate:
    """How different the onsets of a prompt's takes are: 0 = identical, about 1 = unrelated; interval over prompts.

    Raises
    ------
    UserError
        As `prompt_diversities`.
    """
    every = prompt_diversities(events, prompts)
    values = {prompt: value for prompt, value in every.items() if not math.isnan(value)}
    left = len(every) - len(values)
    if not values:
        return Estimate(math.nan, math.nan, math.nan, 0, "prompt", "no two takes of a prompt have onsets to compare")
    numbers = np.array(list(values.values()))
    estimate = jackknife(
        lambda keep: float(numbers[keep].mean()), list(values), unit_name="prompt", level=level, bounds=RANGE
    )
    note = f"{left} prompt(s) without comparable onsets left out" if left else estimate.note
    return Estimate(estimate.value, estimate.low, estimate.high, estimate.n_units, estimate.unit, note)


def prompt_diversities(events: Sequence[OnsetEvents], prompts: Sequence[object]) -> dict[object, float]:
    """Mean pair diversity of every prompt with at least two takes; NaN where none of its pairs is defined.

    Raises
    ------
    UserError
        No prompt with two takes, non-finite or unordered onsets, or attacks that do not match them.
    """
    if len(events) != len(prompts):
        raise UserError(f"{len(events)} clips came with {len(prompts)} prompts; give one prompt a clip.")
    for clip in events:
        if clip.attacks.shape[0] != len(clip.times):
            raise UserError(f"a clip has {len(clip.times)} onsets but {len(clip.attacks)} attacks; give one an onset.")
        if not (np.isfinite(clip.times).all() and np.isfinite(clip.attacks).all() and (np.diff(clip.times) >= 0).all()):
            raise UserError(
                "onsets must be finite and ascending, with finite attacks; leave out the clips that have none."
            )
    values: dict[object, float] = {}
    for prompt, takes in takes_of(prompts).items():
        pairs = [_pair_diversity(*pair) for pair in combinations([_Take(_first(events[i])) for i in takes], 2)]
        known = [value for value in pairs if not math.isnan(value)]
        values[prompt] = float(np.mean(known)) if known else math.nan
    return values
