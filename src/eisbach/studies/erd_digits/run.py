"""The whole grid of trainings, resumable cell by cell, to tidy records and a summary.

A cell is one training by the real training code, then samples and their quality at every checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.config import build_config, check_values
from eisbach.data.images import ImageSet, load_digits, to_bytes
from eisbach.executors import open_executor
from eisbach.files import read_json, write_json, write_jsonl
from eisbach.image_quality.digits_classifier import DigitClassifier, pixels_and_labels, train_classifier
from eisbach.image_quality.quality import inception_score
from eisbach.output_folder import refuse_other_settings
from eisbach.progress import Progress
from eisbach.structure.sets.distances import frechet_distance, precision_recall
from eisbach.studies.erd_digits.judge import summarise
from eisbach.studies.erd_digits.spec import DECLARED, QUICK, Cell, DigitsConfig, cells, class_sequence, training_values
from eisbach.types import Record

__all__ = ["QUICK", "Settings", "run"]
Settings = DigitsConfig
OPTIONS = {"seeds": "seeds", "first-seed": "first_seed"}
FREE = ("out", "jobs", "device", "seeds", "first_seed", "backbones", "targets", "arms", "barrier")
"""May grow in one folder: a cell does not depend on them."""


def run(settings: DigitsConfig, out: Path, *, jobs: int = 1, quiet: bool = False) -> None:
    """Trains what is missing; `out` then holds the records and `summary.json`."""
    run_digits(settings.model_copy(update={"out": str(out), "jobs": jobs}), quiet=quiet)


def run_digits(config: DigitsConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Trains what is not trained yet and returns the summary; `out` then holds records.parquet, records.jsonl and
    summary.json.

    Raises
    ------
    UserError
        scikit-learn is missing, or the folder holds an experiment of another configuration.
    """
    root = Path(config.out)
    _check_same(config)
    classifier = _classifier_of(config)
    write_json(root / "config.json", config.model_dump(mode="json"))
    write_json(root / "declared.json", DECLARED)
    todo = cells(config)
    rows = {cell.name: records for cell, records in zip(todo, _run_all(config, todo, quiet), strict=True)}
    records = [row for cell in todo for row in rows[cell.name]]
    _save_rows(records, root)
    summary = summarise(records, config, floor=_floor_of(config, classifier), classifier=classifier.accuracy)
    write_json(root / "summary.json", summary)
    return summary


def train_networks(
    cell: str, out: Path, *, seeds: int, steps: int | None = None, jobs: int = 1, device: str = "auto",
    quiet: bool = False,
) -> list[Path]:  # fmt: skip
    """Model folders of one setting and arm (`unet-v-constant`), one a training seed, trained as this study trains them.

    Parameters
    ----------
    steps : int or None
        Training steps; None is the study's own number.
    """
    backbone, target, arm = cell.split("-")
    values: dict[str, Any] = {
        "backbones": [backbone], "targets": [target], "arms": [arm], "barrier": [], "seeds": seeds, "jobs": jobs,
        "out": str(out), "device": device,
    }  # fmt: skip
    if steps is not None:
        values["steps"] = {backbone: steps}
    run_digits(build_config(DigitsConfig, values), quiet=quiet)
    return [out / "cells" / f"{cell}-{seed}" / "model" for seed in range(seeds)]


def _check_same(config: DigitsConfig) -> None:
    """Refuses a folder whose cells were made with other options; the grid itself may grow."""
    file = Path(config.out) / "config.json"
    if not file.is_file():
        return
    # Read through the model: an option that came later has its default there.
    before = build_config(DigitsConfig, read_json(file, "configuration"), str(file))
    refuse_other_settings(config.out, "an experiment", before.model_dump(), config.model_dump(), free=FREE)


def _run_all(config: DigitsConfig, todo: Sequence[Cell], quiet: bool) -> list[list[Record]]:
    """The rows of every cell, in order; in processes of their own where `jobs` is above 1."""
    with Progress(len(todo), "digits", unit=" trainings", quiet=quiet) as bar:
        results: dict[int, list[Record]] = {}
        # A single cell that is left of several processes' work computes in one too: in one thread.
        with open_executor(config.jobs, max(2, len(todo)), network=True) as executor:
            work = _run_digits_cell if executor.here else _work
            for number, rows in executor.each(work, [(config, cell) for cell in todo]):
                results[number] = rows
                bar.advance(note=todo[number].name)
    return [results[number] for number in range(len(todo))]


def _work(config: DigitsConfig, cell: Cell) -> list[Record]:
    import torch

    torch.set_num_threads(1)
    return _run_digits_cell(config, cell)


def _save_rows(records: Sequence[Record], root: Path) -> None:
    """records.jsonl and records.parquet: one row a checkpoint of a training."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from eisbach.files import atomic_write

    write_jsonl(root / "records.jsonl", records)
    table = pa.Table.from_pylist([dict(row) for row in records])
    atomic_write(root / "records.parquet", lambda partial: pq.write_table(table, partial))


QUALITY, GRID = "quality.json", "samples.npy"
_SAMPLING_SEED = 1_000_000  # apart from the training seeds
SHOWN = 50
"""Samples of the last checkpoint that are kept for the page."""


def _split_digits(config: DigitsConfig) -> tuple[ImageSet, ImageSet]:
    """(train, held out), as training splits them."""
    return load_digits().split(config.held_out_share)


def _classifier_of(config: DigitsConfig) -> DigitClassifier:
    """The experiment's classifier, trained once and kept in its folder."""
    folder = Path(config.out)
    if (folder / "classifier.json").is_file():
        return DigitClassifier.load(folder)
    classifier = train_classifier(*_split_digits(config))
    classifier.save(folder)
    return classifier


@dataclass(frozen=True)
class _Quality:
    """The content of `quality.json`."""

    rows: list[Record]


def _run_digits_cell(config: DigitsConfig, cell: Cell) -> list[Record]:
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
    held_out, _ = pixels_and_labels(_split_digits(config)[1])
    real = classifier(held_out)["pooled"]
    rows: list[Record] = []
    for checkpoint in list_checkpoints(folder / "checkpoints"):
        images = _sample_checkpoint(config, cell, checkpoint)
        rows.append(
            {
                "backbone": cell.backbone,
                "target": cell.target,
                "arm": cell.arm,
                "seed": cell.seed,
                "step": int(checkpoint.name.rpartition("-")[2]),
                **_quality_of(classifier, real, images),
            }
        )
    np.save(folder / GRID, images[:SHOWN], allow_pickle=False)
    write_json(folder / QUALITY, {"cell": cell.name, "classifier": classifier.identity(), "rows": rows})
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # a hundred cells of them are gigabytes
    return rows


def _sample_checkpoint(config: DigitsConfig, cell: Cell, checkpoint: Path) -> np.ndarray:
    """Images [shape=(samples, 8, 8, 1), uint8] drawn with a checkpoint's averaged weights, the classes in turn."""
    from eisbach.backbones import create_backbone
    from eisbach.generation.images import sample_images
    from eisbach.tensor_files import copy_named, read_tensors
    from eisbach.training.checkpoint import AVERAGE

    values = dict(training_values(config, cell, "")["model"]["create"])
    backbone: Any = create_backbone(values, kind=values.pop("kind"))
    parameters = {name: value.detach() for name, value in backbone.module.named_parameters() if value.requires_grad}
    copy_named(parameters, read_tensors(checkpoint / AVERAGE), checkpoint / AVERAGE)
    classes = class_sequence(backbone.classes, config.samples)
    seed = _SAMPLING_SEED + cell.seed
    latents = sample_images(backbone, classes, config.sampling, seed=seed, placement=config.placement())
    return to_bytes(latents.numpy())


def _quality_of(classifier: DigitClassifier, real: np.ndarray, images: np.ndarray) -> Record:
    """Fréchet distance to `real` features [shape=(n, d)], precision, recall, inception score and how often the class
    that was asked for is seen."""
    output = classifier(images)
    wanted = np.arange(len(images)) % len(classifier.classes)
    manifold = precision_recall(real, output["pooled"])
    return {
        "frechet": frechet_distance(real, output["pooled"]),
        "precision": manifold.precision,
        "recall": manifold.recall,
        "inception_score": inception_score(output["logits"]),
        "accuracy": float((output["logits"].argmax(1) == wanted).mean()),
    }


def _floor_of(config: DigitsConfig, classifier: DigitClassifier) -> Record:
    """The same numbers for real digits that were trained on, in the place of samples: what a perfect memory reaches."""
    train, held_out = _split_digits(config)
    pixels, labels = pixels_and_labels(train)
    rng = np.random.default_rng(0)
    count = min(config.samples, 10 * int(np.bincount(labels).min()))
    by_class = [rng.permutation(np.flatnonzero(labels == number)) for number in range(len(train.classes))]
    chosen = [by_class[place % len(by_class)][place // len(by_class)] for place in range(count)]
    real = classifier(pixels_and_labels(held_out)[0])["pooled"]
    return _quality_of(classifier, real, pixels[np.array(chosen)])
