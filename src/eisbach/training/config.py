"""What a training run is: every choice in one strict, frozen record, checked whole before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails

from eisbach.config import StrictModel
from eisbach.training.config_data import CropShare, DataConfig, ImagesConfig
from eisbach.training.config_objective import (
    AdapterConfig,
    InpaintingConfig,
    NoiseLevelConfig,
    ObjectiveConfig,
    WeightingConfig,
)
from eisbach.training.contradictions import contradictions

__all__ = [
    "AdapterConfig",
    "CheckpointConfig",
    "CropShare",
    "DataConfig",
    "HeldOutConfig",
    "ImagesConfig",
    "InpaintingConfig",
    "NoiseLevelConfig",
    "ObjectiveConfig",
    "OptimiserConfig",
    "TrainConfig",
    "WeightingConfig",
]


class OptimiserConfig(StrictModel):
    """AdamW.

    Attributes
    ----------
    lr : float
        Peak learning rate, after warm-up.
    weighting_lr : float
        The same for a learned noise-level weight, which has to follow the loss from the first steps on.
    """

    lr: float = Field(default=5e-5, gt=0, json_schema_extra={"also": ["learning_rate"]})
    weighting_lr: float = Field(default=1e-2, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.01, ge=0)
    eps: float = Field(default=1e-8, gt=0)

    @field_validator("betas")
    @classmethod
    def _betas_in_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("both betas must lie in [0, 1)")
        return value


class HeldOutConfig(StrictModel):
    """Loss on held-out clips at fixed noise levels and fixed noise.

    Attributes
    ----------
    every : int
        Steps between evaluations; 0 never evaluates.
    noise_levels : list of float
        Values of t in (0, 1].
    batches : int
        Batches of `batch_size` clips, the same ones each time.
    select : mapping of str to str
        Only held-out clips whose labels have these values. `data.select` does not apply here, so that arms which
        train on different clips are compared on the same ones.
    """

    every: int = Field(default=100, ge=0)
    noise_levels: list[float] = Field(default=[0.1, 0.3, 0.5, 0.7, 0.9], min_length=1)
    batches: int = Field(default=2, ge=1)
    select: dict[str, str] = Field(default_factory=dict)

    @field_validator("noise_levels")
    @classmethod
    def _levels_in_range(cls, value: list[float]) -> list[float]:
        if not all(0 < level <= 1 for level in value):
            raise ValueError("every noise level must lie in (0, 1]; t = 1 is noise")
        return value


class CheckpointConfig(StrictModel):
    """When the state is saved, and how much of it stays on disk.

    Attributes
    ----------
    every : int
        Steps between checkpoints; the last step is always saved.
    keep : int
        The newest ones that stay, beside those of `steps`.
    steps : list of int
        Steps, counted from 1, that are saved and never removed, such as ``[500, 1000]``.
    """

    every: int = Field(default=100, ge=1)
    keep: int = Field(default=2, ge=1)
    steps: list[int] = Field(default_factory=list)

    @field_validator("steps")
    @classmethod
    def _steps_are_counted_from_one(cls, value: list[int]) -> list[int]:
        if any(step < 1 for step in value):
            raise ValueError("steps are counted from 1")
        return sorted(set(value))


class TrainConfig(StrictModel):
    """One training run.

    Attributes
    ----------
    model : str or mapping
        "embedded", a folder that a backbone was saved in, or ``{create: {...}}`` for a fresh backbone of that
        configuration (base training).
    batch_size : int
        Samples in a micro-batch of one process.
    accumulation : int
        Micro-batches a step. Processes and micro-batches are interchangeable: the global batch counts.
    schedule : "constant" or "cosine"
        Learning rate after `warmup_steps` linear steps; cosine ends at zero.
    max_grad_norm : float or None
        Gradient norm above which the gradient is rescaled; None never clips.
    condition_dropout : float
        Share of samples whose caption is dropped, for classifier-free guidance.
    precision : "auto", "fp32" or "bf16"
        auto is bf16 on a GPU that has it in hardware, fp32 elsewhere. Trained weights stay fp32.
    frozen : "auto", "fp32" or "bf16"
        What an adapter's frozen model is stored in: linear layers and convolutions, the only weights that bf16 training
        reads in bf16 anyway. bf16 halves their memory and needs bf16 training; auto is bf16 where training is bf16 on a
        GPU.
    gradient_checkpointing : bool
        Keep only each block's input for the backward pass and compute the block again there: less memory, about a third
        more time, the same gradients.
    ema_decay : float or None
        Decay of an exponential moving average of the trained weights; the average is what is evaluated and
        shipped. None keeps none.
    out : str
        The run folder.
    """

    model: str | dict[str, Any] = "embedded"
    data: DataConfig
    adapter: AdapterConfig = AdapterConfig()
    weighting: WeightingConfig = WeightingConfig()
    noise_levels: NoiseLevelConfig = NoiseLevelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    steps: int = Field(default=1000, ge=1, json_schema_extra={"also": ["max_steps", "num_steps", "max_train_steps"]})
    batch_size: int = Field(default=4, ge=1, json_schema_extra={"also": ["train_batch_size"]})
    accumulation: int = Field(
        default=1,
        ge=1,
        json_schema_extra={"also": ["gradient_accumulation_steps", "gradient_accumulation", "grad_accum"]},
    )
    warmup_steps: int = Field(default=0, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    condition_dropout: float = Field(default=0.1, ge=0, le=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    frozen: Literal["auto", "fp32", "bf16"] = "auto"
    gradient_checkpointing: bool = False
    seed: int = Field(default=0, ge=0, lt=2**31)
    held_out: HeldOutConfig = HeldOutConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    compile: bool = False
    log_every: int = Field(default=10, ge=1)
    tensorboard: bool = True
    out: str = "runs/train"

    @model_validator(mode="wrap")
    @classmethod
    def _report_together(cls, values: Any, handler: ModelWrapValidatorHandler[TrainConfig]) -> TrainConfig:
        """Adds contradictions between keys to the faults of single keys, so that one message lists them all."""
        lines = contradictions(values) if isinstance(values, Mapping) else []
        try:
            config = handler(values)
        except ValidationError as error:
            single = [
                InitErrorDetails(type=item["type"], loc=item["loc"], input=item["input"], ctx=item.get("ctx", {}))
                for item in error.errors()
            ]
            raise ValidationError.from_exception_data(cls.__name__, [*single, *lines]) from None
        if lines:
            raise ValidationError.from_exception_data(cls.__name__, lines)
        return config
