"""Work on many files at once: in threads, in the order of the files, with a bar, and given up whole when something
breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from eisbach.progress import Progress

Item = TypeVar("Item")
Made = TypeVar("Made")


@contextmanager
def in_threads(
    items: Sequence[Item], make: Callable[[Item], Made], *, jobs: int, title: str, quiet: bool = False
) -> Iterator[Iterator[tuple[Item, Made]]]:
    """`with in_threads(items, make, ...) as results` gives (item, make(item)) in order; an error leaves no thread
    running.

    Parameters
    ----------
    items : sequence
    make : function of one item
        What it raises is raised where its result is due.
    jobs : int
        Threads, at least 1.
    title : str
        Of the progress bar.
    """
    with ThreadPoolExecutor(max(1, jobs)) as pool, Progress(len(items), title, quiet=quiet) as bar:

        def results() -> Iterator[tuple[Item, Made]]:
            for item, made in zip(items, pool.map(make, items), strict=True):
                bar.advance()
                yield item, made

        try:
            yield results()
        except BaseException:  # an interruption too: what has not begun is not begun
            pool.shutdown(wait=True, cancel_futures=True)
            raise
