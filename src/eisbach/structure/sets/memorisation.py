"""Memorisation: whether generations lie nearer to training clips than unseen music of the same kind does.

Conventions: the nearest training clip of a generation is close when the model copies, but also when the genre is
narrow. Held-out clips (same source, never trained on) say how close is usual: a generation's p value is the share of
held-out clips at least as close, ``(1 + count) / (1 + held out)``. It is computed twice: for whole clips, on distances
of an embedding, and for excerpts, on the best score of any 4 s (`excerpts`). Without memorisation p values are uniform:
5% of the generations have p <= 0.05, and the AUC of generations against held-out clips is 0.5. The stretches named as
copied are those above the held-out clips' 95% level (their maximum, where there are fewer than 20).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eisbach.errors import UserError
from eisbach.structure.sets.distances import as_pair, nearest
from eisbach.structure.sets.excerpts import ExcerptFeatures, ExcerptMatch, closest_excerpts, matches_above
from eisbach.structure.sets.intervals import Estimate, jackknife

LEVEL = 0.05
"""A generation counts as suspicious at p <= this."""


@dataclass(frozen=True)
class Closeness:
    """Generations against held-out clips, by closeness to training.

    Attributes
    ----------
    value : np.ndarray [shape=(generations,)]
        Distance to the nearest training clip (clips; low is close) or best score (excerpts; high is close).
    held_out : np.ndarray [shape=(held out,)]
        The same for the held-out clips.
    nearest : np.ndarray of int [shape=(generations,)]
        Index of the nearest training clip; -1 where there is none.
    p_values : np.ndarray [shape=(generations,)]
    share : Estimate
        Share of the generations with p <= 0.05; 0.05 is expected without memorisation.
    auc : Estimate
        Probability that a generation is closer to training than a held-out clip, ties half; 0.5 without memorisation.
    smallest_p : float
        The least p that this many held-out clips allow.
    """

    value: np.ndarray
    held_out: np.ndarray
    nearest: np.ndarray
    p_values: np.ndarray
    share: Estimate
    auc: Estimate
    smallest_p: float


@dataclass(frozen=True)
class ExcerptCopies:
    """What `excerpt_memorisation` found.

    Attributes
    ----------
    closeness : Closeness
    threshold : float
        Score above which stretches are listed.
    copied_share : np.ndarray [shape=(generations,)]
        Share of each generation that lies in such stretches, in [0, 1].
    mean_copied_share : Estimate
    matches : list of list of ExcerptMatch
        Which training excerpt matches where, best first, for each generation.
    """

    closeness: Closeness
    threshold: float
    copied_share: np.ndarray
    mean_copied_share: Estimate
    matches: list[list[ExcerptMatch]]


def clip_memorisation(
    generated: np.ndarray, training: np.ndarray, held_out: np.ndarray, *, level: float = 0.95
) -> Closeness:
    """Nearest training clip of every generation, in an embedding, against held-out clips' nearest.

    Parameters
    ----------
    generated, training, held_out : np.ndarray [shape=(n, d)]
        At least one generation and training clip, and two held-out clips.

    Raises
    ------
    UserError
        Too few rows, different dimensions, non-finite values, or a held-out clip that is also in the training set.
    """
    generated, training = as_pair(generated, training, ("generated", "training"), 1)
    held, training = as_pair(held_out, training, ("held-out", "training"), 2)
    usual, _ = nearest(held, training)
    if (usual == 0.0).any():
        raise UserError(
            f"{int((usual == 0.0).sum())} held-out clip(s) are also training clips; held-out clips must be unseen, or "
            "copying looks usual."
        )
    distance, index = nearest(generated, training)
    scale = 1.0 / math.sqrt(training.shape[1])  # root mean square over dimensions, the unit of the embedding
    return _closeness(distance * scale, usual * scale, index, low_is_close=True, level=level)


def excerpt_memorisation(
    generated: Sequence[ExcerptFeatures],
    training: Sequence[ExcerptFeatures],
    held_out: Sequence[ExcerptFeatures],
    *,
    transpositions: bool = True,
    level: float = 0.95,
) -> ExcerptCopies:
    """Best matching excerpt of every generation in the training clips, against held-out clips' best.

    Raises
    ------
    UserError
        No generation, fewer than two held-out clips, or no training clip of 4 s.
    """
    if not len(generated) or len(held_out) < 2:
        raise UserError(
            f"{len(generated)} generation(s) and {len(held_out)} held-out clip(s) were given; memorisation needs at "
            "least one and two."
        )
    lines = closest_excerpts([*generated, *held_out], training, transpositions=transpositions)
    best = np.array([max((float(line.scores.max()) for line in row), default=-1.0) for row in lines])
    index = np.array([row[0].training if row else -1 for row in lines])
    count = len(generated)
    closeness = _closeness(best[:count], best[count:], index[:count], low_is_close=False, level=level)
    threshold = usual_limit(best[count:])
    matches, shares = [], np.zeros(count)
    for i in range(count):
        rows, shares[i] = matches_above(lines[i], generated[i], training, threshold)
        matches.append(rows)
    mean = jackknife(
        lambda keep: float(shares[keep].mean()), range(count), unit_name="generation", level=level, bounds=(0.0, 1.0)
    )
    return ExcerptCopies(closeness, threshold, shares, mean, matches)


def usual_limit(scores: np.ndarray) -> float:
    """The score that at most 5% of unseen clips exceed (conformal: the ceil(0.95 (n + 1))-th smallest), just above
    it."""
    rank = min(len(scores), math.ceil((1.0 - LEVEL) * (len(scores) + 1)))
    return float(np.nextafter(np.sort(scores)[rank - 1], np.inf))


def _closeness(
    value: np.ndarray, usual: np.ndarray, index: np.ndarray, *, low_is_close: bool, level: float
) -> Closeness:
    sign = 1.0 if low_is_close else -1.0
    n, m = len(value), len(usual)
    nearer = sign * usual[None, :] <= sign * value[:, None]
    p = (1.0 + nearer.sum(axis=1)) / (1.0 + m)
    wins = 0.5 * (sign * value[:, None] < sign * usual[None, :]) + 0.5 * (
        sign * value[:, None] <= sign * usual[None, :]
    )

    def auc(keep: np.ndarray) -> float:
        kept = wins[np.ix_(keep[:n], keep[n:])]
        return float(kept.mean()) if kept.size else math.nan

    share = jackknife(
        lambda keep: float((p[keep] <= LEVEL).mean()), range(n), unit_name="generation", level=level, bounds=(0.0, 1.0)
    )
    curve = jackknife(
        auc, range(n + m), strata=["generated"] * n + ["held out"] * m, unit_name="clip", level=level, bounds=(0.0, 1.0)
    )
    smallest = 1.0 / (1.0 + m)
    if smallest > LEVEL:
        note = f"{m} held-out clips allow no p under {smallest:.3f}; give at least 19"
        share = Estimate(math.nan, math.nan, math.nan, share.n_units, share.unit, note)
    return Closeness(value, usual, index, p, share, curve, smallest)
