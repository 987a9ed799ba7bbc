"""Codecs: audio to latents and back."""

from __future__ import annotations

from collections.abc import Callable

from eisbach.codecs.base import Codec
from eisbach.errors import UserError

__all__ = ["CODECS", "Codec", "load_codec"]


def _bands() -> Codec:
    from eisbach.codecs.bands import BandCodec

    return BandCodec.from_package()


CODECS: dict[str, Callable[[], Codec]] = {"bands": _bands}
"""Codec constructors by name: adding one is a file and a line here."""


_MARKERS = ("config.json", "model_config.json", "model_index.json", "vae/config.json")
"""One of these lies in every folder of an autoencoder, or of the model that it belongs to."""


def load_codec(name: str = "bands") -> Codec:
    """The codec called `name`, the one saved in the file `name` (a safetensors file that `BandCodec.save` wrote), or the
    autoencoder in the folder `name`: SAME (native, or diffusers' layout) or Oobleck (diffusers' layout).

    Raises
    ------
    UserError
        No such codec.
    """
    if name in CODECS:
        return CODECS[name]()
    from pathlib import Path

    if Path(name).is_file():
        from eisbach.codecs.bands import BandCodec

        return BandCodec.load(name)
    if any((Path(name) / marker).is_file() for marker in _MARKERS):
        from eisbach.codecs.oobleck import OobleckCodec, oobleck_folder
        from eisbach.codecs.same import SameCodec

        if oobleck_folder(name) is not None:
            return OobleckCodec.load(name)
        return SameCodec.load(name)
    if name in ("same", "oobleck"):
        raise UserError(f"the codec '{name}' comes with its model; give the folder of the model or of the autoencoder.")
    raise UserError(
        f"there is no codec '{name}'; known codecs: {', '.join(sorted(CODECS))}, or the path of a codec file or folder."
    )
