"""Everything that the records of an experiment say, in one named record that pages and programs read."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from eisbach.errors import UserError
from eisbach.files import write_json
from eisbach.statistics.comparison import Comparison, compare_all
from eisbach.statistics.paired import pair_cells, pool_models
from eisbach.statistics.records import MetricInfo, arms_of
from eisbach.statistics.resampling import bca_interval, cluster_bootstrap, crossed_means, jackknife_means, random_stream
from eisbach.types import Record


@dataclass(frozen=True)
class ArmSummary:
    """One arm by one metric, on its own.

    Attributes
    ----------
    arm, metric : str
    mean : float
        NaN without values.
    interval : (float, float) or None
        95% BCa cluster bootstrap of the mean; None with fewer than two units.
    points : dict of str to float
        Mean of each prompt (over its seeds and trained models); of each clip for unpaired folders.
    n_clips : int
    """

    arm: str
    metric: str
    mean: float
    interval: tuple[float, float] | None
    points: dict[str, float]
    n_clips: int


def summarise_arm(
    records: Sequence[Record], metric: str, arm: str, *, seed: int = 0, n_resamples: int = 4_999, alpha: float = 0.05
) -> ArmSummary:
    """Mean, interval and prompts of one arm by one metric, whether or not other arms have the same clips.

    Raises
    ------
    UserError
        An arm or a metric that the records do not hold.
    """
    cells = pair_cells(records, metric, [arm])
    if cells.matched == 0:
        return ArmSummary(arm, metric, float("nan"), None, {}, 0)
    mean = float(crossed_means(cells.values)[0])
    pooled = pool_models(cells).cell_means()[0, 0]
    points = {prompt: float(value) for prompt, value in zip(cells.prompts, pooled, strict=True)}
    interval = None
    if cells.unit_means().shape[1] > 1:
        replicates = cluster_bootstrap(cells.values, random_stream(seed, metric, arm), n_resamples)
        interval = bca_interval(mean, replicates[:, 0], jackknife_means(cells.values)[:, 0], 1 - alpha)
    return ArmSummary(arm, metric, mean, interval, points, cells.matched)


@dataclass(frozen=True)
class Results:
    """The statistics of one set of records.

    Attributes
    ----------
    baseline : str
    oracle : str or None
    arms : list of str
        All arms, the baseline first.
    metrics : list of MetricInfo
        Primary metrics first.
    paired : bool
        Clips were matched by prompt and seed.
    comparisons : list of Comparison
        Every other arm against the baseline by every metric, corrected.
    checkpoint_comparisons : list of Comparison
        The same with the prompt as unit, when the trained model is the unit of `comparisons`: what can be said of
        these very checkpoints. Empty otherwise.
    summaries : dict of (arm, metric) to ArmSummary
    recovered : list of RecoveredShare
        By the headline metric, when there is an oracle.
    unmatched_arms : list of str
        Arms that were compared as unmatched groups although the others are paired.
    """

    baseline: str
    oracle: str | None
    arms: list[str]
    metrics: list[MetricInfo]
    paired: bool
    comparisons: list[Comparison]
    checkpoint_comparisons: list[Comparison]
    summaries: dict[tuple[str, str], ArmSummary]
    recovered: list[RecoveredShare] = field(default_factory=list)
    unmatched_arms: list[str] = field(default_factory=list)

    @property
    def headline(self) -> MetricInfo | None:
        """The metric that the verdict is about: the first primary one, or the first."""
        return self.metrics[0] if self.metrics else None

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is undefined is None."""
        value = {
            "baseline": self.baseline,
            "oracle": self.oracle,
            "arms": self.arms,
            "paired": self.paired,
            "unmatched_arms": self.unmatched_arms,
            "metrics": [asdict(info) for info in self.metrics],
            "comparisons": [asdict(each) for each in self.comparisons],
            "checkpoint_comparisons": [asdict(each) for each in self.checkpoint_comparisons],
            "summaries": [asdict(each) for each in self.summaries.values()],
            "recovered": [asdict(each) for each in self.recovered],
        }
        return cast(dict[str, Any], plain_json(value))

    def save(self, path: str | Path) -> None:
        """Writes `to_json` atomically."""
        write_json(path, self.to_json())

    def comparison(self, arm: str, metric: str) -> Comparison | None:
        """An arm against the baseline by one metric; None for the baseline itself."""
        return next((each for each in self.comparisons if (each.arm, each.metric) == (arm, metric)), None)


def evaluate(
    records: Sequence[Record],
    metrics: Sequence[MetricInfo],
    baseline: str,
    *,
    arms: Sequence[str] | None = None,
    oracle: str | None = None,
    paired: bool = True,
    unmatched: Collection[str] = (),
    redrawn: bool = False,
    seed: int = 0,
    n_resamples: int = 9_999,
    alpha: float = 0.05,
) -> Results:
    """All statistics of the records.

    Parameters
    ----------
    metrics : sequence of MetricInfo
        `known_metrics(records)` or a choice of them; the first is the headline.
    arms : sequence of str or None
        In the order in which they are shown; None takes the order of the records.
    oracle : str or None
        The arm whose gain is the yardstick of the recovered shares.
    paired, unmatched : bool, collection of str
        As in `compare_all`.
    redrawn : bool
        Each training seed drew a training set of its own, so that the unit is the draw.

    Raises
    ------
    UserError
        A baseline, oracle or arm that the records do not hold, or fewer than two arms.

    Examples
    --------
    >>> rows = [
    ...     {"arm": arm, "prompt_id": f"p{n}", "seed": 0, "path": f"{arm}/{n}.flac", "level": n + gain + 0.1 * (n % 3)}
    ...     for arm, gain in (("plain", 0.0), ("new", 1.0), ("oracle", 2.0))
    ...     for n in range(10)
    ... ]
    >>> results = evaluate(rows, [MetricInfo("level", "level", primary=True)], "plain", oracle="oracle")
    >>> [(each.arm, each.verdict) for each in results.comparisons]
    [('new', 'higher'), ('oracle', 'higher')]
    >>> round(results.recovered[0].share, 3)
    0.5
    """
    names = _ordered_arms(arms_of(records), baseline, oracle, arms)
    draws: dict[str, Any] = {"seed": seed, "n_resamples": n_resamples, "alpha": alpha}
    options = {"paired": paired, "unmatched": unmatched, **draws}
    unit: Literal["draw", "auto"] = "draw" if redrawn else "auto"
    comparisons = compare_all(records, metrics, baseline, names, unit=unit, **options)
    by_model = [each for each in comparisons if each.unit in ("trained model", "draw")]
    checkpoints = compare_all(records, metrics, baseline, names, unit="prompt", **options) if by_model else []
    summaries = {
        (arm, info.name): summarise_arm(records, info.name, arm, seed=seed, alpha=alpha)
        for arm in names
        for info in metrics
    }
    recovered = []
    if oracle is not None and metrics and paired and oracle not in unmatched:
        candidates = [arm for arm in names if arm not in (baseline, oracle, *unmatched)]
        name, options = metrics[0].name, {"redrawn": redrawn, **draws}
        recovered = [recovered_share(records, name, baseline, oracle, arm, **options) for arm in candidates]
    unmatched_arms = [arm for arm in names if arm in unmatched]
    return Results(
        baseline, oracle, names, list(metrics), paired, comparisons, checkpoints, summaries, recovered, unmatched_arms
    )


def _ordered_arms(known: list[str], baseline: str, oracle: str | None, arms: Sequence[str] | None) -> list[str]:
    """The baseline, then the other arms as they are shown; a `UserError` for one that the records do not hold."""
    names = known if arms is None else list(arms)
    for role, name in (("baseline", baseline), ("oracle", oracle), *(("arm", name) for name in names)):
        if name is not None and name not in known:
            raise UserError(f"the {role} '{name}' is not among the arms of the records: {', '.join(known) or 'none'}.")
    names = [baseline, *(name for name in names if name != baseline)]
    if len(names) < 2:
        raise UserError(f"a comparison needs at least two arms, and there is only '{baseline}'.")
    return names


def plain_json(value: Any) -> Any:
    """The value with every number that is not finite as None, and tuples as lists: what JSON can hold."""
    if isinstance(value, dict):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# --- the share of the oracle's gain that an arm recovers


@dataclass(frozen=True)
class RecoveredShare:
    """(arm - plain) / (oracle - plain) for one metric.

    Attributes
    ----------
    share : float or None
        1 = everything that the oracle gains, 0 = nothing; None where the ratio is undefined.
    interval : (float, float) or None
        95% BCa cluster bootstrap of the ratio.
    oracle_gain : float
        oracle - plain, in the metric's unit.
    oracle_interval : (float, float) or None
        95% interval of that gain.
    reason : str
        Why the share or its interval is None; empty otherwise.
    unit : str
    n_units : int
    """

    arm: str
    plain: str
    oracle: str
    metric: str
    share: float | None
    interval: tuple[float, float] | None
    oracle_gain: float
    oracle_interval: tuple[float, float] | None
    reason: str
    unit: str
    n_units: int


def recovered_share(
    records: Sequence[Record],
    metric: str,
    plain: str,
    oracle: str,
    arm: str,
    *,
    redrawn: bool = False,
    seed: int = 0,
    n_resamples: int = 9_999,
    alpha: float = 0.05,
) -> RecoveredShare:
    """The recovered share of the oracle's gain over clips that all three arms have.

    The three means are resampled together; `redrawn` as in `evaluate`. As in Fieller's theorem, a ratio has no bounded
    interval when its denominator may be zero: when the interval of the oracle's gain includes 0, the share is undefined
    and says so.

    Raises
    ------
    UserError
        An arm or a metric that the records do not hold.

    Examples
    --------
    >>> rows = [
    ...     {"arm": arm, "prompt_id": f"p{n}", "seed": 0, "path": f"{arm}/{n}.flac", "level": n + gain + 0.1 * (n % 3)}
    ...     for arm, gain in (("plain", 0.0), ("new", 1.0), ("oracle", 4.0))
    ...     for n in range(8)
    ... ]
    >>> round(recovered_share(rows, "level", "plain", "oracle", "new").share, 3)
    0.25
    """
    cells = pair_cells(records, metric, [plain, oracle, arm], redrawn=redrawn)
    n_units = cells.unit_means().shape[1] if cells.values.size and cells.matched else 0

    def undefined(reason: str, gain: float = math.nan, interval: tuple[float, float] | None = None) -> RecoveredShare:
        return RecoveredShare(arm, plain, oracle, metric, None, None, gain, interval, reason, cells.unit, n_units)

    if n_units == 0:
        return undefined("no prompt and seed is in all three arms")
    means = crossed_means(cells.values)
    gain = float(means[1] - means[0])
    if n_units < 2:
        return undefined(f"only one {cells.unit}: no interval", gain)
    rng = random_stream(seed, metric, plain, oracle, arm)
    replicates = cluster_bootstrap(cells.values, rng, n_resamples)
    left_out = jackknife_means(cells.values)
    gains, left_gains = replicates[:, 1] - replicates[:, 0], left_out[:, 1] - left_out[:, 0]
    gain_interval = bca_interval(gain, gains, left_gains, 1 - alpha)
    if gain_interval[0] <= 0 <= gain_interval[1]:
        reason = "the oracle's own gain is not clearly different from zero, so a share of it means nothing"
        return undefined(reason, gain, gain_interval)
    # A few replicates may still touch zero; the interval is taken over those with a denominator.
    usable = gains * np.sign(gain) > 1e-9 * abs(gain)
    ratios = (replicates[usable, 2] - replicates[usable, 0]) / gains[usable]
    share = float((means[2] - means[0]) / gain)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = (left_out[:, 2] - left_out[:, 0]) / left_gains
    left = np.where(np.isfinite(left), left, share)
    interval = bca_interval(share, ratios, left, 1 - alpha)
    return RecoveredShare(arm, plain, oracle, metric, share, interval, gain, gain_interval, "", cells.unit, n_units)
