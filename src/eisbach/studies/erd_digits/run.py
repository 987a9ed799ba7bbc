"""The whole grid, resumable cell by cell, to tidy records, a summary and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eisbach.config import build_config
from eisbach.files import read_json, write_json, write_jsonl
from eisbach.output_folder import refuse_other_settings
from eisbach.processes import Processes
from eisbach.progress import Progress
from eisbach.studies.erd_digits.cell import classifier_of, floor_of, run_digits_cell
from eisbach.studies.erd_digits.comparison import summarise
from eisbach.studies.erd_digits.spec import DECLARED, QUICK, Cell, DigitsConfig, cells
from eisbach.types import Record

__all__ = ["QUICK", "Settings", "run"]
Settings = DigitsConfig
OPTIONS = {"seeds": "seeds", "first-seed": "first_seed"}
FREE = ("out", "jobs", "seeds", "first_seed", "backbones", "targets", "arms", "barrier")
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
    check_same(config)
    classifier = classifier_of(config)
    write_json(root / "config.json", config.model_dump(mode="json"))
    write_json(root / "declared.json", DECLARED)
    todo = cells(config)
    rows = {cell.name: found for cell, found in zip(todo, run_all(config, todo, quiet), strict=True)}
    records = [row for cell in todo for row in rows[cell.name]]
    save_rows(records, root)
    summary = summarise(records, config, floor=floor_of(config, classifier), classifier=classifier.accuracy)
    write_json(root / "summary.json", summary)
    return summary


def train_networks(
    cell: str, out: Path, *, seeds: int, steps: int | None = None, jobs: int = 1, quiet: bool = False
) -> list[Path]:
    """Model folders of one setting and arm (`unet-v-constant`), one a training seed, trained as this study trains them.

    Parameters
    ----------
    steps : int or None
        Training steps; None is the study's own number.
    """
    backbone, target, arm = cell.split("-")
    values: dict[str, Any] = {
        "backbones": [backbone], "targets": [target], "arms": [arm], "barrier": [], "seeds": seeds, "jobs": jobs,
        "out": str(out),
    }  # fmt: skip
    if steps is not None:
        values["steps"] = {backbone: steps}
    run_digits(build_config(DigitsConfig, values), quiet=quiet)
    return [out / "cells" / f"{cell}-{seed}" / "model" for seed in range(seeds)]


def check_same(config: DigitsConfig) -> None:
    """Refuses a folder whose cells were made with other options; the grid itself may grow."""
    file = Path(config.out) / "config.json"
    if not file.is_file():
        return
    # Read through the model: an option that came later has its default there.
    before = build_config(DigitsConfig, read_json(file, "configuration"), str(file))
    refuse_other_settings(config.out, "an experiment", before.model_dump(), config.model_dump(), free=FREE)


def run_all(config: DigitsConfig, todo: Sequence[Cell], quiet: bool) -> list[list[Record]]:
    """The rows of every cell, in order; in processes of their own where `jobs` is above 1."""
    with Progress(len(todo), "digits", unit=" trainings", quiet=quiet) as bar:
        if config.jobs == 1:
            found = []
            for cell in todo:
                found.append(run_digits_cell(config, cell))
                bar.advance(note=cell.name)
            return found
        results: dict[int, list[Record]] = {}
        with Processes(min(config.jobs, len(todo))) as processes:
            for number, rows in processes.each(_work, [(config, cell) for cell in todo]):
                results[number] = rows
                bar.advance(note=todo[number].name)
    return [results[number] for number in range(len(todo))]


def _work(config: DigitsConfig, cell: Cell) -> list[Record]:
    import torch

    torch.set_num_threads(1)
    return run_digits_cell(config, cell)


def save_rows(records: Sequence[Record], root: Path) -> None:
    """records.jsonl and records.parquet: one row a checkpoint of a training."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from eisbach.files import atomic_write

    write_jsonl(root / "records.jsonl", records)
    table = pa.Table.from_pylist([dict(row) for row in records])
    atomic_write(root / "records.parquet", lambda partial: pq.write_table(table, partial))
