"""Does the weight agree with labels, and the belief with the loss? And what became of the barrier paper's predictions.

Labels judge a weighting here; they are never fed to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from eisbach.diagnostics.probe.association import (
    RESAMPLES,
    UNKNOWN,
    Estimate,
    auc,
    correlate,
    percentile_interval,
    ranks,
    resample_clips,
    spearman,
)
from eisbach.diagnostics.probe.drivers import BANDS, MIN_CLIPS
from eisbach.diagnostics.probe.grid import Grid
from eisbach.errors import UserError

DEVELOPING = "developing"
FULL_WEIGHT = 0.9
"""The paper's 'w -> 1' at low t counts as met from here."""
LABEL = "label."
Outcome = Literal["confirmed", "refuted", "undecided"]


@dataclass(frozen=True)
class Separation:
    """How well the sample weight tells two labels apart.

    Attributes
    ----------
    label, positive, negative : str
        The label's key, the value that should weigh more, and the other one ("" for all others).
    n_positive, n_negative : int
        Clips.
    levels : list of (t, Estimate)
        AUC: the chance that a clip of `positive` weighs more than one of `negative`; 0.5 is chance.
    """

    label: str
    positive: str
    negative: str
    n_positive: int
    n_negative: int
    levels: list[tuple[float, Estimate]]


@dataclass(frozen=True)
class BeliefLoss:
    """Spearman's correlation between clips of belief and loss.

    Attributes
    ----------
    levels : list of (t, Estimate)
    bands : dict of str to Estimate
        Means over the levels of the low, mid and high thirds of t.
    difference : Estimate
        Low band less high band.
    """

    levels: list[tuple[float, Estimate]]
    bands: dict[str, Estimate]
    difference: Estimate


@dataclass(frozen=True)
class Prediction:
    """One prediction of the barrier paper's section 9.

    Attributes
    ----------
    number : int
    claim : str
    outcome : "confirmed", "refuted" or "undecided"
    because : str
        The numbers, as part of a sentence.
    """

    number: int
    claim: str
    outcome: Outcome
    because: str


def separate(grid: Grid, label: str | None, rng: np.random.Generator, resamples: int = RESAMPLES) -> list[Separation]:
    """AUC of the sample weight by noise level.

    Parameters
    ----------
    label : str or None
        A label with two values; None takes `kind` (developing against each other kind), or else `flat`, where the clips
        have them.

    Raises
    ------
    UserError
        The named label does not exist, or has one value only or more than two.
    """
    if label is not None:
        column = _label_column(grid, label)
        return (
            _by_kind(grid, column, rng, resamples)
            if _is_kind(grid, column)
            else [_two_valued(grid, column, rng, resamples)]
        )
    for name in ("kind", "flat"):
        column = LABEL + name
        if column in grid.columns(LABEL):
            if _is_kind(grid, column):
                return _by_kind(grid, column, rng, resamples)
            if set(_values(grid, column)) == {"true", "false"} and name == "flat":
                return [_two_valued(grid, column, rng, resamples)]
    return []


def _label_column(grid: Grid, label: str) -> str:
    column = label if label.startswith(LABEL) else LABEL + label
    known = [name.removeprefix(LABEL) for name in grid.columns(LABEL)]
    if column not in grid.columns(LABEL):
        raise UserError(
            f"the clips have no label {label!r}; "
            + (f"their labels are {', '.join(known)}." if known else "their manifest has no labels at all.")
        )
    values = _values(grid, column)
    if not _is_kind(grid, column) and len(values) != 2:
        shown = ", ".join(values[:6]) + (", …" if len(values) > 6 else "")
        raise UserError(
            f"the label {label!r} has {len(values)} value{'' if len(values) == 1 else 's'} among the probed clips ({shown}); "
            "name a label with exactly two."
        )
    return column


def _values(grid: Grid, column: str) -> list[str]:
    return sorted({value for value in grid.texts(column) if value is not None})


def _is_kind(grid: Grid, column: str) -> bool:
    values = _values(grid, column)
    return column == LABEL + "kind" and DEVELOPING in values and len(values) > 1


def _by_kind(grid: Grid, column: str, rng: np.random.Generator, resamples: int) -> list[Separation]:
    return [
        _separation(grid, column, DEVELOPING, kind, rng, resamples)
        for kind in _values(grid, column)
        if kind != DEVELOPING
    ]


def _two_valued(grid: Grid, column: str, rng: np.random.Generator, resamples: int) -> Separation:
    first, second = _values(grid, column)
    # flat = "false" is what should weigh more; elsewhere the alphabet decides, and the page says which way it goes
    return _separation(grid, column, first, second, rng, resamples)


def _separation(
    grid: Grid, column: str, positive: str, negative: str, rng: np.random.Generator, resamples: int
) -> Separation:
    texts = np.array([value if value is not None else "" for value in grid.texts(column)])
    weights = grid.by_level("sample_weight")
    levels = []
    for index, t in enumerate(grid.levels):
        values = weights[:, index]
        usable = np.isfinite(values)
        levels.append(
            (float(t), auc(values[usable & (texts == positive)], values[usable & (texts == negative)], rng, resamples))
        )
    return Separation(
        column.removeprefix(LABEL),
        positive,
        negative,
        int((texts == positive).sum()),
        int((texts == negative).sum()),
        levels,
    )


def belief_and_loss(grid: Grid, rng: np.random.Generator, resamples: int = RESAMPLES) -> BeliefLoss | None:
    """How belief goes with loss between clips at each noise level; None without beliefs or with too few clips."""
    belief, loss = grid.by_level("belief"), grid.by_level("loss")
    kept = np.isfinite(belief).all(axis=1) & np.isfinite(loss).all(axis=1)
    if kept.sum() < MIN_CLIPS:
        return None
    belief, loss = belief[kept], loss[kept]
    draws = resample_clips(len(belief), rng, resamples)
    levels = [(float(t), spearman(belief[:, k], loss[:, k], draws)) for k, t in enumerate(grid.levels)]
    if all(one.value is None for _, one in levels):
        return None
    # Bands are resampled as wholes: a clip that is drawn is drawn at all of its levels.
    each = np.stack(
        [correlate(ranks(belief[:, k][draws]), ranks(loss[:, k][draws])) for k in range(len(grid.levels))], axis=1
    )
    values = np.array([np.nan if one.value is None else one.value for _, one in levels])
    bands, resampled = {}, {}
    for band, low, high in BANDS:
        inside = (grid.levels > low) & (grid.levels <= high) & np.isfinite(values)
        if inside.any():
            resampled[band] = np.nanmean(each[:, inside], axis=1)
            bands[band] = percentile_interval(float(values[inside].mean()), resampled[band])
    difference = UNKNOWN
    if "low" in bands and "high" in bands:
        gap = float((bands["low"].value or 0.0) - (bands["high"].value or 0.0))
        difference = percentile_interval(gap, resampled["low"] - resampled["high"])
    return BeliefLoss(levels, bands, difference)


def belief_correctness(found: BeliefLoss | None) -> Prediction | None:
    """Prediction 5: at low t a low belief goes with a low loss; at high t the correlation drops or inverts."""
    if found is None or "low" not in found.bands:
        return None
    claim = "low belief goes with low loss at low noise, and the correlation drops or inverts at high noise"
    low, high, gap = found.bands["low"], found.bands.get("high", UNKNOWN), found.difference
    because = f"the correlation of belief with loss is {said(low)} at low noise"
    if high.value is not None:
        because += f" and {said(high)} at high noise; the difference is {said(gap)}"
    outcome: Outcome = "undecided"
    if low.above(0) and gap.above(0):
        outcome = "confirmed"
    elif low.below(0.1) or (low.above(0) and gap.below(0)):
        outcome = "refuted"
    return Prediction(5, claim, outcome, because)


def stratification(
    grid: Grid, gradient_levels: Sequence[Mapping[str, Any]], draws: np.ndarray | None
) -> Prediction | None:
    """Prediction 1: at low t the weight goes to 1 and the gradient's norm is high; at high t both are damped."""
    weights = grid.by_level("sample_weight")
    kept = np.isfinite(weights).all(axis=1)
    low_end, high_start = BANDS[0][2], BANDS[2][1]
    low, high = grid.levels <= low_end, grid.levels > high_start
    if draws is None or not kept.all() or not low.any() or not high.any() or np.ptp(weights) < 1e-9:
        return None
    lowest = int(np.flatnonzero(low)[0])
    at_lowest = percentile_interval(float(weights[:, lowest].mean()), weights[draws, lowest].mean(axis=1))

    def drop(sample: np.ndarray) -> float:
        return float(sample[:, low].mean() - sample[:, high].mean())

    falls = percentile_interval(drop(weights), np.array([drop(weights[index]) for index in draws]))
    claim = "the weight goes to 1 and the gradient is large at low noise, and both are damped at high noise"
    rises = (falls.value or 0.0) < 0
    change = Estimate(*(None if x is None else -x for x in (falls.value, falls.high, falls.low))) if rises else falls
    because = (
        f"the mean weight at t = {grid.levels[lowest]:g} is {said(at_lowest)}, and from low to high noise it "
        f"{'rises' if rises else 'falls'} by {said(change)}"
    )
    norms = [(float(row["t"]), row.get("weighted_norm")) for row in gradient_levels]
    quiet = [float(norm) for t, norm in norms if t <= low_end and norm is not None]
    noisy = [float(norm) for t, norm in norms if t > high_start and norm is not None]
    larger: bool | None = None
    if quiet and noisy:
        larger = float(np.mean(quiet)) > float(np.mean(noisy))
        because += (
            f"; the weighted gradient's norm is {np.mean(quiet):.3g} at low and {np.mean(noisy):.3g} at high noise"
        )
    outcome: Outcome = "undecided"
    if at_lowest.above(FULL_WEIGHT) and falls.above(0) and larger:
        outcome = "confirmed"
    elif at_lowest.below(FULL_WEIGHT) or falls.below(0) or larger is False:
        outcome = "refuted"
    return Prediction(1, claim, outcome, because)


def said(one: Estimate, digits: int = 2) -> str:
    """'0.41 (95% 0.20 to 0.58)'; 'unknown' where there is no value."""
    if one.value is None:
        return "unknown"
    text = number(one.value, digits)
    if one.low is None or one.high is None:
        return text
    return f"{text} (95% {number(one.low, digits)} to {number(one.high, digits)})"


def number(value: float, digits: int = 2) -> str:
    """A number with a true minus sign; never '-0.00'."""
    text = f"{value:.{digits}f}"
    return text.replace("-", "" if not any(c in text for c in "123456789") else "\u2212")
