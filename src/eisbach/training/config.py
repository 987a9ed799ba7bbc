"""What a training run is: every choice in one strict, frozen record, checked whole before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from eisbach.config import StrictModel
from eisbach.devices import DeviceName, PrecisionName
from eisbach.training.config_demos import DemosConfig, StopConfig
from eisbach.training.config_groups import (
    AdapterConfig,
    CropShare,
    DataConfig,
    ImagesConfig,
    InpaintingConfig,
    LabelWeight,
    NoiseLevelConfig,
    ObjectiveConfig,
    WeightingConfig,
    name_faults,
)

__all__ = [
    "AdapterConfig",
    "CheckpointConfig",
    "CropShare",
    "DataConfig",
    "DemosConfig",
    "HeldOutConfig",
    "ImagesConfig",
    "InpaintingConfig",
    "LabelWeight",
    "NoiseLevelConfig",
    "ObjectiveConfig",
    "OptimiserConfig",
    "SampleLogConfig",
    "StopConfig",
    "TrainConfig",
    "WeightingConfig",
]


class OptimiserConfig(StrictModel):
    """AdamW.

    Attributes
    ----------
    type : "adamw" or "adamw8bit"
        adamw8bit keeps the moments of larger parameters in 8 bits through torchao (the extra `quant`): for full
        fine-tuning, where they are twice the weights; an adapter's are small.
    lr : float
        Peak learning rate, after warm-up.
    weighting_lr : float
        The same for a learned noise-level weight, which has to follow the loss from the first steps on.
    """

    type: Literal["adamw", "adamw8bit"] = "adamw"
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
        Steps, counted from 1, that are saved and never removed, such as ``[500, 1000]``. What a shorter training does
        not reach is not saved, so that a recipe may be shortened by its `steps` alone.
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

    def due(self, step: int, last: int) -> bool:
        """Whether this step of a run of `last` steps is saved."""
        return step == last or step % self.every == 0 or step in self.steps


class SampleLogConfig(StrictModel):
    """What is written of each sample that trains, into `sample_log.jsonl`.

    Attributes
    ----------
    every : int
        Steps between steps that are written.
    gradient_norms : bool
        Also the norm of each sample's own gradient, which costs a backward pass a sample.
    """

    every: int = Field(default=1, ge=1)
    gradient_norms: bool = False


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
    device : str
        "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", "mps"; with several processes accelerate deals the
        devices out, and a number means nothing.
    precision : "auto", "fp32" or "bf16"
        auto is bf16 on a GPU that has it in hardware, fp32 elsewhere. Trained weights stay fp32.
    frozen : "auto", "fp32", "bf16", "int8", "fp8" or "nf4"
        What an adapter's frozen model is stored in. bf16 halves its memory and needs bf16 training; auto is bf16 where
        training is bf16 on a GPU. int8, fp8 and nf4 quantise the weights of linear layers through torchao (the extra
        `quant`), to half and to a quarter of bf16's memory.
    gradient_checkpointing : bool
        Keep only each block's input for the backward pass and compute the block again there: less memory, about a third
        more time, the same gradients.
    compile : "auto", "off", "regional", "whole" or "graphs"
        regional compiles the network's repeated blocks (seconds, and once for all of them), whole the network as one;
        graphs is regional with CUDA graphs, for runs whose shapes repeat. auto is regional on a CUDA GPU with Triton
        and off elsewhere. true means whole, false off.
    ema_decay : float or None
        Decay of an exponential moving average of the trained weights; the average is what is evaluated and
        shipped. None keeps none.
    log_samples : SampleLogConfig or None
        Write id, noise level, loss, belief and weight of every sample that trains; `true` takes the defaults.
    demos : DemosConfig or None
        What is played while it trains, into `samples/step-N/`; `true` takes the defaults.
    stop : StopConfig or None
        When what is played says that going on gains less than a margin; `true` takes the defaults. Needs demos.
    trackers : list of "tensorboard", "trackio" and "wandb"
        Where the rows of the log, and the demos, are sent too. The key `tensorboard` of recipes of before is read as
        a tracker, or as none.
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
    device: DeviceName = "auto"
    precision: PrecisionName = "auto"
    frozen: Literal["auto", "fp32", "bf16", "int8", "fp8", "nf4"] = "auto"
    gradient_checkpointing: bool = False
    seed: int = Field(default=0, ge=0, lt=2**31)
    held_out: HeldOutConfig = HeldOutConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    compile: Literal["auto", "off", "regional", "whole", "graphs"] = "auto"
    log_every: int = Field(default=10, ge=1)
    log_samples: SampleLogConfig | None = None
    demos: DemosConfig | None = None
    stop: StopConfig | None = None
    trackers: list[Literal["tensorboard", "trackio", "wandb"]] = Field(default_factory=list)
    out: str = "runs/train"

    @field_validator("trackers")
    @classmethod
    def _each_tracker_once(cls, value: list[str]) -> list[str]:
        return list(dict.fromkeys(value))

    @field_validator("compile", mode="before")
    @classmethod
    def _compile_was_a_switch(cls, value: Any) -> Any:
        return {True: "whole", False: "off"}[value] if isinstance(value, bool) else value

    @field_validator("log_samples", "demos", "stop", mode="before")
    @classmethod
    def _switch(cls, value: object) -> object:
        if isinstance(value, bool):
            return {} if value else None
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _report_together(cls, values: Any, handler: ModelWrapValidatorHandler[TrainConfig]) -> TrainConfig:
        """Adds contradictions between keys to the faults of single keys, so that one message lists them all."""
        values = _tensorboard_was_a_key(values) if isinstance(values, Mapping) else values
        lines = _contradictions(values) if isinstance(values, Mapping) else []
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


def _tensorboard_was_a_key(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe of before trackers, as it is written now."""
    if not isinstance(values.get("tensorboard"), bool):
        return values
    now = {key: value for key, value in values.items() if key != "tensorboard"}
    if values["tensorboard"]:
        now.setdefault("trackers", ["tensorboard"])
    return now


def _contradictions(values: Mapping[str, Any]) -> list[InitErrorDetails]:
    """Faults between keys of a configuration that may still hold faults in single keys."""
    faults: list[InitErrorDetails] = []

    def fault(key: str, message: str, value: object) -> None:
        error = PydanticCustomError("contradiction", "{message}", {"message": message})
        faults.append(InitErrorDetails(type=error, loc=tuple(key.split(".")), input=value))

    def group(name: str) -> Mapping[str, Any]:
        value = values.get(name)
        return value if isinstance(value, Mapping) else {}

    adapter, weighting, levels, data = (group(name) for name in ("adapter", "weighting", "noise_levels", "data"))
    if weighting.get("sample") == "recommended":
        from eisbach.weighting.build import expand_recommended

        weighting = expand_recommended(weighting)
    if adapter.get("type") == "none":
        for key in ("rank", "alpha", "dropout", "targets", "exclude"):
            if adapter.get(key) is not None:
                fault(f"adapter.{key}", "means nothing when adapter.type is none; leave it out", adapter[key])
    if adapter.get("type", "dora") != "dora" and adapter.get("norm_gradient") is not None:
        message = "means something for adapter.type dora alone; leave it out"
        fault("adapter.norm_gradient", message, adapter["norm_gradient"])
    frozen = values.get("frozen")
    if frozen not in (None, "auto", "fp32") and adapter.get("type") == "none":
        fault("frozen", "nothing is frozen when adapter.type is none; use fp32 or auto", frozen)
    if frozen == "bf16" and values.get("precision") == "fp32":
        fault("frozen", "frozen weights in bf16 need precision bf16 or auto", "bf16")
    if weighting.get("reduction") == "batch" and weighting.get("normalisation") == "mean1":
        message = (
            "mean1 would turn the one weight of reduction batch into exactly 1; use normalisation none, "
            "or reduction sample"
        )
        fault("weighting.normalisation", message, "mean1")
    both_none = all(weighting.get(axis, "none") == "none" for axis in ("sample", "noise_level"))
    if both_none and weighting.get("options"):
        message = "there is no weighting to give options to; name weighting.sample or weighting.noise_level"
        fault("weighting.options", message, weighting["options"])
    if levels.get("options") and levels.get("density") is None:
        message = "there is no density to give options to; name noise_levels.density"
        fault("noise_levels.options", message, levels["options"])
    for key, message in name_faults(weighting, levels):
        first, _, rest = key.partition(".")
        fault(key, message, group(first).get(rest) if rest else group(first))
    steps, warmup = values.get("steps", 1000), values.get("warmup_steps", 0)
    if isinstance(steps, int) and isinstance(warmup, int) and warmup > steps:
        fault("warmup_steps", f"must be at most steps ({steps})", warmup)
    if values.get("stop") and not values.get("demos"):
        fault("stop", "judges by what is played; add demos, such as {every: 50, seeds: [0, 1, 2, 3]}", values["stop"])
    if data.get("images") and values.get("demos"):
        fault("demos", "are about audio and mean nothing for images; leave it out", values["demos"])
    if "data" in values:
        for key, message in _image_faults(data, group("objective")):
            fault(key, message, data.get("manifest"))
    if data.get("split") == "all" and group("held_out").get("every", 100):
        message = "split all trains on the held-out clips, so set held_out.every to 0"
        fault("data.split", message, "all")
    model = values.get("model")
    if isinstance(model, Mapping):
        if set(model) != {"create"} or not isinstance(model.get("create"), Mapping):
            fault("model", 'must be "embedded", a folder, or {create: {...}}', dict(model))
        elif adapter.get("type") != "none":
            message = "a freshly created model needs adapter.type none: an adapter on random weights learns nothing"
            fault("adapter.type", message, adapter.get("type", "dora"))
    return faults


def _image_faults(data: Mapping[str, Any], objective: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, what is wrong) where a recipe names neither audio nor images, or both, or asks of images what clips
    have."""
    images, manifest = data.get("images"), data.get("manifest")
    if images is None:
        missing = not manifest and not isinstance(manifest, bool)
        return [("data.manifest", "is required: name a manifest, or data.images for images")] if missing else []
    faults = []
    if manifest:
        faults.append(("data.manifest", "names audio while data.images names images; keep one of them"))
    for key in ("crop_seconds", "select"):
        if data.get(key):
            faults.append((f"data.{key}", "is about audio clips and means nothing for images; leave it out"))
    for key, nothing in (("inpainting", (None, False)), ("silence_extension", (None, 0))):
        if objective.get(key) not in nothing:
            faults.append((f"objective.{key}", "is about audio clips and means nothing for images; leave it out"))
    return faults
