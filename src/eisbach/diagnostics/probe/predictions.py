"""How well weights tell labels apart, and the two predictions of the barrier paper that rows can decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from eisbach.diagnostics.probe.intervals import (
    MIN_CLIPS,
    RESAMPLES,
    UNKNOWN,
    Estimate,
    auc,
    correlate,
    percentile_interval,
    ranks,
    resample_clips,
    said,
    spearman,
)
from eisbach.diagnostics.probe.levels import Grid
from eisbach.errors import UserError

BANDS = (("low", 0.0, 1 / 3), ("mid", 1 / 3, 2 / 3), ("high", 2 / 3, 1.0))
"""Noise levels t, lower end excluded; thirds of the range."""
_FULL_WEIGHT = 0.9  # the paper's 'w -> 1' at low t counts as met from here
Outcome = Literal["confirmed", "refuted", "undecided"]


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


def belief_and_loss(grid: Grid, rng: np.random.Generator, resamples: int = RESAMPLES) -> BeliefLoss | None:
    """How belief goes with loss between clips at each noise level; None without beliefs or with too few clips."""
    belief, loss = grid.by_level("belief"), grid.by_level("loss")
    usable = np.isfinite(belief).all(axis=1) & np.isfinite(loss).all(axis=1)
    if usable.sum() < MIN_CLIPS:
        return None
    belief, loss = belief[usable].T, loss[usable].T  # (L, clips)
    draws = resample_clips(belief.shape[1], rng, resamples)
    levels = [(float(t), spearman(a, b, draws)) for t, a, b in zip(grid.levels, belief, loss, strict=True)]
    values = np.array([np.nan if link.value is None else link.value for _, link in levels])
    if np.isnan(values).all():
        return None
    # Bands are resampled as wholes: a clip that is drawn is drawn at all of its levels.
    each = np.stack([correlate(ranks(a[draws]), ranks(b[draws])) for a, b in zip(belief, loss, strict=True)])
    bands, resampled = {}, {}
    for band, low, high in BANDS:
        inside = (grid.levels > low) & (grid.levels <= high) & np.isfinite(values)
        if inside.any():
            resampled[band] = np.nanmean(each[inside], axis=0)
            bands[band] = percentile_interval(float(values[inside].mean()), resampled[band])
    difference = UNKNOWN
    if "low" in bands and "high" in bands:
        gap = float((bands["low"].value or 0.0) - (bands["high"].value or 0.0))
        difference = percentile_interval(gap, resampled["low"] - resampled["high"])
    return BeliefLoss(levels, bands, difference)


def belief_correctness(link: BeliefLoss | None) -> Prediction | None:
    """Prediction 5: at low t a low belief goes with a low loss; at high t the correlation drops or inverts."""
    if link is None or "low" not in link.bands:
        return None
    low, high, gap = link.bands["low"], link.bands.get("high", UNKNOWN), link.difference
    outcome: Outcome = "undecided"
    if low.above(0) and gap.above(0):
        outcome = "confirmed"
    elif low.below(0.1) or (low.above(0) and gap.below(0)):
        outcome = "refuted"
    claim = "low belief goes with low loss at low noise, less so or inversely at high noise"
    because = (
        f"their rank correlation is {said(low)} at low noise and {said(high)} at high noise, a difference of "
        f"{said(gap)}"
    )
    return Prediction(5, claim, outcome, because)


def stratification(
    grid: Grid, gradient_levels: Sequence[Mapping[str, Any]], draws: np.ndarray | None
) -> Prediction | None:
    """Prediction 1: at low t the weight goes to 1 and the gradient's norm is high; at high t both are damped."""
    weights = grid.by_level("sample_weight")
    low_end, high_start = BANDS[0][2], BANDS[2][1]
    low, high = grid.levels <= low_end, grid.levels > high_start
    if draws is None or not np.isfinite(weights).all() or not low.any() or not high.any() or np.ptp(weights) < 1e-9:
        return None
    at_lowest = percentile_interval(float(weights[:, 0].mean()), weights[draws, 0].mean(axis=1))
    by_clip = weights[:, low].mean(axis=1) - weights[:, high].mean(axis=1)
    falls = percentile_interval(float(by_clip.mean()), by_clip[draws].mean(axis=1))
    norms = [(float(row["t"]), row.get("weighted_norm")) for row in gradient_levels]
    quiet = [float(norm) for t, norm in norms if t <= low_end and norm is not None]
    noisy = [float(norm) for t, norm in norms if t > high_start and norm is not None]
    larger = float(np.mean(quiet)) > float(np.mean(noisy)) if quiet and noisy else None
    outcome: Outcome = "undecided"
    if at_lowest.above(_FULL_WEIGHT) and falls.above(0) and larger:
        outcome = "confirmed"
    elif at_lowest.below(_FULL_WEIGHT) or falls.below(0) or larger is False:
        outcome = "refuted"
    claim = "the weight goes to 1 and the gradient is large at low noise, and both are damped at high noise"
    because = (
        f"the mean weight at t = {grid.levels[0]:g} is {said(at_lowest)}, and it falls by {said(falls)} from low to "
        "high noise"
    )
    if quiet and noisy:
        because += f"; the gradient's norm is {np.mean(quiet):.3g} at low and {np.mean(noisy):.3g} at high noise"
    return Prediction(1, claim, outcome, because)


# --- how well weights tell labels apart


LABEL = "label."
TELLS_AUC = 0.9
"""Two labels are told apart from this AUC on: nine pairs of ten are ordered right."""
_FEW_OF_A_KIND = 5
"""Fewer clips than this of either side say nothing about AUC: its interval spans most of 0 to 1."""
_DEVELOPING = "developing"


@dataclass(frozen=True)
class Separation:
    """How well the sample weight tells two labels apart.

    Attributes
    ----------
    label, positive, negative : str
        The label's key, the value that should weigh more, and the other one.
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

    @property
    def few(self) -> bool:
        """Whether either side has too few clips for its AUC to say anything."""
        return min(self.n_positive, self.n_negative) < _FEW_OF_A_KIND

    @property
    def told_up_to(self) -> tuple[float, Estimate] | None:
        """The highest t up to which every AUC reaches `TELLS_AUC`, and the AUC there; None where the first fails."""
        last = None
        for t, area in self.levels:
            if area.value is None or area.value < TELLS_AUC:
                break
            last = t, area
        return last


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
    key = label.removeprefix(LABEL) if label is not None else _usual_label(grid)
    if key is None:
        return []
    values = _values(grid, key)
    if _is_kind(key, values):
        pairs = [(_DEVELOPING, kind) for kind in values if kind != _DEVELOPING]
    else:
        _check_label(grid, key, values)
        # flat = "false" is what should weigh more; elsewhere the alphabet decides, and the page says which way it goes
        pairs = [(values[0], values[1])]
    return [_separation(grid, key, *pair, rng, resamples) for pair in pairs]


def _usual_label(grid: Grid) -> str | None:
    if _is_kind("kind", _values(grid, "kind")):
        return "kind"
    return "flat" if _values(grid, "flat") == ["false", "true"] else None


def _is_kind(key: str, values: list[str]) -> bool:
    return key == "kind" and _DEVELOPING in values and len(values) > 1


def _check_label(grid: Grid, key: str, values: list[str]) -> None:
    known = [name.removeprefix(LABEL) for name in grid.columns(LABEL)]
    if key not in known:
        labels = f"their labels are {', '.join(known)}." if known else "their manifest has no labels at all."
        raise UserError(f"the clips have no label {key!r}; {labels}")
    if len(values) != 2:
        shown = ", ".join(values[:6]) + (", …" if len(values) > 6 else "")
        raise UserError(
            f"the label {key!r} has {len(values)} value{'' if len(values) == 1 else 's'} among the probed clips "
            f"({shown}); "
            "name a label with exactly two."
        )


def _values(grid: Grid, key: str) -> list[str]:
    return sorted({value for value in grid.texts(LABEL + key) if value is not None})


def _separation(
    grid: Grid, key: str, positive: str, negative: str, rng: np.random.Generator, resamples: int
) -> Separation:
    texts = np.array([value or "" for value in grid.texts(LABEL + key)])
    sides = texts == positive, texts == negative
    levels = []
    for t, weights in zip(grid.levels, grid.by_level("sample_weight").T, strict=True):
        usable = np.isfinite(weights)
        levels.append((float(t), auc(weights[usable & sides[0]], weights[usable & sides[1]], rng, resamples)))
    return Separation(key, positive, negative, int(sides[0].sum()), int(sides[1].sum()), levels)
