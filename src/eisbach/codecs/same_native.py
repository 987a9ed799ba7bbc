"""Stability's SAME checkpoints, converted in memory to diffusers' `AutoencoderSAME`: configuration and keys.

Facts from Stability's stable-audio-3 (`models/autoencoders.py`, `bottleneck.py`, `pretransforms.py`). Its code adds a
little noise to new tokens and to decoded latents; diffusers' class adds none, so coding is deterministic here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from eisbach.errors import CheckpointError
from eisbach.stable_audio3_keys import qkv_rows_to_diffusers as qkv_rows_to_diffusers
from eisbach.stable_audio3_keys import qkv_rows_to_native as qkv_rows_to_native

PREFIX = "pretransform.model."
"""Where a full Stable Audio 3 checkpoint keeps its autoencoder; a checkpoint of SAME alone has no prefix."""

CHUNK_OPTIONS = ("chunk_size", "chunk_midpoint_shift", "encoder_chunk_size")
"""Options in a `vae/config.json` that diffusers' class does not have: ours for SAME-S, and one that its converter
wrote."""

# What the native classes do by default, and diffusers' class always: anything else in these options is another network.
_FIXED: dict[str, Any] = {
    "dyt": True,
    "conformer": False,
    "layer_scale": False,
    "feat_scale": False,
    "cross_attn": False,
    "conv_mapping": False,
    "mapping_bias": True,
    "causal": False,
}
_SHARED = ("channels", "c_mults", "strides", "transformer_depths", "latent_dim")
_SHARED_DEFAULTS: dict[str, Any] = {
    "dim_heads": 128,
    "differential": True,
    "ff_mult": 3,
    "sliding_window": None,
    "chunk_size": 128,
    "chunk_midpoint_shift": False,
}


def autoencoder_config(values: Mapping[str, Any], sample_rate: int, source: str) -> dict[str, Any]:
    """`AutoencoderSAME`'s options, with `chunk_size` and `chunk_midpoint_shift` beside them where there is no sliding
    window.

    Parameters
    ----------
    values : the native autoencoder's configuration (`encoder`, `decoder`, `bottleneck`, `pretransform`, ...)
    sample_rate : int
        Hz.
    source : str
        What to call the origin in errors.

    Raises
    ------
    CheckpointError
        An option is missing, or asks for something that diffusers' class does not compute.
    """
    try:
        encoder, decoder = dict(values["encoder"]["config"]), dict(values["decoder"]["config"])
        patch, bottleneck = dict(values["pretransform"]["config"]), dict(values["bottleneck"].get("config") or {})
        kinds = {part: values[part].get("type") for part in ("encoder", "decoder", "pretransform", "bottleneck")}
        shared = {name: _same(encoder, decoder, name, source) for name in _SHARED}
        shared |= {name: _same(encoder, decoder, name, source, value) for name, value in _SHARED_DEFAULTS.items()}
        patch_size, channels = int(patch["patch_size"]), int(patch["channels"])
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the autoencoder's configuration in {source} is not complete ({error!r} is missing or malformed); fetch "
            "model_config.json again."
        ) from error
    if kinds != {"encoder": "same", "decoder": "same", "pretransform": "patched", "bottleneck": "softnorm"}:
        raise CheckpointError(
            f"the autoencoder in {source} is {kinds}; a SAME autoencoder (encoder and decoder 'same', pretransform "
            "'patched', bottleneck 'softnorm') is expected."
        )
    _refuse(encoder, decoder, patch, bottleneck, values, source)
    window = shared["sliding_window"]
    if window is not None and len(set(window)) != 1:
        raise CheckpointError(f"the sliding window {window} in {source} is not symmetric, which is not supported.")
    config = {
        "audio_channels": channels,
        "patch_size": patch_size,
        "encoder_channels": shared["channels"],
        "encoder_c_mults": list(shared["c_mults"]),
        "encoder_strides": list(shared["strides"]),
        "encoder_transformer_depths": list(shared["transformer_depths"]),
        "latent_dim": shared["latent_dim"],
        "use_differential_attention": bool(shared["differential"]),
        "dim_heads": shared["dim_heads"],
        "ff_mult": shared["ff_mult"],
        "sliding_window": 1 if window is None else window[0],
        "encoder_sinusoidal_blocks": [0] * len(shared["strides"]),
        "decoder_sinusoidal_blocks": list(decoder.get("sinusoidal_blocks") or [0] * len(shared["strides"])),
        "sampling_rate": sample_rate,
    }
    if window is None:
        config |= {"chunk_size": shared["chunk_size"], "chunk_midpoint_shift": bool(shared["chunk_midpoint_shift"])}
    return config


def _same(encoder: Mapping[str, Any], decoder: Mapping[str, Any], name: str, source: str, default: Any = None) -> Any:
    if name not in _SHARED_DEFAULTS and not (name in encoder and name in decoder):
        raise KeyError(name)
    mine, theirs = encoder.get(name, default), decoder.get(name, default)
    if mine != theirs:
        raise CheckpointError(
            f"the autoencoder in {source} has {name} {mine} in its encoder and {theirs} in its decoder; diffusers' "
            "class has one value for both."
        )
    return mine


def _refuse(
    encoder: Mapping[str, Any],
    decoder: Mapping[str, Any],
    patch: Mapping[str, Any],
    bottleneck: Mapping[str, Any],
    values: Mapping[str, Any],
    source: str,
) -> None:
    """Raises for options that change what is computed and that diffusers' class does not have."""
    wrong = [
        f"{side}.{name} = {part[name]!r}"
        for side, part in (("encoder", encoder), ("decoder", decoder))
        for name, expected in _FIXED.items()
        if name in part and bool(part[name]) != expected
    ]
    wrong += [f"encoder.sinusoidal_blocks = {encoder['sinusoidal_blocks']!r}"] if "sinusoidal_blocks" in encoder else []
    wrong += [f"pretransform.oversampling = {patch['oversampling']}"] if patch.get("oversampling", 1) != 1 else []
    wrong += ["pretransform.postfilter_channels > 0"] if patch.get("postfilter_channels") else []
    wrong += ["bottleneck.noise_augment_dim > 0"] if bottleneck.get("noise_augment_dim") else []
    wrong += ["decoder.soft_clip"] if values["decoder"].get("soft_clip") else []
    if wrong:
        raise CheckpointError(
            f"the autoencoder in {source} uses {', '.join(wrong)}, which diffusers' AutoencoderSAME does not compute."
        )


_BLOCK = (
    (re.compile(r"\.pre_norm\."), ".norm_attn."),
    (re.compile(r"\.self_attn\."), ".attn."),
    (re.compile(r"\.ff_norm\."), ".norm_ff."),
    (re.compile(r"\.ff\.ff\.0\.proj\."), ".ff.proj_in."),
    (re.compile(r"\.ff\.ff\.2\."), ".ff.proj_out."),
)


def _autoencoder_key(name: str, levels: int) -> str | None:
    """Diffusers' name of a native autoencoder tensor; None for what diffusers recomputes; the name itself when unknown.

    Parameters
    ----------
    name : str
        Without `PREFIX`.
    levels : int
        Number of resampling blocks: the encoder's layers are the blocks, a transpose and a projection; the decoder's a
        transpose, a projection, a transpose and the blocks.
    """
    if name.endswith(".rope.inv_freq"):
        return None  # computed from the head width
    if name == "bottleneck.scaling_factor":
        return "bottleneck.scale"
    layer = re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(.+)", name)
    if layer is None:
        return name
    side, index, rest = layer[1], int(layer[2]), layer[3]
    if index == (levels + 1 if side == "encoder" else 1):
        return f"{side}.proj.{rest}"
    block = index if side == "encoder" else index - 3
    rest = f".{rest}"
    for pattern, replacement in _BLOCK:
        rest = pattern.sub(replacement, rest)
    return f"{side}.blocks.{block}{rest}"


def autoencoder_state(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Diffusers' state of native autoencoder tensors (names without `PREFIX`)."""
    levels, state = len(config["encoder_strides"]), {}
    for name, tensor in tensors.items():
        key = _autoencoder_key(name, levels)
        if key is None or (name == "bottleneck.noise_scaling_factor" and tensor.numel() == 0):
            continue
        if config["use_differential_attention"] and key.endswith("attn.to_qkv.weight"):
            tensor = qkv_rows_to_diffusers(tensor)
        state[key] = tensor
    # Without automatic scaling the native bottleneck has no running deviation: dividing by 1 is the same.
    state.setdefault("bottleneck.running_std", torch.ones(1))
    return state
