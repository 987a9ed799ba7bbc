from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from eisbach.errors import StorageError
from eisbach.training.logging import Board, MetricsFile, Window
from eisbach.training.step import StepOutput
from eisbach.types import LossTerms
from eisbach.weighting import PartialLoss


def output(losses: list[float], weights: list[float], beliefs: list[float], t: list[float]) -> StepOutput:
    loss, weight, belief = (torch.tensor(values) for values in (losses, weights, beliefs))
    terms = LossTerms(
        (weight * loss).mean(), loss, weight, torch.ones_like(loss), weight, belief, torch.ones(()), weight
    )
    return StepOutput(PartialLoss(loss.sum(), torch.zeros(4), terms, weight), torch.tensor(t))


def test_a_window_averages_over_samples_and_steps() -> None:
    window = Window(torch.device("cpu"))
    window.add_micro_batch(output([1.0, 3.0], [0.5, 1.5], [0.2, math.nan], [0.05, 0.15]))
    window.add_step(torch.tensor(2.5), torch.tensor(4.0))
    window.add_micro_batch(output([5.0, 7.0], [1.0, 1.0], [0.4, 0.6], [0.05, 0.95]))
    window.add_step(torch.tensor(6.0), torch.tensor(2.0))
    row = window.means(window.sums, window.levels)
    assert row["loss"] == pytest.approx(4.0)
    assert (row["weighted_loss"], row["grad_norm"]) == (pytest.approx(4.25), pytest.approx(3.0))
    assert row["weight_mean"] == pytest.approx(1.0)
    assert row["weight_cv"] == pytest.approx(math.sqrt(0.125))
    assert row["effective_sample_share"] == pytest.approx(16 / (4 * 4.5))
    assert row["belief_mean"] == pytest.approx(0.4)
    assert {key: value for key, value in row["loss_by_noise_level"].items() if value is not None} == {
        "0.0": pytest.approx(3.0),
        "0.1": pytest.approx(3.0),
        "0.9": pytest.approx(7.0),
    }


def test_a_window_continues_from_its_tensors() -> None:
    first, second = Window(torch.device("cpu")), Window(torch.device("cpu"))
    first.add_micro_batch(output([1.0], [1.0], [math.nan], [0.5]))
    second.load({key: value.clone() for key, value in first.tensors().items()})
    assert second.means(second.sums, second.levels) == first.means(first.sums, first.levels)
    first.reset()
    assert float(first.sums.abs().sum() + first.levels.abs().sum()) == 0


def test_truncating_drops_later_rows_and_a_broken_last_line(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.truncate_after(3)  # nothing there yet
    for step in (0, 2, 4, 6):
        metrics.append({"step": step, "loss": 1.0 / (step + 1), "bad": math.nan})
    with metrics.path.open("a") as file:
        file.write('{"step": 8, "lo')
    metrics.truncate_after(4)
    rows = [json.loads(line) for line in metrics.path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert rows[0]["bad"] is None


def test_a_metrics_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"metrics\.jsonl could not be written"):
        MetricsFile(tmp_path / "file" / "metrics.jsonl").append({"step": 1})


def test_the_board_holds_the_same_numbers(tmp_path: Path) -> None:
    board = Board(tmp_path, 0)
    board.add({"step": 3, "loss": 0.25, "loss_by_noise_level": {"0.1": 0.5, "0.2": None}})
    board.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    assert sorted(events.Tags()["scalars"]) == ["loss", "loss_by_noise_level/0.1"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(3, 0.25)]
