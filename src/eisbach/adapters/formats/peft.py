"""peft's folder layout: `adapter_config.json` and `adapter_model.safetensors`, which peft itself loads.

Beside them lies `eisbach.json`, the stamp: which base model and which data the adapter was trained on. The same stamp
is in the metadata of the safetensors file, so that the weights keep it when they are copied alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import nn

from eisbach.adapters.formats.low_rank import Factors, LowRankAdapter, check_finite
from eisbach.adapters.inject import ADAPTER_NAME, is_adapter_parameter
from eisbach.errors import CheckpointError, UserError
from eisbach.files import read_object, write_json
from eisbach.tensor_files import copy_named, read_header, read_metadata_object, read_tensors, write_tensors

CONFIG, WEIGHTS, STAMP = "adapter_config.json", "adapter_model.safetensors", "eisbach.json"
_PREFIX = "base_model.model."  # what peft's wrapper puts before the network's own names


def to_file_name(parameter: str) -> str:
    """The name in the file of a parameter of the injected network."""
    magnitude = f".lora_magnitude_vector.{ADAPTER_NAME}.weight"
    if parameter.endswith(magnitude):
        return _PREFIX + parameter.removesuffix(magnitude) + ".lora_magnitude_vector"
    return _PREFIX + parameter.replace(f".{ADAPTER_NAME}.", ".")


def adapter_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The adapter's weights of an injected network, under the names of the file."""
    return {
        to_file_name(name): parameter.detach()
        for name, parameter in module.named_parameters()
        if is_adapter_parameter(name)
    }


def config_values(config: Any) -> dict[str, Any]:
    """`adapter_config.json` for a `LoraConfig`: sets become sorted lists, so that equal runs write equal files."""
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    return {**values, "inference_mode": True}


def save(folder: Path, module: nn.Module, config: Any, stamp: Mapping[str, Any]) -> None:
    """Writes the adapter of an injected network.

    Raises
    ------
    StorageError
        The disk is full or the folder is not writable.
    """
    _write(folder, adapter_tensors(module), config, stamp)


def _write(folder: Path, weights: Mapping[str, torch.Tensor], config: Any, stamp: Mapping[str, Any]) -> None:
    metadata = {"format": "pt", "eisbach": json.dumps(dict(stamp), sort_keys=True)}
    write_json(folder / CONFIG, config_values(config))
    write_tensors(folder / WEIGHTS, weights, metadata)
    write_json(folder / STAMP, dict(stamp))


def read_config(folder: Path) -> Any:
    """The `LoraConfig` of a folder.

    Raises
    ------
    CheckpointError
        The file is missing, malformed or of another kind of adapter.
    """
    return parse_config(read_object(folder / CONFIG, "adapter configuration", error=CheckpointError), folder / CONFIG)


def parse_config(values: Mapping[str, Any], source: Path) -> Any:
    """The `LoraConfig` of its entries; errors as in `read_config`."""
    from peft import LoraConfig

    if values.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{source} is of the kind {values.get('peft_type')!r}; only LORA adapters (LoRA, DoRA) are read."
        )
    try:
        checked = _Options.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        raise CheckpointError(
            f"{source} has {'.'.join(map(str, fault['loc']))} = {repr(fault['input'])[:60]} "
            f"({fault['msg']}); restore the file."
        ) from error
    _refuse_options(values, source)
    names = {item.name for item in fields(LoraConfig)}
    known = {name: value for name, value in checked.model_dump(exclude_unset=True).items() if name in names}
    try:
        return LoraConfig(**known)
    except Exception as error:  # of a bad entry peft raises whatever the first use of it raises
        raise CheckpointError(f"{source} has values that this version of peft refuses ({error}).") from error


class _Options(BaseModel):
    """The options of peft's LoRA that are understood, with their types; all others must be off."""

    model_config = ConfigDict(extra="ignore", strict=True)

    r: int = Field(8, ge=1, le=65536)
    lora_alpha: float = Field(8, gt=0, allow_inf_nan=False)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    use_dora: bool = False
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    bias: str = "none"
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=65536)]] = {}
    alpha_pattern: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}

    @field_validator("target_modules", "exclude_modules")
    @classmethod
    def _is_a_pattern(cls, value: list[str] | str | None) -> list[str] | str | None:
        if isinstance(value, str):
            _check_pattern(value)
        return value

    @field_validator("rank_pattern", "alpha_pattern", mode="before")
    @classmethod
    def _are_patterns(cls, value: Any) -> Any:
        for pattern in value or {}:
            _check_pattern(str(pattern))
        return {} if value is None else value


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from error


_SILENT = {  # of the training or of where the files lie: the same factors mean the same weights whatever these say
    *(
        "peft_type",
        "peft_version",
        "task_type",
        "inference_mode",
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
    ),
    *("megatron_core", "runtime_config", "qalora_group_size", "ensure_weight_tying", "init_lora_weights"),
}


def _refuse_options(values: Mapping[str, Any], source: Path) -> None:
    """Refuses options by which the same factors mean other weights, those of a newer peft included."""
    start = values.get("init_lora_weights", True)
    # These begin by changing the base model's weights; other beginnings mean nothing to what was trained.
    moved = isinstance(start, str) and start.lower().startswith(("pissa", "olora", "corda", "loftq", "lora_ga"))
    used = [f"init_lora_weights {start}"] if moved else []
    used += ["fan_in_fan_out"] if values.get("fan_in_fan_out") else []
    bias = values.get("bias", "none")
    used += [f"bias {bias}"] if bias != "none" else []
    understood = {*_Options.model_fields, *_SILENT}
    used += sorted(
        name for name, value in values.items() if name not in understood and value not in (None, False, {}, [], "")
    )
    if used:
        raise CheckpointError(
            f"{source} uses {', '.join(used)}, which is neither LoRA nor DoRA as it is played here; train without it."
        )


def read_stamp(folder: Path) -> dict[str, Any]:
    """The stamp beside the weights, or in them, or {} for an adapter that was made elsewhere."""
    if (folder / STAMP).is_file():
        try:
            return read_object(folder / STAMP, "adapter stamp")
        except UserError as error:
            raise CheckpointError(f"{folder / STAMP} is not readable; restore it or delete it.") from error
    return read_metadata_object(read_header(folder / WEIGHTS).metadata, "eisbach", folder / WEIGHTS)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights under the names of the file.

    Raises
    ------
    CheckpointError
        The file is missing, truncated or empty, or holds values that are not finite.
    """
    tensors = read_tensors(folder / WEIGHTS)
    if not tensors:
        raise CheckpointError(f"{folder / WEIGHTS} holds no weights.")
    check_finite(tensors, folder / WEIGHTS)
    return tensors


def load_into(module: nn.Module, tensors: Mapping[str, torch.Tensor], source: Path) -> int:
    """Copies the file's weights into an injected network and returns how many tensors matched: all of them.

    Raises
    ------
    CheckpointError
        A name is missing on either side or a shape differs; the sentence counts them and names the first.
    """
    parameters = {
        to_file_name(name): parameter for name, parameter in module.named_parameters() if is_adapter_parameter(name)
    }
    return copy_named(parameters, tensors, source)


_PARTS = {"lora_A.weight": "a", "lora_B.weight": "b", "lora_magnitude_vector": "magnitude"}
_NATIVE = "native_patterns"


def read_adapter(folder: Path) -> LowRankAdapter:
    """The adapter of a folder, without a model.

    Raises
    ------
    CheckpointError
        Unreadable, not finite, incomplete, or with an option that other formats cannot express.
    """
    config, tensors = read_config(folder), read_weights(folder)
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        layer, part = split_name(name)
        if part is None:
            raise CheckpointError(
                f"{folder / WEIGHTS} holds '{name}', which is no factor of LoRA or DoRA; only the folder can carry "
                "it, no other format."
            )
        layers.setdefault(layer, {})[part] = tensor
    stamp = read_stamp(folder)
    patterns = stamp.pop(_NATIVE, {})
    if not isinstance(patterns, dict):
        raise CheckpointError(f"the stamp in {folder} has {_NATIVE} that are no object; restore it or delete it.")
    return replace(of_layers(layers, config, folder / WEIGHTS), stamp=stamp, native=patterns)


def of_layers(layers: Mapping[str, Mapping[str, torch.Tensor]], config: Any, source: Path) -> LowRankAdapter:
    """The adapter of each layer's "a", "b" and "magnitude" as `config`, a `LoraConfig`, plays them.

    Raises
    ------
    CheckpointError
        Factors are missing, or of other ranks than the configuration's.
    """
    wanted = {"a", "b", "magnitude"} if config.use_dora else {"a", "b"}
    scales = {}
    for layer, parts in layers.items():
        if set(parts) != wanted:
            raise CheckpointError(
                f"'{layer}' in {source} has {', '.join(sorted(parts))} of {', '.join(sorted(wanted))}; the file is "
                "damaged."
            )
        scales[layer] = _scale(config, layer, parts, source)
    rank = max(parts["a"].shape[0] for parts in layers.values())
    most = scales[max(scales, key=lambda layer: layers[layer]["a"].shape[0])]
    factors = {layer: _uniform(parts, rank, scales[layer] / most) for layer, parts in layers.items()}
    return LowRankAdapter(factors, rank, most * rank, float(config.lora_dropout or 0.0))


def split_name(name: str) -> tuple[str, str | None]:
    """A tensor's layer and which factor it is: "a", "b", "magnitude" or None."""
    inner = name.removeprefix(_PREFIX)
    for ending, part in _PARTS.items():
        if inner.endswith("." + ending):
            return inner.removesuffix("." + ending), part
    return inner, None


def _scale(config: Any, layer: str, parts: Mapping[str, torch.Tensor], source: Path) -> float:
    """alpha / rank of one layer, after checking the factors' shapes."""
    from peft.utils.other import get_pattern_key

    ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
    rank = ranks.get(get_pattern_key(ranks.keys(), layer), config.r)
    alpha = alphas.get(get_pattern_key(alphas.keys(), layer), config.lora_alpha)
    a, b = parts["a"], parts["b"]
    if (
        min(a.ndim, b.ndim) < 2
        or a.shape[0] != rank
        or b.shape[1] != rank
        or parts.get("magnitude", b[:, 0]).numel() != b[:, 0].numel()
        or any(value.ndim > 2 and value.shape[2:] != (1,) for value in (a, b))
    ):
        raise CheckpointError(
            f"'{layer}' in {source} has factors of {list(a.shape)} and {list(b.shape)}; factors of rank {rank} over "
            "single frames are read."
        )
    return float(alpha / (rank**0.5 if config.use_rslora else rank))


def _uniform(parts: Mapping[str, torch.Tensor], rank: int, factor: float) -> Factors:
    """One layer's factors at the common rank and scale: rows and columns of zeros, and B times what its own scale is
    larger."""
    a, b = parts["a"].flatten(1).float(), parts["b"].flatten(1).float()
    missing = rank - a.shape[0]
    a, b = torch.nn.functional.pad(a, (0, 0, 0, missing)), torch.nn.functional.pad(b, (0, missing)) * factor
    magnitude = None if "magnitude" not in parts else parts["magnitude"].flatten().float()
    return Factors(a, b, magnitude, convolution=parts["a"].ndim == 3)


def config_of(adapter: LowRankAdapter) -> Any:
    """peft's `LoraConfig` of an adapter: its layers by their full names."""
    from peft import LoraConfig

    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_dora=adapter.kind == "dora",
        target_modules=sorted(adapter.layers),
        bias="none",
    )


def tensors_of(adapter: LowRankAdapter) -> dict[str, torch.Tensor]:
    """An adapter's weights under the names and in the shapes of peft's file."""
    tensors = {}
    for layer, factors in adapter.layers.items():
        a, b, magnitude, convolution = factors.a, factors.b, factors.magnitude, factors.convolution
        prefix = f"{_PREFIX}{layer}."
        tensors[f"{prefix}lora_A.weight"] = a[..., None] if convolution else a
        tensors[f"{prefix}lora_B.weight"] = b[..., None] if convolution else b
        if magnitude is not None:
            tensors[f"{prefix}lora_magnitude_vector"] = magnitude.view(1, -1, 1) if convolution else magnitude
    return tensors


def write_adapter(folder: Path, adapter: LowRankAdapter) -> int:
    """Writes a folder in peft's layout, in fp32, and returns the number of its tensors.

    Raises
    ------
    StorageError
        The disk is full or the folder is not writable.
    """
    tensors = tensors_of(adapter)
    stamp = {**adapter.stamp, **({_NATIVE: adapter.native} if adapter.native else {})}
    _write(folder, tensors, config_of(adapter), stamp)
    return len(tensors)
