"""Numbers of a probe with intervals over clips, and how they are said in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
"""Bootstrap resamples: 2.5% tails rest on 25 of them, and an interval moves by about 3% of its width between seeds."""

MIN_CLIPS = 12
"""Below this there are no intervals: a rank correlation must exceed 0.58 to be told from 0."""


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval.

    Attributes
    ----------
    value : float or None
        None where it is undefined.
    low, high : float or None
        None where the data allow no interval.
    """

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


def percentile_interval(value: float, resampled: np.ndarray) -> Estimate:
    """The 95% percentile interval of resampled values; no interval where under half of them are finite."""
    finite = resampled[np.isfinite(resampled)]
    if not np.isfinite(value) or len(finite) < len(resampled) / 2:
        return estimate(value)
    low, high = np.percentile(finite, [2.5, 97.5])
    return estimate(value, min(low, value), max(high, value))


def resample_clips(n: int, rng: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """Indices of clips drawn with replacement, shape (resamples, n)."""
    return rng.integers(0, n, size=(resamples, n))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, ties averaged, scaled to mean 0 and the range (-1, 1)."""
    from scipy.stats import rankdata

    return np.asarray((2 * rankdata(values, axis=-1) - 1) / values.shape[-1] - 1)


def correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson correlation along the last axis; NaN where either is constant."""
    a = first - first.mean(axis=-1, keepdims=True)
    b = second - second.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 1e-12, (a * b).sum(axis=-1) / scale, np.nan)


def spearman(first: np.ndarray, second: np.ndarray, draws: np.ndarray) -> Estimate:
    """Spearman's correlation with a percentile bootstrap over clips.

    Parameters
    ----------
    first, second : np.ndarray [shape=(n,)], finite
    draws : np.ndarray [shape=(resamples, n)]
        From `resample_clips`.
    """
    if len(first) < 3:
        return UNKNOWN
    value = float(correlate(ranks(first), ranks(second)))
    if not np.isfinite(value):
        return UNKNOWN
    return percentile_interval(value, correlate(ranks(first[draws]), ranks(second[draws])))


def auc(more: np.ndarray, less: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES) -> Estimate:
    """Chance that a value of `more` exceeds one of `less` (ties count half), with a bootstrap over the clips of each
    side.

    Where every pair is ordered alike a bootstrap has no width; there the exact bound for one side's clips all on one
    side is given instead (rule of three, 1 - 0.05^(1/n) for the smaller side).
    """
    if len(more) == 0 or len(less) == 0:
        return UNKNOWN
    wins = (more[:, None] > less[None, :]) + 0.5 * (more[:, None] == less[None, :])
    value = float(wins.mean())
    fewer = min(len(more), len(less))
    if fewer < 2:
        return estimate(value)
    # A resampled side is a vector of how often each clip was drawn; the resampled AUC is then a bilinear form of
    # `wins`.
    first = rng.multinomial(len(more), np.full(len(more), 1 / len(more)), size=resamples) / len(more)
    second = rng.multinomial(len(less), np.full(len(less), 1 / len(less)), size=resamples) / len(less)
    slack = 1 - 0.05 ** (1 / fewer)
    if value == 1.0:
        return estimate(value, 1 - slack, 1.0)
    if value == 0.0:
        return estimate(value, 0.0, slack)
    return percentile_interval(value, ((first @ wins) * second).sum(axis=1))


# --- as a reader wants them in a sentence


_COLUMNS = {
    "latent_db": "latents' level",
    "loudness_db": "audio's level",
    "output_energy_db": "energy of the output",
    "x0_energy_db": "energy of the data estimate",
    "loss": "loss",
    "x0_loss": "loss of the data estimate",
    "structure.share_below_200": "share of energy below 200 Hz",
    "structure.share_above_2000": "share of energy above 2 kHz",
}


def column_name(column: str) -> str:
    """What a column of the rows is called: 'latents' level', 'textural Vendi'."""
    from eisbach.structure.metrics import METRICS

    metric = METRICS.get(column.removeprefix("structure."))
    if metric is not None:
        return metric.label[:1].lower() + metric.label[1:]
    return _COLUMNS.get(column, column.removeprefix("structure.").replace("_", " "))


def number(value: float | None, digits: int = 2) -> str:
    """A number with a true minus sign, never '-0.00'; '–' without a value."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("-", "" if not any(c in text for c in "123456789") else "\u2212")


def said(estimate: Estimate, digits: int = 2) -> str:
    """'0.41 (95% 0.20 to 0.58)'; '–' where there is no value."""
    if estimate.low is None or estimate.high is None:
        return number(estimate.value, digits)
    return f"{number(estimate.value, digits)} (95% {number(estimate.low, digits)} to {number(estimate.high, digits)})"


def percent(value: float | None) -> str:
    """'81%', '2.3%' below 10, '0.04%' below 0.1; '–' without a value."""
    if value is None:
        return "–"
    size = abs(100 * value)
    digits = 0 if size >= 9.95 or size < 1e-4 else 1 if size >= 0.095 else 2
    return number(100 * value, digits) + "%"


def said_percent(share: Estimate) -> str:
    """'81% (95% 70% to 90%)'; without the interval where there is none."""
    if share.low is None or share.high is None:
        return percent(share.value)
    return f"{percent(share.value)} (95% {percent(share.low)} to {percent(share.high)})"


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
