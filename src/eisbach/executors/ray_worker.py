"""The side of a Ray cluster that runs in its workers: one call, what came of it, and what it sent meanwhile."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from eisbach.errors import UserError
from eisbach.executors.base import portable, quiet_libraries, sending_to
from eisbach.output_folder import BusyFolderError

LISTEN_EVERY = 0.5
"""Seconds between two letters of a worker, and between two looks at the mailbox."""
_LAST_LETTER = 60.0  # seconds for what was sent last: on a busy machine the mailbox may only just be starting
_PATIENCE = 120.0  # seconds that a call which is run again waits for a folder that its dead predecessor still holds
_SAME = ("eisbach", "torch", "numpy")  # packages of which other versions may give other bytes
MADE, RAISED, DIED = "made", "raised", "died"
Outcome = tuple[str, Any]
"""What a call returned, what it raised, or how whatever ran it died."""


def versions_here() -> dict[str, str]:
    """Versions of what results depend on; nothing is imported."""
    versions = {}
    for name in _SAME:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@dataclass(frozen=True)
class Place:
    """What a worker must have in common with the driver."""

    folder: str
    token: str | None
    versions: dict[str, str]
    threads: int
    environment: dict[str, str]

    def enter(self) -> None:
        """Makes this process one of the driver's kind.

        Raises
        ------
        UserError
            The node sees another disk, or has other versions.
        """
        node = platform.node()
        missing = next((path for path in (self.folder, self.token) if path and not Path(path).exists()), None)
        if missing is not None:
            raise UserError(
                f"the node {node} does not see {missing}; start the command in a folder, and give it an --out, that "
                "all nodes of the cluster mount at the same path."
            )
        here = versions_here()
        other = [f"{name} {here.get(name, 'nothing')}, not {of}" for name, of in self.versions.items()
                 if here.get(name) != of]  # fmt: skip
        if other:
            raise UserError(f"the node {node} has {'; '.join(other)}; install the same versions on all nodes.")
        os.chdir(self.folder)
        os.environ.update(self.environment)
        quiet_libraries()


_entered: Place | None = None


def run_call(
    function: Callable[..., Any], args: tuple[Any, ...], place: Place, mailbox: Any, letter: int, again: bool
) -> Outcome:
    """Runs in a worker: one call, and what came of it."""
    global _entered
    end = time.monotonic() + _PATIENCE
    try:
        if _entered != place:
            place.enter()
            _entered = place
        with _posting(mailbox, letter):
            while True:
                try:
                    return MADE, function(*args)
                except BusyFolderError:  # whoever died may take a moment to let go of its folder
                    if not again or time.monotonic() > end:
                        raise
                    time.sleep(1.0)
    except Exception as error:
        return RAISED, portable(error, f"on the node {platform.node()}")


@contextmanager
def _posting(mailbox: Any, letter: int) -> Iterator[None]:
    """Collects what the call sends and posts it now and then, and all of it before the call ends."""
    if mailbox is None:
        with sending_to(lambda message: None):
            yield
        return
    import ray

    written: list[Any] = []
    writing, ended = threading.Lock(), threading.Event()

    def write(message: Any) -> None:
        with writing:
            written.append(message)

    def post() -> Any:
        with writing:
            messages = written.copy()
            written.clear()
        return mailbox.put.remote(letter, messages) if messages else None

    def now_and_then() -> None:
        while not ended.wait(LISTEN_EVERY):
            with suppress(Exception):  # progress alone: no reason to lose the call
                post()

    posting = threading.Thread(target=now_and_then, daemon=True)
    posting.start()
    try:
        with sending_to(write):
            yield
    finally:
        ended.set()
        posting.join(timeout=_LAST_LETTER)
        with suppress(Exception):
            if (last := post()) is not None:
                ray.get(last, timeout=_LAST_LETTER)


class Mailbox:
    """An actor beside the driver that holds what calls sent, by the number of the executor that listens."""

    def __init__(self) -> None:
        self._letters: dict[int, list[Any]] = {}

    def put(self, letter: int, messages: list[Any]) -> None:
        """Adds what a call sent."""
        self._letters.setdefault(letter, []).extend(messages)

    def take(self, letter: int) -> list[Any]:
        """What was sent since the last look."""
        return self._letters.pop(letter, [])
