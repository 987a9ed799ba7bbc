"""One image file as an array of a wanted size: colour modes, orientation, and ADM's resize and centre crop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from eisbach.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
Resize = Literal["crop", "none"]
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")


class ImageError(UserError):
    """An image file that cannot be used; the message says why."""


def read_image(path: str | Path, size: int | None, channels: int = 3, resize: Resize = "crop") -> np.ndarray:
    """The image of a file, [shape=(size, size, channels), uint8].

    Grey becomes colour by repetition and colour becomes grey by luminance (ITU-R 601); palettes are resolved, 16-bit
    grey keeps its upper 8 bits, an alpha channel that is opaque everywhere is dropped, and EXIF orientation is applied.
    What has no one meaning is refused by name: real transparency, animations, CMYK, floating-point images and other
    modes.

    Parameters
    ----------
    path : str or Path
    size : int or None
        Side, in pixels; None (with resize "none") keeps the image's own.
    channels : {1, 3}
    resize : {"crop", "none"}
        "crop": shrink or grow until the shorter side fits, and cut the centre out, as ADM's preprocessing does. "none":
        an image of another size is refused.

    Raises
    ------
    ImageError
        The file is broken, has another size and may not be resized, or is in a mode that is refused.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            if (frames := getattr(opened, "n_frames", 1)) > 1:
                raise ImageError(f"is an animation of {frames} frames; save one of them")
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"cannot be read as an image ({' '.join(str(error).split())[:80]})") from error
    image = _colours(image, channels)
    if size is not None and image.size != (size, size):
        if resize == "none":
            raise ImageError(
                f"has {image.size[0]}x{image.size[1]} pixels and {size}x{size} are wanted; set resize to crop"
            )
        image = resize_and_crop(image, size)
    array = np.asarray(image, dtype=np.uint8)
    return array[..., None] if channels == 1 else array


def _colours(image: Image.Image, channels: int) -> Image.Image:
    """The image in mode L or RGB."""
    from PIL import Image

    mode = image.mode
    if mode in _SIXTEEN_BIT or mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"holds integers from {values.min()} to {values.max()}; 8- or 16-bit images are read")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif mode == "1":
        image = image.convert("L")
    elif mode not in ("L", "RGB", "RGBA", "LA"):
        raise ImageError(f"is in the colour mode {mode}; save it as RGB or grey")
    if image.mode in ("RGBA", "LA"):
        lowest = image.getchannel("A").getextrema()[0]
        if lowest != 255:
            raise ImageError("has transparent pixels, whose colour is anybody's choice; flatten it onto a background")
        image = image.convert(image.mode[:-1])
    return image.convert("L" if channels == 1 else "RGB")


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """The centre square of an image, `size` pixels a side, scaled as ADM's preprocessing scales (Dhariwal & Nichol
    2021).

    Box halvings while the shorter side is at least twice the wanted one, then bicubic to it, then the centre.
    """
    from PIL import Image

    while min(image.size) >= 2 * size:
        image = image.resize((image.size[0] // 2, image.size[1] // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    wide, high = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = (wide - size) // 2, (high - size) // 2
    return image.crop((left, top, left + size, top + size))


def to_unit_range(images: np.ndarray) -> np.ndarray:
    """Bytes [shape=(..., H, W, C), uint8] as what codecs read: [shape=(..., C, H, W), float32], in [-1, 1]."""
    return np.moveaxis(images.astype(np.float32) / 127.5 - 1.0, -1, -3)


def to_bytes(images: np.ndarray) -> np.ndarray:
    """Inverse of `to_unit_range`, clipped and rounded: [shape=(..., H, W, C), uint8]."""
    return np.moveaxis(np.clip(np.rint((images + 1.0) * 127.5), 0, 255).astype(np.uint8), -3, -1)
