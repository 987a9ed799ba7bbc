"""What to generate, with what and how."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from eisbach.config import StrictModel
from eisbach.devices import DeviceName, PrecisionName
from eisbach.generation.prompts import Prompt, check_prompts, load_prompts, prompt_rows

_MIN_DURATION = 1.0
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
    duration: float = Field(default=30.0, ge=_MIN_DURATION, allow_inf_nan=False)
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


class PlayedAdapter(StrictModel):
    """One of several adapters; in a configuration a text as `form=runs/x:0.8@0.3-1.0` stands for it too.

    Attributes
    ----------
    file : str
        As `GenerateConfig.adapter`; the folder of a run stands for the adapter in it.
    name : str
        What records call it; the file's name unless given.
    strength : float
        1 plays the adapter as trained, 0 the base.
    interval : (low, high)
        Noise levels at which it acts, both ends included; t = 1 is noise.
    """

    file: str
    name: str
    strength: float = Field(default=1.0, ge=-2.0, le=4.0)
    interval: tuple[float, float] = (0.0, 1.0)

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, values: Any) -> Any:
        values = parse_adapter(values) if isinstance(values, str) else values
        if isinstance(values, dict) and values.get("file") and not values.get("name"):
            return values | {"name": adapter_name(str(values["file"]))}
        return values

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("a name needs letters")
        return value

    @field_validator("interval")
    @classmethod
    def _check_interval(cls, value: tuple[float, float]) -> tuple[float, float]:
        low, high = value
        if not (0 <= low <= 1 and 0 <= high <= 1):
            raise ValueError(f"noise levels lie from 0 (clean) to 1 (noise), and {low:g} to {high:g} does not")
        if not low < high:
            raise ValueError(f"no noise level lies between {low:g} and {high:g}; the lower one comes first, as 0.3-1.0")
        return value

    @property
    def everywhere(self) -> bool:
        """Whether it acts at every noise level."""
        return self.interval == (0.0, 1.0)

    def text(self) -> str:
        """As `--adapter` writes it, without the way to the file."""
        return f"{self.name}:{self.strength:g}@{self.interval[0]:g}-{self.interval[1]:g}"


_PLAYED = re.compile(
    r"(?:(?P<name>[^=@/\\:]+)=)?(?P<file>.+?)(?::(?P<strength>[^:@/\\]*))?(?:@(?P<interval>[^@/\\]*))?", re.DOTALL
)
_INTERVAL = re.compile(r"\s*([^-\s]+)\s*-\s*(\S+)\s*")


def parse_adapter(text: str) -> dict[str, Any]:
    """The keys of a `PlayedAdapter` that a text names: ``[name=]file[:strength][@low-high]``; what exists under the
    whole text is a file.

    Raises
    ------
    ValueError
        A strength or an interval that is none.

    >>> parse_adapter("form=runs/x:0.8@0.3-1.0")
    {'file': 'runs/x', 'name': 'form', 'strength': 0.8, 'interval': (0.3, 1.0)}
    >>> parse_adapter("runs/x")
    {'file': 'runs/x'}
    """
    if Path(text).exists():
        return {"file": text}
    match = _PLAYED.fullmatch(text)
    if match is None:
        raise ValueError("an adapter is written name=file:strength@low-high, of which the file alone is needed")
    values: dict[str, Any] = {"file": match["file"]}
    if match["name"] is not None:
        values["name"] = match["name"]
    if match["strength"] is not None:
        values["strength"] = _number(match["strength"], "strength", "as in runs/x:0.8")
    if match["interval"] is not None:
        ends = _INTERVAL.fullmatch(match["interval"])
        if ends is None:
            raise ValueError(f"'{match['interval']}' is no interval of noise levels; write one as @0.3-1.0")
        low, high = (_number(end, "noise level", "as in @0.3-1.0") for end in ends.groups())
        values["interval"] = (low, high)
    return values


def _number(text: str, what: str, example: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"'{text}' is no {what}; write a number, {example}") from None


def adapter_name(adapter: str) -> str:
    """`runs/barrier/adapter` is called `barrier`."""
    path = Path(adapter)
    if path.name == "adapter":
        return path.resolve().parent.name
    return path.stem if path.suffix == ".safetensors" else path.resolve().name


class PlayConfig(SamplingConfig):
    """What a trained model is asked to play: a prompt set (a name, a file or a list) over seeds."""

    prompts: str | tuple[Prompt, ...] = "demo"

    @field_validator("prompts", mode="before")
    @classmethod
    def _texts_are_prompts(cls, value: Any) -> Any:
        return prompt_rows(value) if isinstance(value, list | tuple) else value

    def resolve_prompts(self) -> tuple[Prompt, ...]:
        """The prompts themselves; `UserError` for a file that is missing or wrong."""
        return load_prompts(self.prompts) if isinstance(self.prompts, str) else self.prompts


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
    adapters : tuple of PlayedAdapter
        Instead of `adapter`: several at once, or one in an interval of noise levels.
    any_base : bool
        Play the adapter on another model than the one it was trained on, such as the distilled one.
    arm : str
        Label that the manifest's rows carry.
    init : str or None
        Audio to start from, at the noise level `noise`; it is resampled and mixed as the codec wants it.
    noise : float or None
        Where sampling starts: 1 is noise, lower keeps more of `init`. 0.6 unless given, or 1 with `keep`.
    keep : tuple of (start, end) in seconds
        What stays of `init` while the rest is made anew, by a model that knows inpainting.
    """

    out: str
    prompts: tuple[Prompt, ...]
    model: str = "embedded"
    adapter: str | None = None
    adapter_strength: float = Field(default=1.0, ge=-2.0, le=4.0)
    adapters: tuple[PlayedAdapter, ...] = ()
    any_base: bool = False
    arm: str = Field(default="base", min_length=1)
    init: str | None = None
    noise: float | None = Field(default=None, gt=0.0, le=1.0)
    keep: tuple[tuple[float, float], ...] = ()

    @field_validator("prompts")
    @classmethod
    def _check_prompts(cls, value: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
        check_prompts(value)
        return value

    @field_validator("keep")
    @classmethod
    def _check_keep(cls, value: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        for start, end in value:
            if not 0 <= start < end < float("inf"):
                raise ValueError(f"{start:g} to {end:g} is no part of a clip; give seconds that rise, as 0-20")
        merged: list[tuple[float, float]] = []
        for start, end in sorted(value):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return tuple(merged)

    @model_validator(mode="after")
    def _check_together(self) -> GenerateConfig:
        if self.adapter is not None and self.adapters:
            raise ValueError("'adapter' and 'adapters' were both given; put all of them into 'adapters'")
        names = [adapter.name for adapter in self.adapters]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two adapters are called '{twice[0]}'; name them, as a=FILE and b=FILE")
        if self.init is None and (self.noise is not None or self.keep):
            raise ValueError("'noise' and 'keep' say what to do with 'init', which is missing; name an audio file")
        if self.init is not None and self.noise == 1 and not self.keep:
            raise ValueError("at noise 1 nothing is left of 'init'; give a lower 'noise', or 'keep'")
        return self

    @property
    def start(self) -> float:
        """The noise level at which sampling starts."""
        if self.init is None:
            return 1.0
        return self.noise if self.noise is not None else 1.0 if self.keep else 0.6
