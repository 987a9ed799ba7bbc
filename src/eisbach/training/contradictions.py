"""Faults between keys of a training configuration: each key may be right alone, and together they mean nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import InitErrorDetails, PydanticCustomError

from eisbach.training.config_objective import name_faults


def contradictions(values: Mapping[str, Any]) -> list[InitErrorDetails]:
    """Faults between keys of a configuration that may still hold faults in single keys."""
    found: list[InitErrorDetails] = []

    def fault(key: str, message: str, value: object) -> None:
        error = PydanticCustomError("contradiction", "{message}", {"message": message})
        found.append(InitErrorDetails(type=error, loc=tuple(key.split(".")), input=value))

    def group(name: str) -> Mapping[str, Any]:
        value = values.get(name)
        return value if isinstance(value, Mapping) else {}

    adapter, weighting, levels, data = (group(name) for name in ("adapter", "weighting", "noise_levels", "data"))
    if adapter.get("type") == "none":
        for key in ("rank", "alpha", "dropout", "targets", "exclude"):
            if adapter.get(key) is not None:
                fault(f"adapter.{key}", "means nothing when adapter.type is none; leave it out", adapter[key])
    if adapter.get("type", "dora") != "dora" and adapter.get("norm_gradient") is not None:
        message = "means something for adapter.type dora alone; leave it out"
        fault("adapter.norm_gradient", message, adapter["norm_gradient"])
    if values.get("frozen") == "bf16":
        if adapter.get("type") == "none":
            fault("frozen", "nothing is frozen when adapter.type is none; use fp32 or auto", "bf16")
        if values.get("precision") == "fp32":
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
    beyond = [
        step for step in _whole_numbers(group("checkpoint").get("steps")) if isinstance(steps, int) and step > steps
    ]
    if beyond:
        fault("checkpoint.steps", f"must be at most steps ({steps})", beyond)
    if "data" in values:
        for key, message in image_faults(data, group("objective")):
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
    return found


def _whole_numbers(value: object) -> list[int]:
    return [item for item in value if isinstance(item, int)] if isinstance(value, list) else []


def image_faults(data: Mapping[str, Any], objective: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, what is wrong) where a recipe names neither audio nor images, or both, or asks of images what clips
    have."""
    images, manifest = data.get("images"), data.get("manifest")
    if images is None:
        missing = not manifest and not isinstance(manifest, bool)
        return [("data.manifest", "is required: name a manifest, or data.images for images")] if missing else []
    found = []
    if manifest:
        found.append(("data.manifest", "names audio while data.images names images; keep one of them"))
    for key in ("crop_seconds", "select"):
        if data.get(key):
            found.append((f"data.{key}", "is about audio clips and means nothing for images; leave it out"))
    for key, nothing in (("inpainting", (None, False)), ("silence_extension", (None, 0))):
        if objective.get(key) not in nothing:
            found.append((f"objective.{key}", "is about audio clips and means nothing for images; leave it out"))
    return found
