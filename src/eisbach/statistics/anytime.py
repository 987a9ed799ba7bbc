"""Evidence that may be looked at after every clip: e-processes and confidence sequences for the mean of bounded values.

A test whose p is looked at again and again, until it is small, raises false alarms; these do not. An e-process is the
wealth of a gambler who bets against a null hypothesis in a game that is fair under it: by Ville's inequality it ever
exceeds 1/α with probability at most α, so one may stop whenever one likes (Waudby-Smith & Ramdas, "Estimating means of
bounded random variables by betting", JRSS-B 2024, §4).

The bets here are a fixed mixture of constant ones. Each constant bet λ has the wealth Π (1 + λ (x_i − m)), which does
not depend on the order of the values, and which no single bet has to be tuned for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from eisbach.errors import UserError

_BETS = 5
_STEADY = 0.98  # a bet of 1 could lose everything in one value
_GRID = 201


def log_e_process(
    values: Sequence[float] | np.ndarray, null: float = 0.0, *, low: float = -1.0, high: float = 1.0
) -> np.ndarray:
    """Log evidence after each value, in nats, against 'the mean is at most `null`'.

    Parameters
    ----------
    values : array [shape=(n,)]
        In [low, high]. Each has, given the ones before it, a mean of at most `null` under the hypothesis; for
        differences of pairs this holds when the pairs are drawn alike.
    null : float in (low, high)

    Returns
    -------
    np.ndarray [shape=(n,)]
        Under the hypothesis it ever reaches log(1/α) with probability at most α.

    Raises
    ------
    UserError
        Values beyond their bounds, or a null that is not between them.

    Examples
    --------
    >>> evidence = log_e_process([0.4, 0.1, 0.5, 0.3, 0.6, 0.2])
    >>> bool(evidence[-1] > evidence[0] > 0)
    True
    >>> bool(log_e_process([-0.2] * 6)[-1] < 0)
    True
    """
    return _log_mixtures(_checked(values, null, low, high), np.array([null]), low)[:, 0]


def _log_mixtures(values: np.ndarray, nulls: np.ndarray, low: float) -> np.ndarray:
    """Log of the mean wealth of the constant bets after each value, against each null [shape=(n, nulls)]. Bets run from
    near nothing to all that no value can ruin, 1 / (null − low)."""
    bets = _STEADY / (nulls - low)[:, None] * np.geomspace(0.06, 1.0, _BETS)
    wealths = np.cumsum(np.log1p(bets * (values[:, None] - nulls)[:, :, None]), axis=0)
    return np.asarray(np.logaddexp.reduce(wealths, axis=2) - math.log(_BETS))


def confidence_sequence(
    values: Sequence[float] | np.ndarray, alpha: float = 0.05, *, low: float = -1.0, high: float = 1.0
) -> np.ndarray:
    """Intervals for the mean after each value, all of which hold it at once with probability at least 1 − alpha.

    Returns
    -------
    np.ndarray [shape=(n, 2)]
        Never wider than the one before; `low` and `high` until something is known.

    Examples
    --------
    >>> ends = confidence_sequence([0.5, 0.4, 0.6, 0.5] * 20)
    >>> bool(0 < ends[-1, 0] < 0.5 < ends[-1, 1])
    True
    """
    if not 0 < alpha < 1:
        raise UserError(f"alpha is {alpha}; give a probability between 0 and 1.")
    checked = _checked(values, (low + high) / 2, low, high)
    ends = np.tile([low, high], (len(checked), 1)).astype(float)
    # Half of alpha for each side: an end stands at the farthest mean that its gamblers have ruled out. Evidence against
    # 'at most m' falls with m, so that a grid of means loses a step of width and no certainty.
    means = np.linspace(low, high, _GRID)[1:-1]
    limit = math.log(2.0 / alpha)
    above, below = _log_mixtures(checked, means, low), _log_mixtures(-checked, -means, -high)
    for index in range(len(checked)):
        ruled_low, ruled_high = means[above[index] >= limit], means[below[index] >= limit]
        if len(ruled_low):
            ends[index, 0] = ruled_low.max()
        if len(ruled_high):
            ends[index, 1] = ruled_high.min()
    ends[:, 0] = np.maximum.accumulate(ends[:, 0])
    ends[:, 1] = np.minimum.accumulate(ends[:, 1])
    crossed = ends[:, 0] > ends[:, 1]  # happens with probability below alpha; an interval stays one
    ends[crossed] = ends[crossed].mean(axis=1, keepdims=True)
    return ends


def spending(alpha: float, number: int) -> float:
    """The share of alpha that the test of this number, counted from 1, may use: all of them together use alpha.

    >>> round(sum(spending(0.05, number) for number in range(1, 10_000)), 3)
    0.05
    """
    return alpha * 6.0 / (math.pi * number) ** 2


def _checked(values: Sequence[float] | np.ndarray, null: float, low: float, high: float) -> np.ndarray:
    checked = np.asarray(values, dtype=np.float64).reshape(-1)
    if not low < null < high:
        raise UserError(f"a mean of {null:g} is not between the bounds {low:g} and {high:g} of the values.")
    if len(checked) and not (np.isfinite(checked).all() and checked.min() >= low and checked.max() <= high):
        raise UserError(
            f"values from {np.min(checked):g} to {np.max(checked):g} arrived, and they must lie in [{low:g}, {high:g}]."
        )
    return checked
