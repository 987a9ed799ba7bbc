"""Processes of our own: each call in one of them, tried again once where its process dies, and none outlives its
parent."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, cast

from eisbach.errors import InterruptedRun, UserError
from eisbach.executors.base import DeadProcessError, Executor, Made, portable, quiet_libraries, sending_to
from eisbach.interruption import ask_to_stop, held_back, let_in, stop_as_ctrl_c, stopped

_LOOK_EVERY = 1.0  # seconds between two looks for the parent
_LISTEN_EVERY = 0.2  # seconds between two looks at what the processes send
_AHEAD = 4  # calls in flight for each process: waiting on ten thousand at once costs their number squared
_START_SECONDS = 300.0  # after which a process that does not answer will not
_TRIES = 2
_STOPS = (KeyboardInterrupt, InterruptedRun)


class Processes(Executor):
    """`jobs` processes that calls are given to; a context manager.

    A process is started with its first call (spawned: a fork would copy the parent's threads and locks). One that dies
    takes only its own call with it, which is tried again once in a new process.

    Parameters
    ----------
    jobs : int
    threads : int
        What each call may compute with.
    """

    def __init__(self, jobs: int, *, threads: int = 1) -> None:
        self.jobs, self.threads = jobs, threads
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._all = [_Process() for _ in range(jobs)]
        for process in self._all:
            self._idle.put(process)
        self._closed = self._stopped = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for process in self._all:
            process.stop()

    def _stopping(self) -> bool:
        """Calls that run save what they have and end, and no other begins."""
        return self._stopped or stopped()

    def call(self, function: Callable[..., Made], *args: Any) -> Made:
        """See `Executor.call`; a spawned process imports the script that it belongs to, and one without a guard cannot
        start any."""
        process = self._idle.get()
        try:
            for _ in range(_TRIES):
                if self._closed:
                    raise UserError("the work was stopped before this part of it was done.")
                if self._stopping():
                    raise KeyboardInterrupt
                try:
                    return process.call(function, args, self._heard.put, self._stopping)
                except _STOPS:  # whoever was told
                    self._stopped = True
                    raise
                except _ProcessDied as error:
                    process.stop()
                    died = error
            raise DeadProcessError(
                f"a process died twice over the same work (killed, or out of memory?); lower --jobs (now {self.jobs}) "
                "and run the same command again: what is done is kept."
            ) from died
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
        """See `Executor.each`; where one raises, those that had begun are finished first, and where the run is stopped,
        they save what they have."""
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
            except BaseException as error:
                threads.shutdown(wait=False, cancel_futures=True)
                self._stopped = self._stopped or isinstance(error, _STOPS)
                raise

    def _drain(self, listen: Callable[[Any], None]) -> None:
        with suppress(queue.Empty):
            while True:
                listen(self._heard.get_nowait())


class _Process:
    """One process, started when needed, that does what it is sent over a pipe of its own.

    No executor of the library: its threads, queues and locks are shared, so that one that dies, or a thread that finds
    no memory, leaves the others waiting for ever.
    """

    def __init__(self) -> None:
        self._pipe: Connection | None = None
        self._tell: Connection | None = None
        self._process: Any = None

    def call(
        self,
        function: Callable[..., Made],
        args: tuple[Any, ...],
        hear: Callable[[Any], None],
        stopping: Callable[[], bool],
    ) -> Made:
        """What the function returns there; as soon as `stopping`, the process is asked to, which says so by what it
        raises."""
        if self._pipe is None:
            self._start(stopping)
        assert self._pipe is not None
        try:
            self._pipe.send((function, args))
            while True:
                if stopping():
                    self._ask_to_stop()
                if not self._pipe.poll(_LISTEN_EVERY):
                    continue
                kind, value = self._pipe.recv()
                if kind == _MADE:
                    return cast(Made, value)
                if kind == _RAISED:
                    break
                hear(value)
        except (EOFError, OSError) as error:  # its end of the pipe is closed
            raise _ProcessDied from error
        except KeyboardInterrupt:  # this very thread was told
            self._ask_to_stop()
            raise
        raise value

    def _start(self, stopping: Callable[[], bool]) -> None:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        told, tell = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(os.getpid(), theirs, told))
        try:
            with held_back():
                process.start()
            theirs.close()
            told.close()
            end = time.monotonic() + _START_SECONDS
            while not ours.poll(_LISTEN_EVERY):
                if stopping():
                    raise KeyboardInterrupt
                if time.monotonic() > end:
                    raise TimeoutError(f"nothing in {_START_SECONDS:g} s")
            ours.recv()
        except BaseException as error:
            ours.close()
            tell.close()
            if process.pid is not None:
                process.kill()
                process.join()
            if not isinstance(error, EOFError | OSError | MemoryError | RuntimeError):
                raise
            raise UserError(
                "the processes for jobs > 1 could not start (too little memory?); give jobs=1, or, in a script, put "
                "the call "
                "under `if __name__ == '__main__':`."
            ) from error
        self._pipe, self._process, self._tell = ours, process, tell

    def _ask_to_stop(self) -> None:
        """Once."""
        tell, self._tell = self._tell, None
        if tell is not None:
            with suppress(OSError):  # it is dead
                tell.send_bytes(b"stop")
            tell.close()

    def stop(self) -> None:
        """Ends the process when it has done what it was sent; a dead one is buried."""
        pipe, process, tell = self._pipe, self._process, self._tell
        self._pipe = self._process = self._tell = None
        for end in (pipe, tell):
            if end is not None:
                end.close()
        if process is not None:
            process.join()


class _ProcessDied(Exception):
    """A process ended without an answer."""


_MADE, _RAISED, _SENT = "made", "raised", "sent"


def _serve(parent: int, pipe: Connection, told: Connection) -> None:
    """Runs in the process: calls what comes over the pipe until the parent closes it, is killed, or says to stop."""
    writing = threading.Lock()

    def answer(kind: str, value: Any) -> None:
        with writing:
            pipe.send((kind, value))

    def watch() -> None:  # a killed parent whose pipe another process holds closes nothing
        while os.getppid() == parent:
            try:
                if told.poll(_LOOK_EVERY):
                    told.recv_bytes()
                    ask_to_stop()
            except (EOFError, OSError):  # there is no more to be told
                time.sleep(_LOOK_EVERY)
        os._exit(1)

    # By default SIGTERM, which a group may get, looks like a death, after which a call is tried again.
    with suppress(EOFError, OSError, KeyboardInterrupt), stop_as_ctrl_c(), sending_to(partial(answer, _SENT)):
        threading.Thread(target=watch, daemon=True).start()
        let_in()
        quiet_libraries()
        answer(_SENT, "ready")
        while True:  # until the parent is gone, or has no more work
            function, args = pipe.recv()
            try:
                made = function(*args)
            except BaseException as error:
                answer(_RAISED, portable(error, "in a process of its own"))
                if isinstance(error, KeyboardInterrupt):
                    return
            else:
                answer(_MADE, made)
