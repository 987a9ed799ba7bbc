"""Trains the barrier's arms once more, over draws, and writes down what every second step did to each sample."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pydantic import Field

from eisbach.config import override
from eisbach.data.manifest import load_manifest
from eisbach.executors import open_executor
from eisbach.experiments.cells import Cell, train_cell, training_of
from eisbach.experiments.material import build_material, plan_material
from eisbach.experiments.recipes import load_spec
from eisbach.experiments.spec import ExperimentSpec, check_spec
from eisbach.files import atomic_write
from eisbach.progress import Progress
from eisbach.studies.contract import PlacedSettings
from eisbach.training.logging import MetricsFile
from eisbach.training.run_folder import RunFolder

RECIPE, SAMPLES = "barrier_main", "samples.parquet"
JOBS = 1
_DIGITS = 6
_COLUMNS = ("t", "loss", "belief", "sample_weight", "weight", "gradient_norm")


class Settings(PlacedSettings):
    """Which trainings are logged, and how closely.

    Attributes
    ----------
    draws : list of int
        Training seeds; each draws a set of its own.
    arms : list of str
        Of the recipe of `barrier_main`.
    every : int
        Steps between logged steps.
    rehearsal : bool
        The recipe's `quick` changes: hardly any training, and numbers that mean nothing.
    changes : list of str
        `key=value` changes of that recipe, such as another store.
    """

    draws: list[int] = Field(default=[100, 101, 102, 103, 104, 105, 106, 107], min_length=1)
    arms: list[str] = Field(default=["plain", "batch-50", "sample-100"], min_length=2)
    every: int = Field(default=2, ge=1)
    rehearsal: bool = False
    changes: list[str] = Field(default=[])


QUICK: dict[str, Any] = {
    "draws": [0, 1], "arms": ["plain", "sample-100"], "every": 1, "rehearsal": True,
    "changes": ["training.steps=10", "training.batch_size=8"],
}  # fmt: skip


def logged_spec(settings: Settings, out: Path) -> ExperimentSpec:
    """`barrier_main` with these draws and arms, and with the log of samples on."""
    others = [arm for arm in load_spec(RECIPE).arms if arm not in settings.arms]
    log = {"every": settings.every, "gradient_norms": True}
    changes = [
        *(f"arms.{arm}=null" for arm in others), "oracle=null", *settings.changes,
        override("train_seeds", settings.draws), override("out", str(out)),
        override("training.log_samples", log), f"device={settings.device}", "precision=fp32",
    ]  # fmt: skip
    return load_spec(RECIPE, changes, quick=settings.rehearsal)


def run(settings: Settings, out: Path, *, jobs: int = 1, quiet: bool = False) -> None:
    """Writes `samples.parquet`: a row a logged sample; trainings that are finished are kept."""
    spec = logged_spec(settings, out)
    check_spec(spec)
    build_material(spec, out, lambda key: nullcontext())
    cells = []
    for seed in spec.train_seeds:
        manifest, cache = (None if path is None else str(path) for path in plan_material(spec, out, seed))
        cells += [Cell(arm, seed, out, manifest, cache) for arm in spec.arms]
    with Progress(len(cells), "train", quiet=quiet) as bar, open_executor(jobs, len(cells), network=True) as executor:
        threads = None if executor.here else executor.threads
        for _ in executor.each(_train, [(spec, cell, threads) for cell in cells]):
            bar.advance()
    write_samples(out / SAMPLES, [row for cell in cells for row in _rows(spec, cell)])


def _train(spec: ExperimentSpec, cell: Cell, threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    train_cell(spec, cell)


def _rows(spec: ExperimentSpec, cell: Cell) -> list[dict[str, Any]]:
    """The log of a training, with the label of each clip, which no weighting sees."""
    flat = {row.id: row.labels["flat"] == "true" for row in load_manifest(str(cell.manifest), check_files=False)}
    steps = training_of(spec, cell).steps
    log = MetricsFile(RunFolder(cell.folder / "train").sample_log).rows()
    return [
        {
            "arm": cell.arm, "train_seed": cell.train_seed, "share": row["step"] / steps,
            "flat": flat[row["id"]], **{name: _short(row.get(name)) for name in _COLUMNS},
        }
        for row in log
    ]  # fmt: skip


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def write_samples(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The rows as Parquet, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("arm", "train_seed", "share", "flat", *_COLUMNS)
    columns = {name: [row[name] for row in rows] for name in names}
    types = {name: pa.float32() for name in ("share", *_COLUMNS)}
    table = pa.table({name: pa.array(values, type=types.get(name)) for name, values in columns.items()})
    atomic_write(file, lambda partial: pq.write_table(table, str(partial), compression="zstd"))
