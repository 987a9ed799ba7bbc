"""Cells in processes of their own on one machine, reporting to the one progress bar."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from typing import Any

from eisbach.experiments.cells import Cell, run_cell
from eisbach.experiments.material import available_cpus
from eisbach.experiments.spec import ExperimentSpec
from eisbach.experiments.stages import OverallProgress
from eisbach.processes import process_manager, process_pool
from eisbach.progress import Progress, redirect_progress
from eisbach.structure import Clip

_POLL = 0.5  # seconds between two looks at the queue


def run_cells_in_pool(spec: ExperimentSpec, cells: list[Cell], bar: OverallProgress) -> list[Clip]:
    """The clips of all cells, in the order of `cells`; at most `spec.jobs` run at once.

    The first cell that fails stops the ones that have not begun; what the others finish stays on disk.
    """
    threads = max(1, available_cpus() // spec.jobs)
    clips: dict[int, list[Clip]] = {}
    with process_manager() as manager, process_pool(min(spec.jobs, len(cells))) as pool:
        messages = manager.Queue()
        waiting: dict[Future[list[Clip]], int] = {
            pool.submit(_work, spec, cell, threads, messages): index for index, cell in enumerate(cells)
        }
        try:
            while waiting:
                done, _ = wait(waiting, timeout=_POLL, return_when=FIRST_COMPLETED)
                _drain(messages, bar)
                for future in done:
                    clips[waiting.pop(future)] = future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        _drain(messages, bar)
    return [clip for index in range(len(cells)) for clip in clips[index]]


def _drain(messages: Any, bar: OverallProgress) -> None:
    while True:
        try:
            key, fraction, note = messages.get_nowait()
        except queue.Empty:
            return
        bar.report(key, fraction, note)


def _work(spec: ExperimentSpec, cell: Cell, threads: int, messages: Any) -> list[Clip]:
    """Runs in the worker: one cell, its bars sent to the parent."""
    import torch

    torch.set_num_threads(threads)

    @contextmanager
    def stage(key: str) -> Iterator[None]:
        kind = key.split("/", 1)[0]

        def listen(inner: Progress) -> None:
            if inner.total > 0 and inner.description.split(" ")[0] == kind:
                note = f"{inner.description} {inner.done}/{inner.total}{inner.unit}"
                messages.put((key, inner.done / inner.total, note))

        with redirect_progress(listen):
            yield
        messages.put((key, 1.0, key))

    return run_cell(spec, cell, stage)
