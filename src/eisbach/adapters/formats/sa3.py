"""Stability's adapter files, which its own loader and interface play: safetensors in half precision.

Facts from Stability's stable-audio-3 (`models/lora/model.py`, `utils.py`, `loader.py`). The metadata's `lora_config` is
JSON with rank, alpha, adapter_type, dropout, include and exclude. A layer has `<name>.parametrizations.weight.0.lora_A`
[shape=(rank, in)], `.lora_B` [shape=(out, rank)] and, for `dora-rows`, `.magnitude` [shape=(out,)]. The loader
parametrises every layer that include and exclude leave, and loads without counting keys: a wrong name plays the base,
in silence. So names are counted here, on both sides.

Newer files may hold more. `.baked_vnorm_row` [shape=(out,), fp32] is ‖V‖ of each row, for players that have no base
weights to take it from; `baked_norms` in `lora_config` counts them, `norm_base` names their base model. The types
`lora-xs` and `dora-rows-xs` hold `.M_xs` [shape=(rank, rank)] between the first singular vectors of the base weight, U
[shape=(out, rank)] and V [shape=(in, rank)], the largest entry of each of U's columns made positive: LoRA with B = U M
and A = Vᵀ. U and V are computed where the file lacks them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from eisbach import stable_audio3_keys as keys
from eisbach.adapters.formats import host_names
from eisbach.adapters.formats.low_rank import (
    Factors,
    LowRankAdapter,
    NeedsBaseError,
    WeightOf,
    read_file,
    stored,
)
from eisbach.errors import CheckpointError
from eisbach.tensor_files import read_metadata_object, write_tensors

CONFIG = "lora_config"
STAMP = "eisbach"
_KEY = re.compile(r"(.+)\.parametrizations\.weight\.(\d+)\.(\w+)")
_BAKED, _BAKED_COUNT, _BAKED_BASE = "baked_vnorm_row", "baked_norms", "norm_base"
_OFF = 0.01  # the rows of two releases of one model differ by 0.2%
_PARTS = {
    "lora": {"lora_A", "lora_B"},
    "dora-rows": {"lora_A", "lora_B", "magnitude"},
    "dora": {"lora_A", "lora_B", "magnitude"},
    "lora-xs": {"M_xs"},
    "dora-rows-xs": {"M_xs", "magnitude"},
}
_FIELDS = ("rank", "alpha", "adapter_type", "dropout")  # of `lora_config`, which `LowRankAdapter` has by itself


def is_native(tensors: Iterable[str], metadata: Mapping[str, str]) -> bool:
    """Whether a file's names and metadata are a native adapter's."""
    return CONFIG in metadata or any(_KEY.fullmatch(name) for name in tensors)


def read(path: str | Path, weight_of: WeightOf | None = None) -> LowRankAdapter:
    """The adapter of a native file, its rows in diffusers' order.

    Parameters
    ----------
    path : str or Path
    weight_of : the base model's weights
        The -xs types need them where the file has no U and V; baked norms are held against them.

    Raises
    ------
    CheckpointError
        Unreadable or not finite; another adapter type; or tensors that are unknown, missing, of another rank, or of a
        part that has no adapter here; or baked norms of another base model.
    NeedsBaseError
        An -xs file without U and V, and no weights.
    """
    tensors, metadata = read_file(path)
    layers = _by_layer(tensors, path)
    config = _config(metadata, layers, path)
    rank, alpha, kind = int(config["rank"]), float(config["alpha"]), config["adapter_type"]
    made: dict[str, Factors] = {}
    for native, parts in layers.items():
        optional = {_BAKED} if "magnitude" in _PARTS[kind] else set()
        optional |= {"U", "V"} if kind.endswith("-xs") else set()
        if not _PARTS[kind] <= set(parts) <= _PARTS[kind] | optional:
            raise CheckpointError(
                f"'{native}' in {path} has {', '.join(sorted(parts))}, and the adapter type '{kind}' needs "
                f"{', '.join(sorted(_PARTS[kind]))}; the file is damaged, or of another type than it says."
            )
        layer = keys.layer_from_native(native)
        if layer is None:
            raise CheckpointError(
                f"{path} adapts '{native}'; adapters of the transformer (model.…) and of the duration embedder "
                f"({keys.NATIVE_DURATION}) "
                "are read."
            )
        factors = parts if not kind.endswith("-xs") else parts | _expand(parts, layer, native, path, weight_of)
        made[layer] = _factors(factors, layer, rank, path)
        if _BAKED in parts and weight_of is not None:
            _check_baked(parts[_BAKED], made[layer], alpha / rank, layer, weight_of(layer), path)
    others = {name: value for name, value in config.items() if name not in (*_FIELDS, _BAKED_COUNT, _BAKED_BASE)}
    beside = {name: text for name, text in metadata.items() if name not in (CONFIG, STAMP) and "baked" not in name}
    native_config = {"include": None, "exclude": None, **others, **({"metadata": beside} if beside else {})}
    stamp = read_metadata_object(metadata, STAMP, path)
    return LowRankAdapter(made, rank, alpha, float(config.get("dropout") or 0.0), stamp, native_config)


def _expand(
    parts: Mapping[str, torch.Tensor], layer: str, native: str, path: str | Path, weight_of: WeightOf | None
) -> dict[str, torch.Tensor]:
    """`lora_A` and `lora_B`, rows in the native order, of an -xs layer."""
    core = parts["M_xs"].float()
    if core.ndim != 2 or core.shape[0] != core.shape[1]:
        raise CheckpointError(
            f"'{native}' in {path} has M_xs of {list(core.shape)}, and a square is needed; the file is damaged."
        )
    rank = core.shape[0]
    if "U" in parts and "V" in parts:
        u, v = parts["U"].float(), parts["V"].float()
        if u.ndim != 2 or v.ndim != 2 or u.shape[1] != rank or v.shape[1] != rank:
            raise CheckpointError(
                f"'{native}' in {path} has U and V of {list(u.shape)} and {list(v.shape)} around M_xs of "
                f"{list(core.shape)}; the file "
                "is damaged."
            )
    elif weight_of is None:
        raise NeedsBaseError(f"{path} is of an -xs type, whose U and V are the base model's; give --model.")
    else:
        weight = weight_of(layer).flatten(1).float()
        left, _, right = torch.linalg.svd(keys.rows_to_native(layer, weight, weight.shape[1]), full_matrices=False)
        largest = left.gather(0, left.abs().argmax(dim=0, keepdim=True))[0]
        signs = torch.where(largest < 0, -1.0, 1.0)
        u, v = (left * signs)[:, :rank], (right * signs[:, None])[:rank].T
    return {"lora_A": v.T.contiguous(), "lora_B": u @ core}


def _baked(factors: Factors, scale: float, layer: str, weight: torch.Tensor) -> torch.Tensor:
    """‖V‖ of each row [shape=(out,), float64], in diffusers' order."""
    v = weight.flatten(1).double() + scale * (factors.b.double() @ factors.a.double())
    return v.norm(dim=1)


def _check_baked(
    baked: torch.Tensor, factors: Factors, scale: float, layer: str, weight: torch.Tensor, path: str | Path
) -> None:
    shape = (factors.b.shape[0], factors.a.shape[1])
    if baked.numel() != shape[0] or tuple(weight.flatten(1).shape) != shape:
        raise CheckpointError(
            f"{path} does not fit this model: '{layer}' has {baked.numel()} baked norms for a weight of "
            f"{list(weight.shape)}."
        )
    theirs = keys.rows_to_diffusers(layer, baked.flatten().double(), shape[1])
    ours = _baked(factors, scale, layer, weight)
    off = float(((theirs - ours).abs() / ours.clamp_min(1e-12)).max())
    if off > _OFF:
        raise CheckpointError(
            f"the norms baked into {path} are of another base model: those of '{layer}' are off by up to {off:.1%}; "
            "give the model "
            "that the file was made for, or one without baked norms."
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
    config = read_metadata_object(metadata, CONFIG, path)
    first = next(iter(layers.values()))
    kind = config.setdefault("adapter_type", "lora")
    if not isinstance(kind, str) or kind not in _PARTS:
        raise CheckpointError(
            f"{path} is an adapter of the type '{kind}'; the types {', '.join(_PARTS)} are read: train one of those."
        )
    core = first.get("M_xs" if kind.endswith("-xs") else "lora_A")
    if config.get("rank") is None:
        config["rank"] = int(core.shape[0]) if core is not None and core.ndim else 0
    config["alpha"] = config["rank"] if config.get("alpha") is None else config["alpha"]
    numbers = {name: config.get(name) or 0 for name in ("rank", "alpha", "dropout")}
    wrong = [name for name, value in numbers.items() if type(value) not in (int, float) or not math.isfinite(value)]
    if not wrong:
        wrong = [name for name in ("rank", "alpha") if not numbers[name] > 0] + ["rank"] * (
            int(config["rank"]) != config["rank"]
        )
    patterns = [config.get(name) or [] for name in ("include", "exclude")]
    if wrong or not all(
        isinstance(part, str) for part in chain(*(p if isinstance(p, list) else [0] for p in patterns))
    ):
        name = wrong[0] if wrong else "include or exclude"
        raise CheckpointError(
            f"{path} has a {CONFIG} that cannot be read ({name} is {repr(config.get(name))[:60]}); fetch the file "
            "again."
        )
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


def write(path: str | Path, adapter: LowRankAdapter, precision: str = "fp16", baked_of: WeightOf | None = None) -> int:
    """Writes a native file and returns the number of its tensors.

    Parameters
    ----------
    precision : "fp16" or "fp32"
    baked_of : the base model's weights, or None
        With them ‖V‖ of every row is written beside DoRA's factors, of the factors as they are stored.

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
        if baked_of is not None and factors.magnitude is not None:
            weight = baked_of(layer)
            made = replace(factors, b=keys.rows_to_diffusers(layer, factors.b, factors.a.shape[1]))
            norms = keys.rows_to_native(layer, _baked(made, adapter.scale, layer, weight), factors.a.shape[1])
            tensors[f"{prefix}{_BAKED}"] = norms.float()
    config = _native_config(adapter)
    if baked_of is not None:
        base = adapter.stamp.get("base_identity") or adapter.native.get("base_model") or "unknown"
        config |= {_BAKED_COUNT: sum(name.endswith(_BAKED) for name in tensors), _BAKED_BASE: base}
    metadata = {**adapter.native.get("metadata", {}), CONFIG: json.dumps(config)}
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
    layers = list(layers)
    table = host_names.table_for("sa3", layers)
    return {layer: str(table.to_host(layer)) for layer in layers}


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
        **{"include": None, "exclude": None},
        **{name: value for name, value in patterns.items() if name != "metadata"},
    }


def layer_patterns(natives: Iterable[str]) -> list[str]:
    """Native layer names, those of consecutive blocks joined as `layers.[0-23].`: Stability's loader expands the
    brackets."""
    block = re.compile(r"^(.*\.layers\.)(\d+)(\..*)$")
    blocks: dict[tuple[str, str], list[int]] = {}
    for native in sorted(natives):
        match = block.match(native)
        blocks.setdefault((match[1], match[3]) if match else (native, ""), []).extend([int(match[2])] if match else [])
    patterns = []
    for (before, after), numbers in blocks.items():
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
