"""Latents of images, encoded once and kept on disk, and batches of them as a pure function of (seed, step)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eisbach.config import check_values
from eisbach.data.images import ImageError, ImageItem, ImageSet, Resize, read_all, to_unit_range
from eisbach.errors import UserError
from eisbach.files import atomic_write, read_json, write_json
from eisbach.progress import Progress
from eisbach.tensor_files import read_array
from eisbach.types import LatentBatch, SkipReport

if TYPE_CHECKING:
    from eisbach.codecs import ImageCodec

_CHUNK = 256
"""Images in one file of the cache."""
_ORDER, _FLIP = 11, 12  # streams of the generator


@dataclass(frozen=True)
class ImageLatents:
    """Encoded images.

    Attributes
    ----------
    chunks : tuple of np.ndarray [shape=(n, 1 or 2, C, h, w), float32]
        Read from disk as they are needed; the second of two is the mirrored image's.
    ids, labels : tuple of str
        One for each image, over all chunks.
    report : SkipReport
    """

    chunks: tuple[np.ndarray, ...]
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    report: SkipReport

    def __len__(self) -> int:
        return len(self.ids)


def encode_images(
    images: ImageSet,
    codec: ImageCodec,
    size: int,
    cache: str | Path | None,
    *,
    resize: Resize = "crop",
    flip: bool = False,
    quiet: bool = True,
) -> ImageLatents:
    """Latents of all images that can be read, from the cache where they are in it.

    A file of the cache holds `_CHUNK` images and is named by a hash of them, the codec's identity, the size and the
    options; so a stopped encoding continues, and changed images or another codec are encoded anew. Mirrored images are
    encoded, not mirrored latents: an autoencoder need not commute with mirroring.

    Parameters
    ----------
    size : int
        Pixels a side.
    cache : folder, or None
        None keeps the latents in memory (for small sets).

    Raises
    ------
    UserError
        None of the images can be used.
    """
    chunks: list[np.ndarray] = []
    encoded: list[ImageItem] = []
    report = SkipReport()
    report.skipped.extend(images.report.skipped)
    starts = range(0, len(images), _CHUNK)
    with Progress(len(images), "encode", unit=" images", quiet=quiet) as bar:
        for start in starts:
            part = images.items[start : start + _CHUNK]
            array, good, bad = _chunk(part, codec, size, cache, resize, flip)
            report.skipped.extend(bad.skipped)
            if len(good):
                chunks.append(array)
                encoded.extend(good)
            bar.advance(len(part))
    if not encoded:
        first = f"{report.skipped[0].item} {report.skipped[0].reason}" if report.skipped else "there are none"
        raise UserError(f"none of the {len(images)} images can be used ({first}).")
    return ImageLatents(
        tuple(chunks), tuple(item.id for item in encoded), tuple(item.label for item in encoded), report
    )


def _chunk(
    items: Sequence[ImageItem], codec: ImageCodec, size: int, cache: str | Path | None, resize: Resize, flip: bool
) -> tuple[np.ndarray, list[ImageItem], SkipReport]:
    """(latents, the items they are of, what was left out)."""
    if cache is None:
        return _encode(items, codec, size, resize, flip)
    key = [codec.identity(), size, resize, flip, [item.content_hash for item in items]]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    file, skipped = Path(cache) / f"{name}.npy", Path(cache) / f"{name}.json"
    if not (file.is_file() and skipped.is_file()):
        array, good, report = _encode(items, codec, size, resize, flip)
        reasons = {item.item: item.reason for item in report.skipped}
        atomic_write(file, lambda partial: _save(partial, array))
        left_out = {str(number): reasons[item.id] for number, item in enumerate(items) if item.id in reasons}
        # written last: it says that the array beside it is whole
        write_json(skipped, left_out)
    what = "list of left-out images"
    reasons_by_place = check_values(dict[str, str], read_json(skipped, what), f"the {what} {skipped}")
    strangers = [place for place in reasons_by_place if not place.isdecimal() or int(place) >= len(items)]
    if strangers:
        raise UserError(f"the {what} {skipped} names the image {strangers[0]!r}, which is none; delete it.")
    report = SkipReport()
    for place, reason in reasons_by_place.items():
        report.add(items[int(place)].id, reason)
    good = [item for number, item in enumerate(items) if str(number) not in reasons_by_place]
    try:
        array = read_array(file, "cached latents")
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}; delete the file and run the same command again.") from error
    if array.ndim != 5 or array.dtype.kind != "f" or len(array) != len(good):
        raise UserError(f"the cached latents {file} are not whole; delete the file and run the same command again.")
    return array, good, report


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # np.save would append .npy to the partial name
        np.save(file, array, allow_pickle=False)


def _encode(
    items: Sequence[ImageItem], codec: ImageCodec, size: int, resize: Resize, flip: bool
) -> tuple[np.ndarray, list[ImageItem], SkipReport]:
    import torch

    try:
        pixels, read = read_all(ImageSet(tuple(items), ()), size, codec.image_channels, resize)
    except UserError:  # none of this chunk; the caller knows whether there are others
        report = SkipReport()
        for item in items:
            try:
                item.read(size, codec.image_channels, resize)
            except ImageError as error:
                report.add(item.id, str(error))
        return np.zeros((0, 1 + flip, codec.channels, 1, 1), np.float32), [], report
    values = torch.from_numpy(to_unit_range(pixels))
    latents = [codec.encode(values)]
    if flip:
        latents.append(codec.encode(values.flip(-1)))
    array = torch.stack(latents, dim=1).detach().float().cpu().numpy()
    return array, list(read.items), read.report


class ImageDataset:
    """Batches of image latents, drawn without any state: a batch is a pure function of (seed, step).

    Every epoch is its own permutation; whether an image is mirrored is drawn for each position on its own.
    """

    def __init__(self, latents: ImageLatents, seed: int) -> None:
        self.latents, self.seed = latents, seed
        self._ends = np.cumsum([len(chunk) for chunk in latents.chunks])
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, dtype=int))

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def captions(self) -> list[str]:
        """The class of every image."""
        return list(self.latents.labels)

    def index_at(self, position: int) -> int:
        """The image at a position counted over all epochs."""
        epoch, place = divmod(position, len(self))
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, _ORDER, epoch]).permutation(len(self)))
        return int(self._order[1][place])

    def latent_at(self, position: int) -> np.ndarray:
        """The latents [shape=(C, h, w)] at a position, mirrored or not."""
        index = self.index_at(position)
        which = int(np.searchsorted(self._ends, index, side="right"))
        versions = self.latents.chunks[which][index - (int(self._ends[which - 1]) if which else 0)]
        if len(versions) == 1:
            return np.asarray(versions[0])
        return np.asarray(versions[int(np.random.default_rng([self.seed, _FLIP, position]).integers(2))])

    def batch(self, step: int, batch_size: int) -> LatentBatch:
        """The batch of `step` [latents (batch_size, C, h, w)]; captions are class names, and a duration means nothing.

        Raises
        ------
        UserError
            A step below 0, or a batch of nothing.
        """
        import torch

        if batch_size < 1 or step < 0:
            raise UserError(f"step must be at least 0 and batch_size at least 1 (got {step} and {batch_size}).")
        positions = range(step * batch_size, (step + 1) * batch_size)
        indices = [self.index_at(position) for position in positions]
        return LatentBatch(
            latents=torch.from_numpy(np.stack([self.latent_at(position) for position in positions])),
            ids=[self.latents.ids[index] for index in indices],
            captions=[self.latents.labels[index] for index in indices],
            durations=torch.ones(batch_size),
        )
