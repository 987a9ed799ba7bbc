"""What the tests of a cluster call on its workers. Each worker imports this file, and many are killed: it imports
nothing heavy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from eisbach.errors import UserError
from eisbach.executors import send
from eisbach.interruption import stop_signal
from eisbach.output_folder import exclusive


def report(number: int) -> int:
    """Sends three messages and gives a number."""
    for part in range(3):
        send((number, part))
    return 10 * number


def refuse(number: int) -> int:
    """A user's mistake in one of the calls."""
    if number == 1:
        raise UserError("not this one")
    return number


def fragile(folder: Path, number: int, lives: int) -> int:
    """Kills its process the first `lives` times that it is called with a number."""
    count = len(list(folder.glob(f"{number}-*")))
    (folder / f"{number}-{count}").touch()
    if count < lives:
        os.kill(os.getpid(), signal.SIGKILL)
    return 10 * number


def hold(folder: Path, dies: bool) -> str:
    """Holds a folder by a child that outlives it for a moment, as a node that is slow to die does."""
    if dies and not (folder / "died").exists():
        (folder / "died").touch()
        script = "import sys, time; from eisbach.output_folder import exclusive\n"
        script += "with exclusive(sys.argv[1]): print(flush=True); time.sleep(2)"
        child = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        os.kill(os.getpid(), signal.SIGKILL)
    with exclusive(folder):
        return "held"


def until_stopped(folder: Path, number: int) -> None:
    """Works until it is told to stop, and saves."""
    with stop_signal() as stop:
        (folder / f"{number}-began").touch()
        send(number)
        end = time.monotonic() + 50
        while not stop.is_set():  # in steps, as a training looks: Ray interrupts between two lines of Python
            assert time.monotonic() < end, "was never stopped"
            time.sleep(0.05)
        (folder / f"{number}-saved").touch()
