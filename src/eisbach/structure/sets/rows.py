"""A row of a comparison: a set metric's value with everything that a table or a page says beside it."""

from __future__ import annotations

from dataclasses import dataclass

from eisbach.structure.sets.intervals import Estimate
from eisbach.structure.sets.table import SET_METRICS

TEXTURE = "texture"
"""Name of the embedding that is always there."""


@dataclass(frozen=True)
class SetRow:
    """One number of a comparison.

    Attributes
    ----------
    metric : str
        Key of `SET_METRICS`.
    label, unit, higher_means : str
    sets : str
        The set's name, or both: "A vs B".
    embedding : str
        "texture", "clap" …; "" where none is involved.
    value, low, high : float
        NaN where undefined.
    n_units : int
    unit_of_interval : str
    reference : float or None
        What no difference, chance or no memorisation reads; for distances the median under exchanged labels.
    p_value : float or None
        Of no difference, by exchanging labels between the sets.
    note : str
    """

    metric: str
    label: str
    unit: str
    higher_means: str
    sets: str
    embedding: str
    value: float
    low: float
    high: float
    n_units: int
    unit_of_interval: str
    reference: float | None = None
    p_value: float | None = None
    note: str = ""


def make_row(
    metric: str, found: Estimate, sets: str, embedding: str, p: float | None = None, reference: float | None = None
) -> SetRow:
    """The row of an estimate; `reference` None takes the metric's own from the table."""
    about = SET_METRICS[metric]
    unit = about.unit if embedding in ("", TEXTURE) or about.unit != "dB²" else ""
    return SetRow(
        metric, about.label, unit, about.higher_means, sets, embedding, found.value, found.low, found.high,
        found.n_units,
        found.unit, about.reference if reference is None else reference, p, found.note,
    )  # fmt: skip
