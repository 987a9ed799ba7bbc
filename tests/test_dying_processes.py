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
