from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal

import pytest
import torch

from eisbach.errors import StorageError
from eisbach.training.logging import MetricsFile, Window
from eisbach.training.step import StepOutput
from eisbach.types import LossTerms
from eisbach.weighting import PartialLoss, Weighting
from eisbach.weighting.sample import EntropyBarrier


def output(losses: list[float], weights: list[float], beliefs: list[float], t: list[float]) -> StepOutput:
    loss, weight, belief = (torch.tensor(values) for values in (losses, weights, beliefs))
    terms = LossTerms(
        (weight * loss).mean(), loss, weight, torch.ones_like(loss), weight, belief, torch.ones(()), weight
    )
    stats = torch.stack([torch.tensor(float(len(losses))), weight.sum(), weight.square().sum(), weight.sum()])
    return StepOutput(PartialLoss(loss.sum(), stats, terms, weight), torch.tensor(t), loss)


def test_a_window_averages_over_samples_and_steps() -> None:
    window = Window(torch.device("cpu"))
    half = torch.tensor(0.5)  # the gradient factor of two samples whose weights are not normalised
    for losses, weights, beliefs, t, step in (
        ([1.0, 3.0], [0.5, 1.5], [0.2, math.nan], [0.05, 0.15], (2.5, 4.0)),
        ([5.0, 7.0], [1.0, 1.0], [0.4, 0.6], [0.05, 0.95], (6.0, 2.0)),
    ):
        micro = output(losses, weights, beliefs, t)
        window.add_micro_batch(micro)
        window.add_step(torch.tensor(step[0]), torch.tensor(step[1]), micro.partial.stats, half, 1)
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


@pytest.mark.parametrize("reduction", ["sample", "batch"])
@pytest.mark.parametrize("normalisation", ["none", "mean1"])
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_the_spread_of_weights_is_that_of_the_global_batch_however_it_is_split(
    reduction: Literal["sample", "batch"], normalisation: Literal["none", "mean1"], world: int, size: int
) -> None:
    if reduction == "batch" and normalisation == "mean1":
        return  # refused: it would leave no weighting
    weighting = Weighting(
        sample=EntropyBarrier(energy="relative"), strength=1.0, reduction=reduction, normalisation=normalisation
    )
    generator = torch.Generator().manual_seed(3)
    predicted = torch.randn(2, 8, 3, 32, generator=generator) * torch.rand(2, 8, 1, 32, generator=generator) ** 4
    losses, t = torch.rand(2, 8, generator=generator), torch.rand(2, 8, generator=generator)
    windows = [Window(torch.device("cpu")) for _ in range(world)]
    expected = []
    for step in range(2):
        whole = weighting.partial(losses[step], predicted[step])
        expected.append(whole.terms.weight)
        stats, parts = torch.zeros(4, dtype=torch.float64), []
        for start in range(0, 8, size):
            part = slice(start, start + size)
            partial = weighting.partial(losses[step][part], predicted[step][part])
            stats = stats + partial.stats
            parts.append(StepOutput(partial, t[step][part], losses[step][part]))
        for number, micro in enumerate(parts):
            windows[number % world].add_micro_batch(micro)
        factor = weighting.gradient_factor(stats)
        for window in windows:
            window.add_step(torch.tensor(1.0), torch.tensor(1.0), stats, factor, world)
    row = windows[0].means(
        torch.stack([window.sums for window in windows]).sum(0),
        torch.stack([window.levels for window in windows]).sum(0),
    )
    weight = torch.cat(expected)
    assert row["weight_mean"] == pytest.approx(float(weight.mean()), rel=1e-5)
    assert row["weight_cv"] == pytest.approx(float(weight.std(correction=0) / weight.mean()), abs=1e-4)
    assert row["weight_cv"] > (0.1 if reduction == "sample" else 0)
    share = float(weight.sum() ** 2 / (len(weight) * weight.square().sum()))
    assert row["effective_sample_share"] == pytest.approx(share, rel=1e-5)


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
