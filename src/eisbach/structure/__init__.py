"""Measuring musical structure: audio in, tidy numbers and flags out."""

from eisbach.structure.analyze import Analysis, analyze, analyze_array
from eisbach.structure.batch import Clip, analyze_file, analyze_files
from eisbach.structure.energy import energy_share, phase_randomise
from eisbach.structure.flatness import FLAT_KINDS, flat_kind, flat_probability, is_flat, kind_probabilities
from eisbach.structure.frechet import texture_embedding
from eisbach.structure.metrics import METRICS, Metric
from eisbach.structure.record_files import read_details

__all__ = [
    "FLAT_KINDS",
    "METRICS",
    "Analysis",
    "Clip",
    "Metric",
    "analyze",
    "analyze_array",
    "analyze_file",
    "analyze_files",
    "energy_share",
    "flat_kind",
    "flat_probability",
    "is_flat",
    "kind_probabilities",
    "phase_randomise",
    "read_details",
    "texture_embedding",
]
