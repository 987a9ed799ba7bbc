"""The recovered share of the oracle's gain: how much of what labels could give, an arm gets without them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eisbach.statistics.paired import pair_cells
from eisbach.statistics.resampling import bca_interval, cluster_bootstrap, crossed_means, jackknife_means, random_stream
from eisbach.types import Record


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
    seed: int = 0,
    n_resamples: int = 9_999,
    alpha: float = 0.05,
) -> RecoveredShare:
    """The recovered share of the oracle's gain over clips that all three arms have.

    The three means are resampled together. As in Fieller's theorem, a ratio has no bounded interval when its
    denominator may be zero: when the interval of the oracle's gain includes 0, the share is undefined and says so.

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
    cells = pair_cells(records, metric, [plain, oracle, arm])
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
