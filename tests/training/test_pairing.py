from __future__ import annotations

from itertools import permutations

import pytest
import torch

from eisbach.training.noising import pair_by_transport


def cost(x0: torch.Tensor, noise: torch.Tensor) -> float:
    return float((x0 - noise).square().sum())


@pytest.mark.parametrize("seed", range(3))
def test_no_other_order_is_shorter(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, 5, 3, 7, generator=generator).unbind(0)
    x0[1] *= 3  # clips of different energy
    paired = pair_by_transport(x0, noise)
    best = min(cost(x0, noise[list(order)]) for order in permutations(range(5)))
    assert cost(x0, paired) == pytest.approx(best, rel=1e-6)
    assert sorted(map(tuple, paired.flatten(1).tolist())) == sorted(map(tuple, noise.flatten(1).tolist()))


def test_noise_that_lies_on_the_clips_is_found() -> None:
    x0 = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pair_by_transport(x0, x0[torch.tensor([3, 1, 0, 5, 2, 4])]), x0)


def test_one_clip_keeps_its_noise() -> None:
    noise = torch.randn(1, 2, 3)
    assert pair_by_transport(torch.randn(1, 2, 3), noise) is noise
