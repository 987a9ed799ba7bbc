"""Stability's Stable Audio 3 checkpoints, converted in memory to diffusers' classes: configuration and keys.

A native folder holds `model_config.json`, `model.safetensors` (or its shards) and the text encoder's folder. Facts from
Stability's stable-audio-3 (`models/dit.py`, `transformer.py`, `conditioners.py`, `factory.py`). Nothing is guessed: an
option that diffusers' classes do not compute, and a tensor without a counterpart, are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eisbach.codecs.same_native import PREFIX as CODEC_PREFIX
from eisbach.errors import CheckpointError
from eisbach.pretrained import check_sizes, read_object
from eisbach.stable_audio3_keys import NATIVE_DURATION, NATIVE_TRANSFORMER, rows_to_diffusers, transformer_key
from eisbach.tensor_files import read_weights

CONFIG = "model_config.json"
_DIT = f"model.{NATIVE_TRANSFORMER}"
_PADDING = "conditioner.conditioners.prompt.padding_embedding"
_TEXT = "conditioner.conditioners.prompt.model."
_SECONDS = f"conditioner.{NATIVE_DURATION}."
_HUB_TEXT_ENCODER = "google/t5gemma-b-b-ul2"

_TRAINED_SHIFT = {
    "type": "full",
    "base_shift": 0.5,
    "max_shift": 1.15,
    "min_length": 256,
    "max_length": 4096,
    "use_sine": False,
}
"""Stability's shift of training's noise levels by the clip's length, with its defaults: what `trunc_logit_normal`
draws."""

OBJECTIVES = {"rectified_flow": False, "rf_denoiser": True}
"""Objectives that can be loaded, and whether they mean a distilled model."""

# Options that change the network, with the only value that diffusers' StableAudio3DiTModel computes (None: absent).
_DIT_FIXED: dict[str, tuple[Any, ...]] = {
    "global_cond_type": ("adaLN",),
    "timestep_features_type": ("expo",),
    "timestep_cond_type": ("global", None),
    "transformer_type": ("continuous_transformer", None),
    "norm_type": ("rms_norm",),
    "patch_size": (1, None),
    "project_cond_tokens": (True, None),
    "project_global_cond": (True, None),
}
_DIT_READ = {
    "io_channels",
    "embed_dim",
    "depth",
    "num_heads",
    "cond_token_dim",
    "global_cond_dim",
    "local_add_cond_dim",
    "timestep_features_dim",
    "num_memory_tokens",
    "attn_kwargs",
    "ff_kwargs",
    "norm_kwargs",
    "rotary_pos_emb",
    "zero_init_branch_outputs",  # only how weights start
    "final_cross_attn_ix",
}


@dataclass(frozen=True)
class NativeModel:
    """A native checkpoint, read and converted.

    Attributes
    ----------
    transformer_config, duration_config : dict
        Options of `StableAudio3DiTModel` and `StableAudio3DurationEmbedder`.
    transformer, duration : dict of tensors
        Their states, by diffusers' names.
    text_tensors : dict of tensors
        The text encoder's, where the checkpoint carries them; empty as a rule.
    text_sources : list of str
        Folders (inside the checkpoint's, or absolute) and hub ids to look for the text encoder in, in this order.
    max_tokens : int
        Text tokens that the transformer reads.
    sample_rate, samples_per_frame : int
        Of the autoencoder: Hz, and audio samples a latent frame.
    distilled : bool
    max_seconds : float or None
        The longest clip by the configuration's `sample_size`; None where it has none.
    """

    transformer_config: dict[str, Any]
    duration_config: dict[str, Any]
    transformer: dict[str, torch.Tensor]
    duration: dict[str, torch.Tensor]
    text_tensors: dict[str, torch.Tensor]
    text_sources: list[str]
    max_tokens: int
    sample_rate: int
    samples_per_frame: int
    distilled: bool
    max_seconds: float | None


def read_native(folder: str | Path) -> NativeModel:
    """The model of a native folder, without its autoencoder (see `eisbach.codecs.same`).

    Raises
    ------
    CheckpointError
        Another kind of model, options that are not supported, missing or truncated files, or a tensor that belongs to
        no part of the model.
    """
    folder = Path(folder)
    source = str(folder / CONFIG)
    values = read_object(folder / CONFIG, "model configuration")
    check_sizes(values, folder / CONFIG)
    model, diffusion, objective = _check_kind(values, source)
    prompt, seconds = _conditioners(model, diffusion, source)
    transformer_config = _transformer_config(diffusion.get("config"), source)
    tensors = read_weights(folder, wanted=lambda name: not name.startswith(CODEC_PREFIX))
    transformer, duration, text = _sort_tensors(tensors, transformer_config["embed_dim"], folder)
    if prompt.get("padding_mode", "zero") == "zero":
        # The native code zeroes padded positions in this mode: a padding embedding of zeros is the same.
        transformer.setdefault("prompt_padding_embedding", torch.zeros(transformer_config["cond_token_dim"]))
    try:
        autoencoder = model["pretransform"]["config"]
        samples_per_frame, sample_rate = int(autoencoder["downsampling_ratio"]), int(values["sample_rate"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source} does not say the autoencoder's rate ({error!r}); fetch it again.") from error
    linear = duration.get("linear.weight")
    return NativeModel(
        transformer_config=transformer_config,
        duration_config={
            "output_dim": transformer_config["global_cond_dim"],
            "fourier_dim": int(linear.shape[1]) if linear is not None and linear.ndim == 2 else 256,
            "min_val": float(seconds.get("min_val", 0)),
            "max_val": float(seconds.get("max_val", 1)),
        },
        transformer=transformer,
        duration=duration,
        text_tensors=text,
        text_sources=_text_sources(prompt),
        max_tokens=int(prompt.get("max_length", 128)),
        sample_rate=sample_rate,
        samples_per_frame=samples_per_frame,
        distilled=OBJECTIVES[objective],
        max_seconds=_max_seconds(values, sample_rate, source),
    )


def _max_seconds(values: Mapping[str, Any], sample_rate: int, source: str) -> float | None:
    samples = values.get("sample_size")
    if samples is None:
        return None
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
        raise CheckpointError(f"{source} has the sample_size {samples!r}, no number of samples; fetch it again.")
    return samples / sample_rate


def _sort_tensors(
    tensors: Mapping[str, torch.Tensor], width: int, folder: Path
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The tensors of the transformer (named and laid out as diffusers does), the duration embedder and the text
    encoder; a `CheckpointError` for one that belongs to none of them."""
    transformer: dict[str, torch.Tensor] = {}
    duration: dict[str, torch.Tensor] = {}
    text: dict[str, torch.Tensor] = {}
    strangers = []
    for name, tensor in tensors.items():
        if name.startswith(_DIT):
            key = transformer_key(name.removeprefix(_DIT))
            transformer[key] = rows_to_diffusers(key, tensor, width)
        elif name == _PADDING:
            transformer["prompt_padding_embedding"] = tensor
        elif name.startswith(_SECONDS):
            duration[f"linear.{name.removeprefix(_SECONDS)}"] = tensor
        elif name.startswith(_TEXT):
            text[name.removeprefix(_TEXT)] = tensor
        else:
            strangers.append(name)
    if strangers:
        raise CheckpointError(
            f"{len(strangers)} of {len(tensors)} tensors in {folder} belong to no part of a Stable Audio 3 model "
            f"(first: {', '.join(sorted(strangers)[:3])}); the checkpoint is of another model or of a version that is "
            "not supported."
        )
    return transformer, duration, text


def _check_kind(values: Any, source: str) -> tuple[Mapping[str, Any], Mapping[str, Any], str]:
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind != "diffusion_cond_inpaint":
        raise CheckpointError(
            f"{source} describes a model of the type {kind!r}; Stable Audio 3 models have the type "
            "'diffusion_cond_inpaint'."
        )
    model = values.get("model")
    diffusion = model.get("diffusion") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(diffusion, dict) or not isinstance(diffusion.get("config"), dict):
        raise CheckpointError(f"{source} does not describe a diffusion model; fetch it again.")
    objective = diffusion.get("diffusion_objective", "v")
    if objective not in OBJECTIVES or diffusion.get("type") != "dit":
        raise CheckpointError(
            f"the model in {source} is a '{diffusion.get('type')}' with the objective '{objective}'; Stable Audio 3 is "
            f"a 'dit' with one of: {', '.join(OBJECTIVES)}."
        )
    trained = diffusion.get("distribution_shift_options")
    if trained is not None and (not isinstance(trained, dict) or {**_TRAINED_SHIFT, **trained} != _TRAINED_SHIFT):
        raise CheckpointError(
            f"the model in {source} was trained with the noise levels of distribution_shift_options {trained}; only "
            f"{_TRAINED_SHIFT} is computed, so training it further would leave what it knows."
        )
    shift = diffusion.get("sampling_distribution_shift_options")
    if shift is not None and not isinstance(shift, dict):
        raise CheckpointError(f"{source} has sampling_distribution_shift_options {shift!r}; fetch it again.")
    if shift is not None and (
        shift.get("type") != "logsnr"
        or shift.get("rate", 1.0) != 0
        or (shift.get("anchor_logsnr", -6.2), shift.get("logsnr_end", 2.0)) != (-6.2, 2.0)
    ):
        raise CheckpointError(
            f"the model in {source} asks for the sampling schedule {shift}; only the log-SNR schedule from -6.2 to 2 "
            "at every length is supported."
        )
    return model, diffusion, str(objective)


def _conditioners(
    model: Mapping[str, Any], diffusion: Mapping[str, Any], source: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configurations of the text and the duration conditioner."""
    try:
        conditioners = {item["id"]: (item["type"], dict(item["config"])) for item in model["conditioning"]["configs"]}
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{source} does not describe its conditioning ({error!r}); fetch it again.") from error
    wiring = (
        list(diffusion.get("cross_attention_cond_ids") or []),
        list(diffusion.get("global_cond_ids") or []),
        list(diffusion.get("local_add_cond_ids") or []),
        list(diffusion.get("input_concat_ids") or []) + list(diffusion.get("prepend_cond_ids") or []),
        list(diffusion.get("modular_local_cond_configs") or []),
    )
    expected: tuple[list[Any], ...] = (
        ["prompt", "seconds_total"],
        ["seconds_total"],
        ["inpaint_mask", "inpaint_masked_input"],
        [],
        [],
    )
    kinds = {name: kind for name, (kind, _) in conditioners.items()}
    if wiring != expected or kinds != {"prompt": "t5gemma", "seconds_total": "number"}:
        raise CheckpointError(
            f"the conditioning in {source} is not Stable Audio 3's: conditioners {kinds}, cross-attention {wiring[0]}, "
            f"global {wiring[1]}, local {wiring[2]}, others {wiring[3] + wiring[4]}; expected prompt (t5gemma) and "
            "seconds_total (number) in cross-attention, seconds_total global and the inpainting pair local."
        )
    prompt, seconds = conditioners["prompt"][1], conditioners["seconds_total"][1]
    mode = prompt.get("padding_mode", "zero")
    features = seconds.get("fourier_features_type", "learned")
    if mode not in ("learned", "zero") or features != "expo":
        raise CheckpointError(
            f"the conditioning in {source} has the padding mode '{mode}' and the duration features '{features}'; "
            "padding 'learned' or 'zero' and features 'expo' are supported."
        )
    return prompt, seconds


def _transformer_config(values: Any, source: str) -> dict[str, Any]:
    """`StableAudio3DiTModel`'s options."""
    attention = dict(values.get("attn_kwargs") or {})
    feed_forward, norm = dict(values.get("ff_kwargs") or {}), dict(values.get("norm_kwargs") or {})
    wrong = [f"{name} = {values.get(name)!r}" for name, good in _DIT_FIXED.items() if values.get(name) not in good]
    # What the native class ignores or leaves off may stand in a configuration; what it would switch on may not.
    wrong += [
        f"{name} = {value!r}" for name, value in values.items() if name not in {*_DIT_READ, *_DIT_FIXED} and value
    ]
    wrong += [] if attention.get("qk_norm") == "rms" else [f"attn_kwargs.qk_norm = {attention.get('qk_norm')!r}"]
    wrong += [f"attn_kwargs.{name}" for name in attention.keys() - {"qk_norm", "differential"} if attention[name]]
    wrong += [f"ff_kwargs.{name}" for name in feed_forward.keys() - {"mult"} if feed_forward[name]]
    wrong += [f"norm_kwargs.{name}" for name in norm.keys() - {"force_fp32"} if norm[name]]
    wrong += ["rotary_pos_emb off"] if values.get("rotary_pos_emb", True) is not True else []
    wrong += ["final_cross_attn_ix"] if values.get("final_cross_attn_ix", -1) != -1 else []
    try:
        config = {
            name: int(values[name])
            for name in (
                "io_channels",
                "embed_dim",
                "depth",
                "num_heads",
                "cond_token_dim",
                "global_cond_dim",
                "local_add_cond_dim",
            )
        }
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the transformer's configuration in {source} lacks {error}; fetch it again.") from error
    if config["local_add_cond_dim"] != config["io_channels"] + 1:
        wrong.append(f"local_add_cond_dim = {config['local_add_cond_dim']} with io_channels = {config['io_channels']}")
    if config["cond_token_dim"] != config["global_cond_dim"]:
        wrong.append("cond_token_dim other than global_cond_dim")
    if wrong:
        raise CheckpointError(
            f"the transformer in {source} uses {', '.join(wrong)}, which diffusers' StableAudio3DiTModel does not "
            "compute."
        )
    return config | {
        "patch_size": 1,
        "timestep_features_dim": int(values.get("timestep_features_dim", 256)),
        "ff_mult": float(feed_forward.get("mult", 4)),
        "num_memory_tokens": int(values.get("num_memory_tokens", 0)),
        "use_differential_attention": bool(attention.get("differential", False)),
    }


def _text_sources(prompt: Mapping[str, Any]) -> list[str]:
    hub = str(prompt.get("repo_id") or prompt.get("model_name") or _HUB_TEXT_ENCODER)
    named = [
        prompt.get("model_path"),
        prompt.get("subfolder"),
        hub.rpartition("/")[2],
        "t5gemma-b-b-ul2",
        "text_encoder",
    ]
    return list(dict.fromkeys([*(str(name) for name in named if name), hub]))
