"""Folders of images as training material: one folder a class, or all images in one, with a fixed split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from eisbach.data.images_read import IMAGE_SUFFIXES, ImageError, Resize, read_image
from eisbach.errors import UserError
from eisbach.files import files_of_kind
from eisbach.types import SkipReport

NO_CLASS = ""


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


def find_images(folder: str | Path) -> list[Path]:
    """The image files below a folder (hidden ones left out), sorted.

    Raises
    ------
    UserError
        The folder does not exist or holds no image.
    """
    wanted = "a folder of images, or one with a folder for each class"
    return files_of_kind(folder, IMAGE_SUFFIXES, "image", wanted)


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
    paths = find_images(folder)
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
            "set "
            "classes to none."
        )
    labels = {path: path.relative_to(folder).parts[0] if classes else NO_CLASS for path in paths}
    names = tuple(sorted(set(labels.values()))) if classes else ()
    if classes and len(names) < 2:
        raise UserError(
            f"{folder} holds one class folder ({names[0]}); a model of one class has nothing to be told: add a class, "
            "or set "
            "classes to none."
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
    kept: list[ImageItem] = []
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
                f"the images have different sizes ({kept[0].id} {arrays[0].shape[1]}x{arrays[0].shape[0]}, {item.id} "
                f"{array.shape[1]}x{array.shape[0]} pixels); give the size that they should be resized and cropped to."
            )
        kept.append(item)
        arrays.append(array)
    if not arrays:
        raise UserError(f"none of the {len(images)} images can be used ({_first(report)}).")
    return np.stack(arrays), ImageSet(tuple(kept), images.classes, images.root, report)


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
    kept = tuple(item for item in images.items if item.label in set(names))
    return ImageSet(kept, tuple(sorted(names)), images.root, images.report)
