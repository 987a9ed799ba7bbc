"""Spectral contrast: how far the peaks of the spectrum stand above its valleys.

Conventions: Jiang et al. 2002. In seven octave bands (30 Hz to 10 kHz) of a 0.37 s spectrum the mean of the strongest 2% of bins over the
mean of the weakest 2%, in dB; averaged over bands and over the frames within 40 dB of the loudest. Clear tones give
high values, noise 27 dB (the ratio of the 2% tails of the exponential distribution). It looks at every moment by itself: it says
nothing of form.
"""

from __future__ import annotations

import numpy as np

from eisbach.structure.features import Features
from eisbach.structure.invariances import Invariances

MIN_SECONDS = 3.0


def spectral_contrast(features: Features) -> float:
    """Mean contrast over bands and active frames, dB, in [0, 80]; NaN when no frame is active."""
    active = features.contrast_db[~np.isnan(features.contrast_db[:, 0])]
    return float(active.mean(dtype=np.float64)) if len(active) else float("nan")


INVARIANCES = Invariances(sample_rate=0.0, length=2.0)
"""Its valleys are the first thing that hiss and codecs fill."""
