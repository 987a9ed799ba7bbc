"""Level range: how far the loudness travels.

Conventions: P95 - P5 of the RMS level over 0.4 s windows (10 a second), in dB, after silence at the ends was trimmed. It is
not EBU R128's loudness range, whose gate saturates near 25 LU.
"""

from __future__ import annotations

import numpy as np

from eisbach.structure.features import Features
from eisbach.structure.invariances import Invariances

MIN_SECONDS = 3.0


def level_range(features: Features) -> float:
    """P95 - P5 of the short-term level, dB, in [0, 80]."""
    low, high = np.percentile(features.level_db, [5.0, 95.0])
    return float(high - low)


INVARIANCES = Invariances(sample_rate=0.0, codec=0.5, length=3.0)
"""Hiss fills what is quieter than it: no invariance to the noise floor."""
