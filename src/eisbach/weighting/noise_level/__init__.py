"""Weightings on the noise-level axis: one file each, one line each in `NOISE_WEIGHTINGS`."""

from __future__ import annotations

from collections.abc import Callable

from eisbach.weighting.noise_level.base import NoiseWeight, X0Weight, x0_to_target_weight
from eisbach.weighting.noise_level.constant import Constant
from eisbach.weighting.noise_level.erd import ERD
from eisbach.weighting.noise_level.min_snr import MinSNR
from eisbach.weighting.noise_level.soft_min_snr import SoftMinSNR

NOISE_WEIGHTINGS: dict[str, Callable[..., NoiseWeight]] = {
    "constant": Constant,
    "min_snr": MinSNR,
    "soft_min_snr": SoftMinSNR,
    "erd": ERD,
}
"""Name to class. "none" is not in the table: it stands for the absence of a noise-level weighting."""

__all__ = [
    "ERD",
    "NOISE_WEIGHTINGS",
    "Constant",
    "MinSNR",
    "NoiseWeight",
    "SoftMinSNR",
    "X0Weight",
    "x0_to_target_weight",
]
