"""Where training effort goes: weights on samples and on noise levels, and the one place that reduces losses.

Needs only torch; usable in anybody's training loop (see docs/weighting.md).
"""

from eisbach.weighting.build import RECOMMENDED_WEIGHTING, build_weighting
from eisbach.weighting.compose import Weighting
from eisbach.weighting.losses import PartialLoss, effective_sample_size, per_sample_mse
from eisbach.weighting.noise_level import NOISE_WEIGHTINGS, NoiseWeight
from eisbach.weighting.noise_level.base import NoiseLevelTable, gate_table
from eisbach.weighting.sample import SAMPLE_WEIGHTINGS, EntropyBarrier, RecurrenceBarrier, SampleBarrier, SampleWeights

__all__ = [
    "NOISE_WEIGHTINGS",
    "RECOMMENDED_WEIGHTING",
    "SAMPLE_WEIGHTINGS",
    "EntropyBarrier",
    "NoiseLevelTable",
    "NoiseWeight",
    "PartialLoss",
    "RecurrenceBarrier",
    "SampleBarrier",
    "SampleWeights",
    "Weighting",
    "build_weighting",
    "effective_sample_size",
    "gate_table",
    "per_sample_mse",
]
