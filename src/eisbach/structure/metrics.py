"""The table of structure metrics. Adding one is a file with a function and a ladder, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from eisbach.structure import blocks, closure, drift, levels, loops, motifs, onsets, vendi
from eisbach.structure.features import Features
from eisbach.structure.invariances import Invariances
from eisbach.structure.synthetic import Ladder


@dataclass(frozen=True)
class Metric:
    """One number about a clip.

    Attributes
    ----------
    name : str
        Column name in records.
    unit : str
        Unit for axis labels; "" for a pure number.
    range : (float, float)
        Bounds that every value respects.
    higher_means : str
        What a higher value means, in words a reader understands.
    primary : bool
        Belongs to the declared primary set (corrected by Holm), not to the exploratory rest.
    min_seconds : float
        Shortest analysed length at which the metric is defined; shorter clips get no value and a flag.
    function : callable (Features) -> float
        NaN where the metric is undefined for the clip.
    ladder : Ladder
        Synthetic pieces on which the metric has to rise or fall.
    label : str
        Title for tables and pictures.
    family : str
        What it is about: ``form``, ``repetition``, ``texture``, ``dynamics``, ``rhythm`` or ``paper``.
    invariances : Invariances
        What it must not depend on, and how closely.
    contradicted_by : str
        For a quantity of the paper that is kept as printed: the ground truth that speaks against it. "" for all others.
        Such a metric is never primary, and tables mark it.
    """

    name: str
    unit: str
    range: tuple[float, float]
    higher_means: str
    primary: bool
    min_seconds: float
    function: Callable[[Features], float]
    ladder: Ladder
    label: str
    family: str = "form"
    invariances: Invariances = field(default_factory=Invariances)
    contradicted_by: str = ""

    def __post_init__(self) -> None:
        if self.contradicted_by and self.primary:
            raise ValueError(f"{self.name} is contradicted by ground truth and cannot be primary")

    @property
    def as_printed(self) -> bool:
        """Whether it is one of the paper's own quantities, kept beside a better one."""
        return bool(self.contradicted_by)


_INFINITY = float("inf")

_TABLE = (
    Metric("block_strength", "", (0.0, 1.0), "sections that differ more clearly from one another", True,
           blocks.MIN_SECONDS, blocks.block_strength, blocks.STRENGTH_LADDER, "Block strength"),
    Metric("block_scale", "s", (0.0, 40.0), "longer sections", False,
           blocks.MIN_SECONDS, blocks.block_scale, blocks.SCALE_LADDER, "Block scale"),
    Metric("section_contrast", "dB", (0.0, 80.0), "stretches that sound more different from one another", False,
           drift.MIN_SECONDS, drift.section_contrast, drift.LADDER, "Section contrast"),
    Metric("textural_vendi", "textures", (1.0, _INFINITY), "more different textures", True,
           vendi.MIN_SECONDS, vendi.textural_vendi, vendi.LADDER, "Textural Vendi"),
    Metric("motif_coverage", "", (0.0, 1.0), "more of the piece is heard again elsewhere in it", True,
           motifs.MIN_SECONDS, motifs.motif_coverage, motifs.LADDER, "Motif coverage"),
    Metric("level_range", "dB", (0.0, 80.0), "a wider range of loudness", True,
           levels.MIN_SECONDS, levels.level_range, levels.LADDER, "Level range"),
    Metric("flux_gini", "", (0.0, 1.0), "change gathered in few moments rather than spread evenly", True,
           onsets.MIN_SECONDS, onsets.flux_gini, onsets.LADDER, "Flux Gini"),
    Metric("closure", "", (0.0, _INFINITY), "an end farther from the beginning", False,
           closure.MIN_SECONDS, closure.closure, closure.LADDER, "Closure"),
    Metric("lag_similarity", "", (0.0, 1.0), "some delay at which the piece matches itself (loops, drones)", False,
           loops.MIN_SECONDS, loops.lag_similarity, loops.SIMILARITY_LADDER, "Lag similarity"),
    Metric("loop_strength", "", (0.0, 1.0), "a clearer exact period (loops)", False,
           loops.MIN_SECONDS, loops.loop_strength, loops.STRENGTH_LADDER, "Loop strength"),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Every metric by name, in the order of tables."""


def measure(features: Features) -> dict[str, float]:
    """Every metric of a clip; NaN where it is undefined or the clip is shorter than the metric needs."""
    return {
        name: metric.function(features) if features.duration >= metric.min_seconds else float("nan")
        for name, metric in METRICS.items()
    }
