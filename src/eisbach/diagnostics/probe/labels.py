"""How well the weight tells two labels apart. Labels judge a weighting here; they are never fed to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eisbach.diagnostics.probe.grid import Grid
from eisbach.diagnostics.probe.intervals import RESAMPLES, Estimate, auc
from eisbach.errors import UserError

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
