"""Whole clips of different lengths in batches of one length each: little is cut, or little is padded.

A few lengths are chosen from the data (`choose_lengths`). Clips are sorted into them, a batch holds neighbours only,
and its length is that of its shortest clip's bucket (fit "cut": a random stretch of each clip, nothing padded) or of
its longest clip's (fit "pad": whole clips, padded and masked). A batch is a pure function of (seed, step).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from eisbach.data.latents import LatentCache, LatentDataset
from eisbach.errors import UserError
from eisbach.types import LatentBatch

Fit = Literal["cut", "pad"]
FITS: tuple[Fit, ...] = ("cut", "pad")

_MAX_LEVELS = 512  # candidate lengths of the search; more are merged, at a loss below half a percent of the range
_REPORTED_EPOCHS = 3
_EPOCH, _SHUFFLE = 2, 3  # streams of random numbers; latents.py has 0 and 1


def choose_lengths(frames: Sequence[int], count: int, *, fit: Fit = "cut") -> tuple[int, ...]:
    """At most `count` lengths, ascending, that leave the fewest frames cut (or padded) over all clips.

    Exact by dynamic programming over the sorted lengths: each bucket is a run of neighbours, and its cost is the
    distance of its members to its shortest (cut) or longest (pad).

    Parameters
    ----------
    frames : sequence of int
        Length of each clip, at least 1.
    count : int
        At least 1.
    fit : "cut" or "pad"

    Raises
    ------
    UserError
        No clips, or fewer than one bucket.
    """
    if not frames or count < 1:
        raise UserError(f"buckets need at least one clip and one length (got {len(frames)} clips and {count} lengths).")
    if fit == "pad":  # the mirror image: distances to the longest are those to the shortest of negated lengths
        return tuple(sorted(-length for length in _shortest_of_runs(_levels([-value for value in frames]), count)))
    return tuple(sorted(_shortest_of_runs(_levels(frames), count)))


def _levels(frames: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct lengths, ascending, and how many clips have each; neighbours merged (downwards) when there are many."""
    values, counts = np.unique(np.asarray(frames, dtype=np.int64), return_counts=True)
    if len(values) <= _MAX_LEVELS:
        return values, counts
    # equal shares of the clips and of the range, so that neither many equal clips nor a long tail is lumped together
    rank = np.cumsum(counts) / counts.sum()
    spread = (values - values[0]) / (values[-1] - values[0])
    group = np.floor((rank + spread) / 2 * (_MAX_LEVELS - 1)).astype(int)
    first = np.flatnonzero(np.diff(group, prepend=-1))
    return values[first], np.add.reduceat(counts, first)


def _shortest_of_runs(levels: tuple[np.ndarray, np.ndarray], count: int) -> list[int]:
    """The first value of each run, for the division into at most `count` runs with the least total distance to them."""
    values, counts = levels
    size = len(values)
    clips = np.concatenate([[0], np.cumsum(counts)]).astype(float)
    total = np.concatenate([[0], np.cumsum(values * counts)]).astype(float)
    # cost[i, j]: levels i..j-1 in one run
    cost = total[None, :] - total[:-1, None] - values[:, None] * (clips[None, :] - clips[:-1, None])
    cost[np.arange(size)[:, None] >= np.arange(size + 1)[None, :]] = np.inf
    best = np.full(size + 1, np.inf)
    best[0] = 0.0
    choices = []
    for _ in range(min(count, size)):
        candidates = best[:-1, None] + cost
        choices.append(candidates.argmin(axis=0))
        best = candidates.min(axis=0)
    starts, end = [], size
    for choice in reversed(choices):
        start = int(choice[end])
        starts.append(int(values[start]))
        end = start
    return starts


@dataclass(frozen=True)
class BucketReport:
    """What the buckets do to the data, measured over the first epochs.

    Attributes
    ----------
    seconds : tuple of float
        The lengths, ascending.
    clips : tuple of int
        Clips of each length.
    padding_share : float
        Share of the batches' frames that are padding.
    cut_share : float
        Share of the clips' frames that a pass leaves out (another pass draws another stretch).
    """

    seconds: tuple[float, ...]
    clips: tuple[int, ...]
    padding_share: float
    cut_share: float

    def sentence(self) -> str:
        """The report in words."""
        lengths = ", ".join(
            f"{count} of {value:.1f} s" for value, count in zip(self.seconds, self.clips, strict=True) if count
        )
        return (
            f"clips by length: {lengths}; a pass cuts {self.cut_share:.1%} of the audio and pads "
            f"{self.padding_share:.1%}"
        )


class BucketedDataset(LatentDataset):
    """Batches of one length each from clips of many lengths; see the module.

    An epoch is every clip once, but for `len % batch_size` clips, drawn anew each epoch, that sit it out. Where a
    bucket does not fill its last batch, random clips of the neighbouring bucket join it and take its length.

    Parameters
    ----------
    cache : LatentCache
    crop_frames : int
        No clip takes more than this.
    seed : int
    count : int
        How many different lengths there are at most: also how many shapes `torch.compile` meets.
    fit : "cut" or "pad"
    rank, world_size : int
        As in `LatentDataset`; each process takes batches of its own, which may differ in length.
    """

    def __init__(
        self, cache: LatentCache, crop_frames: int, seed: int, *, count: int = 16, fit: Fit = "cut",
        rank: int = 0, world_size: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(cache, crop_frames, seed, rank=rank, world_size=world_size)
        if fit not in FITS:
            raise UserError(f"fit '{fit}' does not exist; choose cut or pad.")
        self.fit = fit
        self._usable = np.array([min(crop_frames, max(entry.frames)) for entry in cache.entries], dtype=np.int64)
        self.lengths = np.array(choose_lengths(self._usable.tolist(), count, fit=fit), dtype=np.int64)
        side: Literal["left", "right"] = "right" if fit == "cut" else "left"
        offset = 1 if fit == "cut" else 0
        self._bucket = np.searchsorted(self.lengths, self._usable, side=side) - offset
        self._plan: tuple[tuple[int, int], np.ndarray, np.ndarray] = ((-1, -1), np.zeros((0, 0)), np.zeros(0))

    def plan(self, epoch: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """The clips of each batch of an epoch [shape=(batches, batch_size)] and the batches' lengths
        [shape=(batches,)]."""
        if self._plan[0] != (epoch, batch_size):
            order = np.random.default_rng([self.seed, _EPOCH, epoch]).permutation(len(self))
            chosen = np.resize(order, batch_size) if len(order) < batch_size else order
            chosen = chosen[: len(chosen) // batch_size * batch_size]
            # a stable sort keeps the random order within a bucket, so what joins a neighbour is random too
            chosen = chosen[np.argsort(self._bucket[chosen], kind="stable")].reshape(-1, batch_size)
            chosen = np.random.default_rng([self.seed, _SHUFFLE, epoch]).permutation(chosen)
            buckets = self._bucket[chosen]
            widest = buckets.min(axis=1) if self.fit == "cut" else buckets.max(axis=1)
            self._plan = ((epoch, batch_size), chosen, self.lengths[widest])
        return self._plan[1], self._plan[2]

    def crops(self, step: int, batch_size: int) -> tuple[list[tuple[int, int, int]], int]:
        """(clip, section, first frame) of each row of a batch, and the batch's length in frames."""
        number = step * self.world_size + self.rank
        epoch, place = divmod(number, max(1, len(self) // batch_size))
        clips, lengths = self.plan(epoch, batch_size)
        length = int(lengths[place])
        made = [
            (int(clip), *self._draw_crop(int(clip), number * batch_size + row, length))
            for row, clip in enumerate(clips[place])
        ]
        return made, length

    def _draw_crop(self, clip: int, position: int, crop_frames: int) -> tuple[int, int]:
        """A section long enough is drawn by the crops it holds; where none is (fit "pad"), the longest is taken
        whole."""
        frames = np.array(self.cache.entries[clip].frames)
        starts = np.maximum(0, frames - crop_frames + 1)
        if not starts.any():
            return int(frames.argmax()), 0
        draw = int(np.random.default_rng([self.seed, _EPOCH, _SHUFFLE, position]).integers(int(starts.sum())))
        section = int(np.searchsorted(np.cumsum(starts), draw, side="right"))
        return section, draw - int(starts[:section].sum())

    def index_at(self, position: int) -> int:
        """The clip at a position of batches of one."""
        return self.crop_at(position)[0]

    def crop_at(self, position: int) -> tuple[int, int, int]:
        """(clip, section, first frame) at a position of batches of one: what `batch(position, 1)` holds."""
        return self.crops(position, 1)[0][0]

    def batch(self, step: int, batch_size: int) -> LatentBatch:
        """The batch of `step` [latents (batch_size, C, T)]: T is one of `lengths`, the same for the whole batch."""
        self._check_batch(step, batch_size)
        crops, length = self.crops(step, batch_size)
        return self._collate(crops, length)

    def report(self, batch_size: int) -> BucketReport:
        """What the buckets do at a batch size."""
        frames = padded = used = whole = 0
        for epoch in range(_REPORTED_EPOCHS):
            clips, lengths = self.plan(epoch, batch_size)
            held = np.minimum(self._usable[clips], lengths[:, None])
            frames += int(lengths.sum()) * batch_size
            padded += int((lengths[:, None] - held).sum())
            used += int(held.sum())
            whole += int(self._usable[clips].sum())
        counts = np.bincount(self._bucket, minlength=len(self.lengths))
        return BucketReport(
            seconds=tuple(float(length) / self.cache.latent_rate for length in self.lengths),
            clips=tuple(int(count) for count in counts),
            padding_share=padded / frames,
            cut_share=1.0 - used / whole,
        )

    def padding_share(self) -> float:
        """The share of frames that are padding, in batches of one bucket."""
        lengths = self.lengths[self._bucket]
        return float(np.maximum(0, lengths - self._usable).sum() / np.maximum(lengths, self._usable).sum())
