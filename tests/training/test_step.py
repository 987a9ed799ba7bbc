from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from eisbach.diffusion.noise_levels import get_density
from eisbach.diffusion.paths import get_path
from eisbach.progress import Ahead
from eisbach.training.noising import InpaintingMasks, step_generator
from eisbach.training.step import NOISE_LEVEL_BINS, Objective, draw, micro_step, predict_batch, sums_by_noise_level
from eisbach.types import Conditioning, LatentBatch
from eisbach.weighting import build_weighting


def null(conditioning: Conditioning) -> Conditioning:
    return Conditioning(torch.zeros_like(conditioning.tokens), conditioning.global_embed)


def objective(**changes: Any) -> Objective:
    values: dict[str, Any] = {
        "path": get_path("linear"),
        "target": "u",
        "density": get_density("uniform"),
        "weighting": build_weighting("none"),
        "condition_dropout": 0.0,
        "null_condition": null,
    }
    return Objective(**{**values, **changes})


def batch(size: int = 4, frames: int = 6, masked: bool = False) -> tuple[LatentBatch, Conditioning]:
    generator = torch.Generator().manual_seed(0)
    mask = None
    if masked:
        mask = torch.arange(frames)[None] < torch.tensor([frames, 3, 2, frames])[:size, None]
    latents = LatentBatch(
        torch.randn(size, 3, frames, generator=generator),
        [str(index) for index in range(size)],
        ["x"] * size,
        torch.full((size,), 2.0),
        mask,
    )
    return latents, Conditioning(torch.ones(size, 2, 5), torch.arange(float(size))[:, None])


class Recording:
    """Predicts a fixed multiple of x_t and keeps what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[torch.Tensor, torch.Tensor, Conditioning]] = []

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        self.calls.append((x_t, t, conditioning))
        return 0.5 * x_t


def test_the_loss_is_the_mean_square_distance_to_the_velocity() -> None:
    predict, (latents, conditioning) = Recording(), batch(masked=True)
    step = micro_step(predict, objective(), latents, conditioning, step_generator(3))
    x_t, t, _ = predict.calls[0]
    x0 = latents.latents
    noise = (x_t - (1 - t[:, None, None]) * x0) / t[:, None, None]
    error = (0.5 * x_t - (noise - x0)).square()
    assert latents.mask is not None
    expected = [float(error[row][:, latents.mask[row]].mean()) for row in range(4)]
    assert step.partial.terms.per_sample.tolist() == pytest.approx(expected, rel=1e-3)
    assert float(step.partial.unscaled) == pytest.approx(sum(expected), rel=1e-3)


@pytest.mark.parametrize(
    "weighting", [lambda: build_weighting("entropy_barrier"), lambda: build_weighting("none", "min_snr")]
)
def test_arms_with_one_seed_see_the_same_noise_levels_noise_and_dropped_captions(
    weighting: Callable[[], Any],
) -> None:
    latents, conditioning = batch()
    first, second = Recording(), Recording()
    micro_step(first, objective(condition_dropout=0.5), latents, conditioning, step_generator(1, 2))
    other = objective(condition_dropout=0.5, weighting=weighting())
    micro_step(second, other, latents, conditioning, step_generator(1, 2))
    for left, right in zip(first.calls[0][:2], second.calls[0][:2], strict=True):
        assert torch.equal(left, right)
    assert torch.equal(first.calls[0][2].tokens, second.calls[0][2].tokens)


def test_neighbouring_seeds_and_steps_share_nothing_and_the_global_state_is_left_alone() -> None:
    state = torch.random.get_rng_state()
    draws = [
        torch.rand(3, generator=step_generator(*key)).tolist() for key in ((0, 1), (1, 0), (0, 0), (0, 1, 0), (1,))
    ]
    assert len({tuple(draw) for draw in draws}) == len(draws)
    assert torch.rand(3, generator=step_generator(0, 1)).tolist() == draws[0]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_dropping_replaces_whole_rows_and_keeps_the_duration() -> None:
    _, conditioning = batch()
    mask = torch.ones(4, 2, dtype=torch.bool)
    kept = Conditioning(conditioning.tokens, conditioning.global_embed, mask)
    empty = Conditioning(torch.zeros(4, 2, 5), conditioning.global_embed, ~mask)
    mixed = kept.replace_rows(torch.tensor([True, False, False, True]), empty)
    assert mixed.tokens.sum(dim=(1, 2)).tolist() == [0, 10, 10, 0]
    assert mixed.token_mask is not None
    assert mixed.token_mask.sum(dim=1).tolist() == [0, 2, 2, 0]
    assert torch.equal(mixed.global_embed, conditioning.global_embed)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 400)])
def test_the_share_of_dropped_captions_at_its_ends(share: float, expected: int) -> None:
    predict, (latents, conditioning) = Recording(), batch(400, 2)
    micro_step(predict, objective(condition_dropout=share), latents, conditioning, step_generator(0))
    assert int((predict.calls[0][2].tokens == 0).all(dim=(1, 2)).sum()) == expected


def test_the_share_of_dropped_captions_is_kept_between() -> None:
    predict, (latents, conditioning) = Recording(), batch(1000, 2)
    micro_step(predict, objective(condition_dropout=0.1), latents, conditioning, step_generator(0))
    dropped = int((predict.calls[0][2].tokens == 0).all(dim=(1, 2)).sum())
    assert 60 < dropped < 140  # four standard deviations about 100


def test_sums_by_noise_level() -> None:
    sums = sums_by_noise_level(torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0.0, 0.05, 0.35, 1.0]))
    assert sums.shape == (2, NOISE_LEVEL_BINS)
    assert sums[0].tolist() == [3, 0, 0, 4, 0, 0, 0, 0, 0, 8]
    assert sums[1].tolist() == [2, 0, 0, 1, 0, 0, 0, 0, 0, 1]


EVERY_OPTION: dict[str, Any] = {
    "condition_dropout": 0.5,
    "pairing": "optimal_transport",
    "inpainting": InpaintingMasks(0.5, 0.2, 0.3),
    "silence_extension": 2.0,
    "latent_rate": 3.0,
}


def answer(x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning, *_: torch.Tensor) -> torch.Tensor:
    return 0.5 * x_t


def test_what_is_drawn_before_a_step_is_what_the_step_would_draw() -> None:
    latents, conditioning = batch(masked=True)
    chosen = objective(**EVERY_OPTION)
    at_once = micro_step(answer, chosen, latents, conditioning, step_generator(3))
    before = micro_step(answer, chosen, latents, conditioning, draw(chosen, latents, step_generator(3)))
    assert torch.equal(at_once.partial.unscaled, before.partial.unscaled)
    assert torch.equal(at_once.t, before.t)


def test_a_step_on_a_device_reads_nothing_back() -> None:
    """Every option, on a device that cannot be read: what needs values on the host was done before."""
    latents, conditioning = batch(masked=True)
    chosen = objective(**EVERY_OPTION)
    drawn = draw(chosen, latents, step_generator(3))
    away = replace(latents, latents=latents.latents.to("meta"), mask=latents.mask.to("meta"))
    losses = predict_batch(answer, chosen, away, conditioning.to("meta"), drawn).losses
    assert losses.device.type == "meta"
    assert losses.shape == (4,)


def test_values_are_made_ahead_in_another_thread_in_any_order_that_is_asked_for() -> None:
    made: list[tuple[int, str]] = []

    def make(key: int) -> int:
        made.append((key, threading.current_thread().name))
        if key == 13:
            raise ValueError("thirteen")
        return key * key

    ahead = Ahead(make)
    assert [ahead.get(key, key + 1) for key in (1, 2, 3)] == [1, 4, 9]
    assert ahead.get(7, 13) == 49  # not what was made ahead: a run that was resumed
    with pytest.raises(ValueError, match="thirteen"):
        ahead.get(13, None)
    ahead.close()
    assert [key for key, _ in made] == [1, 2, 3, 4, 7, 13]
    assert {name for _, name in made} == {"ahead_0"}
    assert ahead.get(5, None) == 25  # a closed one begins anew
    ahead.close()
