"""Names of Stable Audio 3's layers in Stability's code and in diffusers' classes, and the order of their rows.

One table, for checkpoints (`backbones.stable_audio3_native`) and for adapters (`adapters.formats`). Facts from
Stability's stable-audio-3 (`models/dit.py`, `transformer.py`, `conditioners.py`) and diffusers' `StableAudio3DiTModel`.
"""

from __future__ import annotations

import re

import torch

TRANSFORMER, DURATION = "transformer.", "duration_embedder.linear"
"""Where `StableAudio3Model` keeps the transformer, and its duration embedder's only layer."""

NATIVE_TRANSFORMER = "model."
NATIVE_DURATION = "conditioners.seconds_total.embedder.embedding.1"
"""The same two in native adapter files; checkpoints put `model.` before the first and `conditioner.` before the
second."""

CONVOLUTIONS = ("transformer.preprocess_conv", "transformer.postprocess_conv")
"""Convolutions over one frame; every other adapted layer is linear."""

_BLOCK = re.compile(r"^transformer\.layers\.(?=\d)"), re.compile(r"^transformer_blocks\.(?=\d)")
_PREFIXES = {
    "transformer.project_in": "proj_in",
    "transformer.project_out": "proj_out",
    "transformer.memory_tokens": "memory_tokens",
    "transformer.rotary_pos_emb": "rotary_pos_emb",
    "transformer.global_cond_embedder": "global_cond_embedder",
}
_INNER = {".ff.ff.0.proj": ".ff.proj_in", ".ff.ff.2": ".ff.proj_out"}


def transformer_key(native: str) -> str:
    """Diffusers' name of a native transformer tensor or layer (both relative to the transformer); unknown names stay
    themselves."""
    name = _BLOCK[0].sub("transformer_blocks.", native)
    return _replace(name, _PREFIXES, _INNER)


def _native_transformer_key(name: str) -> str:
    """The inverse of `transformer_key`."""
    native = _BLOCK[1].sub("transformer.layers.", name)
    return _replace(native, _inverse(_PREFIXES), _inverse(_INNER))


def layer_from_native(native: str) -> str | None:
    """A layer's name in `StableAudio3Model` from its name in a native adapter file; None for a layer of another
    part."""
    if native == NATIVE_DURATION:
        return DURATION
    if native.startswith(NATIVE_TRANSFORMER):
        return TRANSFORMER + transformer_key(native.removeprefix(NATIVE_TRANSFORMER))
    return None


def layer_to_native(layer: str) -> str | None:
    """The inverse of `layer_from_native`."""
    if layer == DURATION:
        return NATIVE_DURATION
    if layer.startswith(TRANSFORMER):
        return NATIVE_TRANSFORMER + _native_transformer_key(layer.removeprefix(TRANSFORMER))
    return None


def rows_to_diffusers(layer: str, rows: torch.Tensor, width: int) -> torch.Tensor:
    """A native layer's rows in diffusers' order: only fused differential self-attention has another.

    Parameters
    ----------
    layer : str
        Its name; with or without `.weight`, in either code.
    rows : torch.Tensor [shape=(out, ...)]
        A weight, a low-rank factor B or a magnitude.
    width : int
        The layer's inputs: the projection is differential where it has five times as many outputs.
    """
    return qkv_rows_to_diffusers(rows) if _is_differential(layer, rows, width) else rows


def rows_to_native(layer: str, rows: torch.Tensor, width: int) -> torch.Tensor:
    """The inverse of `rows_to_diffusers`."""
    return qkv_rows_to_native(rows) if _is_differential(layer, rows, width) else rows


def qkv_rows_to_diffusers(rows: torch.Tensor) -> torch.Tensor:
    """Rows [q | k | v | q2 | k2] of a fused differential projection in diffusers' order [q1 | q2 | k1 | k2 | v].

    Works on anything whose first axis is those rows: weights, a low-rank factor B, magnitudes.
    """
    q, k, v, q2, k2 = rows.chunk(5, dim=0)
    return torch.cat([q, q2, k, k2, v])


def qkv_rows_to_native(rows: torch.Tensor) -> torch.Tensor:
    """The inverse of `qkv_rows_to_diffusers`."""
    q, q2, k, k2, v = rows.chunk(5, dim=0)
    return torch.cat([q, k, v, q2, k2])


def _is_differential(layer: str, rows: torch.Tensor, width: int) -> bool:
    return layer.removesuffix(".weight").endswith("self_attn.to_qkv") and rows.shape[0] == 5 * width


def _replace(name: str, prefixes: dict[str, str], inner: dict[str, str]) -> str:
    for old, new in prefixes.items():
        if name == old or name.startswith(old + "."):
            return new + name.removeprefix(old)
    for old, new in inner.items():
        if name.endswith(old) or old + "." in name:
            return name.replace(old, new)
    return name


def _inverse(table: dict[str, str]) -> dict[str, str]:
    return {new: old for old, new in table.items()}
