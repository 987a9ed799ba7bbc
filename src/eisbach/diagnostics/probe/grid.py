"""The rows of a probe as arrays (clips, noise levels, draws), and numbers with 95% intervals over clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eisbach.errors import UserError

RESAMPLES = 1000
"""Bootstrap resamples: 2.5% tails rest on 25 of them, and an interval moves by about 3% of its width between seeds."""

MIN_CLIPS = 12
"""Below this there are no intervals: a rank correlation must exceed 0.58 to be told from 0."""

_TINY = 1e-12  # a weight may be exactly 0; in a logarithm it counts as this share of the largest


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval; `value` is None where it is undefined, the ends where the data allow none."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def above(self, bound: float) -> bool:
        """Whether the whole interval lies above `bound`; False without an interval."""
        return self.low is not None and self.low > bound

    def below(self, bound: float) -> bool:
        """Whether the whole interval lies below `bound`; False without an interval."""
        return self.high is not None and self.high < bound


UNKNOWN = Estimate(None)


def estimate(value: float, low: float = np.nan, high: float = np.nan) -> Estimate:
    """An `Estimate` in which what is not finite is None."""
    return Estimate(*(float(number) if np.isfinite(number) else None for number in (value, low, high)))


def percentile_interval(value: float, resampled: np.ndarray | None) -> Estimate:
    """The 95% percentile interval of resampled values; none where under half of them are finite, or without any."""
    finite = np.zeros(0) if resampled is None else resampled[np.isfinite(resampled)]
    if resampled is None or not np.isfinite(value) or len(finite) < len(resampled) / 2:
        return estimate(value)
    low, high = np.percentile(finite, [2.5, 97.5])
    return estimate(value, min(low, value), max(high, value))


def resample_clips(n: int, rng: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """Indices of clips drawn with replacement, shape (resamples, n)."""
    return rng.integers(0, n, size=(resamples, n))


@dataclass(frozen=True)
class Grid:
    """Rows of a probe by clip and noise level.

    Attributes
    ----------
    rows : sequence of mapping
        As in `ProbeResult.rows`.
    clips : list of str
        In order of first appearance.
    levels, log_snr : np.ndarray [shape=(L,)]
        Noise levels t, ascending.
    draws : int
        Largest number of draws of any clip and level.
    """

    rows: Sequence[Mapping[str, Any]]
    clips: list[str]
    levels: np.ndarray
    log_snr: np.ndarray
    draws: int

    def cells(self, column: str) -> np.ndarray:
        """A column as (clips, L, draws) float64; NaN where a row is missing or has no number."""
        clip_of = {clip: index for index, clip in enumerate(self.clips)}
        level_of = {float(t): index for index, t in enumerate(self.levels)}
        values = np.full((len(self.clips), len(self.levels), self.draws), np.nan)
        filled = np.zeros(values.shape[:2], dtype=int)
        for row in self.rows:
            place = clip_of[str(row["clip"])], level_of[float(row["t"])]
            value = row.get(column)
            values[(*place, filled[place])] = np.nan if value is None or isinstance(value, str) else float(value)
            filled[place] += 1
        return values

    def by_level(self, column: str) -> np.ndarray:
        """A column as (clips, L): the mean over draws, NaN where a draw is missing."""
        # A mean over fewer draws would be noisier than its neighbours, and draws are lost only to non-finite outputs.
        return np.asarray(self.cells(column).mean(axis=2))

    def texts(self, column: str) -> list[str | None]:
        """A text column, one value a clip; None where there is none. Booleans become "true" and "false"."""
        texts: dict[str, str | None] = dict.fromkeys(self.clips)
        for row in self.rows:
            value = row.get(column)
            if value is not None and texts[str(row["clip"])] is None:
                texts[str(row["clip"])] = str(value).lower() if isinstance(value, bool) else str(value)
        return list(texts.values())


def make_grid(rows: Sequence[Mapping[str, Any]]) -> Grid:
    """The rows of a probe by clip and noise level.

    Raises
    ------
    UserError
        No rows.
    """
    if not rows:
        raise UserError("the probe holds no rows, so there is nothing to explain; run it on at least one clip.")
    counts: dict[tuple[str, float], int] = {}
    log_snr: dict[float, float] = {}
    for row in rows:
        key = str(row["clip"]), float(row["t"])
        counts[key] = counts.get(key, 0) + 1
        value = row.get("log_snr")
        log_snr[key[1]] = np.nan if value is None else float(value)
    levels = sorted(log_snr)
    clips = list(dict.fromkeys(clip for clip, _ in counts))
    return Grid(rows, clips, np.array(levels), np.array([log_snr[t] for t in levels]), max(counts.values()))


def safe_log(weights: np.ndarray) -> np.ndarray:
    """ln of weights that are at least 0; NaN stays NaN, and 0 counts as 1e-12 of the largest. All zero gives 0."""
    top = np.nanmax(weights, initial=0.0)
    if not top > 0:
        return np.where(np.isnan(weights), np.nan, 0.0)
    return np.asarray(np.log(np.maximum(weights, _TINY * top)))


# --- numbers as a reader wants them in a sentence


def number(value: float | None, digits: int = 2) -> str:
    """A number with a true minus sign, never '-0.00'; '–' without a value."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("-", "" if not any(c in text for c in "123456789") else "\u2212")


def said(estimate: Estimate, digits: int = 2) -> str:
    """'0.41 (0.20 to 0.58)' with the 95% interval where there is one; '–' where there is no value."""
    if estimate.low is None or estimate.high is None:
        return number(estimate.value, digits)
    return f"{number(estimate.value, digits)} ({number(estimate.low, digits)} to {number(estimate.high, digits)})"


def percent(value: float | None) -> str:
    """'81%', '2.3%' below 10, '0.04%' below 0.1; '–' without a value."""
    if value is None:
        return "–"
    size = abs(100 * value)
    digits = 0 if size >= 9.95 or size < 1e-4 else 1 if size >= 0.095 else 2
    return number(100 * value, digits) + "%"


def degrees(value: float) -> str:
    """'0.4°' below 10, '61°' above."""
    return f"{number(value, 1 if abs(value) < 9.95 else 0)}°"


def where(chosen: Sequence[float], levels: Sequence[float]) -> str:
    """Where among the measured noise levels the chosen ones lie: 'at every noise level', 'from t = 0.1 to 0.5'.

    Parameters
    ----------
    chosen, levels : sequence of float
        Ascending; `chosen` is part of `levels` and not empty.
    """
    if len(chosen) == len(levels) > 1:
        return "at every noise level"
    first = levels.index(chosen[0])
    if len(chosen) > 1 and list(levels[first : first + len(chosen)]) == list(chosen):
        return f"from t = {chosen[0]:g} to {chosen[-1]:g}"
    return "at t = " + ", ".join(f"{t:g}" for t in chosen)
