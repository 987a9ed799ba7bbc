"""What the toy experiments run: one strict configuration whose defaults are those of the paper's appendix F, and the
weightings that it compares.

Each weighting has mean 1 over the density that training draws t from. Adam cancels a global scale of the loss almost
exactly, so without that an arm's name would say nothing of its step size; with it the mean loss scale is equal and only
the allocation over noise levels differs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor

from eisbach.config import StrictModel, build_config
from eisbach.diagnostics.mixture import GaussianMixture, corners
from eisbach.diffusion.noise_levels import get_density
from eisbach.diffusion.paths import PATHS
from eisbach.diffusion.targets import TARGETS
from eisbach.errors import UserError
from eisbach.weighting.noise_level import ERD, NOISE_WEIGHTINGS, NoiseWeight

BASELINES = ("constant", "min_snr", "p2")
ARMS = ("constant", "min_snr", "p2", "erd", "erd_corrected")
"""`erd_corrected` is `erd` with `correct_density`: its allocation over log-SNR, not its weight over t, is the score."""


class ToyData(StrictModel):
    """The mixture: four equal clusters at (+-spread, +-spread)."""

    spread: float = Field(2.0, gt=0)
    deviation: float = Field(0.3, gt=0)
    standardise: bool = False
    """Scale to unit variance, as the derivation of the ERD weight supposes and the paper's own toy data are not."""

    def mixture(self) -> GaussianMixture:
        """The data's law."""
        scale = (self.spread**2 + self.deviation**2) ** -0.5 if self.standardise else 1.0
        return corners(self.spread * scale, self.deviation * scale)


class ToyNetwork(StrictModel):
    """The MLP and its optimiser (appendix F.1)."""

    width: int = Field(256, ge=2)
    depth: int = Field(3, ge=1)
    embedding: int = Field(64, ge=2)
    time_scale: float = Field(1.0, gt=0)
    learning_rate: float = Field(1e-3, gt=0)

    @field_validator("embedding")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even: half of it holds sines and half cosines")
        return value


class FigureSettings(StrictModel):
    """The trainings and measurements behind Figures 2-4 and 7-12."""

    steps: int = Field(2000, ge=1)
    batch: int = Field(512, ge=1)
    bins: list[float] = Field(default_factory=lambda: [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    """Edges of the piecewise models' bins."""
    seed: int = Field(0, ge=0)
    levels: int = Field(40, ge=4)
    """Noise levels of curves of loss and norms, midpoints of equal cells of [0, 1]."""
    samples: int = Field(512, ge=8)
    """Points a noise level."""
    ntk_samples: int = Field(64, ge=4)
    ntk_levels: int = Field(20, ge=2)
    joint_samples: int = Field(16, ge=2)

    @field_validator("bins")
    @classmethod
    def _edges(cls, value: list[float]) -> list[float]:
        ends = value[0] == 0 and value[-1] == 1 if len(value) > 1 else False
        if not ends or any(b <= a for a, b in itertools.pairwise(value)):
            raise ValueError("must rise from 0 to 1")
        return value


class ComparisonSettings(StrictModel):
    """The trainings that compare weightings, at equal steps."""

    arms: list[str] = Field(default_factory=lambda: list(ARMS))
    seeds: int = Field(10, ge=0)
    """0 leaves the comparison out."""
    first_seed: int = Field(1, ge=0)
    steps: int = Field(2000, ge=1)
    batch: int = Field(64, ge=1)
    levels: int = Field(50, ge=5)
    samples: int = Field(256, ge=8)
    log_snr: tuple[float, float] = (-6.0, 6.0)
    """Range of the likelihood gap, in nats of ln SNR."""
    generated: int = Field(1024, ge=0)
    sampling_steps: int = Field(50, ge=2)

    @field_validator("arms")
    @classmethod
    def _known(cls, arms: list[str]) -> list[str]:
        for arm in arms:
            if arm not in ARMS and arm not in NOISE_WEIGHTINGS:
                raise ValueError(
                    f"'{arm}' is not known; choose among {', '.join(dict.fromkeys([*ARMS, *NOISE_WEIGHTINGS]))}"
                )
        if len(set(arms)) != len(arms):
            raise ValueError("names an arm twice")
        return arms

    @field_validator("seeds")
    @classmethod
    def _enough(cls, seeds: int) -> int:
        if seeds == 1:
            raise ValueError(
                "must be 2 or more, because a comparison over one training has no interval; 0 leaves it out"
            )
        return seeds

    @field_validator("log_snr")
    @classmethod
    def _ascending(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError("must hold the lower end first")
        return value


class ToyConfig(StrictModel):
    """Everything that `eisbach study run erd_toy` computes."""

    data: ToyData = Field(default_factory=lambda: build_config(ToyData, {}))
    network: ToyNetwork = Field(default_factory=lambda: build_config(ToyNetwork, {}))
    paths: list[str] = Field(default_factory=lambda: ["linear", "vp", "gvp"])
    targets: list[str] = Field(default_factory=lambda: list(TARGETS))
    figures: FigureSettings = Field(default_factory=lambda: build_config(FigureSettings, {}))
    comparison: ComparisonSettings = Field(default_factory=lambda: build_config(ComparisonSettings, {}))

    @field_validator("paths", "targets")
    @classmethod
    def _known(cls, names: list[str], info: ValidationInfo) -> list[str]:
        if not names or len(set(names)) != len(names):
            raise ValueError("must name at least one, each once")
        kind, known = ("path", PATHS) if info.field_name == "paths" else ("target", TARGETS)
        for name in names:
            if name not in known:
                raise ValueError(f"'{name}' is not a {kind}; choose among {', '.join(known)}")
        return names

    @model_validator(mode="after")
    def _weights_are_defined(self) -> ToyConfig:
        # Found now and not after minutes of training: a scheme that some path or target has no weight for.
        import torch

        from eisbach.errors import UserError

        t = torch.tensor([0.25, 0.5])
        for arm in self.comparison.arms if self.comparison.seeds else []:
            for path in self.paths:
                for target in self.targets:
                    try:
                        weight = arm_weight(arm, path, target)(t)
                    except UserError as error:
                        raise ValueError(str(error).rstrip(".")) from error
                    except TypeError as error:
                        raise ValueError(f"the {arm} weighting needs options and cannot be an arm here") from error
                    if not bool(weight.isfinite().all()):
                        raise ValueError(f"the {arm} weighting is not finite for {target} on the {path} path")
        return self


QUICK_VALUES: dict[str, dict[str, Any]] = {
    "figures": {
        "steps": 60, "batch": 64, "levels": 12, "samples": 64, "ntk_samples": 12, "ntk_levels": 5, "joint_samples": 6,
    },
    "comparison": {
        "seeds": 2, "steps": 60, "batch": 64, "levels": 10, "samples": 64, "generated": 128, "sampling_steps": 8,
    },
}  # fmt: skip
"""About a minute: shorter trainings, two seeds, fewer noise levels."""

Kind = Literal["global", "piecewise", "comparison"]


_CELLS = 4096
_SAME = 1e-6

Weight = Callable[[Tensor], Tensor]


def arm_weight(arm: str, path: str, target: str) -> Weight:
    """t (B,) -> the arm's weight on the target's squared error, of mean 1 over t uniform in [0, 1].

    Raises
    ------
    UserError
        An unknown arm, one that learns its weight, or a scheme that is undefined for the path or the target.
    """
    scheme = _scheme(arm)
    middles = (torch.arange(_CELLS, dtype=torch.float64) + 0.5) / _CELLS
    mean = scheme(path, target, middles).mean()
    return lambda t: scheme(path, target, t) / mean


def _scheme(arm: str) -> NoiseWeight:
    if arm in ("erd", "erd_corrected"):
        return ERD(density=get_density("uniform"), correct_density=arm == "erd_corrected")
    if arm not in NOISE_WEIGHTINGS:
        raise UserError(f"the weighting {arm!r} is not known; choose one of {', '.join(NOISE_WEIGHTINGS)}.")
    scheme = NOISE_WEIGHTINGS[arm]()
    if scheme.trainable_parameters():
        raise UserError(
            f"the {arm} weighting learns its weight during training, and arms of the toy are fixed weights; choose "
            "another."
        )
    return scheme


def same_weights(arms: Sequence[str], path: str, target: str) -> dict[str, str]:
    """For each arm, the first arm whose weight is the same function there: itself, unless two coincide.

    On a variance-preserving path the ERD weight of u is sqrt(alpha^2 + sigma^2) = 1, the constant; training both would
    compare a network with itself.
    """
    t = (torch.arange(1024, dtype=torch.float64) + 0.5) / 1024
    curves: dict[str, Tensor] = {}
    first_of = {}
    for arm in arms:
        curve = arm_weight(arm, path, target)(t)
        first_of[arm] = next(
            (name for name, other in curves.items() if bool(((curve - other).abs() <= _SAME).all())), arm
        )
        curves.setdefault(arm, curve)
    return first_of
