"""Pools of processes, and what they talk through, that end with their parent, even when the parent is killed."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.managers import SyncManager

from eisbach.errors import UserError

_LOOK_EVERY = 1.0  # seconds


def process_pool(jobs: int) -> ProcessPoolExecutor:
    """`jobs` fresh processes (spawned: a fork would copy the parent's threads and locks).

    Raises
    ------
    UserError
        No process comes up: a spawned process imports the script that it belongs to, and one without a guard starts
        processes there again.
    """
    pool = ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_end_with_parent, initargs=(os.getpid(),)
    )
    try:
        pool.submit(int).result()
    except BrokenProcessPool as error:
        pool.shutdown()
        raise UserError(
            "the processes for jobs > 1 could not start; in a script, put the call under `if __name__ == '__main__':`, or "
            "give jobs=1."
        ) from error
    return pool


def process_manager() -> SyncManager:
    """A started manager of queues between processes; a context manager that stops it."""
    manager = SyncManager(ctx=get_context("spawn"))
    manager.start(initializer=_end_with_parent, initargs=(os.getpid(),))
    return manager


def _end_with_parent(parent: int) -> None:
    """A killed parent closes no queue: its workers would wait for work for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
