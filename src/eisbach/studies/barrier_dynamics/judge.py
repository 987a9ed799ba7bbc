"""Judges what the barrier does while it trains, from the logged samples of every draw."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eisbach.diagnostics.probe.predictions import BANDS, rank_correlation
from eisbach.statistics.effect_size import mean_moments, t_interval
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import (
    ALPHA,
    corrected,
    decided,
    high,
    interval_effect,
    judged,
    low,
    not_run,
    over_draws,
    within_margin,
)

SAMPLES = "samples.parquet"
ARMS = {"eq5": "batch-50", "per-sample": "sample-100"}
QUIET, NOISY = BANDS[0][2], BANDS[2][1]
"""t at and below which noise is low, and above which it is high: as in the probe."""
TENTHS, STRETCHES = 10, 10
_FEW = 5  # samples under which a tenth of t gives no correlation
_ROUNDING = 1e-5
_GRADIENT_MARGIN, _CURATION_MARGIN = math.log(1.1), math.log(1.05)
_SPREAD_MARGIN = 10.0


@dataclass(frozen=True)
class Samples:
    """Logged samples of one training, a value each.

    Attributes
    ----------
    t, share : np.ndarray [shape=(n,)]
        Noise level, and which part of the training was over, 0 to 1.
    loss, belief, sample_weight, weight, gradient_norm : np.ndarray [shape=(n,)]
        As `training.logging.SampleLog` writes them; NaN where a training has none.
    flat : np.ndarray [shape=(n,), bool]
    """

    t: np.ndarray
    share: np.ndarray
    loss: np.ndarray
    belief: np.ndarray
    sample_weight: np.ndarray
    weight: np.ndarray
    gradient_norm: np.ndarray
    flat: np.ndarray

    @property
    def tenth(self) -> np.ndarray:
        """Which tenth of the noise levels each sample lies in."""
        return np.clip((self.t * TENTHS).astype(int), 0, TENTHS - 1)


def judge(folder: Path) -> list[ClaimResult]:
    """All claims, from `samples.parquet`; "not run" where there is none, or an arm is missing."""
    names = ("weight-by-noise", "gradient-by-noise", "belief-and-loss", "self-annealing")
    trainings = read_samples(folder / SAMPLES) if (folder / SAMPLES).is_file() else {}
    plain = trainings.get("plain", {})
    results = []
    for name, arm in ARMS.items():
        own = trainings.get(arm, {})
        if not own or not plain:
            results += [not_run(f"{claim}-{name}") for claim in names]
            continue
        results += [_weight(f"{names[0]}-{name}", own), _gradient(f"{names[1]}-{name}", own, plain),
                    _belief(f"{names[2]}-{name}", own), _annealing(f"{names[3]}-{name}", own)]  # fmt: skip
    own = trainings.get(ARMS["per-sample"], {})
    return [*results, _curation("curation", own) if own else not_run("curation")]


def read_samples(file: Path) -> dict[str, dict[int, Samples]]:
    """The trainings of a run by arm and draw."""
    import pyarrow.parquet as pq

    table = pq.ParquetFile(str(file)).read()
    columns = {name: np.array(table[name].to_pylist(), dtype=object) for name in ("arm", "train_seed", "flat")}
    numbers = {
        name: np.array([math.nan if value is None else value for value in table[name].to_pylist()], dtype=np.float64)
        for name in Samples.__dataclass_fields__ if name != "flat"
    }  # fmt: skip
    trainings: dict[str, dict[int, Samples]] = {}
    for arm, seed in dict.fromkeys(zip(columns["arm"], columns["train_seed"], strict=True)):
        mine = (columns["arm"] == arm) & (columns["train_seed"] == seed)
        own = {name: values[mine] for name, values in numbers.items()}
        trainings.setdefault(arm, {})[int(seed)] = Samples(**own, flat=columns["flat"][mine].astype(bool))
    return trainings


# --- what a training says, a number each; NaN where it says nothing


def mean_weight(samples: Samples, noisy: bool) -> float:
    """Mean of Eq. 4's weight at high or at low noise."""
    return _mean(samples.sample_weight[_band(samples, noisy)])


def gradient_ratio(samples: Samples) -> float:
    """Logarithm of the geometric mean of the weighted gradient norm at low noise over that at high noise."""
    with np.errstate(divide="ignore", invalid="ignore"):
        norms = np.log(samples.weight * samples.gradient_norm)
    norms = np.where(np.isfinite(norms), norms, np.nan)
    return _mean(norms[_band(samples, False)]) - _mean(norms[_band(samples, True)])


def belief_correlation(samples: Samples, noisy: bool) -> float:
    """Rank correlation of belief and loss at high or at low noise: within tenths of t, averaged by their samples."""
    inside = _band(samples, noisy) & np.isfinite(samples.belief) & np.isfinite(samples.loss)
    values, counts = [], []
    for tenth in range(TENTHS):
        mine = inside & (samples.tenth == tenth)
        if mine.sum() >= _FEW:
            value = float(rank_correlation(samples.belief[mine], samples.loss[mine]))
            if math.isfinite(value):
                values.append(value)
                counts.append(int(mine.sum()))
    return float(np.average(values, weights=counts)) if values else math.nan


def spread_trend(samples: Samples) -> float:
    """Slope of the spread of Eq. 4's weight at equal noise over the training, in % of the mean spread."""
    places, spreads = [], []
    stretch = _stretches(samples)
    for number in range(STRETCHES):
        squares, freedom = 0.0, 0
        for tenth in range(TENTHS):
            own = samples.sample_weight[(stretch == number) & (samples.tenth == tenth)]
            if len(own) > 1:
                squares += float(np.sum((own - own.mean()) ** 2))
                freedom += len(own) - 1
        if freedom:
            places.append((number + 0.5) / STRETCHES)
            spreads.append(math.sqrt(squares / freedom))
    mean = _mean(np.array(spreads))
    return 100.0 * float(np.polyfit(places, spreads, 1)[0]) / mean if len(places) > 1 and mean > 0 else math.nan


def weight_trend(samples: Samples) -> float:
    """Slope of Eq. 4's weight over the training, at equal noise."""
    left = np.full(len(samples.t), np.nan)
    for tenth in range(TENTHS):
        mine = samples.tenth == tenth
        left[mine] = samples.sample_weight[mine] - _mean(samples.sample_weight[mine])
    return float(np.polyfit(samples.share, left, 1)[0]) if np.isfinite(left).all() and len(left) > 1 else math.nan


def curation_ratio(samples: Samples) -> float:
    """Logarithm of the weight of developing over that of flat clips, within tenths of t, averaged by their samples."""
    values, counts = [], []
    for tenth in range(TENTHS):
        mine = samples.tenth == tenth
        developing, flat = (_mean(samples.weight[mine & side]) for side in (~samples.flat, samples.flat))
        if developing > 0 and flat > 0:
            values.append(math.log(developing / flat))
            counts.append(int(mine.sum()))
    return float(np.average(values, weights=counts)) if values else math.nan


def _band(samples: Samples, noisy: bool) -> np.ndarray:
    return samples.t > NOISY if noisy else samples.t <= QUIET


def _stretches(samples: Samples) -> np.ndarray:
    """Which of ten equal stretches of the training each sample lies in; a step counts where it ends, and a share that
    was kept in single precision is no later for that (.1 is .100000001)."""
    return np.clip(np.ceil(samples.share * STRETCHES - _ROUNDING).astype(int) - 1, 0, STRETCHES - 1)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


# --- over draws


def _over(own: dict[int, Samples], measure: Callable[[Samples], float]) -> np.ndarray:
    """A measure of each draw, those left out that it says nothing of."""
    values = np.array([measure(samples) for _, samples in sorted(own.items())])
    return values[np.isfinite(values)]


def _interval(name: str, values: np.ndarray, unit: str = "", *, ratio: bool = False) -> Effect:
    """Mean over draws with Student's interval; of logarithms as a ratio."""
    if not len(values):
        return Effect(name=f"{name} (nothing was logged)", value=0.0, n=0)
    ends = t_interval(mean_moments(values), 0.95)
    value = float(values.mean())
    if ratio:
        value, ends = math.exp(value), ends and (math.exp(ends[0]), math.exp(ends[1]))
    return interval_effect(name, value, ends, unit, n=len(values))


def _weight(key: str, own: dict[int, Samples]) -> ClaimResult:
    quiet = _over(own, lambda samples: mean_weight(samples, False))
    falls = _over(own, lambda samples: mean_weight(samples, False) - mean_weight(samples, True))
    effects = [_interval("mean weight at low noise", quiet), _interval("that less the weight at high noise", falls)]
    return judged(
        key, effects, supported=low(effects[0]) > 0.9 and low(effects[1]) > 0,
        refuted=high(effects[0]) < 0.5 or high(effects[1]) < 0,
    )  # fmt: skip


def _gradient(key: str, own: dict[int, Samples], plain: dict[int, Samples]) -> ClaimResult:
    common = sorted(own.keys() & plain.keys())
    ours = _over(own, gradient_ratio)
    beyond = np.array([gradient_ratio(own[draw]) - gradient_ratio(plain[draw]) for draw in common])
    beyond = beyond[np.isfinite(beyond)]
    effects = [
        _interval("weighted gradient norm, low over high noise", ours, "×", ratio=True),
        _interval("that ratio over plain training's", beyond, "×", ratio=True),
        _interval("plain training's ratio", _over(plain, gradient_ratio), "×", ratio=True),
    ]
    supported = low(effects[0]) > 1 and low(effects[1]) > 1
    same = within_margin("ratio", beyond, _GRADIENT_MARGIN) < ALPHA
    refuted = not supported and (high(effects[0]) < 1 or high(effects[1]) < 1 or same)
    return judged(key, effects, supported=supported, refuted=refuted)


def _belief(key: str, own: dict[int, Samples]) -> ClaimResult:
    quiet = _over(own, lambda samples: belief_correlation(samples, False))
    drops = _over(own, lambda samples: belief_correlation(samples, False) - belief_correlation(samples, True))
    name = "rank correlation of belief and loss, {}"
    effects = [_interval(name.format("low noise"), quiet), _interval(name.format("low − high noise"), drops)]
    supported = low(effects[0]) > 0 and low(effects[1]) > 0
    return judged(
        key, effects, supported=supported,
        refuted=not supported and (high(effects[0]) < 0.1 or high(effects[1]) < 0),
    )  # fmt: skip


def _annealing(key: str, own: dict[int, Samples]) -> ClaimResult:
    spread, weight = _over(own, spread_trend), _over(own, weight_trend)
    if not len(spread) or not len(weight):
        return not_run(key, "Too few steps were logged for a trend.")
    effects = corrected([
        over_draws("change of the weights' spread over a training", "spread", spread).model_copy(update={"unit": "%"}),
        over_draws("change of the mean weight over a training", "weight", weight),
    ])  # fmt: skip
    return decided(key, effects, "lower", within_margin("spread", spread, _SPREAD_MARGIN))


def _curation(key: str, own: dict[int, Samples]) -> ClaimResult:
    ratios = _over(own, curation_ratio)
    if not len(ratios):
        return not_run(key, "No noise level has clips of both kinds.")
    tested = over_draws("curation", "ratio", ratios)
    shown = _interval("weight of developing over flat clips, at equal noise", ratios, "×", ratio=True)
    effect = shown.model_copy(update={"p": tested.p})
    decisive = decided(key, [tested], "higher", within_margin("ratio", ratios, _CURATION_MARGIN))
    return decisive.model_copy(update={"effects": [effect]})
