"""An adapter by itself: factors and magnitudes by layer, whatever file they came from. Every format is read into it and
written from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eisbach.errors import CheckpointError, UserError
from eisbach.tensor_files import read_header, read_tensors

WeightOf = Callable[[str], torch.Tensor]
"""The base model's weight of a layer, in the layer's own shape."""

_MOST_AXES = 5

PRECISIONS = {"fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Factors:
    """One layer's update; the layer is linear, or a convolution over one frame.

    Attributes
    ----------
    a, b : torch.Tensor [shape=(rank, in)], [shape=(out, rank)]
    magnitude : torch.Tensor [shape=(out,)] or None
        DoRA's m: the norm that each row of the weight gets.
    convolution : bool
        The layer is a `Conv1d`; peft's files keep its last axis of 1.
    """

    a: torch.Tensor
    b: torch.Tensor
    magnitude: torch.Tensor | None = None
    convolution: bool = False


@dataclass(frozen=True)
class LowRankAdapter:
    """LoRA (``W' = W + s B A``) or DoRA (``W' = m V / ‖V‖_row`` with ``V = W + s B A``), ``s = alpha / rank``.

    Attributes
    ----------
    layers : dict of Factors
        By the layers' names in the network that is adapted (`Backbone.module`).
    rank : int
    alpha : float
    dropout : float
        Of the training; it changes nothing in playing.
    stamp : dict
        What the adapter was trained on; {} for one that was made elsewhere.
    native : dict
        Of a native file that this was read from, its `lora_config` beyond what the fields above say (include, exclude,
        step, epoch, base_model …) and, under "metadata", the texts beside it; {} otherwise.
    """

    layers: dict[str, Factors]
    rank: int
    alpha: float
    dropout: float = 0.0
    stamp: dict[str, Any] = field(default_factory=dict)
    native: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """ "lora" or "dora"."""
        return "dora" if any(factors.magnitude is not None for factors in self.layers.values()) else "lora"

    @property
    def scale(self) -> float:
        """s = alpha / rank."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class Differences:
    """``W' = W + D``: whole differences, as ComfyUI's `diff` keys hold them.

    Attributes
    ----------
    layers : dict of torch.Tensor [shape of the layer's weight]
    stamp : dict
    """

    layers: dict[str, torch.Tensor]
    stamp: dict[str, Any] = field(default_factory=dict)


def adapted_weight(weight: torch.Tensor, factors: Factors, scale: float) -> torch.Tensor:
    """W' [shape of the weight], computed in float64, in the weight's dtype."""
    v = weight.flatten(1).double() + scale * (factors.b.double() @ factors.a.double())
    if factors.magnitude is not None:
        # A row of zeros stays one: Stability's code adds 1e-12 to the norm.
        v = v * (factors.magnitude.double() / v.norm(dim=1).clamp_min(1e-12))[:, None]
    return v.view(weight.shape).to(weight.dtype)


class NeedsBaseError(UserError):
    """A file that means nothing without the base model's weights."""


def with_strength(adapter: LowRankAdapter, strength: float) -> LowRankAdapter:
    """The adapter that gives ``W + strength (W' - W)``: for LoRA, B times the strength.

    Raises
    ------
    UserError
        DoRA, whose weights between the base's and its own are not DoRA of the same rank.
    """
    if strength == 1.0:
        return adapter
    if adapter.kind == "dora":
        raise UserError(
            f"a DoRA adapter cannot be written at the strength {strength:g}: scaled DoRA is not DoRA; write it at 1 "
            "and set the "
            "strength where it plays, or use --merge, or --to comfyui with --dora diff."
        )
    layers = {name: replace(factors, b=factors.b * strength) for name, factors in adapter.layers.items()}
    return replace(adapter, layers=layers)


def check_fit(adapter: LowRankAdapter | Differences, module: nn.Module, source: str | Path) -> None:
    """Nothing, when every layer of the adapter is in the network and has the factors' shape.

    Raises
    ------
    CheckpointError
        One is not; the sentence counts them and names the first.
    """
    weights = {
        name: layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d))
    }
    unknown = sorted(adapter.layers.keys() - weights.keys())
    count = len(adapter.layers)
    if unknown or not count:
        raise CheckpointError(
            f"{count - len(unknown)} of the {count} layers in {source} are in this model"
            + (f" (it has no '{unknown[0]}')" if unknown else "")
            + "; the adapter is of another model."
        )
    for name, update in adapter.layers.items():
        weight = weights[name]
        flat = (weight.shape[0], math.prod(weight.shape[1:]))
        if isinstance(update, Factors):
            shape = (update.b.shape[0], update.a.shape[1])
        else:
            shape = (update.shape[0], math.prod(update.shape[1:]))
        if shape != flat:
            raise CheckpointError(
                f"{source} does not fit this model: '{name}' is for a weight of {list(shape)}, and the model's has "
                f"{list(flat)}; the adapter is of another model."
            )


def check_finite(tensors: Mapping[str, torch.Tensor], source: str | Path) -> None:
    """Refuses NaN and infinite values, and tensors that are no weights of a layer.

    Raises
    ------
    CheckpointError
        There are some; the sentence names the first.
    """
    strange = [name for name, tensor in tensors.items() if not tensor.is_floating_point() or tensor.ndim > _MOST_AXES]
    if strange:
        first = tensors[strange[0]]
        raise CheckpointError(
            f"'{strange[0]}' in {source} is of the type {str(first.dtype).removeprefix('torch.')} with {first.ndim} "
            "axes; adapters "
            f"hold floating-point numbers on at most {_MOST_AXES} axes: fetch the file again."
        )
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor.float()).all())]
    if broken:
        raise CheckpointError(
            f"{len(broken)} of {len(tensors)} tensors in {source} are not finite (first: {broken[0]}), so the adapter "
            "cannot be "
            "played; use an earlier one."
        )


def stored(factors: Factors, precision: str, layer: str) -> Factors:
    """The factors in a file's precision, the product B A changed as little as possible.

    Half precision loses small numbers, and B starts at zero. Where rounding would change a factor, a power of two moves
    between A and B first, so that both are of one size: their product stays the same, and neither underflows.

    Raises
    ------
    CheckpointError
        A value beyond what the precision holds.
    """
    dtype = PRECISIONS[precision]
    a, b = factors.a.float(), factors.b.float()
    exact = all(torch.equal(value.to(dtype).float(), value) for value in (a, b))
    if not exact and bool(a.any()) and bool(b.any()):
        shift = round(0.5 * math.log2(float(a.abs().max()) / float(b.abs().max())))
        a, b = a * 2.0**-shift, b * 2.0**shift
    magnitude = None if factors.magnitude is None else factors.magnitude.to(dtype).contiguous()
    made = replace(factors, a=a.to(dtype).contiguous(), b=b.to(dtype).contiguous(), magnitude=magnitude)
    values = [made.a, made.b] + ([] if made.magnitude is None else [made.magnitude])
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise CheckpointError(
            f"the adapter's weights for '{layer}' are beyond {precision}'s range; use --precision fp32."
        )
    return made


def is_exact(adapter: LowRankAdapter, precision: str) -> bool:
    """Whether a file of this precision holds every number of the adapter as it is."""
    dtype = PRECISIONS[precision]
    values = [value for factors in adapter.layers.values() for value in (factors.a, factors.b, factors.magnitude)]
    return all(torch.equal(value.to(dtype).to(value.dtype), value) for value in values if value is not None)


def rounding(adapter: LowRankAdapter, weight_of: WeightOf | None, precision: str) -> float:
    """What a file's precision changes: ``‖W'_stored - W'‖ / ‖W' - W‖`` over all layers, in float64; of LoRA W is not
    needed.

    DoRA's magnitudes are about as large as the rows of the weight, and half precision keeps 11 bits of them: the
    smaller the update, the larger the share of it that is lost.
    """
    lost = moved = 0.0
    for layer, factors in adapter.layers.items():
        if weight_of is None:
            weight = torch.zeros(factors.b.shape[0], factors.a.shape[1], dtype=torch.float64)
        else:
            weight = weight_of(layer).double()
        meant = adapted_weight(weight, factors, adapter.scale)
        made = adapted_weight(weight, stored(factors, precision, layer), adapter.scale)
        lost += float((made - meant).square().sum())
        moved += float((meant - weight).square().sum())
    return math.sqrt(lost / moved) if moved else 0.0


def read_file(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises
    ------
    CheckpointError
        Missing, truncated, of another format, empty, or with values that are not finite.
    """
    tensors = read_tensors(path)
    if not tensors:
        raise CheckpointError(f"{path} holds no weights.")
    check_finite(tensors, path)
    return tensors, read_header(path).metadata
