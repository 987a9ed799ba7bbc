"""Flux Gini: how unevenly change is spread over time.

Conventions: SuperFlux (Boeck & Widmer 2013): the positive difference of square-root mel power to the maximum over
neighbouring bands 40 ms earlier, so that vibrato does not count as onsets; then the Gini coefficient of that flux over time.
Few separate events give values near 1, a dense stream of them low ones. Changes under a thousandth of the clip's
loudest frame are rounding and decoding noise and count as none, and so does what the zeros beyond the clip's ends make of the first and
last two frames; a clip without any change has no value (NaN).
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from eisbach.structure.features import FRAME_RATE, Features
from eisbach.structure.invariances import Invariances

MIN_SECONDS = 3.0
_LAG = 2  # frames of 20 ms: windows of 46 ms that hardly overlap
_MIN_FLUX = 1e-3
_EDGE = 2  # frames whose window reaches beyond the clip
_BLOCK = 20_000  # frames
_NEAR, _AROUND = 3, 12  # frames: 60 ms and a quarter of a second on either side
_RELATIVE, _ABSOLUTE = 0.1, 0.06  # the beating of a held chord stays under the second


def spectral_flux(mel_db: np.ndarray) -> np.ndarray:
    """SuperFlux of sqrt(mel power), relative to the loudest frame, [shape=(frames - 2,)]."""
    parts, loudest = [], 0.0
    for first in range(0, len(mel_db) - _LAG, _BLOCK):  # an hour of frames at once would be held four times over
        root = np.exp(mel_db[first : first + _BLOCK + _LAG] * np.float32(np.log(10.0) / 20.0))
        padded = np.pad(root[:-_LAG], ((0, 0), (1, 1)), mode="edge")
        reference = np.maximum(np.maximum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
        parts.append(np.maximum(root[_LAG:] - reference, 0.0).sum(axis=1))
        loudest = max(loudest, float(root.sum(axis=1).max()))
    return np.concatenate(parts) / np.float32(loudest)


def gini(values: np.ndarray) -> float:
    """Gini coefficient of non-negative values: 0 when all are equal, towards 1 when one holds everything."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n, total = len(ordered), ordered.sum()
    if total <= 0.0:
        return float("nan")
    return float(2.0 * np.sum(np.arange(1, n + 1) * ordered) / (n * total) - (n + 1) / n)


def flux_gini(features: Features) -> float:
    """Gini of the flux over time, in [0, 1]; NaN when nothing ever changes."""
    flux = spectral_flux(features.mel_db[_EDGE : len(features.mel_db) - _EDGE])
    return gini(np.where(flux >= _MIN_FLUX, flux, 0.0))


def onset_times(features: Features) -> np.ndarray:
    """Onsets, seconds from the start of the file, [shape=(onsets,), float64], by peak picking on the flux.

    A frame is an onset when its flux is the largest within 60 ms, exceeds the mean of the surrounding half second
    by a tenth of the clip's 99th percentile and by 0.06 of its loudest frame (Boeck, Krebs & Schedl 2012), and lies more than 60 ms
    after the onset before.
    """
    if len(features.mel_db) <= _LAG:
        return np.zeros(0)
    flux = spectral_flux(features.mel_db)
    threshold = max(_RELATIVE * float(np.percentile(flux, 99.0)), _ABSOLUTE)
    largest = maximum_filter1d(flux, 2 * _NEAR + 1, mode="constant")
    around = uniform_filter1d(flux, 2 * _AROUND + 1, mode="nearest")
    picked = np.flatnonzero((flux >= largest) & (flux >= around + threshold))
    kept: list[int] = []
    for frame in picked:
        if not kept or frame - kept[-1] > _NEAR:
            kept.append(int(frame))
    # the flux of frame k compares it with the frame 40 ms before: the change lies half-way
    return features.trimmed_start + (np.array(kept, dtype=np.float64) + _LAG / 2) / FRAME_RATE


INVARIANCES = Invariances(sample_rate=0.0, codec=0.06, noise_floor=0.02, length=0.05)
