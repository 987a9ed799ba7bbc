from __future__ import annotations

import torch

from eisbach.generation.takes import noise_seed, starting_noise


def test_noise_is_a_pure_function_of_prompt_and_seed() -> None:
    state = torch.random.get_rng_state()
    first = starting_noise("celesta", 3, 8, 80)
    torch.rand(5)
    assert torch.equal(first, starting_noise("celesta", 3, 8, 80))
    assert not torch.equal(first, starting_noise("celesta", 4, 8, 80))
    assert not torch.equal(first, starting_noise("bassoon", 3, 8, 80))
    torch.random.set_rng_state(state)


def test_global_random_state_is_left_alone() -> None:
    state = torch.random.get_rng_state()
    starting_noise("celesta", 3, 8, 80)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    for channels in (1, 3, 96):
        long = starting_noise("celesta", 0, channels, 323)
        for frames in (1, 5, 16, 80, 81):
            assert torch.equal(starting_noise("celesta", 0, channels, frames), long[:, :frames])


def test_noise_is_standard_normal_and_uncorrelated_between_seeds() -> None:
    draws = torch.stack([starting_noise("celesta", seed, 32, 200).flatten() for seed in range(4)]).double()
    n = draws.shape[1]
    assert draws.mean(dim=1).abs().max() < 4 / n**0.5
    assert (draws.var(dim=1) - 1).abs().max() < 4 * (2 / n) ** 0.5
    correlation = torch.corrcoef(draws) - torch.eye(4)
    assert correlation.abs().max() < 4.5 / n**0.5


def test_seeds_do_not_collide_between_neighbouring_prompts() -> None:
    # "1/1x" and "11/x" style ambiguities would make two cells share their noise
    seeds = {noise_seed(f"p{i}", seed) for i in range(50) for seed in range(50)}
    assert len(seeds) == 2500


def test_every_step_has_noise_of_its_own_and_the_first_is_the_starting_noise() -> None:
    made = [starting_noise("a", 3, 4, 40, step) for step in range(4)]
    assert torch.equal(made[0], starting_noise("a", 3, 4, 40))
    for first in range(4):
        for second in range(first):
            correlation = float(torch.corrcoef(torch.stack([made[first].flatten(), made[second].flatten()]))[0, 1])
            assert abs(correlation) < 0.35  # four standard deviations of 160 independent pairs
    assert torch.equal(starting_noise("a", 3, 4, 20, 2), made[2][:, :20])
    assert not torch.equal(made[2], starting_noise("a", 4, 4, 40, 2))
