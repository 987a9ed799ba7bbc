"""How well weights tell labels apart, and the two predictions of the barrier paper that rows can decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from eisbach.diagnostics.probe.grid import (
    MIN_CLIPS,
    UNKNOWN,
    Estimate,
    Grid,
    estimate,
    percentile_interval,
    resample_clips,
)
from eisbach.errors import UserError
from eisbach.statistics.effect_size import auc, auc_replicates, mean_moments, t_interval

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
    """One prediction of the barrier paper's section 9: its number, claim and outcome, and what that rests on."""

    number: int
    claim: str
    outcome: Outcome
    measures: list[tuple[str, Estimate]]


def belief_and_loss(grid: Grid, rng: np.random.Generator, resamples: int) -> BeliefLoss | None:
    """How belief goes with loss between clips at each noise level; None without beliefs or with too few clips."""
    belief, loss = grid.by_level("belief"), grid.by_level("loss")
    usable = np.isfinite(belief).all(axis=1) & np.isfinite(loss).all(axis=1)
    if usable.sum() < MIN_CLIPS:
        return None
    belief, loss = belief[usable].T, loss[usable].T  # (L, clips)
    values = rank_correlation(belief, loss)
    if np.isnan(values).all():
        return None
    # A clip that is drawn is drawn at all of its levels, so that bands are resampled as wholes: (L, resamples).
    draws = resample_clips(belief.shape[1], rng, resamples)
    drawn = np.stack([rank_correlation(a[draws], b[draws]) for a, b in zip(belief, loss, strict=True)])
    levels = [(float(t), percentile_interval(v, each)) for t, v, each in zip(grid.levels, values, drawn, strict=True)]
    bands, resampled = {}, {}
    for band, low, high in BANDS:
        inside = (grid.levels > low) & (grid.levels <= high) & np.isfinite(values)
        if inside.any():
            resampled[band] = np.nanmean(drawn[inside], axis=0)
            bands[band] = percentile_interval(float(values[inside].mean()), resampled[band])
    difference = UNKNOWN
    if "low" in bands and "high" in bands:
        gap = float((bands["low"].value or 0.0) - (bands["high"].value or 0.0))
        difference = percentile_interval(gap, resampled["low"] - resampled["high"])
    return BeliefLoss(levels, bands, difference)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's correlation along the last axis, ties averaged; NaN where either is constant."""
    from scipy.stats import rankdata

    a, b = (rankdata(values, axis=-1) / values.shape[-1] for values in (first, second))
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 1e-12, (a * b).sum(axis=-1) / scale, np.nan)


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
    name = "rank correlation of belief and loss at {} noise"
    return Prediction(5, claim, outcome, [
        (name.format("low"), low), (name.format("high"), high), ("their difference", gap)
    ])  # fmt: skip


def stratification(
    grid: Grid, gradient_levels: Sequence[Mapping[str, Any]], draws: np.ndarray | None
) -> Prediction | None:
    """Prediction 1: at low t the weight goes to 1 and the gradient's norm is high; at high t both are damped."""
    weights = grid.by_level("sample_weight")
    low, high = grid.levels <= BANDS[0][2], grid.levels > BANDS[2][1]
    if draws is None or not np.isfinite(weights).all() or not low.any() or not high.any() or np.ptp(weights) < 1e-9:
        return None
    at_lowest = percentile_interval(float(weights[:, 0].mean()), weights[draws, 0].mean(axis=1))
    by_clip = weights[:, low].mean(axis=1) - weights[:, high].mean(axis=1)
    falls = percentile_interval(float(by_clip.mean()), by_clip[draws].mean(axis=1))
    norms = _norm_ratio(gradient_levels)
    outcome: Outcome = "undecided"
    if at_lowest.above(_FULL_WEIGHT) and falls.above(0) and norms.above(1):
        outcome = "confirmed"
    elif at_lowest.below(_FULL_WEIGHT) or falls.below(0) or norms.below(1):
        outcome = "refuted"
    claim = "the weight goes to 1 and the gradient is large at low noise, and both are damped at high noise"
    return Prediction(1, claim, outcome, [
        (f"mean weight at t = {grid.levels[0]:g}", at_lowest), ("its fall from low to high noise", falls),
        ("norm of the gradient at low over that at high noise", norms),
    ])  # fmt: skip


def _norm_ratio(rows: Sequence[Mapping[str, Any]]) -> Estimate:
    """The weighted gradient's norm at low over that at high noise: geometric mean over batches, t interval.

    A batch has the same clips and noise at every level, so the batches are paired; those with a gap are left out.
    """
    norms = np.array([row.get("weighted_norms") or [row.get("weighted_norm")] for row in rows], dtype=float)
    t = np.array([float(row["t"]) for row in rows])
    quiet, noisy = norms[t <= BANDS[0][2]], norms[t > BANDS[2][1]]
    if not len(quiet) or not len(noisy):
        return UNKNOWN
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(quiet.mean(axis=0) / noisy.mean(axis=0))
    logs = logs[np.isfinite(logs)]
    ends = t_interval(mean_moments(logs), 0.95) or (np.nan, np.nan)
    return estimate(*np.exp([logs.mean(), *ends])) if len(logs) else UNKNOWN


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
    def told_up_to(self) -> float | None:
        """The highest t up to which every AUC reaches `TELLS_AUC`; None where the first fails."""
        last = None
        for t, area in self.levels:
            if area.value is None or area.value < TELLS_AUC:
                break
            last = t
        return last


def separate(grid: Grid, label: str | None, rng: np.random.Generator, resamples: int) -> list[Separation]:
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
    kinds = _values(grid, "kind")
    if label in (None, "kind", LABEL + "kind") and _DEVELOPING in kinds and len(kinds) > 1:
        pairs = [("kind", _DEVELOPING, kind) for kind in kinds if kind != _DEVELOPING]
    elif label is not None:
        # The alphabet decides what should weigh more, and the page says which way it goes.
        key = label.removeprefix(LABEL)
        pairs = [(key, *_two_values(grid, key))]
    else:
        pairs = [("flat", "false", "true")] if _values(grid, "flat") == ["false", "true"] else []
    return [_separation(grid, *pair, rng, resamples) for pair in pairs]


def _two_values(grid: Grid, key: str) -> tuple[str, str]:
    known = dict.fromkeys(name.removeprefix(LABEL) for row in grid.rows for name in row if name.startswith(LABEL))
    if key not in known:
        labels = f"their labels are {', '.join(known)}." if known else "their manifest has no labels at all."
        raise UserError(f"the clips have no label {key!r}; {labels}")
    values = _values(grid, key)
    if len(values) != 2:
        shown = ", ".join(values[:6]) + (", …" if len(values) > 6 else "")
        raise UserError(
            f"the label {key!r} has {len(values)} value{'' if len(values) == 1 else 's'} among the probed clips "
            f"({shown}); name a label with exactly two."
        )
    return values[0], values[1]


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
        levels.append((float(t), auc_estimate(weights[usable & sides[0]], weights[usable & sides[1]], rng, resamples)))
    return Separation(key, positive, negative, int(sides[0].sum()), int(sides[1].sum()), levels)


def auc_estimate(more: np.ndarray, less: np.ndarray, rng: np.random.Generator, resamples: int) -> Estimate:
    """`auc` with a bootstrap over the clips of each side.

    Where every pair is ordered alike a bootstrap has no width; there the exact bound for one side's clips all on one
    side is given instead (rule of three, 1 - 0.05^(1/n) for the smaller side).
    """
    fewer = min(len(more), len(less))
    if fewer == 0:
        return UNKNOWN
    value, slack = auc(more, less), 1 - 0.05 ** (1 / fewer)
    if fewer < 2:
        return estimate(value)
    if value in (0.0, 1.0):
        return estimate(value, max(0.0, value - slack), min(1.0, value + slack))
    first, second = (rng.multinomial(len(side), np.full(len(side), 1 / len(side)), resamples) for side in (more, less))
    return percentile_interval(value, auc_replicates(more, less, (first, second)))
