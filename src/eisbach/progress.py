"""Progress with an estimate of the time left: a bar on a terminal, a line every few seconds elsewhere;
and work on many items at once, in threads."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Generic, Self, TypeVar

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")

_LINE_EVERY = 10.0  # seconds between lines when the output is a file or a pipe


_listener: ContextVar[Callable[[Progress], None] | None] = ContextVar("progress_listener", default=None)


@contextmanager
def redirect_progress(listener: Callable[[Progress], None]) -> Iterator[None]:
    """Bars started inside write nothing and call `listener(bar)` instead: one overall bar can stand for many stages."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def _clock(seconds: float) -> str:
    seconds = int(max(0, seconds))
    return (
        f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        if seconds >= 3600
        else f"{seconds // 60}:{seconds % 60:02d}"
    )


class Progress:
    """Counts finished items on standard error.

    Used as a context manager: ``with Progress(total, "encode") as bar: bar.advance()``. It writes to standard
    error only, so that standard output stays machine-readable. `quiet=True` writes nothing.
    """

    def __init__(self, total: int, description: str, *, unit: str = "", done: int = 0, quiet: bool = False) -> None:
        self.total, self.description, self.unit = int(total), description, unit
        self.done = self._first = int(done)
        self.quiet = quiet
        self._note = ""
        self._listener: Callable[[Progress], None] | None = None

    def __enter__(self) -> Self:
        self._start = self._last = time.monotonic()
        self._tty = sys.stderr.isatty()
        self._listener = _listener.get()
        if self._listener is not None:
            self.quiet = True
            self._listener(self)
        if not self.quiet and self.total > 0:
            self._show()
        return self

    def advance(self, count: int = 1, note: str = "") -> None:
        """Marks `count` more items as finished; `note` is shown behind the bar."""
        self.done += count
        self._note = note
        now = time.monotonic()
        if self._listener is not None:
            self._listener(self)
        if self.quiet:
            return
        if now - self._last >= (0.1 if self._tty else _LINE_EVERY):
            self._last = now
            self._show()

    def start_at(self, done: int) -> None:
        """Items that an earlier run had made, where their number is known only now."""
        self.done += done - self._first
        self._first = done

    @property
    def fresh(self) -> int:
        """Items finished since this bar was opened, without those that an earlier run had made."""
        return self.done - self._first

    def remaining(self) -> float | None:
        """Estimated seconds left; None before the first item is finished."""
        if self.fresh <= 0:
            return None
        return (time.monotonic() - self._start) / self.fresh * max(0, self.total - self.done)

    def _show(self, end: bool = False) -> None:
        left = self.remaining()
        share = min(1.0, self.done / self.total) if self.total else 1.0
        spent = time.monotonic() - self._start
        times = _clock(spent) if end else f"{_clock(spent)}, {'?' if left is None else _clock(left)} left"
        text = f"{self.description} {self.done}/{self.total}{self.unit} [{times}] {self._note}".rstrip()
        if self._tty:
            filled = int(24 * share)
            sys.stderr.write(f"\r\x1b[2K{'━' * filled}{'─' * (24 - filled)} {text}" + ("\n" if end else ""))
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.quiet and (self._tty or time.monotonic() - self._start > 1.0):
            self._show(end=True)


@contextmanager
def in_threads(
    items: Sequence[_Item], make: Callable[[_Item], _Made], *, jobs: int, title: str, quiet: bool = False
) -> Iterator[Iterator[tuple[_Item, _Made]]]:
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

        def results() -> Iterator[tuple[_Item, _Made]]:
            for item, made in zip(items, pool.map(make, items), strict=True):
                bar.advance()
                yield item, made

        try:
            yield results()
        except BaseException:  # an interruption too: what has not begun is not begun
            pool.shutdown(wait=True, cancel_futures=True)
            raise


_Key = TypeVar("_Key")


class Ahead(Generic[_Key, _Made]):
    """Values of a pure function, the next one made in a thread while the last one is used.

    Parameters
    ----------
    make : called in one thread at a time.
    """

    def __init__(self, make: Callable[[_Key], _Made]) -> None:
        self._make = make
        self._thread: ThreadPoolExecutor | None = None
        self._next: tuple[_Key, Future[_Made]] | None = None

    def get(self, key: _Key, following: _Key | None) -> _Made:
        """The value of `key`; that of `following`, where there is one, is begun."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        ready, self._next = self._next, None
        if ready is None or ready[0] != key:
            ready = key, self._thread.submit(self._make, key)
        value = ready[1].result()
        if following is not None:
            self._next = following, self._thread.submit(self._make, following)
        return value

    def close(self) -> None:
        """Ends the thread."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self._thread = self._next = None
