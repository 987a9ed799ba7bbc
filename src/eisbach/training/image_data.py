"""From a recipe's images to batches: which images, the codec that reads them, and the classes that the model must
know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from eisbach.codecs.base import place_codec
from eisbach.data.images import ImageSet, only_labels, read_image_folder
from eisbach.data.images_latents import ImageDataset, ImageLatents, encode_images
from eisbach.errors import ConfigError
from eisbach.training.config import ImagesConfig, TrainConfig
from eisbach.training.data import TrainingData, shown
from eisbach.training.run_folder import note
from eisbach.training.step import HeldOut

if TYPE_CHECKING:
    from eisbach.backbones.base import Backbone
    from eisbach.codecs import ImageCodec

_FIXED_SEED = 0  # the held-out images are the same for every training seed
_CACHE = ".latents"


@dataclass(frozen=True)
class ImageMaterial:
    """What a run on images trains on, and what it holds out."""

    train: ImageSet
    held_out: ImageSet

    @classmethod
    def open(cls, config: TrainConfig) -> ImageMaterial:
        """The images of a configuration, found and hashed but not read yet.

        Raises
        ------
        ConfigError, UserError
            No images, fewer than a batch holds, or folders that are no classes.
        """
        chosen = config.data.images
        assert chosen is not None  # the caller looked
        images = _images_of(chosen)
        if config.data.split == "all":
            train, held_out = images, ImageSet((), images.classes, images.root, images.report)
        else:
            train, held_out = images.split(chosen.held_out_share)
        if len(train) < config.batch_size:
            raise ConfigError(
                f"the training set has {len(train)} images and batch_size is {config.batch_size}; set batch_size to "
                "at most "
                f"{len(train)}, or add images."
            )
        return cls(train, held_out)

    def content_hash(self) -> str:
        """A hash of the images that train."""
        return self.train.content_hash()

    def load(
        self, config: TrainConfig, backbone: Backbone, device: torch.device, quiet: bool
    ) -> tuple[TrainingData, HeldOut | None]:
        """The batches, encoded on `device` where they are not in the cache yet; images that cannot be used are named.

        Raises
        ------
        ConfigError, UserError
            The model makes no images, or does not know the classes; no image can be used.
        """
        chosen = config.data.images
        assert chosen is not None
        codec, size = _image_codec(backbone)
        place_codec(codec, device)
        _check_classes(backbone, self.train.classes)
        cache = cache_of(config, self.train)
        options: dict[str, Any] = {"resize": chosen.resize, "flip": chosen.flip, "quiet": quiet}
        latents = encode_images(self.train, codec, size, cache, **options)
        _report(latents, len(self.train), quiet)
        untaught = sorted({item.label for item in self.train.items} - set(latents.labels))
        if untaught:
            raise ConfigError(
                f"no image of the class{'' if len(untaught) == 1 else 'es'} {', '.join(untaught[:5])} can be used for "
                "training; "
                "repair or add some, or leave it out with data.images.only."
            )
        if len(latents) < config.batch_size:
            raise ConfigError(
                f"only {len(latents)} of {len(self.train)} images can be used and batch_size is {config.batch_size}; "
                "repair them, "
                "add images, or lower batch_size."
            )
        data = _data(latents, config.seed)
        if config.held_out.every == 0:
            return data, None
        if len(self.held_out) == 0:
            note("no image is held out, so the held-out loss is not measured.", quiet)
            return data, None
        held = encode_images(self.held_out, codec, size, cache, resize=chosen.resize, quiet=quiet)
        levels = config.held_out
        return data, HeldOut.of(_data(held, _FIXED_SEED), levels.noise_levels, levels.batches, config.batch_size)


def _images_of(chosen: ImagesConfig) -> ImageSet:
    """The images that a configuration names."""
    if chosen.source == "digits":
        from eisbach.data.images import load_digits

        images = load_digits()
        if chosen.classes == "none":
            images = ImageSet(tuple(_unlabelled(images)), (), images.root, images.report)
    else:
        classes = {"auto": None, "folders": True, "none": False}[chosen.classes]
        images = read_image_folder(chosen.folder or "", classes=classes)
    return only_labels(images, chosen.only) if chosen.only else images


def _unlabelled(images: ImageSet) -> Any:
    from dataclasses import replace

    return (replace(item, label="") for item in images.items)


def _image_codec(backbone: Any) -> tuple[ImageCodec, int]:
    """The codec of an image model, and the size in pixels of the images that it makes.

    Raises
    ------
    ConfigError
        The model makes no images, or its codec has another number of channels.
    """
    from eisbach.codecs import load_image_codec

    size = backbone.latent_size
    if size is None:
        raise ConfigError(
            f"the model '{backbone.name}' makes audio and the recipe names images; name an image model, such as model: "
            "{create: {kind: dit, ...}}, or data.manifest."
        )
    # A codec of pixels takes the model's own number of channels; an autoencoder has one of its own.
    codec = load_image_codec(backbone.codec, backbone.latent_channels)
    if codec.channels != backbone.latent_channels:
        raise ConfigError(
            f"the model reads {backbone.latent_channels} channels and its codec '{backbone.codec}' gives "
            f"{codec.channels}; set "
            "the model's latent_channels to the codec's, or name the codec that fits."
        )
    return codec, size * codec.downsampling


def _check_classes(backbone: Any, classes: tuple[str, ...]) -> None:
    """Names the classes of a model that was made for a number of them; refuses images of classes that it does not know.

    Raises
    ------
    ConfigError
        The model has no classes and the images have, or it lacks some.
    """
    known = list(backbone.classes)
    if not classes:  # an unlabelled image trains the null token, which every model has
        return
    if not known:
        raise ConfigError(
            f"the images have {len(classes)} classes and the model none; make it with classes: {len(classes)}, or set "
            "data.images.classes to none."
        )
    if set(classes) <= set(known):
        return
    if len(known) == len(classes) and known == [str(number) for number in range(len(known))]:
        backbone.name_classes(list(classes))
        return
    missing = sorted(set(classes) - set(known))
    raise ConfigError(
        f"the model has {len(known)} classes ({', '.join(known[:3])}, …) and not {', '.join(missing[:3])}, which the "
        "images have; "
        f"make it with classes: {len(classes)}, or choose among its classes with data.images.only."
    )


def cache_of(config: TrainConfig, images: ImageSet) -> Path | None:
    """Where latents are kept: `data.cache`, or `.latents/` in the folder of images; None (memory) for images of no
    folder."""
    if config.data.cache is not None:
        return Path(config.data.cache)
    return None if images.root is None else images.root / _CACHE


def _report(latents: ImageLatents, wanted: int, quiet: bool) -> None:
    if latents.report.skipped:
        note(f"{len(latents)} of {wanted} images are used; left out: {shown(latents.report.skipped)}", quiet)


def _data(latents: ImageLatents, seed: int) -> TrainingData:
    return TrainingData([ImageDataset(latents, seed)], torch.ones(1, dtype=torch.float64), seed, len(latents))
