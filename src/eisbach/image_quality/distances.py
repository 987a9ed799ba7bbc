"""Feature statistics of a set of images: from a folder, or from a reference file such as ADM's, and their file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np

from eisbach.data.images import read_all, read_image_folder
from eisbach.errors import UserError
from eisbach.files import atomic_write
from eisbach.image_quality.features import FeatureNetwork
from eisbach.tensor_files import read_arrays
from eisbach.types import Skipped

_ADM_NETWORK = "inception"
"""What the statistics in ADM's reference files were made with: FID's Inception."""


@dataclass(frozen=True)
class Moments:
    """Mean [shape=(d,)] and covariance [shape=(d, d)], float64."""

    mean: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True)
class ImageStatistics:
    """What quality needs to know about one set of images.

    Attributes
    ----------
    count : int or None
        Images; None where the file does not say.
    pooled, spatial : Moments or None
    features, logits : np.ndarray [shape=(count, d)] or None
        None where only moments are there: then precision, recall and IS cannot be had.
    network : str
        `FeatureNetwork.identity` of what made them, or a bare name where the file does not say more.
    """

    count: int | None
    pooled: Moments
    spatial: Moments | None
    features: np.ndarray | None
    logits: np.ndarray | None
    network: str

    def rank_deficient(self) -> bool:
        """Whether there are too few images for a covariance of full rank: the Fréchet distance is then badly biased."""
        return self.count is not None and self.count <= len(self.pooled.mean)

    def save(self, path: str | Path) -> None:
        """Writes an .npz in ADM's keys (mu, sigma, mu_s, sigma_s) with count, network and, where they are there,
        features and logits."""
        values: dict[str, Any] = {
            "mu": self.pooled.mean,
            "sigma": self.pooled.covariance,
            "network": np.array(self.network),
        }
        if self.spatial is not None:
            values |= {"mu_s": self.spatial.mean, "sigma_s": self.spatial.covariance}
        for key in ("features", "logits"):
            if getattr(self, key) is not None:
                values[key] = getattr(self, key)
        if self.count is not None:
            values["count"] = np.array(self.count)

        def write(partial: Path) -> None:
            with partial.open("wb") as file:
                np.savez(file, **values)

        atomic_write(path, write)


def moments(rows: np.ndarray) -> Moments:
    """Sample mean and covariance (n - 1) of rows [shape=(n, d)], n >= 2; `UserError` where values are not finite."""
    values = np.asarray(rows, dtype=np.float64)
    if len(values) < 2:
        raise UserError(f"a Fréchet distance needs at least two images a set; got {len(values)}.")
    if not np.isfinite(values).all():
        raise UserError("some features are not finite; the images or the feature network are broken.")
    return Moments(values.mean(axis=0), np.cov(values, rowvar=False).reshape(values.shape[1], -1))


def statistics_of(images: np.ndarray, network: FeatureNetwork) -> ImageStatistics:
    """Statistics of images [shape=(N, H, W, 1 or 3), uint8]."""
    output = network(images)
    spatial = output.get("spatial")
    return ImageStatistics(
        len(images),
        moments(output["pooled"]),
        None if spatial is None else moments(spatial),
        np.asarray(output["pooled"], dtype=np.float64),
        output.get("logits"),
        network.identity(),
    )


def read_statistics(path: str | Path, network: FeatureNetwork | None) -> ImageStatistics:
    """Statistics from an .npz: moments as `ImageStatistics.save` and ADM write them, images (ADM's `arr_0`), or both.

    ADM's reference batches hold both: the moments are taken as they are, and precision, recall and IS need the images
    to be read through `network`.

    Raises
    ------
    UserError
        Missing, truncated, pickled or foreign files; images without a network to read them.
    """
    arrays = _arrays(path)
    names = set(arrays)
    images = arrays.get("arr_0")
    if {"mu", "sigma"} <= names:
        spatial = Moments(arrays["mu_s"], arrays["sigma_s"]) if {"mu_s", "sigma_s"} <= names else None
        features, logits = arrays.get("features"), arrays.get("logits")
        written = str(arrays["network"]) if "network" in names else _ADM_NETWORK
        if images is not None and features is None and network is not None and network.name == _ADM_NETWORK:
            output = network(_check_images(images, path))
            features, logits = output["pooled"], output.get("logits")
        count = (
            _count(arrays["count"], path)
            if "count" in names
            else (len(_check_images(images, path)) if images is not None else None)
        )
        result = ImageStatistics(count, Moments(arrays["mu"], arrays["sigma"]), spatial, features, logits, written)
        _check_moments(result, path)
        return result
    if images is None:
        raise UserError(
            f"{path} holds {', '.join(sorted(names)) or 'nothing'} and neither statistics (mu, sigma) nor images "
            "(arr_0); give a reference as ADM publishes them, or a folder of images."
        )
    if network is None:
        raise UserError(f"{path} holds images and no statistics; name the features that should read them.")
    return statistics_of(_check_images(images, path), network)


def _arrays(path: str | Path) -> dict[str, np.ndarray]:
    if Path(path).is_file() and not is_zipfile(path):
        raise UserError(
            f"the reference {path} cannot be read: it is no whole .npz archive; give statistics or images as ADM "
            "publishes them."
        )
    return read_arrays(path, "reference")


def _count(value: np.ndarray, path: str | Path) -> int:
    if value.shape != () or value.dtype.kind not in "iu" or value < 1:
        raise UserError(f"{path} holds a count of {value.dtype} {value.shape}; one whole number of images is expected.")
    return int(value)


def _check_images(images: np.ndarray, path: str | Path) -> np.ndarray:
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8:
        raise UserError(
            f"{path} holds arr_0 of {images.dtype} {images.shape}; images of bytes, (N, height, width, 1 or 3), are "
            "expected."
        )
    return images


def _check_moments(statistics: ImageStatistics, path: str | Path) -> None:
    for name, rows in (("features", statistics.features), ("logits", statistics.logits)):
        if rows is not None and (rows.ndim != 2 or rows.dtype.kind != "f" or not np.isfinite(rows).all()):
            raise UserError(f"{path} holds {name} of {rows.dtype} {rows.shape}; finite numbers (N, d) are expected.")
    for what in (statistics.pooled, statistics.spatial):
        if what is None:
            continue
        size = what.mean.shape[0] if what.mean.ndim == 1 else -1
        numbers = what.mean.dtype.kind == "f" and what.covariance.dtype.kind == "f"
        if (
            not numbers
            or what.covariance.shape != (size, size)
            or not (np.isfinite(what.mean).all() and np.isfinite(what.covariance).all())
        ):
            raise UserError(
                f"{path} holds a mean of {what.mean.shape} and a covariance of {what.covariance.shape}, or values that "
                "are not finite; (d,) and (d, d) are expected."
            )


def statistics_of_folder(
    folder: str | Path, network: FeatureNetwork, size: int | None
) -> tuple[ImageStatistics, list[Skipped]]:
    """(statistics of the images of a folder, what was left out and why).

    Raises
    ------
    UserError
        No images, or images of different sizes and no `size`.
    """
    images = read_image_folder(folder, classes=False)
    channels = 1 if network.name == "digits" else 3
    pixels, used = read_all(images, size, channels, "none" if size is None else "crop")
    return statistics_of(pixels, network), used.report.skipped
