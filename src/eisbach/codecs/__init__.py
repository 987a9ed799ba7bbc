"""Codecs: audio, or images, to latents and back."""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from eisbach.codecs.base import Codec
from eisbach.codecs.images import ImageCodec
from eisbach.errors import UserError
from eisbach.tensor_files import foreign_files, read_header

__all__ = ["CODECS", "DEFAULT_CODEC", "IMAGE_CODECS", "Codec", "ImageCodec", "load_codec", "load_image_codec"]


CODECS = {"bands": "bands:BandCodec.from_package", "wide-bands": "wide:WideBandCodec.from_package"}
"""Codecs that stand alone, by name: what makes one, by module."""

DEFAULT_CODEC = "wide-bands"
"""The embedded model's. `bands` is its first version: adapters and latents made for it still decode."""

IMAGE_CODECS = {"pixels": "images:PixelCodec"}
"""Image codecs without weights, by name: what makes one of the number of image channels."""

_MARKERS = ("config.json", "model_config.json", "model_index.json", "vae/config.json")
"""One of these lies in every folder of an autoencoder, or of the model that it belongs to."""


def load_codec(name: str = DEFAULT_CODEC) -> Codec:
    """The codec called `name`, the one saved in the file `name` (a safetensors file that its `save` wrote), or
    the autoencoder in the folder `name`: SAME (native, or diffusers' layout) or Oobleck (diffusers' layout).

    Raises
    ------
    UserError
        No such codec.
    """
    if name in CODECS:
        codec: Codec = _resolve(CODECS[name])()
        return codec
    with foreign_files(f"the codec in {name}"):
        return _read_codec(name)


def _resolve(name: str) -> Any:
    """What a table's "module:name" stands for, imported when it is needed."""
    return resolve_name(f"eisbach.codecs.{name}")


def _read_codec(name: str) -> Codec:
    if Path(name).is_file():
        from eisbach.codecs.bands import BandCodec
        from eisbach.codecs.wide import FORMAT, WideBandCodec

        return WideBandCodec.load(name) if read_header(name).metadata.get("format") == FORMAT else BandCodec.load(name)
    if any((Path(name) / marker).is_file() for marker in _MARKERS):
        from eisbach.codecs.autoencoder import find_autoencoder
        from eisbach.codecs.oobleck import CLASS_NAME, OobleckCodec
        from eisbach.codecs.same import SameCodec

        if find_autoencoder(name, CLASS_NAME) is not None:
            return OobleckCodec.load(name)
        return SameCodec.load(name)
    if name in ("same", "oobleck"):
        raise UserError(f"the codec '{name}' comes with its model; give the folder of the model or of the autoencoder.")
    raise UserError(
        f"there is no codec '{name}'; known codecs: {', '.join(sorted(CODECS))}, or the path of a codec file or folder."
    )


def load_image_codec(name: str = "pixels", channels: int = 3) -> ImageCodec:
    """The image codec called `name` for images of `channels` channels, or the AutoencoderKL in the folder `name`
    (diffusers' layout; a pipeline's folder with it as `vae` will do).

    Raises
    ------
    UserError
        No such codec.
    """
    if name in IMAGE_CODECS:
        codec: ImageCodec = _resolve(IMAGE_CODECS[name])(channels)
        return codec
    if any((Path(name) / marker).is_file() for marker in _MARKERS):
        from eisbach.codecs.autoencoder import AutoencoderKLCodec

        with foreign_files(f"the codec in {name}"):
            return AutoencoderKLCodec.load(name)
    raise UserError(
        f"there is no image codec '{name}'; known: {', '.join(sorted(IMAGE_CODECS))}, or the folder of an "
        "AutoencoderKL in diffusers' layout (config.json and diffusion_pytorch_model.safetensors)."
    )
