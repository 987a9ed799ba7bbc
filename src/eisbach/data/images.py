"""Images as training material: files read at a wanted size, folders with a class each and a fixed split, and the digits
of scikit-learn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from eisbach.errors import UserError
from eisbach.files import files_of_kind
from eisbach.types import SkipReport

if TYPE_CHECKING:
    from PIL import Image

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
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


_NO_CLASS = ""


@dataclass(frozen=True)
class ImageItem:
    """One image.

    Attributes
    ----------
    id : str
        Its path below the folder (POSIX), or a name.
    label : str
        Name of its class; "" is none.
    content_hash : str
        SHA-256 of the file, or of the pixels.
    read : callable
        ``read(size or None, channels, resize) -> array (H, W, channels), uint8``; `ImageError` when it cannot.
    """

    id: str
    label: str
    content_hash: str
    read: Callable[[int | None, int, Resize], np.ndarray] = field(compare=False, repr=False)


@dataclass(frozen=True)
class ImageSet:
    """Images with their classes.

    Attributes
    ----------
    items : tuple of ImageItem
    classes : tuple of str
        Names of the classes, sorted; empty where images have none.
    root : Path or None
        The folder, where there is one.
    report : SkipReport
        What was left out, and why.
    """

    items: tuple[ImageItem, ...]
    classes: tuple[str, ...]
    root: Path | None = None
    report: SkipReport = field(default_factory=SkipReport)

    def __len__(self) -> int:
        return len(self.items)

    def split(self, held_out_share: float) -> tuple[ImageSet, ImageSet]:
        """(train, held out): by a hash of the content, so that an image never changes sides and copies stay
        together."""
        held = [int(item.content_hash[:12], 16) / 16**12 < held_out_share for item in self.items]
        parts = (
            tuple(item for item, out in zip(self.items, held, strict=True) if out is side) for side in (False, True)
        )
        train, rest = (ImageSet(part, self.classes, self.root, self.report) for part in parts)
        return train, rest

    def content_hash(self) -> str:
        """SHA-256 over what trains: content and class of every image; names and order do not matter."""
        rows = sorted([item.content_hash, item.label] for item in self.items)
        return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def _find_images(folder: str | Path) -> list[Path]:
    """The image files below a folder (hidden ones left out), sorted.

    Raises
    ------
    UserError
        The folder does not exist or holds no image.
    """
    wanted = "a folder of images, or one with a folder for each class"
    return files_of_kind(folder, _IMAGE_SUFFIXES, "image", wanted)


def read_image_folder(folder: str | Path, *, classes: bool | None = None) -> ImageSet:
    """The images of a folder; a class is a folder directly below it. Files are hashed here and read later.

    Parameters
    ----------
    folder : str or Path
    classes : bool or None
        True: every image lies in a class folder. False: folders mean nothing. None: classes where every image lies in a
        folder, none where no image does.

    Raises
    ------
    UserError
        No images; some in class folders and some beside them; classes are wanted and there are fewer than two.
    """
    folder = Path(folder)
    paths = _find_images(folder)
    loose = [path for path in paths if path.parent == folder]
    if classes is None:
        if loose and len(loose) < len(paths):
            raise UserError(
                f"{folder} holds {len(loose)} images beside class folders with {len(paths) - len(loose)} (first: "
                f"{loose[0].name}); move them into a class folder, or set classes to none."
            )
        classes = not loose
    elif classes and loose:
        raise UserError(
            f"{len(loose)} images of {folder} lie in no class folder (first: {loose[0].name}); move them into one, or "
            "set classes to none."
        )
    labels = {path: path.relative_to(folder).parts[0] if classes else _NO_CLASS for path in paths}
    names = tuple(sorted(set(labels.values()))) if classes else ()
    if classes and len(names) < 2:
        raise UserError(
            f"{folder} holds one class folder ({names[0]}); a model of one class has nothing to be told: add a class, "
            "or set classes to none."
        )
    report = SkipReport()
    if classes:
        for place in sorted(folder.iterdir()):
            if place.is_dir() and not place.name.startswith(".") and place.name not in names:
                report.add(f"{place.name}/", "is a class folder without an image, so no class")
    items = []
    for path in paths:
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            report.add(path.relative_to(folder).as_posix(), f"cannot be read ({error.strerror or error})")
            continue
        items.append(ImageItem(path.relative_to(folder).as_posix(), labels[path], digest, _reader(path)))
    return ImageSet(tuple(items), names, folder, report)


def _reader(path: Path) -> Callable[[int | None, int, Resize], np.ndarray]:
    return lambda size, channels, resize: read_image(path, size, channels, resize)


def read_all(images: ImageSet, size: int | None, channels: int, resize: Resize) -> tuple[np.ndarray, ImageSet]:
    """(pixels [shape=(N, H, W, channels), uint8], the images that could be read); the others are in its report.

    Raises
    ------
    UserError
        None can be read, or (with `size` None) their sizes differ.
    """
    report = SkipReport()
    readable: list[ImageItem] = []
    arrays: list[np.ndarray] = []
    report.skipped.extend(images.report.skipped)
    for item in images.items:
        try:
            array = item.read(size, channels, resize)
        except ImageError as error:
            report.add(item.id, str(error))
            continue
        if arrays and array.shape != arrays[0].shape:
            raise UserError(
                f"the images have different sizes ({readable[0].id} {arrays[0].shape[1]}x{arrays[0].shape[0]}, "
                f"{item.id} {array.shape[1]}x{array.shape[0]} pixels); give the size that they should be resized and "
                "cropped to."
            )
        readable.append(item)
        arrays.append(array)
    if not arrays:
        raise UserError(f"none of the {len(images)} images can be used ({_first(report)}).")
    return np.stack(arrays), ImageSet(tuple(readable), images.classes, images.root, report)


def _first(report: SkipReport) -> str:
    return f"{report.skipped[0].item} {report.skipped[0].reason}" if report.skipped else "there are none"


def array_item(name: str, label: str, pixels: np.ndarray) -> ImageItem:
    """An image that is in memory already, [shape=(H, W, C), uint8]."""

    def read(size: int | None, channels: int, resize: Resize) -> np.ndarray:
        if size not in (None, pixels.shape[0]) or channels != pixels.shape[2]:
            raise ImageError(
                f"has {pixels.shape[1]}x{pixels.shape[0]} pixels in {pixels.shape[2]} channels, and {size}x{size} in "
                f"{channels} are wanted"
            )
        return pixels

    return ImageItem(name, label, hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest(), read)


def only_labels(images: ImageSet, names: Sequence[str]) -> ImageSet:
    """The images of some classes.

    Raises
    ------
    UserError
        A class that the images do not have.
    """
    if unknown := sorted(set(names) - set(images.classes)):
        raise UserError(
            f"the images have no class {', '.join(unknown)}; their classes: {', '.join(images.classes[:10]) or 'none'}."
        )
    chosen = tuple(item for item in images.items if item.label in set(names))
    return ImageSet(chosen, tuple(sorted(names)), images.root, images.report)


_DIGIT_LEVELS = 16


def load_digits() -> ImageSet:
    """The digits, in classes "0" to "9"; a pixel's 17 levels 0 ... 16 become the bytes nearest to level / 16 * 255.

    Raises
    ------
    UserError
        scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise UserError(
            "the digits come with scikit-learn, which is not installed: pip install 'eisbach[images]'."
        ) from error
    bunch = load()
    pixels = np.rint(np.asarray(bunch.images) / _DIGIT_LEVELS * 255).astype(np.uint8)[..., None]
    items = tuple(
        array_item(f"digit-{number:04d}", str(int(label)), image)
        for number, (image, label) in enumerate(zip(pixels, bunch.target, strict=True))
    )
    return ImageSet(items, tuple(str(digit) for digit in range(10)))
