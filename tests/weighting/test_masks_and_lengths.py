"""Every option of every sample weighting, with every kind of mask, at every length: finite, and blind to padding."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from eisbach.weighting import build_weighting

CHOICES: dict[str, list[dict[str, Any]]] = {
    "entropy_barrier": [
        {"energy": energy, "source": source, "over": over, "temperature": temperature}
        for energy, source, over, temperature in itertools.product(
            ("raw", "relative", "share"), ("output", "x0"), ("all", "first"), (0.3, 1.0, 3.0)
        )
    ],
    "recurrence_barrier": [{}],
    "development_barrier": [{}],
}
FRAMES = (1, 2, 3, 7, 64, 300)
SHAPES = ((), (3,))  # axes beside time: audio, and images of three columns


def masks(frames: int) -> dict[str, torch.Tensor | None]:
    """Masks of four rows (B, T)."""
    position = torch.arange(frames)
    rows = [torch.zeros(4, frames, dtype=torch.bool) for _ in range(3)]
    for number, valid in enumerate((frames, frames - frames // 3, 1, 0)):
        rows[0][number] = position < valid
    rows[1][:, ::2] = True
    return {
        "none": None,
        "all": torch.ones(4, frames, dtype=torch.bool),
        "padded": rows[0],
        "holes": rows[1],
        "nothing": rows[2],
    }


CELLS = [(name, options) for name, every in CHOICES.items() for options in every]


@pytest.mark.parametrize(("name", "options"), CELLS)
@pytest.mark.parametrize("frames", FRAMES)
def test_every_weight_is_finite_and_padding_says_nothing(name: str, options: dict[str, Any], frames: int) -> None:
    weighting = build_weighting(name, latent_rate=10.0, strength=1.0, **options)
    generator = torch.Generator().manual_seed(frames)
    for axes in SHAPES:
        if axes and name != "entropy_barrier":
            continue  # music alone
        output = torch.randn(4, 2, frames, *axes, generator=generator)
        output[:, :, frames // 2] = 0.0  # a silent frame beside the padding
        x_t, t = torch.randn(output.shape, generator=generator), torch.tensor([0.1, 0.5, 0.9, 0.5])
        for kind, rows in masks(frames).items():
            mask = None if rows is None else rows.reshape(4, frames, *[1] * len(axes)).expand(4, frames, *axes)
            where: dict[str, Any] = {"x_t": x_t, "t": t, "path": "linear", "target": "u"}
            terms = weighting(torch.ones(4), output, mask=mask, **where)
            assert bool(torch.isfinite(terms.weight).all()), (kind, axes, terms.weight)
            assert bool((terms.weight >= 0).all())
            if mask is None:
                continue
            hidden = torch.where(mask[:, None], output, torch.full_like(output, 1e3))
            other = weighting(torch.ones(4), hidden, mask=mask, **where)
            torch.testing.assert_close(other.weight, terms.weight, rtol=1e-4, atol=1e-5)
