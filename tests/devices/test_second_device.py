"""The second device of these tests refuses what a GPU refuses, and computes what the CPU computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from second_device import NAME, MixedDevices, Phantom, second_device
from torch import nn


def test_it_is_there_only_inside() -> None:
    with second_device():
        assert torch.accelerator.current_accelerator(check_available=True) == torch.device(NAME)
    assert torch.accelerator.current_accelerator(check_available=True) is None


REFUSED: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {
    "a sum": lambda there, here: there + here,
    "a product of matrices": lambda there, here: there @ here,
    "a concatenation": lambda there, here: torch.cat([there, here]),
    "a stack of scalars": lambda there, here: torch.stack([there.sum(), here.sum()]),
    "a choice": lambda there, here: torch.where(there > 0, there, here),
    "a write of numbers": lambda there, here: there.index_put_((torch.tensor([0]),), here[:1]),
    "a host's tensor at the device's indices": lambda there, here: here[there.argmax(0)],
    "a layer": lambda there, here: nn.Linear(3, 3)(there),
    "a generator of the host": lambda there, here: torch.randn(3, generator=torch.Generator(), device=there.device),
    "numpy": lambda there, here: there.numpy(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_gpu_refuses_is_refused(name: str) -> None:
    with second_device(), pytest.raises((MixedDevices, TypeError, RuntimeError)):
        REFUSED[name](torch.rand(3, 3, device=NAME), torch.rand(3, 3))


ALLOWED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a host's scalar": lambda there: there * torch.tensor(2.0),
    "indices of the host": lambda there: there[torch.tensor([2, 0])],
    "a mask of the host": lambda there: there[torch.tensor([True, False, True])],
    "a copy": lambda there: torch.zeros(3, 3).copy_(there),
    "a list": lambda there: torch.tensor(there.tolist()),
    "a branch": lambda there: there if bool(there.sum() > 0) else -there,
    "a view that is written": lambda there: there.clone().index_fill_(0, torch.tensor([0], device=there.device), 1.0),
    "a content that is exchanged": lambda there: _exchanged(there.clone()),
    "a slice that is written": lambda there: _written(there.clone()),
}


def _exchanged(values: torch.Tensor) -> torch.Tensor:
    values.data = 2 * values.data
    return values + 1


def _written(values: torch.Tensor) -> torch.Tensor:
    values[:, 1] = 0.0
    return values


@pytest.mark.parametrize("name", ALLOWED)
def test_what_a_gpu_allows_gives_the_cpus_numbers(name: str) -> None:
    values = torch.rand(3, 3, generator=torch.Generator().manual_seed(1))
    expected = ALLOWED[name](values)
    with second_device():
        assert torch.equal(ALLOWED[name](values.to(NAME)).cpu(), expected)


def test_a_module_trains_there_as_it_does_here() -> None:
    results = []
    for device in ("cpu", NAME):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, 1))
        batch = torch.rand(4, 3)
        with second_device():
            net.to(device)
            optimiser = torch.optim.AdamW(net.parameters(), fused=True)
            for _ in range(3):
                net(batch.to(device)).square().mean().backward()
                optimiser.step()
                optimiser.zero_grad()
            assert all(isinstance(value.data, Phantom) == (device == NAME) for value in net.parameters())
            results.append(torch.cat([value.detach().cpu().flatten() for value in net.parameters()]))
    torch.testing.assert_close(*results)


def test_products_are_in_bf16_under_autocast() -> None:
    with second_device():
        layer = nn.Linear(4, 4).to(NAME)
        values = torch.rand(2, 4, device=NAME)
        with torch.autocast(NAME, torch.bfloat16):
            assert layer(values).dtype == torch.bfloat16
            assert (values + values).dtype == torch.float32
        assert layer(values).dtype == torch.float32


def test_a_device_without_float64_refuses_it() -> None:
    with second_device(float64=False), pytest.raises(TypeError, match="float64"):
        torch.rand(3, device=NAME).double()
