"""Backbones: networks with their path, target and conditioning."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from eisbach.backbones.base import Backbone
from eisbach.config import build_config
from eisbach.errors import CheckpointError, UserError
from eisbach.files import read_json
from eisbach.tensor_files import foreign_files

if TYPE_CHECKING:
    from eisbach.codecs.base import Codec
    from eisbach.codecs.images import ImageCodec

__all__ = [
    "BACKBONES",
    "Backbone",
    "check_created",
    "create_backbone",
    "load_backbone",
    "load_codec_of",
    "load_image_codec_of",
]


BACKBONES = {
    "eisbach-tiny-music": "tiny:TinyMusicBackbone",
    "dit": "dit:DiTBackbone",
    "uvit": "uvit:UViTBackbone",
    "unet": "unet:UNetBackbone",
    "edm2": "edm2:EDM2Backbone",
}
"""Our own formats: the class, by module, whose `create(values, seed)` makes one and `load(folder)` reads one."""

NATIVE, INDEX = "model_config.json", "model_index.json"
LAYOUTS = {NATIVE: "stable_audio3:load_native", INDEX: "pipeline_folder:pipeline_name"}
"""Other people's folders: the file that tells the layout, and what reads it first."""

_SA3 = "stable_audio3:load_diffusers"
PIPELINES = {
    "StableAudio3Pipeline": _SA3,
    "StableAudio3InpaintPipeline": _SA3,
    "StableAudio3AudioToAudioPipeline": _SA3,
    "StableAudioPipeline": "stable_audio_open:load_stable_audio_open",
    "StableDiffusionPipeline": "stable_diffusion:load_stable_diffusion",
    "AceStepPipeline": "ace_step:load_ace_step",
    "DiTPipeline": "dit:load_dit_pipeline",
}
"""diffusers' pipelines, by the class that `model_index.json` names: what loads the folder."""


def _resolve(name: str) -> Any:
    """What a table's "module:name" stands for, imported when it is needed."""
    return resolve_name(f"eisbach.backbones.{name}")


def _load_pipeline(folder: Path) -> Backbone:
    name = str(_resolve(LAYOUTS[INDEX])(folder))
    if name not in PIPELINES:
        raise CheckpointError(
            f"{folder / INDEX} describes a {name}; of diffusers' pipelines these are read: {', '.join(PIPELINES)}."
        )
    loaded: Backbone = _resolve(PIPELINES[name])(folder)
    return loaded


_MARKERS = ("config.json", "model_config.json", "model_index.json")


def check_model(name: str) -> None:
    """Nothing, when `load_backbone` will find a model by this name; models of the hub are taken at their word.

    Raises
    ------
    UserError
        A folder that is not there, or holds no model.
    """
    from eisbach.pretrained import is_hub_id

    folder = Path(name)
    if name == "embedded" or (not folder.is_dir() and is_hub_id(name)):
        return
    if not any((folder / marker).is_file() for marker in _MARKERS):
        raise UserError(
            f"there is no model in '{folder}'; give 'embedded', a name of the Hugging Face hub, or a folder "
            f"that holds one of {', '.join(_MARKERS)}."
        )


def check_created(values: Mapping[str, Any]) -> None:
    """Nothing, when a model can be made of `values` (`create` of a recipe's `model`), which is found without making it.

    Raises
    ------
    UserError
        Unknown kind, or faults in the configuration; all of them are named.
    """
    given = dict(values)
    kind = given.pop("kind", "eisbach-tiny-music")
    if kind not in BACKBONES:
        raise UserError(f"there is no backbone '{kind}'; known: {', '.join(sorted(BACKBONES))}.")
    build_config(_resolve(BACKBONES[kind]).config_class, given, "model.create")


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
    made: Backbone = _resolve(BACKBONES[kind]).create(dict(values or {}), seed)
    return made


def load_backbone(name: str | Path = "embedded") -> Backbone:
    """The model that the package carries ("embedded"), the one in a folder, or one of the Hugging Face hub
    ("owner/name").

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
    (128, 'u')
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

    codec = backbone.load_codec() or load_codec(backbone.codec)
    if codec.channels != backbone.latent_channels or abs(codec.latent_rate / backbone.latent_rate - 1) > 0.01:
        raise CheckpointError(
            f"the model reads {backbone.latent_channels} channels at {backbone.latent_rate:.4g} frames/s, and its "
            f"codec '{backbone.codec}' gives {codec.channels} channels at {codec.latent_rate:.4g}; name the codec that "
            "fits, or set the model's latent_channels and latent_rate to the codec's."
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

    if backbone.modality != "image":
        raise UserError(f"the model '{backbone.name}' makes audio, and images were asked for; give a model of images.")
    codec = load_image_codec(backbone.codec, backbone.latent_channels if backbone.codec == "pixels" else 3)
    if codec.channels != backbone.latent_channels:
        raise CheckpointError(
            f"the model reads {backbone.latent_channels} channels and its codec '{backbone.codec}' gives "
            f"{codec.channels}; name the codec that fits, or set the model's latent_channels to the codec's."
        )
    return codec


def _load_folder(folder: Path) -> Backbone:
    with foreign_files(f"the model in {folder}"):
        return _load_layout(folder)


def _load_layout(folder: Path) -> Backbone:
    loaded: Backbone
    # Stable Audio Open's folder holds a native checkpoint too, which only Stable Audio 3 is read from.
    of_another = (folder / INDEX).is_file() and PIPELINES.get(_resolve(LAYOUTS[INDEX])(folder) or "", _SA3) != _SA3
    if (folder / NATIVE).is_file() and not of_another:
        loaded = _resolve(LAYOUTS[NATIVE])(folder)
        return loaded
    if (folder / INDEX).is_file():
        return _load_pipeline(folder)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"there is no model in '{folder}'; give 'embedded', a name of the Hugging Face hub, or a folder that holds "
            "config.json and model.safetensors, model_config.json (native Stable Audio 3) or model_index.json "
            "(diffusers)."
        )
    values = read_json(folder / "config.json", "model configuration")
    kind = values.get("format") if isinstance(values, dict) else None
    if not isinstance(kind, str) or kind not in BACKBONES:
        raise UserError(
            f"the model in '{folder}' has the format '{kind}'; known formats: {', '.join(sorted(BACKBONES))}."
        )
    loaded = _resolve(BACKBONES[kind]).load(folder)
    return loaded
