"""What a training run is shown: clips of manifests at some crop lengths, or images of a folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from eisbach.config import StrictModel

_DEFAULT_BUCKETS = 16
_RANGE = re.compile(r"(\d+(?:\.\d+)?)\s*-\s*(\d+(?:\.\d+)?)")


class CropShare(StrictModel):
    """One crop length and how often a step draws it.

    Attributes
    ----------
    seconds : float
        Length of the crop, s; at most an hour. With `buckets`, the most that a clip takes.
    share : float
        Relative frequency among the steps; the shares need not sum to 1.
    buckets : int or None
        Batch clips of (nearly) equal length, of at most this many lengths; None pads every clip to `seconds`.
    fit : "cut" or "pad"
        Within a bucket: cut to the shortest (for models that cannot mask padding), or pad to the longest, masked.
    min_seconds : float or None
        Shorter clips are left out and named.
    """

    seconds: float = Field(gt=0, le=3600)
    share: float = Field(default=1.0, gt=0)
    buckets: int | None = Field(default=None, ge=1, le=256)
    fit: Literal["cut", "pad"] = "cut"
    min_seconds: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _in_order(self) -> CropShare:
        if self.min_seconds is not None and self.min_seconds > self.seconds:
            raise ValueError(f"min_seconds {self.min_seconds:g} is longer than seconds {self.seconds:g}; swap them")
        if self.buckets is None and self.fit == "pad":
            raise ValueError("fit pad means something with buckets alone; every clip is padded without them")
        return self


class ImagesConfig(StrictModel):
    """Which images are trained on.

    Attributes
    ----------
    folder : str or None
        A folder of images, or of class folders (a class is a folder directly below it).
    source : "folder" or "digits"
        "digits" is scikit-learn's 8x8 digits, which need no folder.
    resize : "crop" or "none"
        Scale and cut images of other sizes to the model's (as ADM does), or leave them out and name them.
    flip : bool
        Train on mirrored images too.
    classes : "auto", "folders" or "none"
        Whether folders are classes; auto: where every image lies in one.
    only : list of str
        Names of the classes to train on; empty takes all.
    held_out_share : float
        In [0, 1): share of the images that is held out, by a hash of their content.
    """

    folder: str | None = None
    source: Literal["folder", "digits"] = "folder"
    resize: Literal["crop", "none"] = "crop"
    flip: bool = False
    classes: Literal["auto", "folders", "none"] = "auto"
    only: list[str] = Field(default_factory=list)
    held_out_share: float = Field(default=0.05, ge=0, lt=1)

    @model_validator(mode="after")
    def _one_source(self) -> ImagesConfig:
        if self.source == "folder" and self.folder is None:
            raise ValueError("source folder needs a folder: name the folder of the images")
        if self.source == "digits" and self.folder is not None:
            raise ValueError("source digits brings its own images; leave folder out")
        return self


class DataConfig(StrictModel):
    """Which clips, or which images, are trained on: `manifest` for audio, `images` for images.

    Attributes
    ----------
    manifest : list of str
        Manifest files or folders that hold a `manifest.jsonl`; one path may be given without a list.
    images : ImagesConfig or None
        Images instead of audio; a text is the folder. The keys about clips (crop_seconds, select) then mean nothing.
    crop_seconds : list of CropShare
        Length of the training crops; a plain number is one length. With several, each step draws one of them,
        so that every batch has a single length. ``full`` takes whole clips (of up to an hour), and ``20-60`` whole
        clips of 20 to 60 s (longer ones are cropped), in 16 buckets of equal length.
    select : mapping of str to str
        Only clips whose labels have these values (the *oracle* arm: ``{flat: "false"}``).
    split : "train" or "all"
        Which clips train; "all" trains on the held-out clips too and switches the held-out loss off.
    cache : str or None
        Folder of the latent cache; None is `latents/` beside each manifest, and `.latents/` in the folder of images.
    """

    manifest: list[str] = Field(default_factory=list)
    images: ImagesConfig | None = None
    crop_seconds: list[CropShare] = Field(default=[CropShare(seconds=30.0)])
    select: dict[str, str] = Field(default_factory=dict)
    split: Literal["train", "all"] = "train"
    cache: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _images_have_no_length(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("images") is not None:
            return {"crop_seconds": [], **values}
        return values

    @model_validator(mode="after")
    def _some_length(self) -> DataConfig:
        if self.images is None and not self.crop_seconds:
            raise ValueError("crop_seconds lists no length; give one, or leave it out for 30 s")
        return self

    @field_validator("manifest", mode="before")
    @classmethod
    def _one_manifest(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("images", mode="before")
    @classmethod
    def _one_folder(cls, value: object) -> object:
        return {"folder": value} if isinstance(value, str) else value

    @field_validator("crop_seconds", mode="before")
    @classmethod
    def _one_length(cls, value: object) -> object:
        # text too: YAML 1.1 reads 1e2 as text, and the field itself knows what is a number
        if isinstance(value, str) and value.strip() == "full":
            return [{"seconds": 3600.0, "buckets": _DEFAULT_BUCKETS}]
        if isinstance(value, str) and (ends := _RANGE.fullmatch(value.strip())):
            return [{"seconds": ends[2], "min_seconds": ends[1], "buckets": _DEFAULT_BUCKETS}]
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            return [{"seconds": value}]
        return [value] if isinstance(value, Mapping) else value

    @field_validator("crop_seconds")
    @classmethod
    def _distinct_lengths(cls, value: list[CropShare]) -> list[CropShare]:
        if len({crop.seconds for crop in value}) != len(value):
            raise ValueError("each crop length may be listed once; give it a larger share instead")
        return value

    @field_validator("select", mode="before")
    @classmethod
    def _labels_are_text(cls, value: object) -> object:
        # YAML reads an unquoted false as a boolean, while labels are text: "false" is what the manifest holds.
        if isinstance(value, Mapping):
            return {key: str(item).lower() if isinstance(item, bool) else item for key, item in value.items()}
        return value
