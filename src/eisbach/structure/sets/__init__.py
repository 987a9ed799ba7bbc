"""Measuring sets of clips: distances between them, and what only shows across seeds, prompts or a training set.

::

    a = read_clips(paths_a, prompts_a, jobs=2, skips=skips)      # list[SetClip]; prompts may be None
    b = read_clips(paths_b, prompts_b)
    rows_a, rows_b = embed_files(embedding, [clip.name for clip in a]), ...   # eisbach.structure.embeddings, optional
    comparison = compare_sets(a, b, names=("plain", "barrier"), embeddings={"clap": (rows_a, rows_b)},
                              training=read_clips(train_paths), held_out=read_clips(held_paths))
    comparison.rows          # list[SetRow]: metric, label, unit, sets, embedding, value, low, high, reference, p, note
    comparison.memorisation  # dict of set name to SetMemorisation; .rows() is one JSON-ready row a generation
    comparison.notes         # sentences for the reader
    comparison.to_dict()     # all of it, JSON-ready

`compare_sets(a)` alone gives the metrics of one set. The pure array mathematics is in `sets.distances`.
"""

from eisbach.structure.sets.clips import SetClip, clip_of_detail, describe_clip, read_clips
from eisbach.structure.sets.compare import SetComparison, SetMemorisation, compare_sets
from eisbach.structure.sets.distances import (
    density_coverage,
    frechet_distance,
    kernel_distance,
    precision_recall,
    vendi_score,
)
from eisbach.structure.sets.table import SET_METRICS, SetMetric, SetRow

__all__ = [
    "SET_METRICS",
    "SetClip",
    "SetComparison",
    "SetMemorisation",
    "SetMetric",
    "SetRow",
    "clip_of_detail",
    "compare_sets",
    "density_coverage",
    "describe_clip",
    "frechet_distance",
    "kernel_distance",
    "precision_recall",
    "read_clips",
    "vendi_score",
]
