"""The log of samples changes nothing in a training, and what it says of gradients is what a pass a sample says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from eisbach.adapters.sample_gradients import SampleGradients
from eisbach.training import loop
from eisbach.training.logging import MetricsFile

WEIGHTING = {"sample": "entropy_barrier", "normalisation": "mean1", "strength": 1.0}
LOG = {"every": 2, "gradient_norms": True}


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter": {"type": "dora", "rank": 2}},
        {"adapter": {"type": "lora", "rank": 2, "dropout": 0.3}},
        {"adapter": {"type": "dora", "rank": 2}, "gradient_checkpointing": True, "accumulation": 2},
        {"adapter": {"type": "none"}, "steps": 2},
    ],
    ids=["dora", "dropout", "checkpointing", "whole model"],
)
def test_training_with_the_log_is_training_without_bit_for_bit(
    configure: Any, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    def run(out: str, **more: Any) -> Any:
        return loop.train(configure(out, weighting=WEIGHTING, held_out={"every": 0}, **changes, **more), quiet=True)

    plain, logged = run("plain"), run("logged", log_samples=LOG)
    name = "model/model.safetensors" if changes["adapter"]["type"] == "none" else "adapter/adapter_model.safetensors"
    first, second = (load_file(folder / name) for folder in (plain, logged))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    rows = MetricsFile(logged / "sample_log.jsonl").rows()
    assert {row["step"] % 2 for row in rows} == {0}
    assert all(row["gradient_norm"] > 0 for row in rows)

    monkeypatch.setattr(
        "eisbach.training.trainer.SampleGradients", lambda *args, watch: SampleGradients(*args, watch=False)
    )
    slow = MetricsFile(run("slow", log_samples=LOG) / "sample_log.jsonl").rows()
    norms = [[row["gradient_norm"] for row in each] for each in (rows, slow)]
    torch.testing.assert_close(*(torch.tensor(each) for each in norms), rtol=1e-3, atol=1e-8)
