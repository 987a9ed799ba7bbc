"""What to measure: a model, its classes or prompts, how they are grouped, and along which trajectories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from eisbach.config import StrictModel, build_config, read_yaml
from eisbach.devices import DeviceName, PrecisionName
from eisbach.diagnostics.signature.model import ClassSet, uniform_prior
from eisbach.errors import UserError


class ClassConfig(StrictModel):
    """One value of Z.

    Attributes
    ----------
    name : str
    text : str or None
        What the model is conditioned on: a prompt, or a class's name; None is `name` itself.
    prior : float or None
        p(z); given for all classes or for none (equal shares).
    labels : dict
        A partition's name to the group this class is in: every class must have the same keys.
    """

    name: str = Field(min_length=1)
    text: str | None = None
    prior: float | None = None
    labels: dict[str, str] = Field(default_factory=dict)


class GuidanceConfig(StrictModel):
    """Trajectories guided with a scale, everywhere or where low <= t <= high."""

    scale: float = Field(ge=0, le=100)
    interval: tuple[float, float] | None = None

    @field_validator("interval")
    @classmethod
    def _rises(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 <= value[0] < value[1] <= 1:
            raise ValueError("an interval is two noise levels t with 0 <= low < high <= 1; t = 1 is noise")
        return value

    @property
    def label(self) -> str:
        """A name for files and legends."""
        where = "" if self.interval is None else f"-{self.interval[0]:g}-{self.interval[1]:g}"
        return f"guided-{self.scale:g}{where}"


class SignatureConfig(StrictModel):
    """One measurement.

    Attributes
    ----------
    model, adapter : str
        As in generation.
    classes : list of ClassConfig
    partitions : dict
        Partition to group to class names; partitions from the classes' `labels` are added.
    duration : float
        Seconds of latents, for music.
    steps : int
        Steps of the chain; the last is not read.
    schedule : str
    schedule_options : mapping or None
        Options of that schedule, as ``{curve: FILE}`` of rescaled_entropic.
    eta : float
        1, or the chain estimator refuses.
    trajectories : int
        For each class, in each arm.
    sources : "reverse" and "forward"
        Ancestral chains of the model, and forward-noised samples: of `data`, or generated with `sample_steps` steps.
    data : str or None
        A safetensors file with `latents` (N, ...) and `labels` (N,), indices of `classes`.
    guidance : list of GuidanceConfig
        Further reverse arms.
    sample_steps : int
    batch_rows : int
        Rows of a call of the network.
    memory_mb : int
        Bound on the predictions held at once.
    resamples : int
        Of the bootstrap.
    coupling : "independent" or "optimal_transport"
        How training paired noise with data.
    device : str
        Where the network computes, as `devices.place` reads it.
    precision : "fp32", "bf16" or "auto"
        fp32 unless named otherwise: what is measured are small differences between predictions.
    """

    model: str = "embedded"
    adapter: str | None = None
    classes: list[ClassConfig] = Field(min_length=1)
    partitions: dict[str, dict[str, list[str]]] = Field(default_factory=dict)
    duration: float = Field(default=30.0, gt=0)
    steps: int = Field(default=64, ge=1)
    schedule: str = "uniform"
    schedule_options: dict[str, Any] | None = None
    eta: float = Field(default=1.0, ge=0, le=1)
    trajectories: int = Field(default=16, ge=2)
    sources: list[Literal["reverse", "forward"]] = Field(default=["reverse"], min_length=1)
    data: str | None = None
    guidance: list[GuidanceConfig] = Field(default_factory=list)
    sample_steps: int = Field(default=50, ge=1)
    batch_rows: int = Field(default=32, ge=1)
    memory_mb: int = Field(default=512, ge=1)
    resamples: int = Field(default=1000, ge=100)
    seed: int = Field(default=0, ge=0)
    coupling: Literal["independent", "optimal_transport"] = "independent"
    device: DeviceName = "auto"
    precision: PrecisionName = "fp32"

    @model_validator(mode="after")
    def _consistent(self) -> SignatureConfig:
        if self.data is not None and "forward" not in self.sources:
            raise ValueError("data is only read by the source 'forward'; add it to sources")
        if len(set(self.sources)) != len(self.sources):
            raise ValueError("a source may be listed once")
        return self

    def class_set(self) -> ClassSet:
        """The classes, priors and partitions, checked; `UserError` as `ClassSet` says."""
        given = [item.prior for item in self.classes]
        priors = [value for value in given if value is not None]
        if priors and len(priors) != len(given):
            raise UserError(
                f"{len(priors)} of {len(given)} classes have a prior; give all of them one (that sum to 1), or none."
            )
        names = tuple(item.name for item in self.classes)
        partitions: dict[str, Mapping[str, Sequence[str]]] = {**self._labelled(), **self.partitions}
        return ClassSet(names, tuple(priors) or uniform_prior(len(names)), partitions)

    def _labelled(self) -> dict[str, dict[str, list[str]]]:
        keys = set(self.classes[0].labels)
        if any(set(item.labels) != keys for item in self.classes):
            odd = next(item for item in self.classes if set(item.labels) != keys)
            raise UserError(
                f"the class '{odd.name}' has the labels {sorted(odd.labels)} and the first class {sorted(keys)}; all "
                "classes need the same."
            )
        groups: dict[str, dict[str, list[str]]] = {}
        for key in self.classes[0].labels:
            if key in self.partitions:
                raise UserError(f"the partition '{key}' is given by labels and by groups; keep one.")
            for item in self.classes:
                groups.setdefault(key, {}).setdefault(item.labels[key], []).append(item.name)
        return groups


class _PromptFile(StrictModel):
    """A YAML file of classes and partitions."""

    classes: list[ClassConfig] = Field(min_length=1)
    partitions: dict[str, dict[str, list[str]]] = Field(default_factory=dict)


def read_prompts(path: str | Path) -> _PromptFile:
    """The file's classes and partitions; `ConfigError` names every fault."""
    return build_config(_PromptFile, read_yaml(path, "prompt file"), f"the prompt file {path}")


def parse_partition(text: str) -> tuple[str, dict[str, list[str]]]:
    """``NAME=GROUP:a,b/GROUP:c,d`` as its name and groups.

    Raises
    ------
    UserError
        Another form.
    """
    name, separator, rest = text.partition("=")
    groups: dict[str, list[str]] = {}
    for part in rest.split("/"):
        group, colon, members = part.partition(":")
        if not separator or not name.strip() or not colon or not group.strip() or group.strip() in groups:
            raise UserError(
                f"the partition '{text}' must look like NAME=GROUP:class,class/GROUP:class, each group once."
            )
        groups[group.strip()] = [member.strip() for member in members.split(",") if member.strip()]
    return name.strip(), groups


def parse_guidance(text: str) -> dict[str, Any]:
    """``SCALE`` or ``SCALE:LOW:HIGH`` (noise levels t) as plain values; `UserError` for another form."""
    try:
        numbers = [float(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3):
        raise UserError(f"the guidance '{text}' must look like SCALE or SCALE:LOW:HIGH, for example 3 or 3:0.2:0.7.")
    return {"scale": numbers[0], "interval": numbers[1:] or None}
