"""How a process is told to stop: by a signal, or by the process that gives it work; once, in however many ways.

A terminal's Ctrl-C reaches every process of a command, `kill` its parent alone, which tells the others. Work that saves
what it has asks for it by `stop_signal`; other work is interrupted. A second signal of the user's stops at once, but
the second telling of one stop is none: it would cut off what is being saved.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from types import FrameType
from typing import cast

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_HANG_UP = getattr(signal, "SIGHUP", None)


@dataclass
class _Told:
    """What a process knows of being told to stop, while `stop_as_ctrl_c` is open.

    Attributes
    ----------
    here : bool
        It is open.
    told : bool
        In whichever way, and whoever heard it.
    spare : bool
        It was told by `ask_to_stop`; one signal may still come for the same stop.
    asking : bool
        The signal that `ask_to_stop` sends is under way.
    """

    here: bool = False
    told: bool = False
    spare: bool = False
    asking: bool = False


_told = _Told()
_event: threading.Event | None = None  # of the `stop_signal` that is open in the main thread


def stopped() -> bool:
    """Whether this process was told to stop, while `stop_as_ctrl_c` is open; any thread may ask."""
    return _told.told


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM or SIGHUP sets, or `ask_to_stop`; a second signal stops at once. Outside the main
    thread it is never set.

    Raises
    ------
    KeyboardInterrupt
        At its end: it was set, and the work inside went to its end all the same. What comes next must not begin.
    """
    global _event
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {number: signal.getsignal(number) for number in _stopping_signals()}

    def stop(number: int, frame: FrameType | None) -> None:
        another = _is_another(number) if _told.here else event.is_set() and number != _HANG_UP
        event.set()
        if another:
            signal.signal(number, before[number] or signal.SIG_DFL)
            os.kill(os.getpid(), number)

    outside = _event
    try:
        for number in before:
            signal.signal(number, stop)
        _event = event
        if _told.told:  # and what heard it went on
            event.set()
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        _event = outside
        if outside is not None and event.is_set():
            outside.set()
    if event.is_set():
        raise KeyboardInterrupt


def ask_to_stop() -> None:
    """Ends the work of the main thread as a first signal does; for a thread that hears of it in another way, while
    `stop_as_ctrl_c` is open. Does nothing where the process was told before."""
    if _told.told or _told.asking:
        return
    event = _event
    if event is not None:
        _told.told = _told.spare = True
        event.set()
    elif not callable(signal.getsignal(signal.SIGTERM)):  # whoever started the command had it ignored
        _told.told = True
    else:
        _told.asking = True
        if hasattr(signal, "pthread_kill"):  # wakes it out of a system call
            signal.pthread_kill(cast(int, threading.main_thread().ident), signal.SIGTERM)
        else:
            _thread.interrupt_main(signal.SIGTERM)


@contextmanager
def stop_as_ctrl_c() -> Iterator[None]:
    """While it is open, SIGTERM and SIGHUP end this process as Ctrl-C does: files are closed, workers ended, one
    sentence said; and `stopped` knows of all three."""
    global _told
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        first = not _told.told
        if not _is_another(number) and not first:
            return
        if not first and number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _stopping_signals()}
    outside, _told = _told, _Told(here=True)
    try:
        for number in before:
            signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        _told = outside


@contextmanager
def held_back() -> Iterator[None]:
    """While it is open, signals to stop wait in this thread, and in a process that it starts until `let_in` is called
    there: while one imports, an interruption is a traceback out of whichever library is being read."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # where starting a process starts it, it lets signals in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _stopping_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_in() -> None:
    """Ends what `held_back` began where this process was started; a signal that waits comes now."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _stopping_signals())


def _stopping_signals() -> list[int]:
    """Numbers of the signals that ask this process to stop; what its parent told it to ignore (nohup) is none of
    them."""
    numbers = [int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


def _is_another(number: int) -> bool:
    """Whether a signal is another stop than the one that this process was told; counts it."""
    if not _told.told:
        _told.told, _told.spare, _told.asking = True, _told.asking, False
        return False
    if _told.spare:
        _told.spare = False
        return False
    return number != _HANG_UP  # a terminal that closes sends two
