"""ComfyUI's generic keys: `diffusion_model.<layer as the host names it>.lora_A.weight`, `.lora_B.weight`, `.alpha`,
`.dora_scale`, `.diff`.

Facts from ComfyUI (`comfy/lora.py`, `comfy/weight_adapter/lora.py` and `base.py`), which computes, for a file loaded at
the strength σ,

- without `dora_scale`: ``W + σ (alpha / rank) B A``, or ``W + σ D`` for a `diff`;
- with `dora_scale` d of one entry a row: ``W + σ (V d / (‖W‖_row + eps) - W)`` with ``V = W + (alpha / rank) B A``. The
  norm is the base weight's, not V's, so DoRA's magnitude in its place would play another sound.

Two ways of writing DoRA give the sound it was trained for, and both need the base model: `diff`, the whole difference
W' - W (the size of the weights, whatever the arithmetic), or `scale`, the magnitude times ‖W‖ / ‖V‖ (small; exact while
ComfyUI computes in fp32). Its model keeps the duration embedder outside of what such files reach.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from eisbach import stable_audio3_keys as keys
from eisbach.adapters.formats import host_names
from eisbach.adapters.formats.low_rank import (
    PRECISIONS,
    Differences,
    Factors,
    LowRankAdapter,
    NeedsBaseError,
    WeightOf,
    adapted_weight,
    read_file,
    stored,
)
from eisbach.adapters.formats.sa3 import rows_from_native, rows_to_native
from eisbach.errors import CheckpointError, UserError
from eisbach.tensor_files import read_metadata_object, write_tensors

PREFIX = "diffusion_model."
STAMP = "eisbach"
DORA = ("diff", "scale")
_EPS = torch.finfo(torch.float32).eps
_PARTS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_down.weight": "a",
    ".lora_up.weight": "b",
    ".alpha": "alpha",
    ".dora_scale": "dora_scale",
    ".diff": "diff",
}


def unreachable(layers: Mapping[str, Any]) -> list[str]:
    """The layers that a ComfyUI file cannot carry although the model has them: Stable Audio 3's duration embedder."""
    return [layer for layer in layers if layer == keys.DURATION]


def _some(layers: Sequence[str]) -> str:
    """The layers' names, or the first and how many more."""
    return ", ".join(layers) if len(layers) <= 3 else f"{layers[0]} and {len(layers) - 1} more layers"


def write(
    path: str | Path,
    adapter: LowRankAdapter,
    *,
    weight_of: WeightOf | None = None,
    dora: str = "diff",
    strength: float = 1.0,
    precision: str = "fp16",
) -> int:
    """Writes a ComfyUI file and returns the number of its tensors.

    Parameters
    ----------
    weight_of : the base model's weights; DoRA needs them.
    dora : "diff" or "scale"
        How DoRA is written; means nothing to LoRA.
    strength : float
        Folded into the differences of DoRA as `diff`; scale LoRA beforehand (`low_rank.with_strength`).

    Raises
    ------
    UserError
        A layer that ComfyUI has no name for or does not reach, or DoRA without the base model.
    StorageError
        The disk is full or the folder is not writable.
    """
    outside = unreachable(adapter.layers)
    if outside:
        raise UserError(
            f"ComfyUI loads adapters of the transformer alone, and this one also changes {_some(outside)}; leave that "
            "out "
            "with --drop-conditioner (it will sound different), or train with adapter.exclude: [duration_embedder]."
        )
    table = host_names.table_for("comfyui", adapter.layers)
    tensors: dict[str, torch.Tensor] = {}
    for layer, factors in adapter.layers.items():
        prefix = f"{PREFIX}{table.to_host(layer)}"
        if factors.magnitude is None:
            made = _low_rank(layer, factors, adapter, precision)
        elif weight_of is None:
            raise UserError(
                "ComfyUI computes DoRA by another formula, so writing it needs the base model; give --model."
            )
        elif dora == "diff":
            made = _difference(layer, factors, adapter.scale, weight_of(layer), strength, precision)
        else:
            made = _scaled(layer, factors, adapter, weight_of(layer), factors.magnitude, precision)
        tensors |= {prefix + ending: tensor for ending, tensor in made.items()}
    metadata = {"format": "pt"} | ({STAMP: json.dumps(adapter.stamp, sort_keys=True)} if adapter.stamp else {})
    write_tensors(path, tensors, metadata)
    return len(tensors)


def _low_rank(layer: str, factors: Factors, adapter: LowRankAdapter, precision: str) -> dict[str, torch.Tensor]:
    rounded = stored(rows_to_native(layer, replace(factors, magnitude=None)), precision, layer)
    return {".lora_A.weight": rounded.a, ".lora_B.weight": rounded.b, ".alpha": torch.tensor(float(adapter.alpha))}


def _difference(
    layer: str, factors: Factors, scale: float, weight: torch.Tensor, strength: float, precision: str
) -> dict[str, torch.Tensor]:
    """W' - W in the native order of rows."""
    weight = weight.double()
    difference = strength * (adapted_weight(weight, factors, scale) - weight)
    rows = keys.rows_to_native(layer, difference, factors.a.shape[1])
    return {".diff": rows.to(PRECISIONS[precision]).contiguous()}


def _scaled(
    layer: str,
    factors: Factors,
    adapter: LowRankAdapter,
    weight: torch.Tensor,
    magnitude: torch.Tensor,
    precision: str,
) -> dict[str, torch.Tensor]:
    """Factors with the `dora_scale` by which ComfyUI's arithmetic gives DoRA.

    It is computed of the factors as they are stored and stays in fp32, so that it also mends what rounding did to V's
    norm.
    """
    made = _low_rank(layer, factors, adapter, precision)
    width = factors.a.shape[1]
    base = keys.rows_to_native(layer, weight.flatten(1).double(), width)
    v = base + adapter.scale * (made[".lora_B.weight"].double() @ made[".lora_A.weight"].double())
    ratio = (base.norm(dim=1) + _EPS) / v.norm(dim=1).clamp_min(1e-12)
    compensated = keys.rows_to_native(layer, magnitude.double(), width) * ratio
    return made | {".dora_scale": compensated.view(-1, *[1] * (weight.ndim - 1)).float()}


def is_comfyui(tensors: Mapping[str, Any]) -> bool:
    """Whether a file's names are ComfyUI's generic ones."""
    return any(name.startswith(PREFIX) for name in tensors)


def read(path: str | Path, weight_of: WeightOf | None = None) -> LowRankAdapter | Differences:
    """The adapter of a ComfyUI file, rows in diffusers' order.

    Raises
    ------
    CheckpointError
        Unreadable, not finite, unknown names, several ranks, or kinds of keys mixed.
    UserError
        A file with `dora_scale` without the base model.
    """
    tensors, metadata = read_file(path)
    layers: dict[str, dict[str, torch.Tensor]] = {}
    strangers = []
    for name, tensor in tensors.items():
        ending = next((ending for ending in _PARTS if name.endswith(ending)), None)
        if ending is None or not name.startswith(PREFIX):
            strangers.append(name)
            continue
        layer = host_names.layer_of("comfyui", name.removeprefix(PREFIX).removesuffix(ending))
        if layer is None:
            strangers.append(name)
            continue
        layers.setdefault(layer, {})[_PARTS[ending]] = tensor.float()
    if strangers:
        raise CheckpointError(
            f"{len(tensors) - len(strangers)} of {len(tensors)} tensors in {path} are LoRA, DoRA or differences of "
            "the diffusion model "
            f"(not: '{sorted(strangers)[0]}'); other kinds are not read."
        )
    stamp = read_metadata_object(metadata, STAMP, path)
    sets = {frozenset(parts) - {"alpha"} for parts in layers.values()}
    flat = [
        layer
        for layer, parts in layers.items()
        if any(parts[part].ndim < 2 for part in ("a", "b", "diff") if part in parts)
    ]
    if flat:
        raise CheckpointError(
            f"'{flat[0]}' in {path} has factors or differences that are no matrices; fetch the file again."
        )
    if sets == {frozenset({"diff"})}:
        made = {
            layer: keys.rows_to_diffusers(layer, parts["diff"], parts["diff"].flatten(1).shape[1])
            for layer, parts in layers.items()
        }
        return Differences(made, stamp)
    if sets not in ({frozenset("ab")}, {frozenset({"a", "b", "dora_scale"})}):
        raise CheckpointError(
            f"{path} mixes kinds of keys ({', '.join(sorted({part for parts in sets for part in parts}))}) or lacks "
            "some; factors for "
            "every layer, with or without dora_scale, or differences alone are read."
        )
    return _factors(layers, stamp, path, weight_of)


def _factors(
    layers: Mapping[str, Mapping[str, torch.Tensor]],
    stamp: dict[str, Any],
    path: str | Path,
    weight_of: WeightOf | None,
) -> LowRankAdapter:
    for layer, parts in layers.items():
        if min(parts["a"].ndim, parts["b"].ndim) < 2 or parts.get("alpha", parts["a"][0, 0]).numel() != 1:
            raise CheckpointError(
                f"'{layer}' in {path} has factors that are no matrices or several alphas; fetch the file again."
            )
    ranks = {int(parts["a"].shape[0]) for parts in layers.values()}
    alphas = {float(parts["alpha"]) if "alpha" in parts else float(parts["a"].shape[0]) for parts in layers.values()}
    if len(ranks) != 1 or len(alphas) != 1:
        raise CheckpointError(
            f"{path} has layers of several ranks {sorted(ranks)} or alphas {sorted(alphas)}; one is read."
        )
    rank, alpha = ranks.pop(), alphas.pop()
    if rank < 1 or any(parts["b"].shape[1] != rank for parts in layers.values()):
        raise CheckpointError(f"{path} has factors whose ranks do not meet; fetch the file again.")
    made = {}
    for layer, parts in layers.items():
        factors = Factors(parts["a"].flatten(1), parts["b"].flatten(1), convolution=layer in keys.CONVOLUTIONS)
        factors = rows_from_native(layer, factors)
        if "dora_scale" in parts:
            if weight_of is None:
                raise NeedsBaseError(
                    f"{path} holds DoRA as ComfyUI computes it; reading it needs the base model: give --model."
                )
            weight = weight_of(layer).flatten(1).double()
            if (*weight.shape, weight.shape[0]) != (
                factors.b.shape[0],
                factors.a.shape[1],
                parts["dora_scale"].numel(),
            ):
                raise CheckpointError(
                    f"{path} does not fit this model: '{layer}' is for a weight of "
                    f"{[factors.b.shape[0], factors.a.shape[1]]}, and the "
                    f"model's has {list(weight.shape)}."
                )
            v = weight + alpha / rank * (factors.b.double() @ factors.a.double())
            scale = keys.rows_to_diffusers(layer, parts["dora_scale"].flatten(), factors.a.shape[1])
            factors = replace(factors, magnitude=(scale * v.norm(dim=1) / (weight.norm(dim=1) + _EPS)).float())
        made[layer] = factors
    return LowRankAdapter(made, rank, alpha, stamp=stamp)
