"""Processes of our own: each call in one of them, tried again once where its process dies, and none outlives its parent."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self, TypeVar

from eisbach.errors import UserError

Made = TypeVar("Made")

_LOOK_EVERY = 1.0  # seconds between two looks for the parent
_LISTEN_EVERY = 0.2  # seconds between two looks at what the processes send
_AHEAD = 4  # calls in flight for each process: waiting on ten thousand at once costs their number squared
_START_SECONDS = 300.0  # after which a process that does not answer will not
_to_parent: Connection | None = None
_sending = threading.Lock()


class DeadProcessError(UserError):
    """The process of a call died twice: the system killed it, or it ran out of memory."""


class Processes:
    """`jobs` processes that calls are given to; a context manager.

    A process is started with its first call (spawned: a fork would copy the parent's threads and locks). One that dies
    takes only its own call with it, which is tried again once in a new process.

    Parameters
    ----------
    jobs : int
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._all = [_Process() for _ in range(jobs)]
        for process in self._all:
            self._idle.put(process)
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for process in self._all:
            process.stop()

    def call(self, function: Callable[..., Made], *args: Any) -> Made:
        """What `function(*args)` returns in a process; waits for one that is free, so call it from `jobs` threads.

        Raises
        ------
        DeadProcessError
            Its process died twice.
        UserError
            No process comes up: a spawned process imports the script that it belongs to, and one without a guard starts
            processes there again; or there is no memory for one.
        """
        process = self._idle.get()
        try:
            if self._closed:
                raise UserError("the work was stopped before this part of it began.")
            try:
                return process.call(function, args)
            except BrokenProcessPool:
                process.stop()
            try:
                return process.call(function, args)
            except BrokenProcessPool as error:
                process.stop()
                raise DeadProcessError(
                    f"a process died twice over the same work (killed, or out of memory?); lower --jobs (now {self.jobs}) "
                    "and run the same command again: what is done is kept."
                ) from error
        finally:
            self._idle.put(process)

    def each(
        self,
        function: Callable[..., Made],
        calls: Sequence[tuple[Any, ...]],
        *,
        dead: Callable[[int], Made] | None = None,
        listen: Callable[[Any], None] | None = None,
    ) -> Iterator[tuple[int, Made]]:
        """`(index, function(*calls[index]))` of every call, as they finish.

        Parameters
        ----------
        function : a function of a module
        calls : sequence of tuples
            Arguments.
        dead : function of an index, or None
            What to yield for a call whose process died twice; None raises `DeadProcessError`.
        listen : function of a message, or None
            Called here with everything that the processes `send`.

        Raises
        ------
        Exception
            What a call raised: the calls that had not begun are dropped, those that had are finished first.
        """
        rest = iter(range(len(calls)))
        with ThreadPoolExecutor(self.jobs) as threads:
            waiting: dict[Future[Made], int] = {}
            try:
                while True:
                    for index in islice(rest, _AHEAD * self.jobs - len(waiting)):
                        waiting[threads.submit(self.call, function, *calls[index])] = index
                    if not waiting:
                        return
                    done, _ = wait(waiting, None if listen is None else _LISTEN_EVERY, FIRST_COMPLETED)
                    if listen is not None:
                        self._drain(listen)
                    for future in done:
                        index = waiting.pop(future)
                        try:
                            made = future.result()
                        except DeadProcessError:
                            if dead is None:
                                raise
                            made = dead(index)
                        yield index, made
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _drain(self, listen: Callable[[Any], None]) -> None:
        for process in self._all:
            for message in process.messages():
                listen(message)


class _Process:
    """One process, started when needed."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._inbox: Connection | None = None

    def call(self, function: Callable[..., Made], args: tuple[Any, ...]) -> Made:
        if self._pool is None:
            self._start()
        assert self._pool is not None
        return self._pool.submit(function, *args).result()

    def _start(self) -> None:
        context = get_context("spawn")
        inbox, outbox = context.Pipe(duplex=False)  # each its own: a killed writer leaves no lock behind
        pool = ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(os.getpid(), outbox))
        try:
            pool.submit(int).result(timeout=_START_SECONDS)
        except (BrokenProcessPool, TimeoutError, OSError, MemoryError, RuntimeError) as error:
            pool.shutdown(wait=False, cancel_futures=True)
            raise UserError(
                "the processes for jobs > 1 could not start (too little memory?); give jobs=1, or, in a script, put the call "
                "under `if __name__ == '__main__':`."
            ) from error
        finally:
            outbox.close()
        self._pool, self._inbox = pool, inbox

    def messages(self) -> Iterator[Any]:
        """What the process has sent and nobody has read."""
        try:
            while self._inbox is not None and self._inbox.poll():
                yield self._inbox.recv()
        except (EOFError, OSError):  # it died, perhaps within a message
            self._inbox = None

    def stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._inbox = None


def send(message: Any) -> None:
    """Sends a message to the parent's `listen`; only in a process of `Processes`."""
    if _to_parent is None:
        raise RuntimeError("messages are sent from a process of `Processes`")
    with _sending:
        _to_parent.send(message)


def _begin(parent: int, outbox: Connection) -> None:
    """A killed parent closes no queue: its processes would wait for work for ever."""
    global _to_parent
    _to_parent = outbox

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
