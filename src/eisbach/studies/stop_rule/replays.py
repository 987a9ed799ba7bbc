"""False stops, counted where trainings are cheap: recorded clips are dealt out anew, and the rule looks at them.

Each pair of a prompt and its noise has one score a checkpoint. With the checkpoints' labels shuffled within every pair,
apart from all others, nothing gains and nothing loses, while the scores are those of real clips and pairs stay like
themselves. Made a little better from checkpoint to checkpoint, the same scores are those of a training that gains.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eisbach.statistics.anytime import StopRule
from eisbach.training.stopping import standings


def replayed(scores: np.ndarray, rng: np.random.Generator, gain: float = 0.0) -> np.ndarray:
    """Scores [shape=(checkpoints, seeds, prompts)] with labels shuffled within each pair, whose mean falls by `gain`
    a checkpoint as far as it can. Scores shrink in proportion, so that they stay scores."""
    level = float(scores.mean())
    fall = gain * np.arange(len(scores)) / level if level > 0 else np.zeros(len(scores))
    return np.asarray(rng.permuted(scores, axis=0) * np.maximum(0.0, 1.0 - fall)[:, None, None])


def count_stops(
    trainings: Sequence[np.ndarray], rule: StopRule, replays: int, rng: np.random.Generator, gain: float = 0.0
) -> list[int]:
    """How many of its replays are stopped, by training.

    Parameters
    ----------
    trainings : sequence of np.ndarray [shape=(checkpoints, seeds, prompts)]
        Scores that the rule looks at.
    replays : int
        Of each training.
    """
    counts = []
    for scores in trainings:
        tables = (replayed(scores, rng, gain) for _ in range(replays))
        ends = (standings(dict(enumerate(table)), scores.shape[1], rule)[-1] for table in tables)
        counts.append(sum(end.stop for end in ends))
    return counts
