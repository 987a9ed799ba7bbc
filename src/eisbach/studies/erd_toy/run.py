"""Runs the toy's cells, in processes of their own where there are several, and gathers what they left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eisbach.config import build_config, read_yaml, save_config
from eisbach.errors import EisbachError, UserError
from eisbach.output_folder import refuse_other_settings
from eisbach.processes import Processes, send
from eisbach.progress import Progress
from eisbach.studies.erd_toy.cells import Cell, all_cells, load_cell, run_cell
from eisbach.studies.erd_toy.config import QUICK_VALUES, ToyConfig

CELLS = "cells"
Settings = ToyConfig
QUICK = QUICK_VALUES
OPTIONS = {
    "seeds": "comparison.seeds", "first-seed": "comparison.first_seed", "path": "paths", "target": "targets",
    "arm": "comparison.arms", "batch": "comparison.batch",
}  # fmt: skip
JOBS = 2
FREE = ("paths", "comparison.seeds", "comparison.first_seed")
"""May grow in one folder: a cell does not depend on them."""
_TICK_EVERY = 25  # steps between two reports of a worker


@dataclass(frozen=True)
class ToyRun:
    """What all cells left.

    Attributes
    ----------
    config : ToyConfig
    rows : list of dict
        One a trained network of the comparison: path, target, arm, seed, and its measures.
    figures : dict of str to dict of str to Tensor
        Arrays of each path's figures; see `figure_data`. Piecewise bins are joined along t.
    curves : dict of (path, target, arm) to Tensor [shape=(seeds, L)]
        Excess over the noise level, with `curve_t` (L,).
    cpu_seconds : float
        Of all cells, whenever they were made.
    """

    config: ToyConfig
    rows: list[dict[str, Any]]
    figures: dict[str, dict[str, Tensor]]
    curves: dict[tuple[str, str, str], Tensor]
    curve_t: Tensor | None
    cpu_seconds: float


def run(settings: ToyConfig, out: Path, *, jobs: int = 1, quiet: bool = False) -> None:
    """Fills `out/cells`; `page.write_page` makes the records and the page of them."""
    run_toy(settings, out, jobs=jobs, quiet=quiet)


def run_toy(config: ToyConfig, out: str | Path, *, jobs: int = 1, quiet: bool = False) -> ToyRun:
    """Does what is not done yet in `out/cells`, and returns everything.

    Parameters
    ----------
    jobs : int
        Processes, of one thread each when there are several.

    Raises
    ------
    UserError
        Fewer than one job, or `out` holds a run of other settings; the sentence names those that differ.
    StorageError
        The disk is full or the folder cannot be written.
    """
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}; it must be 1 or more.")
    out = Path(out)
    folder = out / CELLS
    file = out / "config.yaml"
    if file.is_file():
        before = build_config(ToyConfig, read_yaml(file), str(file))
        refuse_other_settings(out, "a run of the toy", before.model_dump(), config.model_dump(), free=FREE)
    cells = all_cells(config)
    todo = [cell for cell in cells if load_cell(folder, cell, config) is None]
    save_config(config, out / "config.yaml")
    total = sum(cell.cost(config) for cell in cells)
    left = sum(cell.cost(config) for cell in todo)
    unit = 1_000_000  # network evaluations, so that the bar counts in millions
    with Progress(
        max(1, total // unit), "train toy networks", unit=" M", done=(total - left) // unit, quiet=quiet
    ) as bar:
        meter = _Meter(bar, config, unit)
        if jobs == 1 or len(todo) < 2:
            for cell in todo:
                run_cell(cell, config, folder, lambda step, cell=cell: meter.report(cell, step))  # type: ignore[misc]
                meter.finish(cell)
        else:
            _in_processes(todo, config, folder, min(jobs, len(todo)), meter)
    return gather(config, out)


class _Meter:
    """Turns steps of cells into evaluations of the one bar."""

    def __init__(self, bar: Progress, config: ToyConfig, unit: int) -> None:
        self.bar, self.config, self.unit = bar, config, unit
        self.seen: dict[str, float] = {}
        self.shown = 0

    def report(self, cell: Cell, step: int) -> None:
        steps = self.config.comparison.steps if cell.kind == "comparison" else self.config.figures.steps
        self._set(cell, cell.cost(self.config) * step / steps)

    def finish(self, cell: Cell) -> None:
        self._set(cell, cell.cost(self.config))

    def _set(self, cell: Cell, value: float) -> None:
        self.seen[cell.name] = value
        reached = int(sum(self.seen.values()) // self.unit)
        if reached > self.shown:
            self.bar.advance(reached - self.shown, cell.name)
            self.shown = reached


def _in_processes(todo: Sequence[Cell], config: ToyConfig, folder: Path, jobs: int, meter: _Meter) -> None:
    calls = [(cell, config, folder) for cell in todo]
    with Processes(jobs) as processes:
        for index, _ in processes.each(_work, calls, listen=lambda message: meter.report(*message)):
            meter.finish(todo[index])


def _work(cell: Cell, config: ToyConfig, folder: Path) -> None:
    torch.set_num_threads(1)

    def tick(step: int) -> None:
        if step % _TICK_EVERY == 0:
            send((cell, step))

    run_cell(cell, config, folder, tick)


def gather(config: ToyConfig, out: str | Path) -> ToyRun:
    """Everything that a finished run's cells hold.

    Raises
    ------
    EisbachError
        A cell is missing: the run was not finished.
    """
    folder = Path(out) / CELLS
    rows: list[dict[str, Any]] = []
    figures: dict[str, dict[str, Tensor]] = {}
    pieces: dict[str, list[dict[str, Tensor]]] = {}
    curves: dict[tuple[str, str, str], list[Tensor]] = {}
    curve_t, cpu = None, 0.0
    for cell in all_cells(config):
        found = load_cell(folder, cell, config)
        if found is None:
            raise EisbachError(f"the cell {cell.name} in {folder} is missing; run the same command again.")
        facts, arrays = found
        cpu += float(facts["cpu_seconds"])
        if cell.kind == "global":
            figures[cell.path] = arrays
        elif cell.kind == "piecewise":
            pieces.setdefault(cell.path, []).append(arrays)
        else:
            rows += facts["rows"]
            curve_t = arrays["t"]
            names = [(cell.path, name, arm) for name in config.targets for arm in config.comparison.arms]
            for name, curve in zip(names, arrays["excess"], strict=True):
                curves.setdefault(name, []).append(curve)
    for path, parts in pieces.items():
        for key in parts[0]:
            figures[path][key] = torch.cat([part[key] for part in parts], dim=-1)
    stacked = {name: torch.stack(found) for name, found in curves.items()}
    return ToyRun(config, rows, figures, stacked, curve_t, round(cpu, 1))
