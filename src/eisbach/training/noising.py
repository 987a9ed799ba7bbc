"""What a step does to a batch beside adding noise: what it draws from, how long each padded row is, which noise goes
with which clip, and what of a clip the model is shown."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from eisbach.types import LatentBatch, Waveform

if TYPE_CHECKING:
    from eisbach.codecs.base import Codec
    from eisbach.data.batches import LatentDataset

_SILENCE_FRAMES = 256
"""Latent frames of silence that are encoded once and repeated."""

_ROUNDING = 0.01  # frames; a duration is a float32 of frames over rate


def step_generator(*numbers: int) -> torch.Generator:
    """A CPU generator whose state depends on `numbers` alone: (seed, step, micro-batch) for training.

    The numbers are hashed, so that neighbouring steps and seeds share nothing. It lives on the CPU so that
    every device draws the same noise.
    """
    digest = hashlib.blake2b(",".join(str(int(number)) for number in numbers).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


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
    samples = np.zeros((1, _SILENCE_FRAMES * codec.samples_per_frame), dtype=np.float32)
    silence = codec.encode(Waveform(samples, codec.sample_rate)).detach().float().cpu()
    for dataset in missing:
        dataset.cache = replace(dataset.cache, silence=silence)


def pair_by_transport(x0: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The rows of `noise` reordered so that the sum over rows of ``|x0 - noise|²`` is the smallest of all orders:
    minibatch optimal transport (Pooladian et al. 2023; Tong et al. 2023).

    Exchanging the noise of a batch's clips among them leaves the noise of the batch as a whole what it was and makes
    the paths from noise to data straighter. With one clip there is nothing to exchange.

    It has a price that is easy to overlook: given x0 the noise is no longer standard normal. Everything here that is
    derived for independent noise then holds approximately at best: the posterior along a noised clip, the entropy rate
    and every other class-conditional-entropy identity, the Bayes floor, and weights that are derived from them. Measure
    those on a model that was trained without.

    Parameters
    ----------
    x0, noise : torch.Tensor [shape=(B, ...)]
        The order is found on the CPU: latents on a GPU are waited for, those of a batch that has not gone there yet
        are not.

    Returns
    -------
    torch.Tensor [shape=(B, ...)]
        On the device of `noise`.
    """
    if noise.shape[0] < 2:
        return noise
    from scipy.optimize import linear_sum_assignment

    # The squares of both do not depend on the order, so the smallest distance is the largest inner product.
    products = x0.detach().flatten(1).float() @ noise.to(x0.device).flatten(1).float().T
    _, order = linear_sum_assignment(products.double().cpu().numpy(), maximize=True)
    return noise[torch.from_numpy(order).to(noise.device)]


SEGMENTS, FULL, CAUSAL = range(3)


@dataclass(frozen=True)
class InpaintingMasks:
    """Draws what is known of each row: the frames that the model is shown, and those it has to make.

    A model with an inpainting condition forgets how to use it when it is fine-tuned without. So most rows are plain
    generation (nothing is known), and a few are shown random parts of themselves, or their beginning. The three cases,
    their probabilities and how they are drawn are those of Stability's trainer (stable-audio-3, `models/inpainting.py`,
    `training/diffusion.py`); its draws come from Python's global generator, these from the step's.

    Attributes
    ----------
    segments : float
        Probability of random segments: one to `max_segments` stretches are to be made, the rest is known. The number
        n is uniform, each length is uniform up to a share 1/n of the clip, and stretches may overlap.
    full : float
        Probability of plain generation: nothing is known.
    causal : float
        Probability of a continuation: a beginning of uniform length is known.
    max_segments : int
    context_weight : float
        The loss of a row is the mean square error over what is to be made plus this times that over what is known.

    The probabilities sum to 1.
    """

    segments: float = 0.1
    full: float = 0.8
    causal: float = 0.1
    max_segments: int = 10
    context_weight: float = 1.0

    def draw(self, frames: torch.Tensor, length: int, generator: torch.Generator) -> torch.Tensor:
        """Mask [shape=(B, length), bool, CPU] that is True on known frames; padding is never known.

        Parameters
        ----------
        frames : torch.Tensor [shape=(B,), int64, CPU]
            Valid frames of each row.
        generator : torch.Generator
            Every row takes the same number of draws, whatever its case, so that rows do not shift one another's.
        """
        count = frames.shape[0]
        case, number, prefix = torch.rand(3, count, 1, generator=generator, dtype=torch.float64)
        sizes, places = torch.rand(2, count, self.max_segments, generator=generator, dtype=torch.float64)
        valid = frames[:, None]
        segments = 1 + _below(number, torch.full_like(valid, self.max_segments))
        longest = (valid // segments).clamp(min=1)
        # A row without a valid frame has stretches of one frame, which the mask of valid frames takes away again.
        lengths = (1 + _below(sizes, longest)).minimum(valid.clamp(min=1))
        starts = _below(places, (valid - lengths + 1).clamp(min=1))
        used = torch.arange(self.max_segments) < segments
        position = torch.arange(length)[None, :, None]
        made = (position >= starts[:, None]) & (position < (starts + lengths)[:, None]) & used[:, None]
        by_segments = ~made.any(dim=2)
        by_prefix = torch.arange(length) < _below(prefix, valid + 1)
        chosen = torch.where(case < self.segments, by_segments, by_prefix)
        full = (case >= self.segments) & (case < self.segments + self.full)
        return chosen & ~full & frames_mask(frames, length)


def _below(uniform: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    """Whole numbers from 0 to limit - 1, from uniform draws in [0, 1)."""
    return torch.floor(uniform * limit).long().minimum(limit - 1)


def inpainting_condition(latents: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """What a backbone's `predict` takes [shape=(B, 1 + C, T)]: the mask of what is known, then the known latents.

    Parameters
    ----------
    latents : torch.Tensor [shape=(B, C, T)]
        Clean latents.
    known : torch.Tensor [shape=(B, T), bool]
        True where they are shown.
    """
    mask = known[:, None].to(latents.dtype)
    return torch.cat([mask, latents * mask], dim=1)
