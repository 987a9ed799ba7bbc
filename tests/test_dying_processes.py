from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eisbach.errors import UserError
from eisbach.executors import DeadProcessError, send
from eisbach.executors.local import Processes
from eisbach.progress import ask_to_stop, stop_signal

CALL = "with Processes(2) as processes:\n    print(processes.call(abs, -3))\n"


@pytest.mark.parametrize(
    ("body", "code", "out", "said"),
    [
        (CALL, 1, "", "UserError: the processes for jobs > 1 could not start"),
        ("if __name__ == '__main__':\n    " + CALL.replace("\n", "\n    ").rstrip(), 0, "3\n", ""),
    ],
    ids=["unguarded", "guarded"],
)
def test_a_script_without_a_guard_is_told_so(tmp_path: Path, body: str, code: int, out: str, said: str) -> None:
    """Each process would import the script and start processes again; every call would be lost in silence."""
    script = tmp_path / "script.py"
    script.write_text(f"from eisbach.executors.local import Processes\n\n{body}\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (code, out), done.stderr
    assert said in done.stderr


def _fragile(folder: Path, number: int, lives: int) -> int:
    """Kills its process the first `lives` times that it is called with a number."""
    count = len(list(folder.glob(f"{number}-*")))
    (folder / f"{number}-{count}").touch()
    if count < lives:
        os.kill(os.getpid(), signal.SIGKILL)
    return 10 * number


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.whole
def test_a_process_that_dies_costs_a_second_try_of_its_own_call_alone(tmp_path: Path, jobs: int) -> None:
    calls = [(tmp_path, number, 1 if number in (1, 4) else 0) for number in range(6)]
    with Processes(jobs) as processes:
        assert dict(processes.each(_fragile, calls)) == {number: 10 * number for number in range(6)}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0-0", "1-0", "1-1", "2-0", "3-0", "4-0", "4-1", "5-0",
    ]  # fmt: skip


def test_one_that_dies_twice_is_one_sentence_or_what_the_caller_makes_of_it(tmp_path: Path) -> None:
    calls = [(tmp_path, number, 2 if number == 2 else 0) for number in range(4)]
    with Processes(2) as processes:
        made = dict(processes.each(_fragile, calls, dead=lambda index: -index))
    assert made == {0: 0, 1: 10, 2: -2, 3: 30}
    for path in tmp_path.iterdir():
        path.unlink()
    said = r"a process died twice over the same work .* lower --jobs \(now 2\) and run the same command again"
    with Processes(2) as processes:
        with pytest.raises(DeadProcessError, match=said):
            list(processes.each(_fragile, calls))
        assert processes.call(abs, -1) == 1  # the others still work


def _refuse(number: int) -> int:
    if number == 1:
        raise UserError("not this one")
    return number


def test_what_a_call_raises_is_raised_here() -> None:
    with Processes(2) as processes:
        with pytest.raises(UserError, match="not this one"):
            list(processes.each(_refuse, [(number,) for number in range(3)]))
        with pytest.raises(UserError, match="not this one"):
            processes.call(_refuse, 1)


def _report(number: int) -> int:
    for part in range(3):
        send((number, part))
    return number


def test_messages_arrive_from_every_process() -> None:
    heard: list[tuple[int, int]] = []
    with Processes(2) as processes:
        for _ in processes.each(_report, [(number,) for number in range(5)], listen=heard.append):
            pass
    assert sorted(heard) == [(number, part) for number in range(5) for part in range(3)]


def test_threads_may_call() -> None:
    with Processes(2) as processes, ThreadPoolExecutor(4) as threads:
        assert list(threads.map(processes.call, [abs] * 8, range(-8, 0))) == list(range(8, 0, -1))


PARENT = """
import os, sys, time
from eisbach.executors.local import Processes
from eisbach.progress import ask_to_stop, stop_signal

if __name__ == "__main__":
    with Processes(2) as processes:
        print(processes.call(os.getpid), flush=True)
        processes.call(time.sleep, 600)
"""


def test_a_killed_parent_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    script, places = tmp_path / "script.py", tmp_path / "temporary"
    script.write_text(PARENT)
    places.mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(places)}
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait(60)
    end = time.monotonic() + 60
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()
    assert list(places.iterdir()) == []


def _warn() -> None:
    for name in ("torchao", "torch.utils._pytree", "eisbach.tests"):
        logging.getLogger(name).warning("%s warns", name)


def test_processes_leave_out_what_libraries_say_about_each_other(capfd: pytest.CaptureFixture[str]) -> None:
    """Where torchao is installed, each import of diffusers warns four times: between the lines of the progress."""
    with Processes(1) as processes:
        processes.call(_warn)
    assert capfd.readouterr().err == "eisbach.tests warns\n"


STOPPED = """
import os, sys, time
from pathlib import Path
from eisbach.errors import InterruptedRun
from eisbach.executors.local import Processes
from eisbach.progress import ask_to_stop, stop_signal
from eisbach.progress import stop_as_ctrl_c, stop_signal

FOLDER = Path(sys.argv[1])

def save() -> None:
    with stop_signal() as stop:
        (FOLDER / f"saving-{os.getpid()}").touch()
        while not stop.wait(0.05):
            pass
        time.sleep(1.5)  # a second signal in this time would end it
        (FOLDER / "saved").touch()
        raise InterruptedRun("saved")

def rest() -> None:
    (FOLDER / f"resting-{os.getpid()}").touch()
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        (FOLDER / "rested").touch()
        raise

def do(what: str) -> None:
    {"save": save, "rest": rest}[what]()

if __name__ == "__main__":
    stop_as_ctrl_c()
    try:
        with Processes(2) as processes:
            for _ in processes.each(do, [("save",), ("rest",), ("save",), ("rest",)]):
                pass
    except (KeyboardInterrupt, InterruptedRun):
        sys.exit(130)
"""


@pytest.mark.parametrize(
    ("name", "group", "ignored"),
    [
        ("SIGTERM", False, False),
        ("SIGTERM", True, False),
        pytest.param("SIGTERM", False, True, marks=pytest.mark.whole),
        pytest.param("SIGTERM", True, True, marks=pytest.mark.whole),
        pytest.param("SIGINT", False, False, marks=pytest.mark.whole),
        pytest.param("SIGINT", True, False, marks=pytest.mark.whole),
        pytest.param("SIGHUP", False, False, marks=pytest.mark.whole),
        pytest.param("SIGHUP", True, True, marks=pytest.mark.whole),
    ],
)
def test_a_stop_reaches_the_work_once(tmp_path: Path, name: str, group: bool, ignored: bool) -> None:
    """`kill` tells the parent alone, a terminal the whole group; a shell may start what runs in the background with
    SIGINT ignored. What saves is let save, what cannot ends, and nothing is tried again or begun."""
    script = tmp_path / "script.py"
    script.write_text(STOPPED)
    keep = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, keep)
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("*ing-*"))) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    (os.killpg if group else os.kill)(parent.pid, getattr(signal, name))
    assert parent.wait(30) == 130
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "rested").exists()
    assert len(list(tmp_path.glob("*ing-*"))) == 2


@pytest.mark.parametrize("asked", [False, True])
def test_a_stop_that_nobody_heeded_is_not_lost(asked: bool) -> None:
    """The work went to its end while it came; what follows must not begin."""

    def work() -> None:
        with stop_signal() as stop:
            if asked:
                ask_to_stop()
            else:
                os.kill(os.getpid(), signal.SIGINT)
            ask_to_stop()
            assert stop.is_set()
        raise AssertionError("what follows began")

    with pytest.raises(KeyboardInterrupt):
        work()
    with stop_signal() as stop:
        assert not stop.is_set()


ASKED_AND_SIGNALLED = """
import os, signal, sys, threading, time
from eisbach.progress import ask_to_stop, stop_as_ctrl_c, stop_signal

def tell(how: str) -> None:
    ask_to_stop() if how == "ask" else os.kill(os.getpid(), getattr(signal, how))
    time.sleep(0.2)

def tell_all() -> None:
    time.sleep(0.2)
    for how in sys.argv[2:]:
        tell(how)

stop_as_ctrl_c()
threading.Thread(target=tell_all, daemon=True).start()
try:
    if sys.argv[1] == "saves":
        with stop_signal() as stop:
            stop.wait(20)
            time.sleep(1)
            print("closed")
    else:
        time.sleep(20)
except KeyboardInterrupt:
    if sys.argv[1] == "rests":
        time.sleep(1)
        print("closed")
"""


@pytest.mark.parametrize("work", ["saves", "rests"])
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    ("told", "closes"),
    [(("ask", "{}"), True), (("{}", "ask"), True), (("{}", "{}"), False), (("ask", "{}", "{}"), False)],
)
@pytest.mark.whole
def test_a_stop_told_in_two_ways_is_one(work: str, number: str, told: tuple[str, ...], closes: bool) -> None:
    """A second signal, though, ends at once what would save or close."""
    words = [how.format(number) for how in told]
    done = subprocess.run(
        [sys.executable, "-c", ASKED_AND_SIGNALLED, work, *words], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout == "closed\n") is closes, done.stderr
