"""Backbones: networks with their path, target and conditioning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eisbach.backbones.base import Backbone
from eisbach.config import build_config
from eisbach.errors import CheckpointError, UserError
from eisbach.files import read_json
from eisbach.tensor_files import foreign_files

if TYPE_CHECKING:
    from eisbach.codecs.base import Codec
    from eisbach.codecs.image_base import ImageCodec

__all__ = ["BACKBONES", "Backbone", "create_backbone", "load_backbone", "load_codec_of", "load_image_codec_of"]


def _tiny_create(values: Mapping[str, Any], seed: int) -> Backbone:
    from eisbach.backbones.tiny import TinyMusicBackbone, TinyMusicConfig

    return TinyMusicBackbone(build_config(TinyMusicConfig, values, "the backbone's configuration"), seed=seed)


def _tiny_load(folder: Path) -> Backbone:
    from eisbach.backbones.tiny import TinyMusicBackbone

    return TinyMusicBackbone.load(folder)


def _native_load(folder: Path) -> Backbone:
    from eisbach.backbones.stable_audio3 import load_native

    return load_native(folder)


def _diffusers_load(folder: Path) -> Backbone:
    from eisbach.backbones.stable_audio3 import load_diffusers

    return load_diffusers(folder)


def _stable_audio_open_load(folder: Path) -> Backbone:
    from eisbach.backbones.stable_audio_open import load_stable_audio_open

    return load_stable_audio_open(folder)


def _ace_step_load(folder: Path) -> Backbone:
    from eisbach.backbones.ace_step import load_ace_step

    return load_ace_step(folder)


def _pipeline_load(folder: Path) -> Backbone:
    from eisbach.backbones.pipeline_folder import pipeline_name

    name = pipeline_name(folder)
    if name not in PIPELINES:
        raise CheckpointError(
            f"{folder / 'model_index.json'} describes a {name}; of diffusers' pipelines these are read: "
            f"{', '.join(PIPELINES)}."
        )
    return PIPELINES[name](folder)


def _dit(values: Mapping[str, Any], seed: int) -> Backbone:
    from eisbach.backbones.dit import DiTBackbone

    return DiTBackbone.create(values, seed)


def _dit_load(folder: Path) -> Backbone:
    from eisbach.backbones.dit import DiTBackbone

    return DiTBackbone.load(folder)


def _uvit(values: Mapping[str, Any], seed: int) -> Backbone:
    from eisbach.backbones.uvit import UViTBackbone

    return UViTBackbone.create(values, seed)


def _uvit_load(folder: Path) -> Backbone:
    from eisbach.backbones.uvit import UViTBackbone

    return UViTBackbone.load(folder)


def _unet(values: Mapping[str, Any], seed: int) -> Backbone:
    from eisbach.backbones.unet import UNetBackbone

    return UNetBackbone.create(values, seed)


def _unet_load(folder: Path) -> Backbone:
    from eisbach.backbones.unet import UNetBackbone

    return UNetBackbone.load(folder)


def _dit_pipeline_load(folder: Path) -> Backbone:
    from eisbach.backbones.dit_pipeline import load_dit_pipeline

    return load_dit_pipeline(folder)


def _stable_diffusion_load(folder: Path) -> Backbone:
    from eisbach.backbones.stable_diffusion import load_stable_diffusion

    return load_stable_diffusion(folder)


def _edm2(values: Mapping[str, Any], seed: int) -> Backbone:
    from eisbach.backbones.edm2 import EDM2Backbone

    return EDM2Backbone.create(values, seed)


def _edm2_load(folder: Path) -> Backbone:
    from eisbach.backbones.edm2 import EDM2Backbone

    return EDM2Backbone.load(folder)


BACKBONES: dict[str, tuple[Callable[[Mapping[str, Any], int], Backbone], Callable[[Path], Backbone]]] = {
    "eisbach-tiny-music": (_tiny_create, _tiny_load),
    "dit": (_dit, _dit_load),
    "uvit": (_uvit, _uvit_load),
    "unet": (_unet, _unet_load),
    "edm2": (_edm2, _edm2_load),
}
"""For each format name: how to create one at random, how to load one from its folder."""

LAYOUTS: dict[str, Callable[[Path], Backbone]] = {
    "model_config.json": _native_load,
    "model_index.json": _pipeline_load,
}
"""Other people's folders: the file that tells the layout, and how to load it."""

PIPELINES: dict[str, Callable[[Path], Backbone]] = {
    "StableAudio3Pipeline": _diffusers_load,
    "StableAudio3InpaintPipeline": _diffusers_load,
    "StableAudio3Audio2AudioPipeline": _diffusers_load,
    "StableAudioPipeline": _stable_audio_open_load,
    "StableDiffusionPipeline": _stable_diffusion_load,
    "AceStepPipeline": _ace_step_load,
    "DiTPipeline": _dit_pipeline_load,
}
"""diffusers' pipelines, by the class that `model_index.json` names."""


def create_backbone(
    values: Mapping[str, Any] | None = None, *, kind: str = "eisbach-tiny-music", seed: int = 0
) -> Backbone:
    """A randomly initialised backbone; `values` override the defaults of its configuration.

    Raises
    ------
    UserError
        Unknown kind or configuration keys.
    """
    if kind not in BACKBONES:
        raise UserError(f"there is no backbone '{kind}'; known: {', '.join(sorted(BACKBONES))}.")
    return BACKBONES[kind][0](dict(values or {}), seed)


def load_backbone(name: str | Path = "embedded") -> Backbone:
    """The model that the package carries ("embedded"), the one in a folder, or one of the Hugging Face hub ("owner/name").

    A folder is one that a backbone's `save` wrote, a native Stable Audio 3 checkpoint (`model_config.json`) or a
    diffusers pipeline (`model_index.json`) of Stable Audio 3, Stable Audio Open, ACE-Step 1.5 or DiT (images).

    Raises
    ------
    UserError
        No such folder or model, a format that is not known, or files that do not fit each other.

    Examples
    --------
    >>> from eisbach import load_model
    >>> backbone = load_model("embedded")
    >>> backbone.latent_channels, backbone.target
    (96, 'u')
    """
    if str(name) == "embedded":
        with resources.as_file(resources.files("eisbach") / "assets" / "base") as folder:
            return _load_folder(folder)
    from eisbach.pretrained import fetch, is_hub_id

    if not Path(name).is_dir() and isinstance(name, str) and is_hub_id(name):
        return _load_folder(fetch(name))
    return _load_folder(Path(name))


def load_codec_of(backbone: Backbone) -> Codec:
    """The codec that a backbone's latents come from: the one it brings (`backbone.load_codec`), else the one it names.

    Raises
    ------
    UserError
        No such codec.
    CheckpointError
        Its latents have another number of channels or another rate than the backbone's.
    """
    from eisbach.codecs import load_codec

    bring = getattr(backbone, "load_codec", None)
    codec: Codec = bring() if callable(bring) else load_codec(backbone.codec)
    if codec.channels != backbone.latent_channels or abs(codec.latent_rate / backbone.latent_rate - 1) > 0.01:
        raise CheckpointError(
            f"the model reads {backbone.latent_channels} channels at {backbone.latent_rate:.4g} frames/s, and its codec "
            f"'{backbone.codec}' gives {codec.channels} channels at {codec.latent_rate:.4g}; name the codec that fits, or "
            "set the model's latent_channels and latent_rate to the codec's."
        )
    return codec


def load_image_codec_of(backbone: Backbone) -> ImageCodec:
    """The image codec that an image backbone names; pixels have as many channels as the backbone.

    Raises
    ------
    UserError
        No such codec, or a backbone of audio.
    CheckpointError
        Its latents have another number of channels than the backbone's.
    """
    from eisbach.codecs import load_image_codec

    if not hasattr(backbone, "latent_size"):
        raise UserError(f"the model '{backbone.name}' makes audio, and images were asked for; give a model of images.")
    codec = load_image_codec(backbone.codec, backbone.latent_channels if backbone.codec == "pixels" else 3)
    if codec.channels != backbone.latent_channels:
        raise CheckpointError(
            f"the model reads {backbone.latent_channels} channels and its codec '{backbone.codec}' gives {codec.channels}; name "
            "the codec that fits, or set the model's latent_channels to the codec's."
        )
    return codec


def _load_folder(folder: Path) -> Backbone:
    with foreign_files(f"the model in {folder}"):
        return _load_layout(folder)


def _load_layout(folder: Path) -> Backbone:
    if _is_other_pipeline(folder):
        return _pipeline_load(folder)
    for marker, load in LAYOUTS.items():
        if (folder / marker).is_file():
            return load(folder)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"there is no model in '{folder}'; give 'embedded', a name of the Hugging Face hub, or a folder that holds "
            "config.json and model.safetensors, model_config.json (native Stable Audio 3) or model_index.json (diffusers)."
        )
    values = read_json(folder / "config.json", "model configuration")
    kind = values.get("format") if isinstance(values, dict) else None
    if kind not in BACKBONES:
        raise UserError(
            f"the model in '{folder}' has the format '{kind}'; known formats: {', '.join(sorted(BACKBONES))}."
        )
    return BACKBONES[kind][1](folder)


def _is_other_pipeline(folder: Path) -> bool:
    """True for a pipeline of another model than Stable Audio 3: Stable Audio Open's folder holds a native checkpoint too, which
    only Stable Audio 3 is read from.
    """
    from eisbach.backbones.pipeline_folder import pipeline_name

    return PIPELINES.get(pipeline_name(folder) or "", _diffusers_load) is not _diffusers_load
