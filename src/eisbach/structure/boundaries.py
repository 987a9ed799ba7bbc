"""Sections of a piece: where they begin, how clear each boundary is, and which of them are alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import find_peaks

from eisbach.structure.features import TEXTURE_RATE, TEXTURE_WINDOW, Features
from eisbach.structure.similarity import self_similarity


@dataclass(frozen=True)
class Sections:
    """Sections of a clip; all times are seconds in the original file (silence at its start included).

    Attributes
    ----------
    boundaries : tuple of float
        Where a new section begins, start and end of the piece not included.
    strengths : tuple of float
        One a boundary, 0-1.
    labels : tuple of str
        One a section, 'A', 'B', …: one more than boundaries; empty when nothing could be analysed.
    start, end : float
        Of the analysed stretch.
    """

    boundaries: tuple[float, ...] = ()
    strengths: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    start: float = 0.0
    end: float = 0.0


def find_sections(features: Features) -> Sections:
    """The sections of a clip; without labels when it is under 8 s."""
    start, end = features.trimmed_start, features.trimmed_start + features.duration
    if features.duration < 8.0:
        return Sections(start=start, end=end)
    similarity = self_similarity(features.texture)
    n, width = len(similarity), 12
    novelty = np.zeros(n + 1)
    for t in range(4, n - 3):
        a, b = slice(max(0, t - width), t), slice(t, min(n, t + width))
        novelty[t] = 0.5 * (similarity[a, a].mean() + similarity[b, b].mean()) - similarity[a, b].mean()
    peaks = find_peaks(novelty, height=0.1, distance=8)[0]
    times = (peaks - 0.5) / TEXTURE_RATE + TEXTURE_WINDOW / 2
    return Sections(
        tuple(float(start + t) for t in times), tuple(float(min(1.0, novelty[p])) for p in peaks),
        tuple(chr(65 + i % 26) for i in range(len(peaks) + 1)), start, end,
    )  # fmt: skip
