"""Dynamics and rhythm: how far the loudness travels, and how unevenly change is spread over time.

*Level range*: P95 - P5 of the RMS level over 0.4 s windows (10 a second), in dB, after silence at the ends was trimmed.

*EBU loudness range* (EBU Tech 3342, see `loudness_meter`): with all channels, on the recording without the silence at
its ends (a 3 s window half in silence would read as a quiet passage). Passages more than 20 LU under the mean are gated
out, so it saturates near 25 LU for music: a "dynamic range over 40 dB" cannot be this. The level range has no gate.

*Flux Gini*: the Gini coefficient over time of SuperFlux (`rhythm.spectral_flux`). Few separate events give values near
1, a dense stream of them low ones. Changes under a thousandth of the clip's loudest frame are rounding and decoding
noise and count as none, and so does what the zeros beyond the clip's ends make of the first and last two frames.
"""

from __future__ import annotations

import numpy as np

from eisbach.structure.features import Features
from eisbach.structure.loudness_meter import loudness_range_of
from eisbach.structure.metrics.base import Invariances, Metric
from eisbach.structure.rhythm import spectral_flux

_MIN_FLUX = 1e-3
_EDGE_FRAMES = 2  # frames whose window reaches beyond the clip


def level_range(features: Features) -> float:
    """P95 - P5 of the short-term level, dB, in [0, 80]."""
    low, high = np.percentile(features.level_db, [5.0, 95.0])
    return float(high - low)


def loudness_range(features: Features) -> float:
    """EBU loudness range, LU, at least 0; NaN under 8 kHz."""
    return loudness_range_of(features.loudness_blocks)


def _gini(values: np.ndarray) -> float:
    """Gini coefficient of non-negative values: 0 when all are equal, towards 1 when one holds everything."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n, total = len(ordered), ordered.sum()
    if total <= 0.0:
        return float("nan")
    return float(2.0 * np.sum(np.arange(1, n + 1) * ordered) / (n * total) - (n + 1) / n)


def flux_gini(features: Features) -> float:
    """Gini of the flux over time, in [0, 1]; NaN when nothing ever changes."""
    flux = spectral_flux(features.mel_db[_EDGE_FRAMES : len(features.mel_db) - _EDGE_FRAMES])
    return _gini(np.where(flux >= _MIN_FLUX, flux, 0.0))


LEVEL_RANGE = Metric(
    name="level_range",
    label="Level range",
    unit="dB",
    range=(0.0, 80.0),
    higher_means="a wider range of loudness",
    family="dynamics",
    min_seconds=3.0,
    function=level_range,
    primary=True,
    invariances=Invariances(codec=0.5, length=3.0),  # hiss fills what is quieter than it
)
LOUDNESS_RANGE = Metric(
    name="loudness_range",
    label="Loudness range (EBU)",
    unit="LU",
    range=(0.0, 80.0),
    higher_means="a wider range of loudness within 20 LU of the mean (EBU R 128)",
    family="dynamics",
    min_seconds=6.0,
    function=loudness_range,
    invariances=Invariances(gain=0.05, sample_rate=0.1, stereo=0.05, codec=0.5, noise_floor=0.5),
)
FLUX_GINI = Metric(
    name="flux_gini",
    label="Flux Gini",
    unit="",
    range=(0.0, 1.0),
    higher_means="change gathered in few moments rather than spread evenly",
    family="rhythm",
    min_seconds=3.0,
    function=flux_gini,
    primary=True,
    invariances=Invariances(codec=0.06, noise_floor=0.02, length=0.05),
)
