"""What a probe measures: the very recipe that training reads, and how closely to look."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from eisbach.config import StrictModel
from eisbach.training.config import TrainConfig

_DEFAULT_LEVELS = [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]


class ProbeConfig(StrictModel):
    """One probe.

    Attributes
    ----------
    train : TrainConfig
        The recipe of the training that is asked about. Model, data, adapter, weighting, noise levels, optimiser, batch
        size, accumulation, clipping, condition dropout, precision and seed are read; nothing is trained.
    clips : int
        Clips whose weights are measured at every level; fewer clips than that are all measured.
    levels : list of float
        Values of t in (0, 1); t = 1 is noise.
    draws : int
        Draws of noise for each clip and level.
    gradient_batches : int
        Global batches whose gradients are compared; 0 compares none.
    gain_clips : int
        Clips that are turned up and down by 6 dB to see what that does to their weights; 0 turns none.
    adapter : str or None
        Folder of a trained adapter (or of fully trained weights): the probe looks at that model instead of the base.
    structure : bool
        Whether the structure metrics of the crops' audio are measured.
    split : "train", "held_out" or "all"
        Which clips are looked at; "train" are those that the recipe trains on (all of them with its `data.split`
        "all"). `data.select` applies to each.
    out : str or None
        Folder for the result; None writes nothing.
    """

    train: TrainConfig
    clips: int = Field(default=64, ge=1)
    levels: list[float] = Field(default=_DEFAULT_LEVELS, min_length=1)
    draws: int = Field(default=1, ge=1)
    gradient_batches: int = Field(default=12, ge=0)
    gain_clips: int = Field(default=16, ge=0)
    adapter: str | None = None
    structure: bool = True
    split: Literal["train", "held_out", "all"] = "train"
    out: str | None = None

    @field_validator("levels")
    @classmethod
    def _levels_in_range(cls, levels: list[float]) -> list[float]:
        if not all(0 < level < 1 for level in levels):
            raise ValueError("every noise level must lie in (0, 1); t = 1 is noise")
        if len(set(levels)) != len(levels):
            raise ValueError("each noise level may be listed once; use draws for more noise")
        return sorted(levels)
