"""Novelty curves: how much the music changes at every moment, in sound, in harmony, in rhythm and in what it repeats.

Conventions: four moments a second. A *step* of width w compares the w seconds before a moment with the w seconds after
it (less at the ends of the piece): in 64 mels or 16 bands of them (dB, 50 frames a second), in chroma shares (4 a
second) and in the rhythm of onsets (`rhythm.rhythm_steps`). *Absolute* steps are RMS differences of means and standard
deviations over 6 dB; *standardised* ones divide each difference of means by the spread within both sides, so a restless
texture does not change all the time. Harmony counts only as far as there is one: the chroma of noise turns at random.
Widths of 2 to 12 s make it multi-scale. The checkerboard of Foote (2000) is such a step for one kernel.
`stripes.repetition_at` adds what repeats.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from eisbach.structure.features import CHROMA_RATE, FRAME_RATE, Features
from eisbach.structure.rhythm import rhythm_steps
from eisbach.structure.similarity import TAU_DB
from eisbach.structure.stripes import repetition_at

RATE = 4.0
"""Moments a second."""
_BANDS = 16
_FLOOR_DB, _FLOOR_CHROMA = 1.0, 0.3  # spreads below these count as these
# length of centred chroma shares (mean 1) from which a harmony counts fully: tunes read 1 to 6, noise under 0.6
_TONAL = 1.0
_PEAK_SECONDS = 4.0
_AROUND_SECONDS = 6.0
_RHYTHM_WIDTHS = (4, 8)
_THROUGH_SECONDS = 24.0
_PARTS = 4

_Statistics = tuple[np.ndarray, np.ndarray]


class Running:
    """Means and standard deviations of any stretch of a frame sequence, by running sums."""

    def __init__(self, frames: np.ndarray, rate: float) -> None:
        frames = np.asarray(frames, dtype=np.float64)
        self.rate, self.count = rate, len(frames)
        first = np.zeros((1, frames.shape[1]))
        self.sums = np.concatenate([first, np.cumsum(frames, axis=0)])
        self.squares = np.concatenate([first, np.cumsum(frames**2, axis=0)])

    def sides(self, times: np.ndarray, width: float) -> tuple[_Statistics, _Statistics]:
        """Mean and standard deviation [shape=(times, d)] of the `width` seconds before and after each moment."""
        centre = np.clip(np.round(times * self.rate).astype(int), 0, self.count)
        reach = round(width * self.rate)
        return (
            self._statistics(np.maximum(centre - reach, 0), centre),
            self._statistics(centre, np.minimum(centre + reach, self.count)),
        )

    def stretch(self, first: float, last: float) -> _Statistics:
        """Mean and standard deviation [shape=(d,)] between two moments (s)."""
        begin = min(max(round(first * self.rate), 0), self.count)
        mean, spread = self._statistics(
            np.array([begin]), np.array([min(max(round(last * self.rate), begin), self.count)])
        )
        return mean[0], spread[0]

    def _statistics(self, first: np.ndarray, last: np.ndarray) -> _Statistics:
        size = np.maximum(last - first, 1)[:, None]
        mean = (self.sums[last] - self.sums[first]) / size
        return mean, np.sqrt(np.maximum((self.squares[last] - self.squares[first]) / size - mean**2, 0.0))


def mel_bands(features: Features) -> np.ndarray:
    """16 bands (means of 4 mels), dB, 50 frames a second, [shape=(frames, 16)]."""
    mel = features.mel_db
    return np.asarray(mel.reshape(len(mel), _BANDS, -1).mean(axis=2))


def _standardised_step(running: Running, times: np.ndarray, width: float, floor: float) -> np.ndarray:
    """RMS over the dimensions of the difference of means over the spread within both sides, [shape=(times,)]."""
    (before, spread_before), (after, spread_after) = running.sides(times, width)
    return np.asarray(
        np.sqrt(np.mean((after - before) ** 2 / (floor**2 + 0.5 * (spread_before**2 + spread_after**2)), axis=1))
    )


def _absolute_step(running: Running, times: np.ndarray, width: float) -> np.ndarray:
    (before, spread_before), (after, spread_after) = running.sides(times, width)
    squared = np.mean((after - before) ** 2, axis=1) + np.mean((spread_after - spread_before) ** 2, axis=1)
    return np.asarray(np.sqrt(0.5 * squared) / TAU_DB)


def _turn(running: Running, times: np.ndarray, width: float) -> np.ndarray:
    """1 - the cosine of the mean centred chroma shares before and after; towards 0 where either side is not tonal."""
    (before, _), (after, _) = running.sides(times, width)
    before, after = (side - side.mean(axis=1, keepdims=True) for side in (before, after))
    lengths = [np.linalg.norm(side, axis=1) for side in (before, after)]
    cosine = np.sum(before * after, axis=1) / np.maximum(lengths[0] * lengths[1], 1e-9)
    tonal = np.minimum(1.0, np.minimum(lengths[0], lengths[1]) / _TONAL) ** 2
    return np.asarray((1.0 - cosine) * tonal)


def sound_steps(mel_db: np.ndarray, times: np.ndarray, widths: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Standardised steps (`_standardised_step`) of all mels, by the names `sound_<width>`, [shape=(times,)] each.

    Bands of four mels are not enough: where one tune follows another in one timbre, what changes is which notes are
    heard, not their colour.
    """
    # a quarter of the mels at a time, to need no more memory than the bands do
    squared = {width: np.zeros(len(times)) for width in widths}
    for part in np.array_split(mel_db, _PARTS, axis=1):
        running = Running(part, FRAME_RATE)
        for width in widths:
            squared[width] += _standardised_step(running, times, width, _FLOOR_DB) ** 2 / _PARTS
    return {f"sound_{width}": np.sqrt(value) for width, value in squared.items()}


def _novelty_curves(features: Features) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The moments (s from the start of the analysed stretch) and the curves by name, [shape=(moments,)] each."""
    times = np.arange(0.0, features.duration, 1.0 / RATE)
    sound = Running(mel_bands(features), FRAME_RATE)
    share = features.chroma * (12.0 / np.maximum(features.chroma.sum(axis=1, keepdims=True), 1e-6))
    harmony = Running(share, CHROMA_RATE)
    curves = sound_steps(features.mel_db, times, (2, 4, 8, 12))
    curves |= {f"sound_db_{width}": _absolute_step(sound, times, width) for width in (4, 8)}
    curves |= {f"harmony_{width}": _standardised_step(harmony, times, width, _FLOOR_CHROMA) for width in (4, 8, 12)}
    curves |= {f"turn_{width}": _turn(harmony, times, width) for width in (4, 8)}
    rhythm = rhythm_steps(features.mel_db, FRAME_RATE, times, _RHYTHM_WIDTHS)
    curves |= {f"rhythm_{width}": steps for width, steps in zip(_RHYTHM_WIDTHS, rhythm, strict=True)}
    curves["share"], through = repetition_at(features, times)
    curves["through"] = np.log1p(through / _THROUGH_SECONDS)
    return times, curves


def boundary_evidence(features: Features) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """What the boundary model reads.

    Returns
    -------
    times : np.ndarray [shape=(moments,)]
    evidence : np.ndarray [shape=(moments, 3 * curves)]
        Of every curve its highest value within a quarter of a second, that value times how near it comes to the curve's
        highest within 4 s (1 at a peak), and what it exceeds its mean over the 12 s around by. Nothing says how far the
        ends of the piece are: that would teach the model its material's shortest section.
    names : tuple of str
    """
    times, curves = _novelty_curves(features)
    columns, names = [], []
    for name, curve in curves.items():
        near = maximum_filter1d(curve, 3)
        peak = near / (1e-3 + maximum_filter1d(curve, 2 * round(_PEAK_SECONDS * RATE) + 1))
        columns += [near, near * peak, near - uniform_filter1d(near, 2 * round(_AROUND_SECONDS * RATE) + 1)]
        names += [name, f"{name}_peak", f"{name}_rise"]
    return times, np.stack(columns, axis=1), tuple(names)
