"""Loops: whether a piece is the same stretch of audio over and over.

Conventions: mel frames pooled to 10 a second; for each lag up to 16 s the similarity (tau = 6 dB) of every frame with
the one a lag later. *Lag similarity* is the best mean over lags of at least 3 s: near 1 for loops (some multiple of
their period lies there) and for anything that stands still; a long note alone does not raise it.
*Loop strength* is how far the profile climbs back at some lag of at least 1 s after it fell at a shorter one: near 0
for drones (it never falls) and for music that moves on (it never returns), near 1 for exact loops of changing content.
A lag counts only up to three quarters of the clip, so that a single chance match at the end cannot pass for a loop.
"""

from __future__ import annotations

import numpy as np

from eisbach.structure.features import FRAME_RATE, Features
from eisbach.structure.similarity import lag_similarity as lag_band

MIN_SECONDS = 8.0
_POOL = 5  # 50 -> 10 frames a second
_RATE = FRAME_RATE / _POOL
_MIN_LAG, _MIN_PERIOD, _MAX_LAG = 3.0, 1.0, 16.0


def lag_profile(features: Features) -> np.ndarray:
    """Mean similarity at lags of 0.1, 0.2, … s, [shape=(lags,)], up to 16 s or three quarters of the clip."""
    whole = len(features.mel_db) // _POOL
    pooled = features.mel_db[: whole * _POOL].reshape(whole, _POOL, -1).mean(axis=1)
    longest = int(min(_MAX_LAG * _RATE, 0.75 * whole))
    return np.array([similarity.mean(dtype=np.float64) for similarity in lag_band(pooled, longest)])


def lag_similarity(features: Features) -> float:
    """Best mean similarity of the piece with itself 3 to 16 s later, in [0, 1]."""
    return float(lag_profile(features)[round(_MIN_LAG * _RATE) - 1 :].max())


def loop_strength(features: Features) -> float:
    """Largest recovery of the lag profile: similarity at a lag of at least 1 s less its lowest value before, in [0, 1]."""
    profile = lag_profile(features)
    lowest = np.minimum.accumulate(profile)
    return float((profile - lowest)[round(_MIN_PERIOD * _RATE) - 1 :].max())
