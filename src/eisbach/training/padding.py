"""Padding of batches: how long each row really is, and how much of the silence behind it is trained as music's end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from eisbach.types import LatentBatch, Waveform

if TYPE_CHECKING:
    from eisbach.codecs.base import Codec
    from eisbach.data.batches import LatentDataset

SILENCE_FRAMES = 256
"""Latent frames of silence that are encoded once and repeated."""

_ROUNDING = 0.01  # frames; a duration is a float32 of frames over rate


def valid_frames(batch: LatentBatch, latent_rate: float | None) -> torch.Tensor:
    """Frames of each row that hold audio [shape=(B,), int64, CPU].

    They come from the durations, which live on the host, so that a GPU is not waited for; without `latent_rate` (frames
    a second) from the mask.
    """
    count, length = batch.latents.shape[0], batch.latents.shape[-1]
    if batch.mask is None:
        return torch.full((count,), length)
    if latent_rate is None:
        return batch.mask.sum(dim=1).cpu()
    frames = batch.durations.double().cpu() * latent_rate
    return torch.ceil(frames - _ROUNDING).long().clamp(0, length)


def extend_into_silence(frames: torch.Tensor, length: int, mean: float, generator: torch.Generator) -> torch.Tensor:
    """`frames` (B,), each made longer by a draw of Exp(`mean` frames) rounded down, at most `length`.

    Stability's trainer does this with a mean of 4 s, so that a model learns how music ends and that silence follows.
    """
    uniform = torch.rand(frames.shape, generator=generator, dtype=torch.float64)
    return (frames + torch.floor(-mean * torch.log1p(-uniform)).long()).clamp(max=length)


def frames_mask(frames: torch.Tensor, length: int) -> torch.Tensor:
    """Mask [shape=(B, length), bool] that is True on the first `frames` (B,) positions of each row."""
    return torch.arange(length, device=frames.device) < frames[:, None]


def pad_with_silence(datasets: Iterable[LatentDataset], codec: Codec) -> None:
    """Gives every dataset that pads with zeros the codec's latents of silence to pad with: zeros decode to a sound."""
    missing = [dataset for dataset in datasets if dataset.cache.silence is None]
    if not missing:
        return
    samples = np.zeros((1, SILENCE_FRAMES * codec.samples_per_frame), dtype=np.float32)
    silence = codec.encode(Waveform(samples, codec.sample_rate)).detach().float().cpu()
    for dataset in missing:
        dataset.cache = replace(dataset.cache, silence=silence)
