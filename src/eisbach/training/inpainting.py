"""Inpainting in training: which frames of a clip the model is shown, and which it has to make.

A model with an inpainting condition forgets how to use it when it is fine-tuned without. So most rows are plain
generation (nothing is known), and a few are shown random parts of themselves, or their beginning. The three cases,
their probabilities and how they are drawn are those of Stability's trainer (stable-audio-3, `models/inpainting.py`,
`training/diffusion.py`); its draws come from Python's global generator, these from the step's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eisbach.training.padding import frames_mask

SEGMENTS, FULL, CAUSAL = range(3)


@dataclass(frozen=True)
class InpaintingMasks:
    """Draws what is known of each row.

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
