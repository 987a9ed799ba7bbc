"""The table of structure metrics. Adding one is a function and its `Metric` in a family's file, and a line here.

Every metric also has a ladder of synthetic pieces in ``studies/ground_truth``, which a test asks for.

>>> METRICS["block_scale"].family, METRICS["block_scale"].unit, METRICS["block_scale"].min_seconds
('form', 's', 8.0)
>>> [name for name, metric in METRICS.items() if metric.primary]
['block_strength', 'continuation', 'textural_vendi', 'motif_coverage', 'level_range', 'flux_gini']
"""

from __future__ import annotations

from eisbach.structure.features import Features
from eisbach.structure.metrics import dynamics, form, paper, repetition, texture
from eisbach.structure.metrics.base import CONDITIONS, Invariances, Metric

__all__ = ["CONDITIONS", "METRICS", "Invariances", "Metric", "measure"]

_TABLE = (
    form.BLOCK_STRENGTH,
    form.BLOCK_SCALE,
    form.SECTION_CONTRAST,
    form.CONTINUATION,
    texture.TEXTURAL_VENDI,
    repetition.MOTIF_COVERAGE,
    repetition.STRUCTURENESS_SHORT,
    repetition.STRUCTURENESS_MID,
    repetition.STRUCTURENESS_LONG,
    repetition.LONGEST_REPEAT,
    dynamics.LEVEL_RANGE,
    dynamics.FLUX_GINI,
    form.CLOSURE,
    repetition.LAG_SIMILARITY,
    repetition.LOOP_STRENGTH,
    texture.SPECTRAL_CONTRAST,
    texture.TRAJECTORY_COVERAGE,
    dynamics.LOUDNESS_RANGE,
    *paper.AS_PRINTED,
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Every metric by name, in the order of tables."""


def measure(features: Features) -> dict[str, float]:
    """Every metric of a clip; NaN where it is undefined or the clip is shorter than the metric needs."""
    return {
        name: metric.function(features) if features.duration >= metric.min_seconds else float("nan")
        for name, metric in METRICS.items()
    }
