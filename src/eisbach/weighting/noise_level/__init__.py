"""Weightings on the noise-level axis, one line each in `NOISE_WEIGHTINGS`.

`schemes` has those that are one formula; what learns, reads a table or needs the training density has its own file.
"""

from __future__ import annotations

from collections.abc import Callable

from eisbach.weighting.noise_level.base import NoiseWeight, X0Weight, x0_to_target_weight
from eisbach.weighting.noise_level.edm2 import LearnedUncertainty
from eisbach.weighting.noise_level.erd import ERD
from eisbach.weighting.noise_level.schemes import (
    EDM,
    P2,
    Constant,
    CosMap,
    Debiased,
    MaxSNR,
    MinSNR,
    SigmaSqrt,
    SoftMinSNR,
    Tabulated,
)

NOISE_WEIGHTINGS: dict[str, Callable[..., NoiseWeight]] = {
    "constant": Constant,
    "min_snr": MinSNR,
    "soft_min_snr": SoftMinSNR,
    "max_snr": MaxSNR,
    "p2": P2,
    "debiased": Debiased,
    "edm": EDM,
    "edm2": LearnedUncertainty,
    "sigma_sqrt": SigmaSqrt,
    "cosmap": CosMap,
    "erd": ERD,
    "tabulated": Tabulated,
}
"""Name to class. "none" is not in the table: it stands for the absence of a noise-level weighting."""

__all__ = [
    "EDM",
    "ERD",
    "NOISE_WEIGHTINGS",
    "P2",
    "Constant",
    "CosMap",
    "Debiased",
    "LearnedUncertainty",
    "MaxSNR",
    "MinSNR",
    "NoiseWeight",
    "SigmaSqrt",
    "SoftMinSNR",
    "Tabulated",
    "X0Weight",
    "x0_to_target_weight",
]
