"""The digits experiment: which models are trained, with which loss weights, and what is declared before looking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from eisbach.generation.images import ImageSampling
from eisbach.studies.contract import PlacedSettings

Arm = Literal["constant", "min_snr", "p2", "erd", "entropy_barrier"]
Backbone = Literal["dit", "uvit", "unet"]
_Target = Literal["eps", "x0", "v"]

BACKBONES: dict[str, dict[str, Any]] = {
    "dit": {"kind": "dit", "patch": 2, "width": 64, "depth": 3, "heads": 4},
    "uvit": {"kind": "uvit", "patch": 2, "width": 64, "depth": 3, "heads": 4},
    "unet": {
        "kind": "unet",
        "channels": 16,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention": [4],
        "head_width": 16,
        "groups": 8,
    },
}
"""Shapes that two cores can train a hundred of: 0.16 to 0.25 million parameters on 8x8 pixels."""

ARMS: dict[str, dict[str, Any]] = {
    "constant": {"noise_level": "constant"},
    "min_snr": {"noise_level": "min_snr"},
    "p2": {"noise_level": "p2"},
    "erd": {"noise_level": "erd"},
    "entropy_barrier": {"sample": "entropy_barrier", "options": {"over": "all"}},
}
"""Weightings, at their published defaults: Min-SNR's gamma 5, P2's k and gamma 1, the barrier's Eqs. 1-4 over H x W
with a weight for each sample (its section 5) of strength 0.5."""

DECLARED = {
    "metric": "natural logarithm of the Fréchet distance at the last checkpoint (averaged weights, held-out digits)",
    "direction": "ERD lower than constant, Min-SNR and P2, as its paper claims; the barrier against constant without "
    "a direction",
    "pairing": "arms of one backbone, target and seed share initialisation, batches, noise levels, noise and sampling "
    "noise",
    "pooled": "mean over the seeds in each setting (backbone x target); settings are the units; Holm over the three "
    "baselines",
    "by setting": "seeds are the units; Holm over all settings x baselines",
    "secondary": "the same at the first checkpoint (speed of learning); accuracy of the class asked for; precision; "
    "recall",
}
"""Written before the first run of the grid was looked at. One thing was changed after 12 of its trainings had been
seen, and all were made anew: the sampler's data estimate is clipped, because without it eps-networks of every arm drew
noise from the same starting points.
"""


class DigitsConfig(PlacedSettings):
    """The grid and its budget.

    Attributes
    ----------
    steps, lr : mapping of backbone to number
        Transformers learn digits more slowly than the UNet; arms are compared within a backbone. Chosen on one training
        of each backbone with constant weight.
    barrier : list of backbones that the entropy barrier is trained on too, with every target.
    seeds, first_seed : int
        Training seeds first_seed ... first_seed + seeds - 1.
    checkpoints : int
        Evaluations, evenly spaced; the last is at the backbone's `steps`.
    samples : int
        Images an evaluation, the classes in turn.
    held_out_share : float
        Share of the digits that nothing is trained on; the Fréchet distance is measured against them.
    """

    backbones: list[Backbone] = Field(default=["unet", "dit", "uvit"], min_length=1)
    targets: list[_Target] = Field(default=["eps", "x0", "v"], min_length=1)
    arms: list[Arm] = Field(default=["constant", "min_snr", "p2", "erd"], min_length=1)
    barrier: list[Backbone] = Field(default=["unet"])
    seeds: int = Field(default=3, ge=1, le=100)
    first_seed: int = Field(default=0, ge=0, lt=1_000_000)
    steps: dict[Backbone, int] = Field(default={"unet": 240, "dit": 600, "uvit": 1200})
    checkpoints: int = Field(default=4, ge=1)
    batch_size: int = Field(default=64, ge=1)
    lr: dict[Backbone, float] = Field(default={"unet": 2e-3, "dit": 3e-3, "uvit": 6e-3})
    ema_decay: float = Field(default=0.99, gt=0, lt=1)
    samples: int = Field(default=320, ge=2)
    sampling: ImageSampling = ImageSampling(num_inference_steps=12, clip=True, batch_size=320)
    held_out_share: float = Field(default=0.25, gt=0, lt=1)
    jobs: int = Field(default=1, ge=1)
    out: str = "runs/erd_digits"


QUICK: dict[str, Any] = {
    "backbones": ["uvit"], "targets": ["v"], "arms": ["constant", "erd"], "barrier": [], "seeds": 2,
    "steps": {"uvit": 120}, "checkpoints": 2, "samples": 160,
}  # fmt: skip
"""A minute: it shows that everything runs, and nothing about the arms."""


@dataclass(frozen=True)
class Cell:
    """One training of the grid."""

    backbone: str
    target: str
    arm: str
    seed: int

    @property
    def setting(self) -> str:
        """Backbone and target: what an arm is compared within."""
        return f"{self.backbone}/{self.target}"

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.backbone}-{self.target}-{self.arm}-{self.seed}"


def cells(config: DigitsConfig) -> list[Cell]:
    """Every training, backbone by backbone and seed by seed, so that a stopped experiment has whole replications."""
    return [
        Cell(backbone, target, arm, seed)
        for backbone in config.backbones
        for seed in range(config.first_seed, config.first_seed + config.seeds)
        for target in config.targets
        for arm in [*config.arms, *(["entropy_barrier"] if backbone in config.barrier else [])]
    ]


def training_values(config: DigitsConfig, cell: Cell, out: str) -> dict[str, Any]:
    """The `TrainConfig` of one cell, as plain values."""
    steps = config.steps[cell.backbone]  # type: ignore[index]
    shape = {"latent_channels": 1, "latent_size": 8, "classes": 10, "path": "cosine", "target": cell.target}
    return {
        "model": {"create": {**BACKBONES[cell.backbone], **shape}},
        "data": {"images": {"source": "digits", "held_out_share": config.held_out_share}},
        "adapter": {"type": "none"},
        "weighting": ARMS[cell.arm],
        "noise_levels": {"density": "uniform"},
        "optimiser": {
            "lr": config.lr[cell.backbone],  # type: ignore[index]
            "weight_decay": 0.0,
        },
        "steps": steps,
        "warmup_steps": steps // 20,
        "batch_size": config.batch_size,
        "condition_dropout": 0.1,
        "max_grad_norm": None,
        "device": config.device,
        "precision": "fp32",
        "frozen": "fp32",
        "seed": cell.seed,
        "held_out": {"every": 0},
        "checkpoint": {"every": max(1, steps // config.checkpoints), "keep": config.checkpoints + 1},
        "ema_decay": config.ema_decay,
        "tensorboard": False,
        "log_every": max(1, steps // 20),
        "out": out,
    }


def class_sequence(classes: Sequence[str], count: int) -> list[str]:
    """The classes in turn."""
    return [classes[number % len(classes)] for number in range(count)]
