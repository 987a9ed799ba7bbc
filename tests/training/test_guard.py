from __future__ import annotations

import pytest
import torch
from torch import nn

from eisbach.errors import NonFiniteLossError
from eisbach.training.optimisation import FiniteGuard

NAN, ONE = torch.tensor(float("nan")), torch.tensor(1.0)


def test_on_the_cpu_the_bad_step_ends_the_run_and_names_its_samples() -> None:
    guard = FiniteGuard(torch.device("cpu"))
    guard.remember(1, ["a", "b"], torch.tensor([1.0, 2.0]))
    guard.observe(1, ONE, ONE)
    guard.remember(2, ["c", "d"], torch.tensor([1.0, float("nan")]))
    guard.remember(2, ["e", "f"], torch.tensor([float("inf"), 0.0]))
    with pytest.raises(NonFiniteLossError, match="step 2: the loss is not finite for d, e;"):
        guard.observe(2, NAN, ONE)


def test_a_gradient_that_overflows_names_the_batch() -> None:
    guard = FiniteGuard(torch.device("cpu"))
    guard.remember(1, ["b", "a"], torch.tensor([1.0, 2.0]))
    with pytest.raises(NonFiniteLossError, match="gradient is not, in the batch of a, b;"):
        guard.observe(1, ONE, torch.tensor(float("inf")))


def test_deferred_as_on_a_gpu_no_later_update_is_applied_and_the_first_bad_step_is_named() -> None:
    guard = FiniteGuard(torch.device("cpu"))
    guard.immediate = False
    weight = nn.Parameter(torch.ones(2, 2))
    optimiser = torch.optim.AdamW([weight], lr=0.1, fused=True)
    values = []
    for step, loss in enumerate((ONE, NAN, ONE), start=1):
        guard.remember(step, [f"clip{step}"], loss[None])
        weight.grad = torch.full((2, 2), loss.item())
        guard.observe(step, loss, ONE)
        optimiser.found_inf = guard.blocked  # type: ignore[attr-defined]
        optimiser.step()
        values.append(weight.detach().clone())
    assert not torch.equal(values[0], torch.ones(2, 2))
    assert torch.equal(values[1], values[0])
    assert torch.equal(values[2], values[0])
    with pytest.raises(NonFiniteLossError, match=r"step 2: .* clip2;"):
        guard.check()
