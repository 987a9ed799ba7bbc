"""EBU loudness range: how far the loudness travels, as broadcasters measure it.

Conventions: EBU Tech 3342 (see `loudness_meter`), with all channels, on the
recording without the silence at its ends (a 3 s window half in silence would read as a quiet passage). Passages more than 20 LU under the mean are gated
out, so it saturates near 25 LU for music: a "dynamic range over 40 dB" cannot be this. `levels.level_range` has no gate.
"""

from __future__ import annotations

from eisbach.structure.features import Features
from eisbach.structure.invariances import Invariances
from eisbach.structure.loudness_meter import loudness_range_of

MIN_SECONDS = 6.0


def loudness_range(features: Features) -> float:
    """EBU loudness range, LU, at least 0; NaN under 8 kHz."""
    return loudness_range_of(features.loudness_blocks)


INVARIANCES = Invariances(gain=0.05, sample_rate=0.1, stereo=0.05, codec=0.5, noise_floor=0.5)
