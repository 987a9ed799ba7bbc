"""Quality of a set of images against a reference: FID, sFID, IS, precision and recall, on any features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eisbach.errors import UserError
from eisbach.image_quality.distances import ImageStatistics, Moments
from eisbach.structure.frechet import gaussian_frechet
from eisbach.structure.sets.distances import precision_recall


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
