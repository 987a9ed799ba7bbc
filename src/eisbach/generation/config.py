"""What to generate, with what and how."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from eisbach.config import StrictModel
from eisbach.devices import DeviceName, PrecisionName
from eisbach.generation.prompts import Prompt, check_prompts

MIN_DURATION = 1.0
"""Seconds that a generation lasts at least; a model says itself how long it plays (`Backbone.max_seconds`)."""


DISTILLED: dict[str, object] = {"sampler": "pingpong", "num_inference_steps": 8, "guidance_scale": 1.0}
"""How Stable Audio 3's distilled models are played."""


class SamplingConfig(StrictModel):
    """How noise becomes audio; shared by every arm of a comparison.

    Attributes
    ----------
    seeds : tuple of int
        One generation a prompt and seed.
    duration : float
        Seconds, from 1 to the model's own limit (`Backbone.max_seconds`).
    headroom : float or None
        Seconds that are sampled beyond `duration` and cut off, so that a clip does not end on the model's last frames;
        None takes the model's own (six for Stable Audio 3, as in Stability's interface; none elsewhere).
    sampler : {"euler", "heun", "pingpong"}
        Heun evaluates the model twice a step; pingpong is for distilled models, and draws fresh noise in every step.
    num_inference_steps : int
        100 in the paper's experiments.
    guidance_scale : float
        Classifier-free guidance; 1 is none, 3.0 in the paper's experiments.
    apg : float
        Adaptive projected guidance: the share, from 0 to 1, that is left out of what guidance adds along the data
        estimate (`diffusion.guidance.Projection`). 0 is plain guidance; Stability's interface has 1.

    A distilled model is played with `DISTILLED` instead of these three defaults; what is set explicitly stands.
    schedule : str or None
        Name of a noise schedule (`diffusion.schedules`); None takes the backbone's own.
    schedule_options : mapping or None
        Options of that schedule, as ``{curve: FILE}`` of rescaled_entropic.
    batch_size : int
        Clips that are sampled together. It changes the result by rounding only.
    device, precision : str
        Where the networks compute and how, as `devices.place` reads them. The noise is the same on every device, and
        the audio is but for rounding; bf16 rounds more, and its clips are not mixed with those of fp32.
    """

    seeds: tuple[int, ...] = (0,)
    duration: float = Field(default=30.0, ge=MIN_DURATION, allow_inf_nan=False)
    headroom: float | None = Field(default=None, ge=0.0, le=60.0)
    sampler: Literal["euler", "heun", "pingpong"] = "euler"
    num_inference_steps: int = Field(default=100, ge=1, le=1000)
    guidance_scale: float = Field(default=3.0, ge=0.0, le=30.0)
    apg: float = Field(default=0.0, ge=0.0, le=1.0)
    schedule: str | None = None
    schedule_options: dict[str, Any] | None = None
    batch_size: int = Field(default=8, ge=1, le=256)
    device: DeviceName = "auto"
    precision: PrecisionName = "auto"

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise ValueError("at least one seed is needed")
        if len(set(value)) != len(value):
            raise ValueError("seeds must differ")
        if any(not 0 <= seed < 2**63 for seed in value):
            raise ValueError("a seed is a whole number from 0 to 2^63 - 1")
        return value


class GenerateConfig(SamplingConfig):
    """One model (with or without an adapter) played over prompts and seeds.

    Attributes
    ----------
    out : str
        Folder for FLAC files, `manifest.jsonl` and `generation.json`.
    prompts : tuple of Prompt
    model : str
        `"embedded"` or a folder that `backbones.load_backbone` reads.
    adapter : str or None
        An adapter: the folder that training wrote, a peft folder, or a native or ComfyUI file (full fine-tuning writes
        a model folder: give it as `model`).
    adapter_strength : float
        1 plays the adapter as trained, 0 the base.
    any_base : bool
        Play the adapter on another model than the one it was trained on, such as the distilled one.
    arm : str
        Label that the manifest's rows carry.
    """

    out: str
    prompts: tuple[Prompt, ...]
    model: str = "embedded"
    adapter: str | None = None
    adapter_strength: float = Field(default=1.0, ge=-2.0, le=4.0)
    any_base: bool = False
    arm: str = Field(default="base", min_length=1)

    @field_validator("prompts")
    @classmethod
    def _check_prompts(cls, value: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
        check_prompts(value)
        return value
