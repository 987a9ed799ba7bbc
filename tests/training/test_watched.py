"""A training that is watched: the page is asked for at every step, and nothing of the training changes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from eisbach.report.run.page import watch_app
from eisbach.training import train
from eisbach.training.trainer import Trainer

DEMOS = {"every": 3, "prompts": ["a calm cello"], "duration": 2, "num_inference_steps": 2}


def test_a_watched_run_equals_one_that_nobody_watches(configure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("starlette")
    from starlette.testclient import TestClient

    changes: dict[str, Any] = {"adapter": {"type": "dora", "rank": 2, "dropout": 0.3}, "demos": DEMOS}
    alone = train(configure("alone", **changes), quiet=True)
    config = configure("watched", **changes)
    take_step, seen = Trainer.take_step, []

    def watched(self: Trainer) -> None:
        take_step(self)
        client = TestClient(watch_app([config.out]))  # two watchers: each asks for a page of its own
        seen.extend([client.get("/").text, TestClient(watch_app([config.out])).get("/").text])
        for step in (0, 3):
            client.get(f"/demo/0/{step}/prompt-1_seed-0.flac")

    monkeypatch.setattr(Trainer, "take_step", watched)
    run = train(config, quiet=True)
    assert len(seen) == 12
    assert "step 6 of 6" in TestClient(watch_app([run])).get("/").text
    assert "prompt-1_seed-0.flac" in seen[-1]
    for pattern in ("adapter/*.safetensors", "checkpoints/*/*.safetensors", "samples/*/*.flac"):
        files = {path.relative_to(alone): path.read_bytes() for path in alone.glob(pattern)}
        assert files
        assert files == {path.relative_to(run): path.read_bytes() for path in run.glob(pattern)}
    logs = [
        [{**json.loads(line), "steps_per_second": 0} for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (alone, run)
    ]
    assert logs[0] == logs[1]
