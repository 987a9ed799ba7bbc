"""Batches of latents that depend only on (seed, step): crops of one length, or whole clips of neighbouring lengths.

For the latter a few lengths are chosen from the data (`choose_lengths`). Clips are sorted into them, a batch holds
neighbours only, and its length is that of its shortest clip's bucket (fit "cut": a random stretch of each clip, nothing
padded) or of its longest clip's (fit "pad": whole clips, padded and masked): little is cut, or little is padded.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from eisbach.data.latents import LatentCache, LatentEntry, read_latent_array
from eisbach.data.manifest import ManifestRow
from eisbach.errors import CheckpointError, ManifestError, UserError
from eisbach.tensor_files import read_tensors
from eisbach.types import LatentBatch

if TYPE_CHECKING:
    import torch

Fit = Literal["cut", "pad"]
FITS: tuple[Fit, ...] = ("cut", "pad")

_MAX_LEVELS = 512  # candidate lengths of the search; more are merged, at a loss below half a percent of the range
_REPORTED_EPOCHS = 3
_EPOCH, _SHUFFLE = 2, 3  # streams of random numbers; latents.py has 0 and 1
_KEPT_BYTES = 2e9  # latents held in memory by one dataset
_ORDER, _CROP = 0, 1  # streams of random numbers


class LatentDataset:
    """Batches of crops, drawn without any state: a batch is a pure function of (seed, step).

    Every epoch is its own permutation of the clips; where a crop begins is drawn for each position on its own.
    Clips shorter than the crop are padded (with the cache's silence, else zeros) and masked.

    Parameters
    ----------
    cache : LatentCache
    crop_frames : int
    seed : int
    rank, world_size : int
        With several processes, `batch_size` is that of one process and process `rank` gets its own part.
    """

    def __init__(self, cache: LatentCache, crop_frames: int, seed: int, *, rank: int = 0, world_size: int = 1) -> None:
        if crop_frames < 1:
            raise UserError(f"crop_frames must be at least 1 (got {crop_frames}).")
        if not 0 <= rank < world_size:
            raise UserError(f"rank must be within 0 to world_size - 1 (got {rank} of {world_size}).")
        self.cache, self.crop_frames, self.seed = cache, crop_frames, seed
        self.rank, self.world_size = rank, world_size
        self._loaded: OrderedDict[int, list[torch.Tensor]] = OrderedDict()
        self._bytes = 0
        self._permutation: tuple[int, np.ndarray] = (-1, np.zeros(0, dtype=int))
        self._warned = False

    def __len__(self) -> int:
        return len(self.cache.entries)

    @property
    def captions(self) -> list[str]:
        """The caption of every clip."""
        return [entry.row.caption for entry in self.cache.entries]

    def positions(self, step: int, batch_size: int) -> range:
        """The positions, counted over all epochs, that this process draws in `step`."""
        first = (step * self.world_size + self.rank) * batch_size
        return range(first, first + batch_size)

    def index_at(self, position: int) -> int:
        """The clip at a position: epoch `position // len`, in that epoch's order."""
        epoch, place = divmod(position, len(self))
        if self._permutation[0] != epoch:
            order = np.random.default_rng([self.seed, _ORDER, epoch]).permutation(len(self))
            self._permutation = (epoch, order)
        return int(self._permutation[1][place])

    def crop_at(self, position: int) -> tuple[int, int, int]:
        """(clip, section, first frame) of a position; a section is drawn by the crops it holds."""
        clip = self.index_at(position)
        return clip, *self._draw_crop(clip, position, self.crop_frames)

    def _draw_crop(self, clip: int, position: int, crop_frames: int) -> tuple[int, int]:
        rng = np.random.default_rng([self.seed, _CROP, position])
        starts = np.array([max(1, frames - crop_frames + 1) for frames in self.cache.entries[clip].frames])
        draw = int(rng.integers(int(starts.sum())))
        section = int(np.searchsorted(np.cumsum(starts), draw, side="right"))
        return section, draw - int(starts[:section].sum())

    def batch(self, step: int, batch_size: int) -> LatentBatch:
        """The batch of `step` [latents (batch_size, C, crop_frames)]; with fewer clips than that, clips come twice."""
        self._check_batch(step, batch_size)
        return self._collate(
            [self.crop_at(position) for position in self.positions(step, batch_size)], self.crop_frames
        )

    def _check_batch(self, step: int, batch_size: int) -> None:
        if batch_size < 1 or step < 0:
            raise UserError(f"step must be at least 0 and batch_size at least 1 (got {step} and {batch_size}).")
        if batch_size * self.world_size > len(self) and not self._warned:
            self._warned = True
            warnings.warn(
                f"{len(self)} clips fill batches of {batch_size * self.world_size}: some clips come more than once "
                "in a batch; add clips or lower the batch size.",
                stacklevel=3,
            )

    def _collate(self, crops: Sequence[tuple[int, int, int]], crop_frames: int) -> LatentBatch:
        """The crops (clip, section, first frame) as a batch, padded to `crop_frames`."""
        import torch

        latents = torch.zeros(len(crops), self.cache.channels, crop_frames)
        mask = torch.zeros(len(crops), crop_frames, dtype=torch.bool)
        rows = []
        for place, (clip, section, start) in enumerate(crops):
            piece = self._sections(clip)[section][:, start : start + crop_frames]
            valid = piece.shape[1]
            latents[place, :, :valid] = piece
            mask[place, :valid] = True
            silence = self.cache.silence
            if valid < crop_frames and silence is not None:
                missing = crop_frames - valid
                latents[place, :, valid:] = silence.repeat(1, -(-missing // silence.shape[1]))[:, :missing]
            rows.append(self.cache.entries[clip].row)
        return LatentBatch(
            latents=latents,
            ids=[row.id for row in rows],
            captions=[row.caption for row in rows],
            durations=mask.sum(dim=1).float() / self.cache.latent_rate,
            mask=None if bool(mask.all()) else mask,
        )

    def padding_share(self) -> float:
        """The share of an epoch's frames that are padding."""
        longest = [min(self.crop_frames, max(entry.frames)) for entry in self.cache.entries]
        return 1.0 - sum(longest) / (len(longest) * self.crop_frames)

    def _sections(self, clip: int) -> list[torch.Tensor]:
        if clip in self._loaded:
            self._loaded.move_to_end(clip)
            return self._loaded[clip]
        sections = _load_sections(self.cache.entries[clip])
        self._loaded[clip] = sections
        self._bytes += _size(sections)
        while self._bytes > _KEPT_BYTES and len(self._loaded) > 1:
            self._bytes -= _size(self._loaded.popitem(last=False)[1])
        return sections


def _load_sections(entry: LatentEntry) -> list[torch.Tensor]:
    if entry.path.suffix == ".npy":
        import torch

        array = np.array(read_latent_array(entry.path)[:, entry.first : entry.first + entry.frames[0]], np.float32)
        if not np.isfinite(array).all():
            raise ManifestError(f"{entry.path} holds NaN or infinite values; encode it again, or remove it.")
        return [torch.from_numpy(array)]
    try:
        tensors = read_tensors(entry.path)
        return [tensors[f"section-{number}"] for number in range(len(entry.frames))]
    except (CheckpointError, KeyError) as error:
        raise UserError(
            f"the cached latents {entry.path} cannot be read ({error}); delete the file and run the same command again."
        ) from error


def _size(sections: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in sections)


def all_crops(cache: LatentCache, crop_frames: int) -> Iterator[tuple[ManifestRow, torch.Tensor]]:
    """The first crop of every clip, unpadded [shape=(C, <= crop_frames)]: for fixed evaluation sets."""
    for entry in cache.entries:
        yield entry.row, _load_sections(entry)[0][:, :crop_frames]


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
