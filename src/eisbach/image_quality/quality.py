"""Quality of a set of images against a reference: FID, sFID, IS, precision and recall, on any features."""

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
from eisbach.structure.frechet import gaussian_frechet
from eisbach.structure.sets.distances import precision_recall
from eisbach.tensor_files import read_arrays
from eisbach.types import Skipped


def inception_score(logits: np.ndarray) -> float:
    """exp of the mean divergence of an image's class distribution from that of all images (Salimans et al. 2016); 1 ...
    classes.

    Over the whole set at once, as ADM's evaluation takes it for sets of up to 5,000; published scores average over
    parts.

    Parameters
    ----------
    logits : np.ndarray [shape=(N, classes)]

    Raises
    ------
    UserError
        Fewer than two classes, no image, or values that are not finite.
    """
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 2 or len(values) == 0 or not np.isfinite(values).all():
        raise UserError(
            "an inception score needs finite logits of at least two classes, (images, classes); got shape "
            f"{values.shape}."
        )
    log_p = values - np.logaddexp.reduce(values, axis=1, keepdims=True)
    log_mean = np.logaddexp.reduce(log_p, axis=0) - np.log(len(values))
    return float(np.exp(np.sum(np.exp(log_p) * (log_p - log_mean), axis=1).mean()))


@dataclass(frozen=True)
class ImageQuality:
    """Quality of samples against a reference; None where a number cannot be had, with the reason in `notes`.

    Attributes
    ----------
    fid, sfid : float >= 0, lower is better
        Fréchet distances on pooled and on spatial features.
    inception_score : float >= 1, higher is better
        Of the samples alone.
    precision, recall : float in [0, 1], higher is better
    samples, reference : int or None
        Number of images.
    network : str
    notes : tuple of str
    """

    fid: float
    sfid: float | None
    inception_score: float | None
    precision: float | None
    recall: float | None
    samples: int | None
    reference: int | None
    network: str
    notes: tuple[str, ...]


def image_quality(reference: ImageStatistics, samples: ImageStatistics, *, neighbours: int = 3) -> ImageQuality:
    """The quality of `samples` against `reference`.

    Parameters
    ----------
    neighbours : int, default 3
        k of precision and recall (Kynkäänniemi et al. 2019), as in ADM's evaluation.

    Raises
    ------
    UserError
        The two were made with different feature networks.
    """
    _require_same_network(reference, samples)
    notes = []
    for name, images in (("samples", samples), ("reference", reference)):
        if images.rank_deficient():
            notes.append(
                f"the {name} are {images.count} images for {len(images.pooled.mean)} features: the covariance is "
                "rank-deficient and the Fréchet distance biased upward; compare only with equal numbers"
            )
    sfid = None
    if reference.spatial is not None and samples.spatial is not None:
        sfid = _frechet(reference.spatial, samples.spatial, "spatial features")
    else:
        notes.append("no sFID: one of the two has no spatial features")
    precision = recall = None
    if reference.features is not None and samples.features is not None:
        shares = precision_recall(reference.features, samples.features, neighbours)
        precision, recall = shares.precision, shares.recall
    else:
        notes.append("no precision and recall: they need the features of both sets, and one has statistics alone")
    score = None if samples.logits is None else inception_score(samples.logits)
    if score is None:
        notes.append("no inception score: the samples have no class logits")
    return ImageQuality(
        fid=_frechet(reference.pooled, samples.pooled, "features"),
        sfid=sfid,
        inception_score=score,
        precision=precision,
        recall=recall,
        samples=samples.count,
        reference=reference.count,
        network=samples.network,
        notes=tuple(notes),
    )


def _require_same_network(reference: ImageStatistics, samples: ImageStatistics) -> None:
    """Refuses features that cannot be compared; a reference that names its network without a hash fits any of that
    name."""
    mine, theirs = samples.network, reference.network
    if mine == theirs or theirs == mine.rpartition("-")[0] or mine == theirs.rpartition("-")[0]:
        return
    raise UserError(
        f"the reference was made with the features {theirs} and the samples with {mine}; distances between them mean "
        "nothing: use the same features for both."
    )


def _frechet(a: Moments, b: Moments, what: str) -> float:
    if a.mean.shape != b.mean.shape:
        raise UserError(
            f"the reference has {a.mean.shape[0]} {what} and the samples {b.mean.shape[0]}; they come from different "
            "networks."
        )
    return gaussian_frechet(a.mean, a.covariance, b.mean, b.covariance)


# --- feature statistics of a set of images: from a folder, or from a reference file such as ADM's


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
