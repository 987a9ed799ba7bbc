from __future__ import annotations

from pathlib import Path

import pytest

from eisbach.experiments.stages import OverallProgress, SpeedBook, Stage
from eisbach.progress import Progress


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def plan() -> list[Stage]:
    return [Stage("a", "train", 100, 1.0), Stage("b", "train", 100, 1.0), Stage("c", "report", 1, 50.0)]


def test_the_estimate_follows_the_measured_speed(clock: Clock) -> None:
    bar = OverallProgress(plan(), "all", SpeedBook(), quiet=True)
    with bar:
        assert bar.remaining() == pytest.approx(250)
        with bar.stage("a"), Progress(50, "train", quiet=True) as inner:
            for _ in range(25):
                clock.now += 4.0  # two units a step: two seconds a unit, twice the guess
                inner.advance()
            # the training stages at their measured speed; the report's guess scaled by the same factor
            assert bar.remaining() == pytest.approx(50 * 2 + 100 * 2 + 50 * 2)
        assert bar.stages["a"].done


def test_bars_inside_a_stage_write_nothing_of_their_own(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with OverallProgress(plan(), "all", SpeedBook(), quiet=True) as bar, bar.stage("a"):
        with Progress(10, "encode") as inner:
            clock.now += 60
            inner.advance(10)
        assert bar.stages["a"].fraction == 0.0  # another kind of work does not count as training steps
    assert capsys.readouterr().err == ""
    with Progress(2, "alone") as inner:
        inner.advance(2)
    assert "alone" in capsys.readouterr().err


def test_what_was_made_before_costs_no_time(clock: Clock) -> None:
    stages = plan()
    stages[0].done = True
    bar = OverallProgress(stages, "all", SpeedBook(), quiet=True)
    with bar:
        assert bar.remaining() == pytest.approx(150)
        with bar.stage("b"), Progress(100, "train", done=60, quiet=True) as inner:
            assert bar.remaining() == pytest.approx(40 + 50)
            clock.now += 8
            inner.advance(4)
            assert bar.stages["b"].left == pytest.approx(36)


def test_the_bar_never_goes_back(clock: Clock) -> None:
    bar = OverallProgress(plan(), "all", SpeedBook(), quiet=True)
    shown = []
    with bar, bar.stage("a"), Progress(100, "train", quiet=True) as inner:
        for step in range(100):
            clock.now += 0.1 if step < 50 else 20.0  # slows down: the estimate grows
            inner.advance()
            shown.append(bar.done)
    assert shown == sorted(shown)
    assert shown[-1] <= 100


def test_speeds_are_remembered(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    with OverallProgress(plan(), "all", SpeedBook(path), quiet=True) as bar, bar.stage("a"):
        clock.now += 300
    again = OverallProgress(plan(), "all", SpeedBook(path), quiet=True)
    assert again.remaining() == pytest.approx(300 + 300 + 50)


def test_a_failing_stage_is_not_done(clock: Clock) -> None:
    bar = OverallProgress(plan(), "all", SpeedBook(), quiet=True)
    with pytest.raises(ZeroDivisionError), bar, bar.stage("a"):
        raise ZeroDivisionError
    assert not bar.stages["a"].done


def test_processes_side_by_side_teach_their_joint_speed(clock: Clock) -> None:
    bar = OverallProgress(
        [Stage(f"train/{name}", "train", 100, 0.001) for name in "abcd"], "run", SpeedBook(), quiet=True
    )
    with bar:
        for quarter in (0.25, 0.5, 0.75, 1.0):
            for name in "ab":
                bar.report(f"train/{name}", quarter, "")
                clock.now += 10.0
        # The first report starts the clock and teaches nothing: 175 units in 70 s; 200 units are left.
        assert bar.remaining() == pytest.approx(200 * 70 / 175, rel=1e-6)
