"""Cells in processes of their own on one machine, reporting to the one progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from eisbach.experiments.cells import Cell, run_cell
from eisbach.experiments.material import available_cpus
from eisbach.experiments.spec import ExperimentSpec
from eisbach.experiments.stages import OverallProgress
from eisbach.processes import Processes, send
from eisbach.progress import Progress, redirect_progress
from eisbach.structure import Clip


def run_cells_in_pool(spec: ExperimentSpec, cells: list[Cell], bar: OverallProgress) -> list[Clip]:
    """The clips of all cells, in the order of `cells`; at most `spec.jobs` run at once.

    The first cell that fails stops the ones that have not begun; what the others finish stays on disk.
    """
    threads = max(1, available_cpus() // spec.jobs)
    calls = [(spec, cell, threads) for cell in cells]
    with Processes(min(spec.jobs, len(cells))) as processes:
        clips = dict(processes.each(_work, calls, listen=lambda message: bar.report(*message)))
    return [clip for index in range(len(cells)) for clip in clips[index]]


def _work(spec: ExperimentSpec, cell: Cell, threads: int) -> list[Clip]:
    """Runs in the worker: one cell, its bars sent to the parent."""
    import torch

    torch.set_num_threads(threads)

    @contextmanager
    def stage(key: str) -> Iterator[None]:
        kind = key.split("/", 1)[0]

        def listen(inner: Progress) -> None:
            if inner.total > 0 and inner.description.split(" ")[0] == kind:
                note = f"{inner.description} {inner.done}/{inner.total}{inner.unit}"
                send((key, inner.done / inner.total, note))

        with redirect_progress(listen):
            yield
        send((key, 1.0, key))

    return run_cell(spec, cell, stage)
