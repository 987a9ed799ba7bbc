"""A probe's rows as arrays: clips by noise levels, with draws averaged, and what belongs to a clip alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eisbach.errors import UserError

TINY = 1e-12
"""Weights below this share of the largest one count as this share in a logarithm: a weight may be exactly 0."""


@dataclass(frozen=True)
class Grid:
    """Rows of a probe by clip and noise level.

    Attributes
    ----------
    rows : sequence of mapping
        As in `ProbeResult.rows`.
    clips : list of str
        In order of first appearance.
    levels : np.ndarray [shape=(L,)]
        Noise levels t, ascending.
    log_snr : np.ndarray [shape=(L,)]
    draws : int
        Largest number of draws of any clip and level.
    """

    rows: Sequence[Mapping[str, Any]]
    clips: list[str]
    levels: np.ndarray
    log_snr: np.ndarray
    draws: int

    @property
    def n_clips(self) -> int:
        """Number of clips."""
        return len(self.clips)

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
        values = self.cells(column)
        # A mean over fewer draws would be noisier than its neighbours, and draws are lost only to non-finite outputs.
        return values.mean(axis=2)

    def by_clip(self, column: str) -> np.ndarray:
        """What belongs to the clip alone as (clips,): its first number, NaN where there is none."""
        flat = self.cells(column).reshape(self.n_clips, -1)
        out = np.full(self.n_clips, np.nan)
        for index, values in enumerate(flat):
            finite = values[np.isfinite(values)]
            if len(finite):
                out[index] = finite[0]
        return out

    def texts(self, column: str) -> list[str | None]:
        """A text column, one value a clip; None where there is none. Booleans become "true" and "false"."""
        found: dict[str, str | None] = dict.fromkeys(self.clips)
        for row in self.rows:
            value = row.get(column)
            if value is not None and found[str(row["clip"])] is None:
                found[str(row["clip"])] = str(value).lower() if isinstance(value, bool) else str(value)
        return [found[clip] for clip in self.clips]

    def columns(self, prefix: str) -> list[str]:
        """Names of the columns that start with `prefix`, in order of appearance."""
        return list(dict.fromkeys(key for row in self.rows for key in row if key.startswith(prefix)))


def make_grid(rows: Sequence[Mapping[str, Any]]) -> Grid:
    """The rows of a probe by clip and noise level.

    Raises
    ------
    UserError
        No rows, or a row without clip or noise level.
    """
    if not rows:
        raise UserError("the probe holds no rows, so there is nothing to explain; run it on at least one clip.")
    counts: dict[tuple[str, float], int] = {}
    log_snr: dict[float, float] = {}
    clips: dict[str, None] = {}
    for number, row in enumerate(rows, start=1):
        if row.get("clip") is None or row.get("t") is None:
            raise UserError(
                f"row {number} of the probe lacks its clip or its noise level t; run the probe again instead of "
                "editing rows."
            )
        key = str(row["clip"]), float(row["t"])
        counts[key] = counts.get(key, 0) + 1
        clips[key[0]] = None
        if row.get("log_snr") is not None:
            log_snr[key[1]] = float(row["log_snr"])
    levels = sorted({t for _, t in counts})
    return Grid(
        rows, list(clips), np.array(levels), np.array([log_snr.get(t, np.nan) for t in levels]), max(counts.values())
    )


def safe_log(weights: np.ndarray) -> np.ndarray:
    """ln of weights that are at least 0; NaN stays NaN, and 0 counts as `TINY` of the largest. All zero gives 0."""
    top = np.nanmax(weights, initial=0.0)
    if not top > 0:
        return np.where(np.isnan(weights), np.nan, 0.0)
    return np.log(np.maximum(weights, TINY * top))
