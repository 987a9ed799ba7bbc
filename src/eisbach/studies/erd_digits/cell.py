"""One training of the digits experiment: the real training code, then samples and their quality at every checkpoint."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.config import build_config, check_values
from eisbach.data.images import ImageSet, load_digits, to_bytes
from eisbach.files import read_json, write_json
from eisbach.image_quality.digits_classifier import DigitClassifier, pixels_and_labels, train_classifier
from eisbach.image_quality.quality import inception_score
from eisbach.structure.sets.distances import frechet_distance, precision_recall
from eisbach.studies.erd_digits.spec import Cell, DigitsConfig, class_sequence, training_values
from eisbach.types import Record

QUALITY, GRID = "quality.json", "samples.npy"
_SAMPLING_SEED = 1_000_000  # apart from the training seeds
SHOWN = 50
"""Samples of the last checkpoint that are kept for the page."""


def split_digits(config: DigitsConfig) -> tuple[ImageSet, ImageSet]:
    """(train, held out), as training splits them."""
    return load_digits().split(config.held_out_share)


def classifier_of(config: DigitsConfig) -> DigitClassifier:
    """The experiment's classifier, trained once and kept in its folder."""
    folder = Path(config.out)
    if (folder / "classifier.json").is_file():
        return DigitClassifier.load(folder)
    classifier = train_classifier(*split_digits(config))
    classifier.save(folder)
    return classifier


@dataclass(frozen=True)
class _Quality:
    """The content of `quality.json`."""

    rows: list[Record]


def run_digits_cell(config: DigitsConfig, cell: Cell) -> list[Record]:
    """The rows of one cell, one a checkpoint; made now, or read when they are there. Stopped half-way, it continues."""
    folder = Path(config.out) / "cells" / cell.name
    if (folder / QUALITY).is_file():
        return check_values(_Quality, read_json(folder / QUALITY, "quality of a cell"), str(folder / QUALITY)).rows
    from eisbach.training.checkpoint import list_checkpoints
    from eisbach.training.config import TrainConfig
    from eisbach.training.loop import train

    training = build_config(TrainConfig, training_values(config, cell, str(folder)), f"cell {cell.name}")
    train(training, quiet=True)
    classifier = DigitClassifier.load(config.out)
    held_out, _ = pixels_and_labels(split_digits(config)[1])
    real = classifier(held_out)["pooled"]
    rows: list[Record] = []
    for checkpoint in list_checkpoints(folder / "checkpoints"):
        images = sample_checkpoint(config, cell, checkpoint)
        rows.append(
            {
                "backbone": cell.backbone,
                "target": cell.target,
                "arm": cell.arm,
                "seed": cell.seed,
                "step": int(checkpoint.name.rpartition("-")[2]),
                **quality_of(classifier, real, images),
            }
        )
    np.save(folder / GRID, images[:SHOWN], allow_pickle=False)
    write_json(folder / QUALITY, {"cell": cell.name, "classifier": classifier.identity(), "rows": rows})
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # a hundred cells of them are gigabytes
    return rows


def sample_checkpoint(config: DigitsConfig, cell: Cell, checkpoint: Path) -> np.ndarray:
    """Images [shape=(samples, 8, 8, 1), uint8] drawn with a checkpoint's averaged weights, the classes in turn."""
    from eisbach.backbones import create_backbone
    from eisbach.generation.images import sample_images
    from eisbach.tensor_files import copy_named, read_tensors
    from eisbach.training.trainer import AVERAGE

    values = dict(training_values(config, cell, "")["model"]["create"])
    backbone: Any = create_backbone(values, kind=values.pop("kind"))
    parameters = {name: value.detach() for name, value in backbone.module.named_parameters() if value.requires_grad}
    copy_named(parameters, read_tensors(checkpoint / AVERAGE), checkpoint / AVERAGE)
    classes = class_sequence(backbone.classes, config.samples)
    latents = sample_images(backbone, classes, config.sampling, seed=_SAMPLING_SEED + cell.seed)
    return to_bytes(latents.numpy())


def quality_of(classifier: DigitClassifier, real: np.ndarray, images: np.ndarray) -> Record:
    """Fréchet distance to `real` features [shape=(n, d)], precision, recall, inception score and how often the class
    that was asked for is seen."""
    found = classifier(images)
    wanted = np.arange(len(images)) % len(classifier.classes)
    manifold = precision_recall(real, found["pooled"])
    return {
        "frechet": frechet_distance(real, found["pooled"]),
        "precision": manifold.precision,
        "recall": manifold.recall,
        "inception_score": inception_score(found["logits"]),
        "accuracy": float((found["logits"].argmax(1) == wanted).mean()),
    }


def floor_of(config: DigitsConfig, classifier: DigitClassifier) -> Record:
    """The same numbers for real digits that were trained on, in the place of samples: what a perfect memory reaches."""
    train, held_out = split_digits(config)
    pixels, labels = pixels_and_labels(train)
    rng = np.random.default_rng(0)
    count = min(config.samples, 10 * int(np.bincount(labels).min()))
    by_class = [rng.permutation(np.flatnonzero(labels == number)) for number in range(len(train.classes))]
    chosen = [by_class[place % len(by_class)][place // len(by_class)] for place in range(count)]
    real = classifier(pixels_and_labels(held_out)[0])["pooled"]
    return quality_of(classifier, real, pixels[np.array(chosen)])
