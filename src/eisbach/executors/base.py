"""The interface of everything that runs cells: calls of module functions, each of which may run anywhere, and twice."""

from __future__ import annotations

import logging
import os
import pickle
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from eisbach.errors import UserError

Made = TypeVar("Made")


class DeadProcessError(UserError):
    """The process of a call died every time that it was tried: the system killed it, or it ran out of memory."""


class Executor(ABC):
    """Runs calls; a context manager.

    A call is a function of a module and arguments that can be pickled. It leaves its work in files that are whole or
    absent, so that it may be killed and run again: every call runs at least once, and only a call that returned is not
    run again.

    Attributes
    ----------
    jobs : int
        Calls that run at once; give `call` as many threads.
    threads : int
        Threads that each call may compute with.
    here : bool
        Calls run in this process.
    """

    jobs: int
    threads: int
    here: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @abstractmethod
    def call(self, function: Callable[..., Made], *args: Any) -> Made:
        """What `function(*args)` returns there; waits for a place that is free, and may be called from many threads.

        Raises
        ------
        DeadProcessError
            Its process died every time.
        UserError
            No process comes up, or the call itself raised it.
        KeyboardInterrupt, InterruptedRun
            The run was stopped; no call begins after it.
        """

    @abstractmethod
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
            What to yield for a call whose process died every time; None raises `DeadProcessError`.
        listen : function of a message, or None
            Called here with everything that the calls `send`.

        Raises
        ------
        Exception
            What a call raised; the calls that had not begun are dropped.
        """


class InThisProcess(Executor):
    """Runs each call where it is made, one after another."""

    jobs, here = 1, True

    def __init__(self) -> None:
        self.threads = available_cpus()

    def call(self, function: Callable[..., Made], *args: Any) -> Made:
        """See `Executor.call`."""
        return function(*args)

    def each(
        self,
        function: Callable[..., Made],
        calls: Sequence[tuple[Any, ...]],
        *,
        dead: Callable[[int], Made] | None = None,
        listen: Callable[[Any], None] | None = None,
    ) -> Iterator[tuple[int, Made]]:
        """See `Executor.each`."""
        for index, args in enumerate(calls):
            with sending_to(listen or (lambda message: None)):
                made = function(*args)
            yield index, made


_post: Callable[[Any], None] | None = None


def send(message: Any) -> None:
    """Gives a message to the `listen` of whoever made the call that runs; only within a call of an executor."""
    if _post is None:
        raise RuntimeError("messages are sent from a call of an executor")
    _post(message)


@contextmanager
def sending_to(post: Callable[[Any], None]) -> Iterator[None]:
    """While it is open, `send` gives messages to `post`."""
    global _post
    before, _post = _post, post
    try:
        yield
    finally:
        _post = before


def portable(error: BaseException, where: str) -> BaseException:
    """An error that another process can read, with its traceback as a note; call it where the error is caught."""
    error.add_note(f"{where}:\n{traceback.format_exc()}")
    try:  # asks whether this very error survives the way to another process; nothing from outside is unpickled
        pickle.loads(pickle.dumps(error))
    except Exception:  # a class with other arguments than its message
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def available_cpus() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quiet_libraries() -> None:
    """What diffusers and torchao say about each other where both are installed, on every import, concerns no user: for
    processes that are the project's own, the command line and its workers."""
    for library in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):
        logging.getLogger(library).setLevel(logging.ERROR)
