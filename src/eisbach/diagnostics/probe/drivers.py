"""What tells the heavy clips from the light ones: loudness, the prediction's energy, structure, or the loss.

The question is asked within noise levels. `clip_effect` says how much more than its neighbours a clip weighs, on average
over the levels; what varies with the level beside the clip (loss, energy of the prediction) is ranked within each level and
averaged with the levels' own variance between clips as weights, so that levels at which the weighting does nothing say
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from eisbach.diagnostics.probe.association import (
    RESAMPLES,
    UNKNOWN,
    Estimate,
    estimate,
    explained,
    holm,
    jackknife,
    partial_residuals,
    permutation_p,
    ranks,
    resample_clips,
    spearman,
)
from eisbach.diagnostics.probe.grid import Grid, safe_log

LOUDNESS = ("latent_db", "loudness_db")
ENERGY = ("output_energy_db", "x0_energy_db")
LOSS = ("loss", "x0_loss")
STRUCTURE = "structure."
SOUND = ("noise_floor_db", "bandwidth_hz", "share_below_200", "share_above_2000")
"""Columns under `STRUCTURE` that describe timbre and recording: candidates, but no part of what structure explains."""
MIN_CLIPS = 12
"""Below this a rank correlation must exceed 0.58 to be told from 0 and shares have intervals from 0 to 1."""
MOST_MISSING = 0.2
"""A candidate that more clips lack than this is left out of the joint shares: filling it in would make it up."""
SAME_DB = 0.1
"""Levels (dB) that differ by less than this have been normalised; ranking them would rank rounding."""
SAME_RELATIVE, SAME_ABSOLUTE = 0.02, 0.005
"""A structure metric that differs by less has not changed: clips at other gains differ by rounding in the audio file."""
BANDS = (("low", 0.0, 1 / 3), ("mid", 1 / 3, 2 / 3), ("high", 2 / 3, 1.0))
"""Noise levels t, lower end excluded; thirds of the range."""


@dataclass(frozen=True)
class Driver:
    """One candidate.

    Attributes
    ----------
    name : str
        Column of the rows.
    group : "loudness", "energy", "structure", "loss" or "sound"
    clips : int
        Clips that have it.
    spearman : Estimate
        With the clip effect.
    p, p_holm : float or None
        Permutation test of that correlation, and Holm's correction over the candidates.
    share : float or None
        Share of the clip effect's rank variance that it predicts alone, for a clip left out; a preference for the middle or
        for both ends counts.
    beyond_loudness : Estimate
        Rank correlation once loudness is taken out of both; unknown for loudness itself.
    bends : float or None
        Correlation of the clip effect with the squared rank: below 0 the middle weighs most, above 0 both ends.
    bands : dict of str to Estimate
        Spearman's correlation within the low, mid and high noise levels.
    same : bool
        The clips hardly differ in it, so nothing can be said.
    """

    name: str
    group: str
    clips: int
    spearman: Estimate = UNKNOWN
    p: float | None = None
    p_holm: float | None = None
    share: float | None = None
    beyond_loudness: Estimate = UNKNOWN
    bends: float | None = None
    bands: dict[str, Estimate] = field(default_factory=dict)
    same: bool = False


@dataclass(frozen=True)
class Shares:
    """Shares of the clip effect's rank variance, predicted for clips left out; 95% intervals by the jackknife.

    Attributes
    ----------
    loudness, structure, both : Estimate
        By the two loudness columns, by all structure metrics, and by all of them together.
    loudness_only, structure_only : Estimate
        What each adds to the other.
    shared : Estimate
        What either would explain: where it is large, loudness and structure go together in these clips.
    energy, loss : Estimate
        By the energies of the prediction, and by the losses, each alone.
    """

    loudness: Estimate = UNKNOWN
    structure: Estimate = UNKNOWN
    both: Estimate = UNKNOWN
    loudness_only: Estimate = UNKNOWN
    structure_only: Estimate = UNKNOWN
    shared: Estimate = UNKNOWN
    energy: Estimate = UNKNOWN
    loss: Estimate = UNKNOWN


@dataclass(frozen=True)
class Drivers:
    """What explains the difference between clips.

    Attributes
    ----------
    clips : int
        Clips with a finite weight everywhere.
    enough : bool
        Whether there are at least `MIN_CLIPS` of them and they differ.
    candidates : list of Driver
        Strongest first.
    shares : Shares
    loudness_same : bool
        No loudness column differs between the clips.
    """

    clips: int
    enough: bool
    candidates: list[Driver]
    shares: Shares
    loudness_same: bool


def clip_effect(weights: np.ndarray, levels: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(mean over levels of a clip's ln weight less the level's mean, (clips,); variance between clips by level, (L,)).

    Parameters
    ----------
    weights : np.ndarray [shape=(clips, L, draws)]
    levels : np.ndarray [shape=(L,), bool] or None
        Levels to count.
    """
    logs = safe_log(weights).mean(axis=2)
    logs = logs - logs.mean(axis=0)
    chosen = np.ones(logs.shape[1], dtype=bool) if levels is None else levels
    return logs[:, chosen].mean(axis=1), logs.var(axis=0)


def find_drivers(grid: Grid, weights: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES) -> Drivers:
    """Which properties of the clips go with their weights.

    Parameters
    ----------
    weights : np.ndarray [shape=(clips, L, draws)]
        The weights in question; clips with a value that is not finite are left out.
    """
    kept = np.isfinite(weights).all(axis=(1, 2))
    weights = weights[kept]
    columns = _columns(grid, weights, kept)
    same = {name: _is_same(grid, name, kept) for name in columns}
    loudness_same = all(same[name] for name in LOUDNESS if name in columns)
    effect, _ = clip_effect(weights) if kept.any() else (np.zeros(0), None)
    differ = len(effect) > 1 and float(effect.std()) > 1e-9
    if kept.sum() < MIN_CLIPS or not differ:
        bare = [
            Driver(name, group_of(name), int(np.isfinite(values).sum()), same=same[name])
            for name, values in columns.items()
        ]
        return Drivers(int(kept.sum()), False, bare, Shares(), loudness_same)
    usable = {name: values for name, values in columns.items() if not same[name]}
    joint = {name: _filled(values) for name, values in usable.items() if np.isnan(values).mean() <= MOST_MISSING}
    found = [Driver(name, group_of(name), int(kept.sum()), same=True) for name in columns if same[name]]
    p_values = _p_values(weights, usable, rng)
    tested = [
        _driver(grid, name, values, weights, kept, rng, joint, resamples, p_values.get(name))
        for name, values in usable.items()
    ]
    corrected = holm([one.p for one in tested if one.p is not None])
    for one in tested:
        found.append(
            Driver(**{**vars(one), "p_holm": corrected.pop(0) if one.p is not None else None})
        )  # same order as the p values
    found.sort(key=lambda one: -(one.share or 0.0) - 1e-3 * abs(one.spearman.value or 0.0))
    return Drivers(int(kept.sum()), True, found, _shares(effect, joint), loudness_same)


def group_of(name: str) -> str:
    """ "loudness", "energy", "loss", "sound" or "structure"."""
    for group, names in (("loudness", LOUDNESS), ("energy", ENERGY), ("loss", LOSS), ("sound", SOUND)):
        if name.removeprefix(STRUCTURE) in names:
            return group
    return "structure"


def _columns(grid: Grid, weights: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
    """Each candidate as one number a clip; those that no clip has are left out."""
    names = [*LOUDNESS, *ENERGY, *LOSS, *grid.columns(STRUCTURE)]
    found = {name: _column(grid, name, weights, kept, None) for name in names}
    return {name: values for name, values in found.items() if np.isfinite(values).sum() >= 2}


def _column(grid: Grid, name: str, weights: np.ndarray, kept: np.ndarray, levels: np.ndarray | None) -> np.ndarray:
    if name in (*ENERGY, *LOSS):
        values = grid.by_level(name)[kept]
        complete = np.isfinite(values).all(axis=1)
        out = np.full(len(values), np.nan)
        if complete.any():
            _, variance = clip_effect(weights[complete])
            variance = variance if levels is None else np.where(levels, variance, 0.0)
            if not variance.sum() > 0:
                variance = np.ones_like(variance) if levels is None else levels.astype(float)
            out[complete] = ranks(values[complete], axis=0) @ (variance / variance.sum())
        return out
    return grid.by_clip(name)[kept]


def _is_same(grid: Grid, name: str, kept: np.ndarray) -> bool:
    values = (grid.by_level(name).mean(axis=1) if name in (*ENERGY, *LOSS) else grid.by_clip(name))[kept]
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return True
    if name.endswith("_db") and not name.startswith(STRUCTURE):
        return bool(values.std() < SAME_DB)
    slack = SAME_ABSOLUTE if name.startswith(STRUCTURE) else 0.0
    return bool(values.std() <= SAME_RELATIVE * abs(float(np.median(values))) + slack)


def _filled(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), np.nanmedian(values), values)


def _driver(
    grid: Grid,
    name: str,
    values: np.ndarray,
    weights: np.ndarray,
    kept: np.ndarray,
    rng: np.random.Generator,
    joint: dict[str, np.ndarray],
    resamples: int,
    p: float | None,
) -> Driver:
    has = np.isfinite(values)
    group, count = group_of(name), int(has.sum())
    if count < MIN_CLIPS:
        return Driver(name, group, count)
    effect, _ = clip_effect(weights[has])
    draws = resample_clips(count, rng, resamples)
    bands = {}
    for band, low, high in BANDS:
        inside = (grid.levels > low) & (grid.levels <= high)
        if inside.any():
            part, _ = clip_effect(weights[has], inside)
            column = _column(grid, name, weights, kept, inside)[has]
            bands[band] = spearman(column, part, draws) if part.std() > 1e-9 else UNKNOWN
    square = ranks(values[has]) ** 2
    loudness = [column[has] for other, column in joint.items() if other in LOUDNESS]
    beyond = UNKNOWN
    if loudness and group != "loudness":
        pair = partial_residuals(np.stack([effect, values[has]], axis=1), np.stack(loudness, axis=1))
        beyond = _fisher(pair, 2 * len(loudness))
    return Driver(
        name,
        group,
        count,
        spearman=spearman(values[has], effect, draws),
        p=p,
        share=estimate(explained(effect, [values[has][:, None]])).value,
        beyond_loudness=beyond,
        bends=estimate(float(np.corrcoef(square, ranks(effect))[0, 1])).value if square.std() > 1e-9 else None,
        bands=bands,
    )


def _p_values(weights: np.ndarray, columns: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, float]:
    """p of each candidate that enough clips have; the candidates that the same clips have share their shuffles."""
    together: dict[bytes, list[str]] = {}
    for name, values in columns.items():
        together.setdefault(np.isfinite(values).tobytes(), []).append(name)
    found: dict[str, float] = {}
    for names in together.values():
        has = np.isfinite(columns[names[0]])
        if has.sum() >= MIN_CLIPS:
            effect, _ = clip_effect(weights[has])
            candidates = np.stack([ranks(columns[name][has]) for name in names], axis=1)
            found.update(zip(names, map(float, permutation_p(ranks(effect), candidates, rng)), strict=True))
    return found


def _fisher(pair: np.ndarray, given: int) -> Estimate:
    """Partial correlation with Fisher's interval, `given` predictors taken out."""
    n = len(pair)
    deviation = pair.std(axis=0)
    if n - 3 - given < 3 or (deviation < 1e-6).any():
        return UNKNOWN
    value = float(np.corrcoef(pair.T)[0, 1])
    reach = 1.96 / np.sqrt(n - 3 - given)
    z = np.arctanh(np.clip(value, -0.999999, 0.999999))
    return estimate(value, float(np.tanh(z - reach)), float(np.tanh(z + reach)))


def _shares(effect: np.ndarray, joint: dict[str, np.ndarray]) -> Shares:
    def matrix(group: str) -> np.ndarray | None:
        members = [values for name, values in joint.items() if group_of(name) == group]
        return np.stack(members, axis=1) if members else None

    def alone(group: np.ndarray | None) -> Estimate:
        if group is None:
            return UNKNOWN
        return jackknife(lambda index: np.array([explained(effect[index], [group[index]])]), len(effect), 0.0, 1.0)[0]

    loudness, structure = matrix("loudness"), matrix("structure")
    energy, loss = alone(matrix("energy")), alone(matrix("loss"))
    if loudness is None or structure is None:
        return Shares(loudness=alone(loudness), structure=alone(structure), energy=energy, loss=loss)

    def statistics(index: np.ndarray) -> np.ndarray:
        y = effect[index]
        first, second = explained(y, [loudness[index]]), explained(y, [structure[index]])
        both = explained(y, [loudness[index], structure[index]])
        return np.array([first, second, both, both - second, both - first, first + second - both])

    found = jackknife(statistics, len(effect), -1.0, 1.0)
    names = ("loudness", "structure", "both", "loudness_only", "structure_only", "shared")
    return Shares(
        energy=energy, loss=loss, **{name: _at_least_zero(one) for name, one in zip(names, found, strict=True)}
    )


def _at_least_zero(one: Estimate) -> Estimate:
    """A share below 0 is a share of 0 that was estimated with error; its interval keeps its upper end."""
    return Estimate(*(None if number is None else max(0.0, number) for number in (one.value, one.low, one.high)))
