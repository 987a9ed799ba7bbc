from __future__ import annotations

import pytest

from eisbach import progress
from eisbach.progress import Progress, redirect_progress


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_the_estimate_is_the_mean_pace_of_what_was_done_here(clock: Clock) -> None:
    with Progress(10, "encode", done=4, quiet=True) as bar:
        assert bar.remaining() is None
        clock.now += 6.0
        bar.advance(2)
        assert bar.fresh == 2
        assert bar.remaining() == pytest.approx(12.0)  # 3 s an item, 4 left; the 4 earlier ones took no time here
        bar.advance(9)
        assert bar.remaining() == 0.0


def test_a_pipe_gets_a_line_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100, "train", unit=" steps") as bar:
        for _ in range(100):
            clock.now += 1.0
            bar.advance(note="loss 0.5")
    streams = capsys.readouterr()
    assert streams.out == ""
    lines = streams.err.splitlines()
    assert lines[0] == "train 0/100 steps [0:00, ? left]"
    assert lines[1] == "train 10/100 steps [0:10, 1:30 left] loss 0.5"
    assert lines[-1] == "train 100/100 steps [1:40] loss 0.5"
    assert len(lines) == 12


def test_hours_are_written_as_hours(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(2, "x") as bar:
        clock.now += 3725.0
        bar.advance()
    assert "x 1/2 [1:02:05, 1:02:05 left]" in capsys.readouterr().err


def test_a_terminal_gets_a_bar(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with Progress(4, "draw") as bar:
        clock.now += 1.0
        bar.advance(2)
    text = capsys.readouterr().err
    assert "━" * 12 + "─" * 12 + " draw 2/4 [0:01, 0:01 left]" in text
    assert text.count("\r") == 3
    assert text.endswith("\n")


def test_quiet_and_quick_and_empty_bars_write_little(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(5, "x", quiet=True) as bar:
        clock.now += 50
        bar.advance(5)
    with Progress(0, "nothing"):
        pass
    assert capsys.readouterr().err == ""


def test_redirected_bars_are_silent_and_heard(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[tuple[str, int]] = []
    with redirect_progress(lambda bar: heard.append((bar.description, bar.done))), Progress(3, "inner") as bar:
        clock.now += 60
        bar.advance()
        bar.advance(2)
    with Progress(1, "outer", quiet=True) as bar:
        bar.advance()
    assert heard == [("inner", 0), ("inner", 1), ("inner", 3)]
    assert capsys.readouterr().err == ""


def test_an_error_inside_passes_through(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with Progress(3, "x"):
            clock.now += 5
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert capsys.readouterr().err.splitlines()[-1] == "x 0/3 [0:05]"
