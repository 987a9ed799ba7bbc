"""Ctrl-C, SIGTERM and a closed terminal (SIGHUP) as a flag that a loop reads between steps, or as Ctrl-C where nothing
reads it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


def _stopping_signals() -> list[int]:
    """Numbers of the signals that ask this process to stop; what its parent told it to ignore (nohup) is none of
    them."""
    numbers = [int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """An event that such a signal sets; a second one stops at once. Outside the main thread it is never set."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {number: signal.getsignal(number) for number in _stopping_signals()}

    def stop(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            signal.signal(number, before[number] or signal.SIG_DFL)
            os.kill(os.getpid(), number)
        event.set()

    for number in before:
        signal.signal(number, stop)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def stop_as_ctrl_c() -> None:
    """From here on SIGTERM and SIGHUP end this process as Ctrl-C does: files are closed, workers ended, one sentence
    said."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        return
    for number in _stopping_signals():
        if number != signal.SIGINT:
            signal.signal(number, interrupt)
