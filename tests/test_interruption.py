"""One stop, told in whichever ways, ends what it must, once; a second one of the user's ends at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eisbach import interruption
from eisbach.interruption import ask_to_stop, stop_as_ctrl_c, stop_signal, stopped

whole = pytest.mark.whole

WORK = """
import os, sys, time
from pathlib import Path
from eisbach.errors import InterruptedRun
from eisbach.executors.local import Processes
from eisbach.interruption import stop_as_ctrl_c, stop_signal
from eisbach.progress import in_threads

FOLDER, DRIVER = Path(sys.argv[1]), sys.argv[2]
CLOSING = float(os.environ.get("CLOSING", "0.6"))

def save(number: int) -> None:
    with stop_signal() as stop:
        (FOLDER / f"began-{number}").touch()
        while not stop.wait(0.05):
            pass
        time.sleep(0.3 + 0.5 * number)  # not at once, and not together
        (FOLDER / f"saved-{number}").touch()
        try:
            raise InterruptedRun("saved")
        finally:
            time.sleep(CLOSING)  # a tracker, say
            (FOLDER / f"closed-{number}").touch()

def rest(number: int) -> None:
    try:
        (FOLDER / f"began-{number}").touch()
        time.sleep(600)
    finally:
        time.sleep(CLOSING)
        (FOLDER / f"closed-{number}").touch()

def do(what: str, number: int) -> None:
    if what == "done":
        return
    {"save": save, "rest": rest}[what](number)

if __name__ == "__main__":
    works = sys.argv[3:]
    calls = [(work, number) for number, work in enumerate(works)]
    try:
        with stop_as_ctrl_c(), Processes(2) as processes:
            if DRIVER == "each":
                for _ in processes.each(do, calls):
                    pass
            elif DRIVER == "body":  # the main thread is not within `each` when it comes
                for _ in processes.each(do, [("done", 9), *calls]):
                    time.sleep(600)
            else:  # as clips are encoded
                with in_threads(calls, lambda call: processes.call(do, *call), jobs=2, title="t", quiet=True) as made:
                    for _ in made:
                        pass
    except (KeyboardInterrupt, InterruptedRun):
        print("stopped")
        sys.exit(130)
"""


SLOW_IMPORT = """
import os, sys, time
from pathlib import Path
Path(sys.argv[1], f"imports-{os.getpid()}").touch()
if __name__ != "__main__":
    time.sleep(1)
"""


@contextmanager
def started(
    folder: Path, driver: str, works: list[str], *, ignored: bool = False, first: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """A program with two processes; a shell may start what runs in the background with SIGINT ignored."""
    script = folder / "script.py"
    script.write_text(first + WORK)
    keep = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    words = [sys.executable, str(script), str(folder), driver, *works]
    try:
        parent = subprocess.Popen(
            words, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, keep)
    try:
        yield parent
    finally:
        if parent.poll() is None:
            os.killpg(parent.pid, signal.SIGKILL)
        parent.communicate()


@contextmanager
def working(folder: Path, driver: str, works: list[str], *, ignored: bool = False) -> Iterator[subprocess.Popen[str]]:
    """The program, with both processes at work."""
    with started(folder, driver, works, ignored=ignored) as parent:
        wait_for(lambda: len(list(folder.glob("began-*"))) == 2)
        yield parent


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end, "nothing came of it within a minute"
        time.sleep(0.02)


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"script.py"}


@pytest.mark.parametrize(
    ("name", "group", "ignored"),
    [
        ("SIGTERM", False, False),
        ("SIGINT", True, False),
        pytest.param("SIGTERM", True, False, marks=whole),
        pytest.param("SIGTERM", False, True, marks=whole),
        pytest.param("SIGTERM", True, True, marks=whole),
        pytest.param("SIGINT", False, False, marks=whole),
        pytest.param("SIGHUP", False, False, marks=whole),
        pytest.param("SIGHUP", True, True, marks=whole),
    ],
)
def test_a_stop_reaches_the_work_once(tmp_path: Path, name: str, group: bool, ignored: bool) -> None:
    """`kill` tells the parent alone, a terminal the whole group. What saves is let save, what cannot is let close, and
    nothing is tried again or begun."""
    with working(tmp_path, "each", ["save", "rest", "save", "rest"], ignored=ignored) as parent:
        (os.killpg if group else os.kill)(parent.pid, getattr(signal, name))
        out, err = parent.communicate(timeout=30)
    assert (parent.returncode, out, err) == (130, "stopped\n", "")
    assert left(tmp_path) == {"began-0", "saved-0", "closed-0", "began-1", "closed-1"}


@pytest.mark.parametrize("driver", ["body", pytest.param("threads", marks=whole)])
def test_a_stop_reaches_the_work_wherever_the_parent_is(tmp_path: Path, driver: str) -> None:
    with working(tmp_path, driver, ["save", "save", "rest"]) as parent:
        os.kill(parent.pid, signal.SIGTERM)
        out, err = parent.communicate(timeout=30)
    assert (parent.returncode, out, err) == (130, "stopped\n", "")
    assert left(tmp_path) == {f"{what}-{number}" for what in ("began", "saved", "closed") for number in (0, 1)}


@whole
def test_a_stop_that_one_process_hears_stops_them_all(tmp_path: Path) -> None:
    with working(tmp_path, "each", ["save", "save", "save"]) as parent:
        threads = Path(f"/proc/{parent.pid}/task").glob("*/children")
        children = [pid for thread in threads for pid in thread.read_text().split()]
        workers = [pid for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(int(workers[0]), signal.SIGTERM)
        out, _ = parent.communicate(timeout=30)
    assert (parent.returncode, out) == (130, "stopped\n")
    assert left(tmp_path) == {f"{what}-{number}" for what in ("began", "saved", "closed") for number in (0, 1)}


def test_a_stop_while_processes_start_is_no_traceback(tmp_path: Path) -> None:
    """They import what they belong to, here a module that takes a second."""
    with started(tmp_path, "each", ["rest", "rest"], first=SLOW_IMPORT) as parent:
        wait_for(lambda: len(list(tmp_path.glob("imports-*"))) == 3)
        os.killpg(parent.pid, signal.SIGINT)
        out, err = parent.communicate(timeout=30)
    assert (parent.returncode, out, err) == (130, "stopped\n", "")
    assert not list(tmp_path.glob("began-*"))


@whole
def test_a_second_ctrl_c_ends_what_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOSING", "25")
    with working(tmp_path, "each", ["rest", "rest"]) as parent:
        os.killpg(parent.pid, signal.SIGINT)
        time.sleep(0.7)
        os.killpg(parent.pid, signal.SIGINT)
        parent.communicate(timeout=15)
    assert parent.returncode != 0
    assert left(tmp_path) == {"began-0", "began-1"}


TOLD = """
import os, signal, sys, threading, time
from eisbach.interruption import ask_to_stop, stop_as_ctrl_c, stop_signal

def tell_all() -> None:
    time.sleep(0.2)
    for how in sys.argv[2:]:
        ask_to_stop() if how == "ask" else os.kill(os.getpid(), getattr(signal, how))
        time.sleep(0.2)

try:
    with stop_as_ctrl_c():
        print("began", flush=True)
        threading.Thread(target=tell_all, daemon=True).start()
        if sys.argv[1] == "saves":
            with stop_signal() as stop:
                stop.wait(20)
                time.sleep(1)
                print("closed", flush=True)
        elif sys.argv[1] == "closes":
            try:
                with stop_signal() as stop:
                    stop.wait(20)
                    raise RuntimeError
            finally:
                time.sleep(1)
                print("closed", flush=True)
        else:
            try:
                time.sleep(20)
            finally:
                time.sleep(1)
                print("closed", flush=True)
except (KeyboardInterrupt, RuntimeError):
    sys.exit(130)
"""


@pytest.mark.parametrize("work", ["saves", "closes", "rests"])
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    ("told", "closes"),
    [
        ("ask {}", True), ("{} ask", True), ("ask ask", True), ("SIGHUP SIGHUP", True),
        ("{} {}", False), ("ask {} {}", False), ("{} ask {}", False),
    ],
)  # fmt: skip
@whole
def test_a_stop_told_in_two_ways_is_one(work: str, number: str, told: str, closes: bool) -> None:
    """And a terminal that closes tells twice. A second signal, though, ends what saves or closes."""
    words = told.format(*[number] * 2).split()
    done = subprocess.run([sys.executable, "-c", TOLD, work, *words], capture_output=True, text=True, timeout=60)
    assert done.stdout == ("began\nclosed\n" if closes else "began\n")
    assert "Error" not in done.stderr
    assert done.returncode in ((130,) if closes else (130, -signal.SIGTERM))


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGHUP", "ask"])
@pytest.mark.parametrize("here", [False, True])
def test_a_stop_that_nobody_heeded_is_not_lost(how: str, here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work went to its end while it came; what follows must not begin, and a program that has its own handlers, or
    none, is not killed."""
    if how == "ask" and not here:
        pytest.skip("asking is for processes that are told so")
    monkeypatch.setattr(interruption, "_told", interruption._Told())

    def work() -> None:
        with stop_signal() as stop:
            ask_to_stop() if how == "ask" else os.kill(os.getpid(), getattr(signal, how))
            assert stop.is_set()
        raise AssertionError("what follows began")

    def again() -> None:
        with stop_signal() as stop:
            assert stop.is_set() is here

    before = signal.getsignal(signal.SIGTERM)
    if not here:
        with pytest.raises(KeyboardInterrupt):
            work()
    else:
        with stop_as_ctrl_c():
            with pytest.raises(KeyboardInterrupt):
                work()
            assert stopped()
            with pytest.raises(KeyboardInterrupt):  # what swallowed it does not begin the next either
                again()
    assert not stopped()
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_encloses_hears_what_was_asked_within() -> None:
    def outer() -> None:
        with stop_signal() as stop:
            with pytest.raises(KeyboardInterrupt), stop_signal():
                ask_to_stop()
            assert stop.is_set()

    with stop_as_ctrl_c(), pytest.raises(KeyboardInterrupt):
        outer()
