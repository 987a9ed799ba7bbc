"""Weightings on the sample axis: one file each, one line each in `SAMPLE_WEIGHTINGS`."""

from __future__ import annotations

from collections.abc import Callable

from eisbach.weighting.sample.base import SampleBarrier, SampleWeights
from eisbach.weighting.sample.development_barrier import DevelopmentBarrier
from eisbach.weighting.sample.entropy_barrier import EntropyBarrier
from eisbach.weighting.sample.recurrence_barrier import RecurrenceBarrier

SAMPLE_WEIGHTINGS: dict[str, Callable[..., SampleBarrier]] = {
    "entropy_barrier": EntropyBarrier,
    "recurrence_barrier": RecurrenceBarrier,
    "development_barrier": DevelopmentBarrier,
}
"""Name to class. "none" is not in the table: it stands for the absence of a sample weighting."""

__all__ = [
    "SAMPLE_WEIGHTINGS",
    "DevelopmentBarrier",
    "EntropyBarrier",
    "RecurrenceBarrier",
    "SampleBarrier",
    "SampleWeights",
]
