"""Every option of every sample weighting, with every kind of mask, at every length: finite, and blind to padding."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import pytest
import torch

from eisbach.weighting import build_weighting
from eisbach.weighting.sample.development_barrier import _Against
from eisbach.weighting.sample.recurrence_barrier import _Center, _Entropy

CHOICES: dict[str, list[dict[str, Any]]] = {
    "entropy_barrier": [
        {"energy": energy, "source": source, "over": over, "temperature": temperature}
        for energy, source, over, temperature in itertools.product(
            ("raw", "relative", "share"), ("output", "x0"), ("all", "first"), (0.3, 1.0, 3.0)
        )
    ],
    "recurrence_barrier": [
        {"entropy": entropy, "form": form, "center": center} | window
        for entropy, form, center, window in itertools.product(
            get_args(_Entropy), ("barrier", "power"), get_args(_Center), ({}, {"window_frames": 2, "sharpness": 4.0})
        )
    ],
    "development_barrier": [
        {"form": form, "against": against} | window
        for form, against, window in itertools.product(
            ("barrier", "power"), get_args(_Against), ({}, {"window_frames": 2, "sharpness": 4.0})
        )
    ],
}
BESIDE: list[dict[str, Any]] = [
    {"gate_below": 0.7},
    {"memory": {"below": 0.6}},
    {"memory": {"below": 0.6, "decay": 0.5}, "act_above": 0.7},
]
"""What a composition adds to any of them."""
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
CELLS += [(name, every[-1] | beside) for name, every in CHOICES.items() for beside in BESIDE]


@pytest.mark.parametrize(("name", "options"), CELLS)
@pytest.mark.parametrize("frames", FRAMES)
def test_every_weight_is_finite_and_padding_says_nothing(name: str, options: dict[str, Any], frames: int) -> None:
    generator = torch.Generator().manual_seed(frames)
    for axes in SHAPES:
        if axes and name != "entropy_barrier":
            continue  # music alone
        output = torch.randn(4, 2, frames, *axes, generator=generator)
        output[:, :, frames // 2] = 0.0  # a silent frame beside the padding
        noise, t = torch.randn(output.shape, generator=generator), torch.tensor([0.1, 0.5, 0.9, 0.5])

        def weight(output: torch.Tensor, x_t: torch.Tensor, mask: torch.Tensor | None, t: torch.Tensor = t) -> Any:
            """Of the second step, to which a memory brings what it read in the first."""
            weighting = build_weighting(name, latent_rate=10.0, strength=1.0, **options)
            where: dict[str, Any] = {"x_t": x_t, "t": t, "path": "linear", "target": "u", "mask": mask}
            if "memory" in options:
                where["ids"] = ["a", "b", "c", "d"]
            weighting(torch.ones(4), output, **where)
            return weighting(torch.ones(4), output, **where).weight

        for kind, rows in masks(frames).items():
            mask = None if rows is None else rows.reshape(4, frames, *[1] * len(axes)).expand(4, frames, *axes)
            weights = weight(output, noise, mask)
            assert bool(torch.isfinite(weights).all()), (kind, axes, weights)
            assert bool((weights >= 0).all())
            if mask is None:
                continue
            hidden = (torch.where(mask[:, None], part, torch.full_like(part, 1e3)) for part in (output, noise))
            torch.testing.assert_close(weight(*hidden, mask), weights, rtol=1e-4, atol=1e-5)
