"""`stop:`: a run ends where its demos gain nothing any more, and ships the best of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eisbach.errors import ConfigError
from eisbach.report.run.state import read_run
from eisbach.training import loop, train
from eisbach.training.checkpoint import list_checkpoints
from eisbach.training.demos import Demos
from eisbach.training.trainer import Trainer

DEMOS: dict[str, Any] = {
    "every": 2, "prompts": ["a calm cello", "fast high piano"], "seeds": [0, 1, 2], "duration": 1,
    "num_inference_steps": 1,
}  # fmt: skip
STOP: dict[str, Any] = {"measure": "peak_db", "bounds": [0, 1], "alpha": 0.9, "patience": 2, "window": 1}
"""So lax that a handful of clips is enough."""
RUN: dict[str, Any] = {
    "steps": 14, "demos": DEMOS, "stop": STOP, "held_out": {"every": 0}, "checkpoint": {"every": 20, "keep": 1},
}  # fmt: skip
TURNS = {2: 0.9, 4: 0.1}
"""Best at step 4, bad afterwards."""


class Killed(BaseException):
    """Stands for a death of the process."""


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Demos are played, and read as `TURNS` says."""

    def records(self: Demos, step: int) -> list[Any]:
        return [{"peak_db": TURNS.get(step, 0.95)} for _ in range(6)]

    monkeypatch.setattr(Demos, "records", records)


def rows(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "steps_per_second"} for row in found]


def result(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "result.json").read_text()))


def adapter(run: Path) -> bytes:
    from safetensors.torch import load_file, save

    return save(load_file(run / "adapter" / "adapter_model.safetensors"))  # without the stamp


def test_it_stops_ships_the_best_checkpoint_and_is_finished(
    configure: Any, scripted: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(configure(**RUN))
    said = capsys.readouterr().err
    assert "stopped at step 8: going on gains less than the margin" in said
    assert "the best demos are those of step 4" in said
    outcome = result(run)
    assert (outcome["steps"], outcome["stop"]["stopped"], outcome["stop"]["best"]) == (8, True, 4)
    assert (outcome["stop"]["shipped"], outcome["stamp"]["steps"]) == (4, 4)
    assert adapter(run) == adapter(train(configure("four", steps=4, held_out={"every": 0}), quiet=True))
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["step-000004", "step-000008"]
    before = (run / "metrics.jsonl").read_bytes()
    train(configure(**RUN))
    assert "is finished (8 steps); nothing to do" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == before
    longer = train(configure(**{**RUN, "stop": None}), quiet=True)  # without the rule it goes on to its end
    assert result(longer)["steps"] == 14
    assert adapter(longer) == adapter(train(configure("whole", **{**RUN, "stop": None, "demos": None}), quiet=True))


@pytest.mark.parametrize("moment", ["step", "publish"])
@pytest.mark.whole
def test_a_killed_run_stops_at_the_same_step(
    moment: str, configure: Any, scripted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = train(configure("straight", **RUN), quiet=True)
    config = configure("killed", **RUN)
    take_step = Trainer.take_step

    def dying(self: Trainer) -> None:
        if self.step == 7:
            raise Killed
        take_step(self)

    def unpublished(*_: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "step":
            patch.setattr(Trainer, "take_step", dying)
        else:
            patch.setattr(loop, "publish", unpublished)
        with pytest.raises(Killed):
            train(config, quiet=True)
    run = train(config, quiet=True)
    assert adapter(run) == adapter(straight)
    assert result(run)["stop"] == result(straight)["stop"]
    assert rows(run) == rows(straight)


def test_a_run_that_gains_goes_to_its_end(configure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Demos, "records", lambda self, step: [{"peak_db": 1 - step / 20}] * 6)
    run = train(configure(**RUN), quiet=True)
    outcome = result(run)
    assert (outcome["steps"], outcome["stop"]["stopped"], outcome["stop"]["best"]) == (14, False, 14)


def test_demos_that_were_not_measured_are_passed_over(configure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Demos, "records", lambda self, step: [{"peak_db": None if step == 6 else 1 - step / 20}] * 6)
    assert result(train(configure(**RUN), quiet=True))["stop"]["best"] == 14


def test_the_page_says_what_the_rule_rests_on(configure: Any, scripted: None) -> None:
    run = train(configure(**RUN), quiet=True)
    logged = [json.loads(line)["stop"] for line in (run / "metrics.jsonl").read_text().splitlines() if '"stop"' in line]
    assert [row["best"] for row in logged] == [2, 4, 4, 4]
    assert logged[-1]["stop"]
    assert logged[-1]["log_evidence"] >= logged[-1]["needed"]
    notes = read_run("run", run).notes
    assert any("step 4" in note and "going on gains less than the margin" in note for note in notes)
    (run / "result.json").unlink()
    log = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in log if json.loads(line)["step"] <= 6))
    notes = read_run("run", run).notes
    assert any("best so far is step 4" in note and "not been tested yet" in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"demos": None}, "add demos"),
        ({"stop": {**STOP, "patience": 1, "window": 2}}, "patience is at least window"),
        ({"stop": {**STOP, "bounds": [1, 0]}}, "lower one first"),
        ({"stop": {**STOP, "measure": "beauty"}}, "'beauty', which no demo is measured by"),
        ({"stop": True}, "too short to judge"),
        ({"stop": {**STOP, "alpha": 0.05}, "demos": {**DEMOS, "seeds": [0, 1]}}, "give them at least 4 seeds"),
    ],
)
def test_a_rule_that_could_never_decide_is_refused(configure: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(configure(**{**RUN, **changes}), quiet=True)
