"""Codecs: audio, or images, to latents and back."""

from __future__ import annotations

from collections.abc import Callable

from eisbach.codecs.base import Codec
from eisbach.codecs.images import ImageCodec
from eisbach.errors import UserError
from eisbach.tensor_files import foreign_files

__all__ = ["CODECS", "IMAGE_CODECS", "Codec", "ImageCodec", "load_codec", "load_image_codec"]


def _bands() -> Codec:
    from eisbach.codecs.bands import BandCodec

    return BandCodec.from_package()


CODECS: dict[str, Callable[[], Codec]] = {"bands": _bands}
"""Codec constructors by name: adding one is a file and a line here."""


_MARKERS = ("config.json", "model_config.json", "model_index.json", "vae/config.json")
"""One of these lies in every folder of an autoencoder, or of the model that it belongs to."""


def load_codec(name: str = "bands") -> Codec:
    """The codec called `name`, the one saved in the file `name` (a safetensors file that `BandCodec.save` wrote), or
    the autoencoder in the folder `name`: SAME (native, or diffusers' layout) or Oobleck (diffusers' layout).

    Raises
    ------
    UserError
        No such codec.
    """
    if name in CODECS:
        return CODECS[name]()
    with foreign_files(f"the codec in {name}"):
        return _read_codec(name)


def _read_codec(name: str) -> Codec:
    from pathlib import Path

    if Path(name).is_file():
        from eisbach.codecs.bands import BandCodec

        return BandCodec.load(name)
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


def _pixels(channels: int) -> ImageCodec:
    from eisbach.codecs.images import PixelCodec

    return PixelCodec(channels)


IMAGE_CODECS: dict[str, Callable[[int], ImageCodec]] = {"pixels": _pixels}
"""Image codecs without weights, by name; each is given the number of image channels."""


def load_image_codec(name: str = "pixels", channels: int = 3) -> ImageCodec:
    """The image codec called `name` for images of `channels` channels, or the AutoencoderKL in the folder `name`
    (diffusers' layout; a pipeline's folder with it as `vae` will do).

    Raises
    ------
    UserError
        No such codec.
    """
    from pathlib import Path

    if name in IMAGE_CODECS:
        return IMAGE_CODECS[name](channels)
    if any((Path(name) / marker).is_file() for marker in _MARKERS):
        from eisbach.codecs.autoencoder_kl import AutoencoderKLCodec

        with foreign_files(f"the codec in {name}"):
            return AutoencoderKLCodec.load(name)
    raise UserError(
        f"there is no image codec '{name}'; known: {', '.join(sorted(IMAGE_CODECS))}, or the folder of an "
        "AutoencoderKL in "
        "diffusers' layout (config.json and diffusion_pytorch_model.safetensors)."
    )
