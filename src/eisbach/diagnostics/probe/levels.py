"""The rows of a probe as a grid (clips, noise levels, draws), and what it says at each noise level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eisbach.diagnostics.probe.intervals import UNKNOWN, Estimate, estimate, percentile_interval
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
        texts: dict[str, str | None] = dict.fromkeys(self.clips)
        for row in self.rows:
            value = row.get(column)
            if value is not None and texts[str(row["clip"])] is None:
                texts[str(row["clip"])] = str(value).lower() if isinstance(value, bool) else str(value)
        return [texts[clip] for clip in self.clips]

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


# --- at each noise level, and where the differences lie


SHOWN = ("belief", "sample_weight", "weight", "loss", "x0_loss")
"""Columns that are summarised at every level."""


@dataclass(frozen=True)
class Spread:
    """A column over the clips at one noise level.

    Attributes
    ----------
    mean : Estimate
    sd, q10, q50, q90 : float or None
        Standard deviation between clips (draws averaged) and quantiles; None where nothing is finite.
    """

    mean: Estimate
    sd: float | None
    q10: float | None
    q50: float | None
    q90: float | None


@dataclass(frozen=True)
class LevelSummary:
    """One noise level.

    Attributes
    ----------
    t, log_snr : float
    clips : int
        Clips with a finite weight at every draw.
    columns : dict of str to Spread
        One for each of `SHOWN`.
    cv : Estimate
        Coefficient of variation between clips of the weight as trained, without the noise-level weight (which is the
        same for every clip).
    cv_sample_weight : Estimate
        The same of the sample weight before strength, gate and level means.
    ess_share : float or None
        Effective sample size over the number of clips, 1 / (1 + cv^2), for a batch at this level alone.
    """

    t: float
    log_snr: float | None
    clips: int
    columns: dict[str, Spread]
    cv: Estimate
    cv_sample_weight: Estimate
    ess_share: float | None


@dataclass(frozen=True)
class VarianceShares:
    """Where the variance of ln weight lies, over the measured levels counted alike.

    Attributes
    ----------
    level, clip, remainder : Estimate
        Shares that sum to 1: between noise levels; between clips, at every level alike; and what is peculiar to a clip
        at a level or to a draw of noise.
    sd : float
        Standard deviation of ln weight: 0.1 is about 10%.
    sd_between_clips : float
        Root mean square over levels of its standard deviation between clips.
    """

    level: Estimate
    clip: Estimate
    remainder: Estimate
    sd: float
    sd_between_clips: float


@dataclass(frozen=True)
class BatchSummary:
    """Simulated training batches.

    Attributes
    ----------
    batches, batch_size : int
    cv, ess_share : float or None
        Mean over batches of the final weights' coefficient of variation and of the effective sample size over the batch
        size.
    cv_sample_weight : float or None
        The same of the sample weights, before strength, gate and level means.
    step_cv : float or None
        Coefficient of variation from batch to batch of the mean weight: with reduction 'batch' the only thing that
        varies.
    mean_weight : float or None
    """

    batches: int
    batch_size: int
    cv: float | None
    ess_share: float | None
    cv_sample_weight: float | None
    step_cv: float | None
    mean_weight: float | None


def trained_part(grid: Grid) -> np.ndarray:
    """The weight as trained without the noise-level weight, (clips, L, draws); NaN where that is 0."""
    noise = grid.cells("noise_weight")
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(noise > 0, grid.cells("weight") / noise, np.nan)


def summarise_levels(grid: Grid, trained: np.ndarray, draws: np.ndarray | None) -> list[LevelSummary]:
    """One summary a noise level.

    Parameters
    ----------
    trained : np.ndarray [shape=(clips, L, draws)]
        From `trained_part`.
    draws : np.ndarray [shape=(resamples, clips)] or None
        Bootstrap indices of clips; None gives no intervals.
    """
    columns = {name: grid.by_level(name) for name in SHOWN}
    part, sample = trained.mean(axis=2), columns["sample_weight"]
    summaries = []
    for index, t in enumerate(grid.levels):
        cv = _cv(part[:, index], draws)
        summaries.append(
            LevelSummary(
                t=float(t),
                log_snr=estimate(float(grid.log_snr[index])).value,
                clips=int(np.isfinite(part[:, index]).sum()),
                columns={name: _spread(values[:, index], draws) for name, values in columns.items()},
                cv=cv,
                cv_sample_weight=_cv(sample[:, index], draws),
                ess_share=None if cv.value is None else 1 / (1 + cv.value**2),
            )
        )
    return summaries


def _spread(values: np.ndarray, draws: np.ndarray | None) -> Spread:
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return Spread(UNKNOWN, None, None, None, None)
    mean = estimate(float(finite.mean()))
    if draws is not None and len(finite) == len(values):
        mean = percentile_interval(float(finite.mean()), values[draws].mean(axis=1))
    sd = float(finite.std(ddof=1)) if len(finite) > 1 else None
    return Spread(mean, sd, *(float(q) for q in np.quantile(finite, [0.1, 0.5, 0.9])))


def _cv(values: np.ndarray, draws: np.ndarray | None) -> Estimate:
    finite = values[np.isfinite(values)]
    if len(finite) < 2 or not finite.mean() > 0:
        return UNKNOWN
    value = float(finite.std(ddof=1) / finite.mean())
    if draws is None or len(finite) < len(values):
        return estimate(value)
    resampled = values[draws]
    with np.errstate(divide="ignore", invalid="ignore"):
        return percentile_interval(value, resampled.std(axis=1, ddof=1) / resampled.mean(axis=1))


def decompose(weights: np.ndarray, draws: np.ndarray | None) -> VarianceShares | None:
    """Two-way decomposition of ln weight by noise level and clip; None with fewer than 2 complete clips.

    The clip's sum of squares also holds 1 / L of the remainder's chance, which is taken out (as in omega squared), so
    that clips that differ by chance alone get a share of 0.

    Parameters
    ----------
    weights : np.ndarray [shape=(clips, L, draws)]
        At least 0. Clips with a value that is not finite are left out.
    draws : np.ndarray [shape=(resamples, clips)] or None
    """
    complete = np.isfinite(weights).all(axis=(1, 2))
    if complete.sum() < 2:
        return None
    logs = safe_log(weights[complete])
    shares = _shares(logs)
    intervals = [estimate(value) for value in shares]
    if draws is not None and complete.all():
        resampled = np.array([_shares(logs[index]) for index in draws])
        intervals = [percentile_interval(value, resampled[:, k]) for k, value in enumerate(shares)]
    between = logs.mean(axis=2).var(axis=0, ddof=1)
    level, clip, rest = intervals
    return VarianceShares(level, clip, rest, sd=float(logs.std()), sd_between_clips=float(np.sqrt(between.mean())))


def _shares(logs: np.ndarray) -> tuple[float, float, float]:
    n, levels, draws = logs.shape
    centred = logs - logs.mean()
    total = float((centred**2).sum())
    if total <= 1e-20 * max(1, logs.size):
        return float("nan"), float("nan"), float("nan")
    by_level = float((centred.mean(axis=(0, 2)) ** 2).sum()) * n * draws
    by_clip = float((centred.mean(axis=(1, 2)) ** 2).sum()) * levels * draws
    rest = max(0.0, total - by_level - by_clip)
    if levels > 1:
        chance = rest / max(1, n * levels * draws - n - levels + 1) * (n - 1)
        by_clip = max(0.0, by_clip - chance)
    return by_level / total, by_clip / total, max(0.0, 1 - (by_level + by_clip) / total)


def summarise_batches(batches: Sequence[Mapping[str, Any]]) -> BatchSummary | None:
    """The simulated training batches in a few numbers; None without any."""
    if not batches:
        return None

    def column(name: str) -> np.ndarray:
        values = [row.get(name) for row in batches]
        return np.array([np.nan if value is None else float(value) for value in values])

    def mean(name: str) -> float | None:
        values = column(name)
        return float(np.nanmean(values)) if np.isfinite(values).any() else None

    weights = column("mean_weight")
    weights = weights[np.isfinite(weights)]
    step_cv = float(weights.std(ddof=1) / weights.mean()) if len(weights) > 1 and weights.mean() > 0 else None
    return BatchSummary(
        batches=len(batches),
        batch_size=int(batches[0].get("samples") or 0),
        cv=mean("cv"),
        ess_share=mean("ess_share"),
        cv_sample_weight=mean("cv_sample_weight"),
        step_cv=step_cv,
        mean_weight=mean("mean_weight"),
    )
