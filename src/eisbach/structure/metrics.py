"""The table of structure metrics. Adding one is a function and a line here (and a ladder in studies/ground_truth)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from eisbach.structure import (
    blocks,
    closure,
    contrast,
    coverage,
    drift,
    levels,
    loops,
    loudness,
    motifs,
    onsets,
    paper,
    repeats,
    structureness,
    vendi,
)
from eisbach.structure.features import Features
from eisbach.structure.invariances import Invariances


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
           blocks.MIN_SECONDS, blocks.block_strength, "Block strength",
           "form", Invariances(sample_rate=0.0, codec=0.03, noise_floor=0.04, length=0.08)),
    Metric("block_scale", "s", (0.0, _INFINITY), "longer sections", False,
           blocks.MIN_SECONDS, blocks.block_scale, "Block scale",
           "form", Invariances(sample_rate=0.0)),
    Metric("section_contrast", "dB", (0.0, 80.0), "stretches that sound more different from one another", False,
           drift.MIN_SECONDS, drift.section_contrast, "Section contrast",
           "form", drift.INVARIANCES),
    Metric("textural_vendi", "textures", (1.0, _INFINITY), "more different textures", True,
           vendi.MIN_SECONDS, vendi.textural_vendi, "Textural Vendi",
           "texture", vendi.INVARIANCES),
    Metric("motif_coverage", "", (0.0, 1.0), "more of the piece is heard again elsewhere in it", True,
           motifs.MIN_SECONDS, motifs.motif_coverage, "Motif coverage",
           "repetition", Invariances(sample_rate=0.0, codec=0.05, noise_floor=0.05)),
    Metric("structureness_short", "", (0.0, 1.0), "a fitter repeated segment of 3-8 s", False,
           structureness.MIN_SECONDS, structureness.structureness_short, "Structureness 3-8 s",
           "repetition", Invariances(sample_rate=0.0, codec=0.03, noise_floor=0.05)),
    Metric("structureness_mid", "", (0.0, 1.0), "a fitter repeated segment of 8-15 s", False,
           structureness.MIN_SECONDS, structureness.structureness_mid, "Structureness 8-15 s",
           "repetition", Invariances(sample_rate=0.0, codec=0.03, noise_floor=0.05)),
    Metric("structureness_long", "", (0.0, 1.0), "a fitter repeated segment of 15 s or more", False,
           structureness.MIN_SECONDS, structureness.structureness_long, "Structureness 15+ s",
           "repetition", Invariances(sample_rate=0.0, codec=0.03, noise_floor=0.05)),
    Metric("longest_repeat", "s", (0.0, _INFINITY), "a longer passage that is heard again", False,
           repeats.MIN_SECONDS, repeats.longest_repeat, "Longest repeat",
           "repetition", Invariances(sample_rate=0.0, codec=1.0, noise_floor=1.0)),
    Metric("level_range", "dB", (0.0, 80.0), "a wider range of loudness", True,
           levels.MIN_SECONDS, levels.level_range, "Level range",
           "dynamics", levels.INVARIANCES),
    Metric("flux_gini", "", (0.0, 1.0), "change gathered in few moments rather than spread evenly", True,
           onsets.MIN_SECONDS, onsets.flux_gini, "Flux Gini",
           "rhythm", onsets.INVARIANCES),
    Metric("closure", "", (0.0, _INFINITY), "an end farther from the beginning", False,
           closure.MIN_SECONDS, closure.closure, "Closure",
           "form", closure.INVARIANCES),
    Metric("lag_similarity", "", (0.0, 1.0), "some delay at which the piece matches itself (loops, drones)", False,
           loops.MIN_SECONDS, loops.lag_similarity, "Lag similarity",
           "repetition", Invariances(sample_rate=0.0, codec=0.04, noise_floor=0.06)),
    Metric("loop_strength", "", (0.0, 1.0), "a clearer exact period (loops)", False,
           loops.MIN_SECONDS, loops.loop_strength, "Loop strength",
           "repetition", Invariances(sample_rate=0.0, codec=0.04, noise_floor=0.05)),
    Metric("spectral_contrast", "dB", (0.0, 80.0), "tones that stand out more from what lies between them", False,
           contrast.MIN_SECONDS, contrast.spectral_contrast, "Spectral contrast",
           "texture", contrast.INVARIANCES),
    Metric("trajectory_coverage", "dB", (0.0, 80.0), "a wider area of textures walked through", False,
           coverage.MIN_SECONDS, coverage.trajectory_coverage, "Trajectory coverage",
           "texture", coverage.INVARIANCES),
    Metric("loudness_range", "LU", (0.0, 80.0), "a wider range of loudness within 20 LU of the mean (EBU R 128)", False,
           loudness.MIN_SECONDS, loudness.loudness_range, "Loudness range (EBU)",
           "dynamics", loudness.INVARIANCES),
    Metric("paper_block_scale", "s", (0.0, 40.0), "larger blocks in a cosine matrix of raw mel frames", False,
           paper.MIN_SECONDS, paper.block_scale, "Paper: block scale",
           "paper", paper.INVARIANCES,
           "drones and stationary noise have no blocks, and get a scale of several seconds"),
    Metric("paper_peak_to_valley", "dB", (0.0, 80.0), "a wider mean mel spectrum", False,
           paper.MIN_SECONDS, paper.peak_to_valley, "Paper: peak-to-valley",
           "paper", paper.INVARIANCES,
           "blind to time: a phase-randomised surrogate and any shuffling of the frames keep it"),
    Metric("paper_flux_sparsity", "", (0.0, 1.0), "change gathered in fewer frames", False,
           paper.MIN_SECONDS, paper.flux_sparsity, "Paper: flux sparsity",
           "paper", paper.INVARIANCES,
           "decibels weigh the flutter of the noise floor like an onset"),
    Metric("paper_pca_coverage", "dB", (0.0, 80.0), "a wider area of raw mel frames", False,
           paper.MIN_SECONDS, paper.pca_coverage, "Paper: PCA coverage",
           "paper", paper.INVARIANCES,
           "a loop of two seconds covers half the width of a developing piece, in any order of its frames"),
    Metric("paper_pc1_share", "", (0.0, 1.0), "more of the variance on one axis", False,
           paper.MIN_SECONDS, paper.pc1_share, "Paper: share of PC1",
           "paper", paper.INVARIANCES,
           "blind to the order of frames, and random walks reach about 60% (see pc1_share_walk)"),
    Metric("paper_dynamic_range", "dB", (0.0, 80.0), "a louder loudest against a quieter quietest frame", False,
           paper.MIN_SECONDS, paper.dynamic_range, "Paper: dynamic range",
           "paper", paper.INVARIANCES,
           "one gap of 20 ms decides it; the loudness range of EBU Tech 3342 stays under 25 LU"),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Every metric by name, in the order of tables."""


def measure(features: Features) -> dict[str, float]:
    """Every metric of a clip; NaN where it is undefined or the clip is shorter than the metric needs."""
    return {
        name: metric.function(features) if features.duration >= metric.min_seconds else float("nan")
        for name, metric in METRICS.items()
    }
