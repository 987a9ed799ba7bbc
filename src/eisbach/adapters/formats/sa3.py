"""Stability's adapter files, which its own loader and interface play: safetensors in half precision.

Facts from Stability's stable-audio-3 (`models/lora/model.py`, `utils.py`, `loader.py`). The metadata's `lora_config` is
JSON with rank, alpha, adapter_type, dropout, include and exclude. A layer has `<name>.parametrizations.weight.0.lora_A`
[shape=(rank, in)], `.lora_B` [shape=(out, rank)] and, for `dora-rows`, `.magnitude` [shape=(out,)]. The loader
parametrises every layer that include and exclude leave, and loads without counting keys: a wrong name plays the base,
in silence. So names are counted here, on both sides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from eisbach import stable_audio3_keys as keys
from eisbach.adapters.formats.low_rank import Factors, LowRankAdapter, read_file, stored
from eisbach.errors import CheckpointError, UserError
from eisbach.tensor_files import read_metadata_object, write_tensors

CONFIG = "lora_config"
STAMP = "eisbach"
_KEY = re.compile(r"(.+)\.parametrizations\.weight\.(\d+)\.(\w+)")
_TYPES = ("lora", "dora-rows", "dora")
_PARTS = {"lora": {"lora_A", "lora_B"}, "dora": {"lora_A", "lora_B", "magnitude"}}


def is_native(tensors: Iterable[str], metadata: Mapping[str, str]) -> bool:
    """Whether a file's names and metadata are a native adapter's."""
    return CONFIG in metadata or any(_KEY.fullmatch(name) for name in tensors)


def read(path: str | Path) -> LowRankAdapter:
    """The adapter of a native file, its rows in diffusers' order.

    Raises
    ------
    CheckpointError
        Unreadable or not finite; another adapter type; or tensors that are unknown, missing, of another rank, or of a
        part that has no adapter here.
    """
    tensors, metadata = read_file(path)
    layers = _by_layer(tensors, path)
    config = _config(metadata, layers, path)
    kind = "lora" if config["adapter_type"] == "lora" else "dora"
    made: dict[str, Factors] = {}
    for native, parts in layers.items():
        if set(parts) != _PARTS[kind]:
            raise CheckpointError(
                f"'{native}' in {path} has {', '.join(sorted(parts))}, and the adapter type "
                f"'{config['adapter_type']}' needs "
                f"{', '.join(sorted(_PARTS[kind]))}; the file is damaged, or of another type than it says."
            )
        layer = keys.layer_from_native(native)
        if layer is None:
            raise CheckpointError(
                f"{path} adapts '{native}'; adapters of the transformer (model.…) and of the duration embedder "
                f"({keys.NATIVE_DURATION}) "
                "are read."
            )
        made[layer] = _factors(parts, layer, int(config["rank"]), path)
    return LowRankAdapter(
        made,
        rank=int(config["rank"]),
        alpha=float(config["alpha"]),
        dropout=float(config.get("dropout") or 0.0),
        stamp=read_metadata_object(metadata, STAMP, path),
        native={"include": config.get("include"), "exclude": config.get("exclude")},
    )


def _by_layer(tensors: Mapping[str, torch.Tensor], path: str | Path) -> dict[str, dict[str, torch.Tensor]]:
    layers: dict[str, dict[str, torch.Tensor]] = {}
    strangers = []
    for name, tensor in tensors.items():
        match = _KEY.fullmatch(name)
        if match is None or match[2] != "0":
            strangers.append(name)
        else:
            layers.setdefault(match[1], {})[match[3]] = tensor
    if strangers:
        raise CheckpointError(
            f"{len(tensors) - len(strangers)} of {len(tensors)} tensors in {path} have the names of a native adapter "
            "(not: "
            f"'{sorted(strangers)[0]}'); give a file that Stability's trainer wrote."
        )
    return layers


def _config(metadata: Mapping[str, str], layers: Mapping[str, Mapping[str, Any]], path: str | Path) -> dict[str, Any]:
    """`lora_config`, with the defaults that Stability's loader has: rank from the tensors, alpha = rank, plain LoRA."""
    try:
        config = read_metadata_object(metadata, CONFIG, path)
        first = next(iter(layers.values()))
        kind = config.setdefault("adapter_type", "lora")
        if kind not in _TYPES:
            raise CheckpointError(
                f"{path} is an adapter of the type '{kind}'; the types lora and dora-rows are read: train one of those."
            )
        config.setdefault("rank", int(first["lora_A"].shape[0]))
        config["alpha"] = config["rank"] if config.get("alpha") is None else config["alpha"]
        if int(config["rank"]) < 1 or not float(config["alpha"]) > 0:
            raise ValueError(f"rank {config['rank']}, alpha {config['alpha']}")
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise CheckpointError(f"{path} has a {CONFIG} that cannot be read ({error}); fetch the file again.") from error
    return config


def _factors(parts: Mapping[str, torch.Tensor], layer: str, rank: int, path: str | Path) -> Factors:
    a, b, magnitude = parts["lora_A"], parts["lora_B"], parts.get("magnitude")
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != rank or b.shape[1] != rank:
        raise CheckpointError(
            f"'{layer}' in {path} has factors of {list(a.shape)} and {list(b.shape)}, and the file says rank {rank}; "
            "the file is "
            "damaged, or its layers have several ranks, which is not supported."
        )
    rows, width = b.shape[0], a.shape[1]
    if magnitude is not None:
        magnitude = magnitude.squeeze() if magnitude.ndim == 2 else magnitude  # older files: (out, 1)
        if magnitude.shape != (rows,) or (parts["magnitude"].ndim == 2 and parts["magnitude"].shape[1] != 1):
            raise CheckpointError(
                f"'{layer}' in {path} has a magnitude of {list(parts['magnitude'].shape)} for {rows} rows: it is "
                "dora-cols, a "
                "magnitude for each column; the types lora and dora-rows are read."
            )
        magnitude = keys.rows_to_diffusers(layer, magnitude.float(), width)
    b = keys.rows_to_diffusers(layer, b.float(), width)
    return Factors(a.float(), b, magnitude, convolution=layer in keys.CONVOLUTIONS)


def write(path: str | Path, adapter: LowRankAdapter, precision: str = "fp16") -> int:
    """Writes a native file and returns the number of its tensors.

    Raises
    ------
    UserError
        The adapter changes a layer that Stable Audio 3 does not have.
    StorageError
        The disk is full or the folder is not writable.
    """
    tensors: dict[str, torch.Tensor] = {}
    for layer, native in native_layers(adapter.layers).items():
        factors = stored(rows_to_native(layer, adapter.layers[layer]), precision, layer)
        prefix = f"{native}.parametrizations.weight.0."
        tensors |= {f"{prefix}lora_A": factors.a, f"{prefix}lora_B": factors.b}
        if factors.magnitude is not None:
            tensors[f"{prefix}magnitude"] = factors.magnitude
    metadata = {CONFIG: json.dumps(_native_config(adapter))}
    if adapter.stamp:
        metadata[STAMP] = json.dumps(adapter.stamp, sort_keys=True)
    write_tensors(path, tensors, metadata)
    return len(tensors)


def native_layers(layers: Iterable[str]) -> dict[str, str]:
    """The native name of each layer.

    Raises
    ------
    UserError
        Stable Audio 3 has no such layer.
    """
    found = {layer: keys.layer_to_native(layer) for layer in layers}
    strangers = [layer for layer, native in found.items() if native is None]
    if strangers:
        raise UserError(
            f"{len(strangers)} of the adapter's {len(found)} layers are not Stable Audio 3's (first: "
            f"'{strangers[0]}'); native and "
            "ComfyUI files are for adapters of Stable Audio 3: use --to peft."
        )
    return {layer: native for layer, native in found.items() if native is not None}


def rows_to_native(layer: str, factors: Factors) -> Factors:
    """A layer's factors with the rows in the native order."""
    width, magnitude = factors.a.shape[1], factors.magnitude
    return replace(
        factors,
        b=keys.rows_to_native(layer, factors.b, width),
        magnitude=None if magnitude is None else keys.rows_to_native(layer, magnitude, width),
    )


def rows_from_native(layer: str, factors: Factors) -> Factors:
    """The inverse of `rows_to_native`."""
    width, magnitude = factors.a.shape[1], factors.magnitude
    return replace(
        factors,
        b=keys.rows_to_diffusers(layer, factors.b, width),
        magnitude=None if magnitude is None else keys.rows_to_diffusers(layer, magnitude, width),
    )


def _native_config(adapter: LowRankAdapter) -> dict[str, Any]:
    """`lora_config`, in the order in which Stability's trainer writes it.

    Where the adapter was not read from a native file, `include` names its layers: the loader would parametrise every
    layer of the model otherwise, and normalise the rows of those that have no weights here.
    """
    patterns = adapter.native or {"include": layer_patterns(native_layers(adapter.layers).values()), "exclude": None}
    return {
        "rank": adapter.rank,
        "alpha": int(adapter.alpha) if float(adapter.alpha).is_integer() else adapter.alpha,
        "adapter_type": "lora" if adapter.kind == "lora" else "dora-rows",
        "dropout": adapter.dropout,
        "include": patterns.get("include"),
        "exclude": patterns.get("exclude"),
    }


def layer_patterns(natives: Iterable[str]) -> list[str]:
    """Native layer names, those of consecutive blocks joined as `layers.[0-23].`: Stability's loader expands the
    brackets."""
    block = re.compile(r"^(.*\.layers\.)(\d+)(\..*)$")
    found: dict[tuple[str, str], list[int]] = {}
    for native in sorted(natives):
        match = block.match(native)
        found.setdefault((match[1], match[3]) if match else (native, ""), []).extend([int(match[2])] if match else [])
    patterns = []
    for (before, after), numbers in found.items():
        if not numbers:
            patterns.append(before)
        for first, last in _runs(sorted(numbers)):
            patterns.append(f"{before}{first if first == last else f'[{first}-{last}]'}{after}")
    return sorted(patterns)


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
