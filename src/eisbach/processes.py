"""A pool of processes that ends with its parent, even when the parent is killed."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

_LOOK_EVERY = 1.0  # seconds


def process_pool(jobs: int) -> ProcessPoolExecutor:
    """`jobs` fresh processes (spawned: a fork would copy the parent's threads and locks)."""
    return ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_end_with_parent, initargs=(os.getpid(),)
    )


def _end_with_parent(parent: int) -> None:
    """A killed parent closes no queue: its workers would wait for work for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
