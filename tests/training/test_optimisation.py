from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from eisbach.errors import CheckpointError
from eisbach.training.config import OptimiserConfig
from eisbach.training.optimisation import (
    WeightAverage,
    build_optimiser,
    learning_rate_factor,
    load_optimiser,
    optimiser_tensors,
)


def test_warm_up_then_constant_or_cosine() -> None:
    constant = [learning_rate_factor(step, 10, 4, "constant") for step in range(10)]
    assert constant == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]
    cosine = [learning_rate_factor(step, 10, 4, "cosine") for step in range(10)]
    assert cosine[:4] == constant[:4]
    assert cosine[4:] == pytest.approx([0.5 + 0.5 * math.cos(math.pi * k / 6) for k in range(6)])
    assert learning_rate_factor(10, 10, 4, "cosine") == pytest.approx(0)
    assert learning_rate_factor(0, 1, 0, "cosine") == 1


def quadratic(count: int, restart_at: int | None = None) -> dict[str, nn.Parameter]:
    """Descends a fixed quadratic; optionally moves to a fresh optimiser through flat tensors half-way."""
    parameters = {"matrix": nn.Parameter(torch.ones(3, 2)), "vector": nn.Parameter(torch.arange(3.0))}
    parameters["idle"] = nn.Parameter(torch.ones(2))  # never has a gradient
    optimiser = build_optimiser(parameters, OptimiserConfig(lr=0.1))
    for step in range(count):
        if step == restart_at:
            kept = {key: value.clone() for key, value in optimiser_tensors(optimiser, parameters).items()}
            optimiser = build_optimiser(parameters, OptimiserConfig(lr=0.1))
            load_optimiser(optimiser, parameters, kept)
        ((parameters["matrix"] - 2).square().sum() + (parameters["vector"] + 1).square().sum()).backward()
        optimiser.step()
        optimiser.zero_grad()
    return parameters


def test_the_flattened_state_continues_bit_for_bit() -> None:
    straight, resumed = quadratic(7), quadratic(7, restart_at=3)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert not torch.equal(straight["matrix"], quadratic(6)["matrix"])


def test_state_of_another_model_is_refused() -> None:
    parameters = {"a": nn.Parameter(torch.ones(2, 2))}
    optimiser = build_optimiser(parameters, OptimiserConfig())
    with pytest.raises(CheckpointError, match=r"exp_avg\.b"):
        load_optimiser(optimiser, parameters, {"exp_avg.b": torch.ones(2, 2)})
    with pytest.raises(CheckpointError, match="does not fit"):
        load_optimiser(
            optimiser,
            parameters,
            {"step.a": torch.ones(()), "exp_avg.a": torch.ones(3), "exp_avg_sq.a": torch.ones(2, 2)},
        )


def test_vectors_are_not_decayed() -> None:
    parameters = {"matrix": nn.Parameter(torch.ones(2, 2)), "gain": nn.Parameter(torch.ones(2))}
    optimiser = build_optimiser(parameters, OptimiserConfig(lr=0.1, weight_decay=0.5))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    assert torch.allclose(parameters["matrix"], torch.full((2, 2), 0.95))
    assert torch.equal(parameters["gain"], torch.ones(2))


def test_the_average_follows_its_recurrence_and_swaps_back() -> None:
    weight = nn.Parameter(torch.zeros(1))
    average = WeightAverage({"w": weight}, decay=0.5)
    expected = 0.0
    for step in range(1, 6):
        with torch.no_grad():
            weight.fill_(float(step))
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.average["w"].item() == pytest.approx(expected)
    average.swap()
    assert weight.item() == pytest.approx(expected)
    average.swap()
    assert weight.item() == 5.0
