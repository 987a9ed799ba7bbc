"""Section contrast: how different the stretches of a piece sound from one another once the moment-to-moment play is averaged out.

Conventions: the texture is averaged over stretches of about 5 s; the value is the mean distance (RMS dB) over all pairs of
stretches. What fluctuates around a constant (a drone, a cloud of grains, a short loop) averages out and gives little; what
goes somewhere keeps its distance. Unlike block strength it counts dB beyond the point where two textures are simply 'different'.
"""

from __future__ import annotations

import numpy as np

from eisbach.structure.features import Features
from eisbach.structure.invariances import Invariances
from eisbach.structure.similarity import squared_distances

MIN_SECONDS = 15.0
STRETCH_SECONDS = 5.0


def section_contrast(features: Features) -> float:
    """Mean distance between the textures of 5 s stretches, dB, in [0, 80]."""
    count = round(features.duration / STRETCH_SECONDS)
    stretches = np.array([part.mean(axis=0) for part in np.array_split(features.texture, count)])
    distances = np.sqrt(squared_distances(stretches))
    return float(distances[np.triu_indices(count, k=1)].mean())


INVARIANCES = Invariances(sample_rate=0.0, codec=0.6, noise_floor=1.2, length=1.5)
