"""The named, shaped records that pass between stages: the only currency of the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Waveform:
    """Audio in memory.

    Attributes
    ----------
    samples : np.ndarray [shape=(channels, n), float32]
        Nominal range [-1, 1]; every value is finite.
    sample_rate : int
        Hz.
    """

    samples: np.ndarray
    sample_rate: int

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.samples.shape[-1] / self.sample_rate

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.samples.shape[0])


@dataclass
class Conditioning:
    """What a backbone needs beside x_t and t, cacheable and indexable by sample.

    Attributes
    ----------
    tokens : torch.Tensor [shape=(B, S, D) float, or (B, S) int64]
        Cross-attention context; word ids where the backbone embeds them itself.
    global_embed : torch.Tensor [shape=(B, G)]
        Global vector (duration).
    token_mask : torch.Tensor [shape=(B, S), bool] or None
        True where a token is real.
    """

    tokens: torch.Tensor
    global_embed: torch.Tensor
    token_mask: torch.Tensor | None = None

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """The same conditioning on another device or in another floating dtype (ids and masks keep theirs)."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        mask = None if self.token_mask is None else move(self.token_mask)
        return Conditioning(move(self.tokens), move(self.global_embed), mask)

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def select(self, index: torch.Tensor | Sequence[int] | slice) -> Conditioning:
        """The rows named by `index`, in that order."""
        mask = None if self.token_mask is None else self.token_mask[index]
        return Conditioning(self.tokens[index], self.global_embed[index], mask)

    def replace_rows(self, rows: torch.Tensor, other: Conditioning) -> Conditioning:
        """This conditioning with the rows where `rows` [shape=(B,), bool] is True taken from `other`."""

        def mix(mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
            keep = ~rows.to(mine.device).view(-1, *[1] * (mine.ndim - 1))
            return mine.where(keep, theirs)

        mask = self.token_mask
        if mask is not None and other.token_mask is not None:
            mask = mix(mask, other.token_mask)
        return Conditioning(mix(self.tokens, other.tokens), mix(self.global_embed, other.global_embed), mask)


@dataclass
class LatentBatch:
    """A training batch.

    Attributes
    ----------
    latents : torch.Tensor [shape=(B, C, T), float32]
    mask : torch.Tensor [shape=(B, T), bool] or None
        True on valid frames; None when every frame is valid.
    ids : list of str
        Manifest ids, one a row.
    captions : list of str
    durations : torch.Tensor [shape=(B,), float32]
        Seconds of audio that each row holds.
    """

    latents: torch.Tensor
    ids: list[str]
    captions: list[str]
    durations: torch.Tensor
    mask: torch.Tensor | None = None


@dataclass(frozen=True)
class PathSample:
    """A point on a noising path: x_t = alpha(t) * x0 + sigma(t) * noise.

    Attributes
    ----------
    x_t, x0, noise, target : torch.Tensor [shape=(B, C, T...)]
        `target` is what the network should predict, in the parameterisation that made this record.
    t : torch.Tensor [shape=(B,)]
        Noise level in [0, 1]; t = 1 is noise.
    """

    x_t: torch.Tensor
    t: torch.Tensor
    x0: torch.Tensor
    noise: torch.Tensor
    target: torch.Tensor


@dataclass(frozen=True)
class LossTerms:
    """What a weighting returns. Only `loss` carries gradient; everything else is detached.

    Attributes
    ----------
    loss : torch.Tensor [shape=()]
        The scalar to differentiate.
    per_sample : torch.Tensor [shape=(B,)]
        Unweighted loss of each sample.
    sample_weight, noise_weight, weight : torch.Tensor [shape=(B,)]
        Weight on the sample axis, on the noise-level axis, and the product that multiplied the loss
        (after normalisation).
    belief : torch.Tensor [shape=(B,)]
        In [0, 1]; 1 = structureless. NaN where the weighting has no belief.
    effective_sample_size : torch.Tensor [shape=()]
        (sum w)^2 / sum w^2 of `weight`, between 1 and B.
    shaped_weight : torch.Tensor [shape=(B,)]
        The sample weight after gate and level means; `sample_weight` where there is neither.
    """

    loss: torch.Tensor
    per_sample: torch.Tensor
    sample_weight: torch.Tensor
    noise_weight: torch.Tensor
    weight: torch.Tensor
    belief: torch.Tensor
    effective_sample_size: torch.Tensor
    shaped_weight: torch.Tensor


RecordValue = str | int | float | bool | None
Record = dict[str, RecordValue]
"""One tidy row of results: a clip (or a step) with its keys (arm, prompt_id, seed, ...) and one column a metric."""


@dataclass(frozen=True)
class Skipped:
    """An item that was left out, and why; every command reports these and never replaces them."""

    item: str
    reason: str


@dataclass
class SkipReport:
    """Collects what was skipped."""

    skipped: list[Skipped] = field(default_factory=list)

    def add(self, item: str, reason: str) -> None:
        """Note that `item` was left out because of `reason`."""
        self.skipped.append(Skipped(item, reason))
