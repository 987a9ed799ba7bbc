"""How near a texture is to clips that trained, and to as many that did not.

The nearest of many clips is nearer than the nearest of few, whatever they are. So both sides count as the nearest of n,
n the size of the smaller one: the mean over all subsets of n clips, which sorted distances give exactly. Of N sorted
distances the i-th (from 1) is the nearest in C(N − i, n − 1) of the C(N, n) subsets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import comb

import numpy as np


@dataclass(frozen=True)
class Neighbours:
    """Textures around a training.

    Attributes
    ----------
    trained : np.ndarray [shape=(clips, d)]
        Of the clips that trained.
    others : np.ndarray [shape=(clips, d)]
        Of clips of the same kind, no piece of which trained.
    """

    trained: np.ndarray
    others: np.ndarray

    @property
    def size(self) -> int:
        """Clips of a subset."""
        return min(len(self.trained), len(self.others))

    def memorised(self, texture: np.ndarray) -> float:
        """The probability that the nearest of n clips that trained is nearer than the nearest of n others; a half on
        average where nothing is memorised."""
        return chance_nearer(_distances(texture, self.trained), _distances(texture, self.others), self.size)

    def far(self, texture: np.ndarray) -> float:
        """The mean distance to the nearest of n others, from 0 to 1, in units of twice what it is for a clip that
        trained (their median)."""
        return min(1.0, self._to_others(texture) / self._unit)

    def _to_others(self, texture: np.ndarray) -> float:
        return expected_nearest(_distances(texture, self.others), self.size)

    @cached_property
    def _unit(self) -> float:
        return 2.0 * float(np.median([self._to_others(texture) for texture in self.trained]))


def expected_nearest(distances: np.ndarray, n: int) -> float:
    """The mean, over all subsets of n of the distances, of the least."""
    return float(np.sort(distances) @ _chances(len(distances), n))


def chance_nearer(ours: np.ndarray, theirs: np.ndarray, n: int) -> float:
    """The probability that the least of n of our distances, drawn at random, is below the least of n of theirs; equal
    ones count half."""
    ours, theirs = np.sort(ours), np.sort(theirs)
    at_least = np.append(np.cumsum(_chances(len(theirs), n)[::-1])[::-1], 0.0)  # by the place their least has
    beyond, level = (at_least[np.searchsorted(theirs, ours, side)] for side in ("right", "left"))
    return float(_chances(len(ours), n) @ (beyond + level) / 2.0)


@lru_cache(maxsize=64)
def _chances(count: int, n: int) -> np.ndarray:
    """The probability of each of `count` sorted values to be the least of n that are drawn."""
    return np.array([comb(count - place, n - 1) / comb(count, n) for place in range(1, count + 1)])


def _distances(texture: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(rows - texture, axis=1))
