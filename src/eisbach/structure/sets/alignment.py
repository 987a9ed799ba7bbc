"""Cross-seed boundary alignment: whether takes of one prompt change section at the same moments.

Conventions: boundaries are seconds from the start of the clip, the clip's own ends left out. For two takes the hit rate
F is mir_eval's (Turnbull et al. 2007; `mir_eval.segment.detection` with `trim`): boundaries are matched one to one
within +- `window`, F is the harmonic mean of precision and recall. Takes with many boundaries hit one another by
chance, so F is corrected: ``(F - F0) / (1 - F0)``, F0 the mean F when one take's boundaries are shifted round the clip
by evenly spaced amounts, which keeps their number and spacing. 1 = the same moments, 0 = what chance gives, negative =
avoidance. A prompt's value is the mean over its pairs of takes, the set's the mean over prompts. Circular shifts know
nothing of habits that all clips share (a model whose every clip changes at 30 s): with ``chance="prompts"`` F0 is
instead the mean F of takes of *different* prompts, and the result says what the prompt adds. A pair without any
boundary, or whose boundaries leave chance no room (F0 above 0.9), is undefined.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from eisbach.errors import UserError
from eisbach.structure.sets.intervals import Estimate, jackknife

RANGE = (-1.0, 1.0)
_MAX_LENGTH_DIFFERENCE = 0.1
"""Takes of one prompt may differ in length by at most this share of the longer one."""
_SHIFTS = 48
_NO_ROOM = 0.9


def hits(reference: np.ndarray, estimate: np.ndarray, window: float) -> int:
    """Size of the largest one-to-one matching within +-`window` of two ascending lists of times.

    On a line with equal windows the earliest pair that fits belongs to some largest matching, so one pass finds it; it
    equals ``len(mir_eval.util.match_events(...))``.
    """
    i = j = count = 0
    while i < len(reference) and j < len(estimate):
        gap = estimate[j] - reference[i]
        if abs(gap) <= window + 1e-9:
            i, j, count = i + 1, j + 1, count + 1
        elif gap < 0:
            j += 1
        else:
            i += 1
    return count


def hit_rate(reference: np.ndarray, estimate: np.ndarray, window: float) -> float:
    """F measure of two lists of boundaries, in [0, 1]; 0 where exactly one is empty, NaN where both are."""
    if len(reference) + len(estimate) == 0:
        return math.nan
    return 2.0 * hits(reference, estimate, window) / (len(reference) + len(estimate))


def _pair_alignment(
    first: np.ndarray, second: np.ndarray, duration: float, window: float, chance: float | None = None
) -> float:
    """Chance-corrected hit rate of two takes, at most 1; NaN where undefined. `chance` None: from circular shifts."""
    f = hit_rate(first, second, window)
    if math.isnan(f):
        return f
    if chance is None:
        chance = 0.5 * (_chance(first, second, duration, window) + _chance(second, first, duration, window))
    return (f - chance) / (1.0 - chance) if chance <= _NO_ROOM else math.nan


def _between_prompts(times: Sequence[np.ndarray], prompts: Sequence[object], window: float) -> float:
    """Mean F of takes of different prompts."""
    several = takes_of(prompts)
    if len(several) < 2:
        raise UserError(
            "a chance level from other prompts needs at least two prompts with two takes; use chance='shift'."
        )
    groups = list(several.values())
    rates = [hit_rate(times[i], times[j], window) for g, h in combinations(groups, 2) for i in g for j in h]
    known = [rate for rate in rates if not math.isnan(rate)]
    return float(np.mean(known)) if known else 0.0


def _chance(fixed: np.ndarray, moved: np.ndarray, duration: float, window: float) -> float:
    shifts = (np.arange(_SHIFTS) + 0.5) * (duration / _SHIFTS)
    return float(np.mean([hit_rate(fixed, np.sort((moved + shift) % duration), window) for shift in shifts]))


def boundary_alignment(
    boundaries: Sequence[np.ndarray],
    durations: Sequence[float],
    prompts: Sequence[object],
    *,
    window: float = 3.0,
    chance: str = "shift",
    level: float = 0.95,
) -> Estimate:
    """Chance-corrected agreement of section boundaries across the takes of a prompt, in [-1, 1], with an interval over
    prompts.

    Parameters
    ----------
    boundaries : sequence of np.ndarray [shape=(clips,) of (k,)]
        Interior boundaries of every clip, seconds.
    durations : sequence of float
        Seconds.
    prompts : sequence
        The prompt of every clip.
    window : float
        Tolerance, seconds, > 0.
    chance : str
        ``"shift"``: F0 from circular shifts. ``"prompts"``: from takes of other prompts, of which there must be some.

    Raises
    ------
    UserError
        No prompt with two takes, takes of one prompt whose lengths differ by more than a tenth, or times outside the
        clip.
    """
    values = prompt_alignments(boundaries, durations, prompts, window=window, chance=chance)
    defined = {prompt: value for prompt, value in values.items() if not math.isnan(value)}
    if not defined:
        return Estimate(
            math.nan, math.nan, math.nan, 0, "prompt", "no two takes of a prompt have boundaries to compare"
        )
    numbers = np.array(list(defined.values()))
    estimate = jackknife(
        lambda keep: float(numbers[keep].mean()), list(defined), unit_name="prompt", level=level, bounds=RANGE
    )
    left = len(values) - len(defined)
    note = f"{left} prompt(s) without comparable boundaries left out" if left else estimate.note
    return Estimate(estimate.value, estimate.low, estimate.high, estimate.n_units, estimate.unit, note)


def prompt_alignments(
    boundaries: Sequence[np.ndarray],
    durations: Sequence[float],
    prompts: Sequence[object],
    *,
    window: float = 3.0,
    chance: str = "shift",
) -> dict[object, float]:
    """Mean pair alignment of every prompt with at least two takes; NaN where none of its pairs is defined. Arguments
    and errors as in `boundary_alignment`, which is their mean."""
    if not window > 0.0:
        raise UserError(f"the tolerance for boundaries must be positive, not {window} s.")
    times = [np.sort(np.asarray(row, dtype=np.float64)) for row in boundaries]
    _check(times, durations, prompts)
    if chance not in ("shift", "prompts"):
        raise UserError(f"there is no chance level {chance!r}; choose 'shift' or 'prompts'.")
    others = _between_prompts(times, prompts, window) if chance == "prompts" else None
    out: dict[object, float] = {}
    for prompt, takes in takes_of(prompts).items():
        length = [durations[i] for i in takes]
        if max(length) - min(length) > _MAX_LENGTH_DIFFERENCE * max(length):
            raise UserError(
                f"takes of prompt {prompt!r} last from {min(length):.1f} to {max(length):.1f} s; boundaries can be "
                "compared only "
                "between takes of equal length (within a tenth): cut them alike."
            )
        pairs = [
            _pair_alignment(times[i], times[j], max(durations[i], durations[j]), window, others)
            for i, j in combinations(takes, 2)
        ]
        known = [value for value in pairs if not math.isnan(value)]
        out[prompt] = float(np.mean(known)) if known else math.nan
    return out


def takes_of(prompts: Sequence[object]) -> dict[object, list[int]]:
    """Indices of the clips of every prompt that has at least two.

    Raises
    ------
    UserError
        No prompt has two.
    """
    takes: dict[object, list[int]] = {}
    for index, prompt in enumerate(prompts):
        if prompt is not None:
            takes.setdefault(prompt, []).append(index)
    several = {prompt: own for prompt, own in takes.items() if len(own) > 1}
    if not several:
        raise UserError(
            f"none of the {len(takes)} prompt(s) has two takes; what varies across seeds needs at least two seeds a "
            "prompt."
        )
    return several


def _check(times: Sequence[np.ndarray], durations: Sequence[float], prompts: Sequence[object]) -> None:
    if not len(times) == len(durations) == len(prompts):
        raise UserError(
            f"{len(times)} lists of boundaries, {len(durations)} durations and {len(prompts)} prompts do not match; "
            "give one each a clip."
        )
    for row, duration in zip(times, durations, strict=True):
        if not np.isfinite(row).all() or not math.isfinite(duration) or duration <= 0.0:
            raise UserError(
                "boundaries and durations must be finite and durations positive; leave out the clips that have none."
            )
        if len(row) and (row[0] < 0.0 or row[-1] > duration + 0.5):
            raise UserError(
                f"a boundary at {row[0] if row[0] < 0 else row[-1]:.2f} s lies outside its clip of {duration:.2f} s."
            )
