"""Inpainting masks against the rules they are drawn by, written out row by row."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from eisbach.training.noising import InpaintingMasks, inpainting_condition

LENGTH = 40


def drawn(masks: InpaintingMasks, frames: list[int], seed: int = 0, length: int = LENGTH) -> torch.Tensor:
    return masks.draw(torch.tensor(frames), length, torch.Generator().manual_seed(seed))


def runs(row: torch.Tensor) -> int:
    """Stretches of frames to be made."""
    values = [True, *row.tolist()]
    return sum(before and not after for before, after in pairwise(values))


def test_plain_generation_knows_nothing() -> None:
    assert not drawn(InpaintingMasks(0, 1, 0), [LENGTH] * 50).any()


def test_a_continuation_knows_a_beginning_of_uniform_length_from_none_to_all() -> None:
    frames = 9
    known = drawn(InpaintingMasks(0, 0, 1), [frames] * 4000)
    lengths = known.sum(dim=1)
    assert torch.equal(known, torch.arange(LENGTH) < lengths[:, None])  # a beginning, and no padding
    counts = torch.bincount(lengths, minlength=frames + 1)
    assert len(counts) == frames + 1
    assert (counts - 400).abs().max() < 100  # five standard deviations of a binomial with p = 1/10


def test_segments_are_at_most_so_many_and_the_rest_is_known() -> None:
    frames, most = 30, 3
    known = drawn(InpaintingMasks(1, 0, 0, max_segments=most), [frames] * 3000)
    assert not known[:, frames:].any()
    stretches = torch.tensor([runs(row[:frames]) for row in known])
    assert set(stretches.tolist()) == {1, 2, 3}  # at least one, and stretches may merge
    made = frames - known.sum(dim=1)
    assert int(made.min()) == 1
    assert int(made.max()) == frames  # one stretch may be the whole clip


def test_the_share_that_is_made_is_that_of_the_rules() -> None:
    """n uniform in 1..10, lengths uniform in 1..(L // n), starts uniform: the chance that a frame is in no stretch, by
    sums."""
    frames = 24
    masks = InpaintingMasks(1, 0, 0)
    known = torch.cat([drawn(masks, [frames] * 5000, seed, frames) for seed in range(4)]).double().mean(dim=0)
    for position in (0, 5, 12, 23):
        expected = 0.0
        for number in range(1, 11):
            longest = max(1, frames // number)
            covered = 0.0
            for size in range(1, longest + 1):
                starts = frames - size + 1
                covering = min(position, frames - size) - max(0, position - size + 1) + 1
                covered += covering / starts / longest
            expected += (1 - covered) ** number / 10
        assert float(known[position]) == pytest.approx(expected, abs=0.018)  # five standard deviations of 20,000 draws


def test_the_cases_come_as_often_as_they_should() -> None:
    known = drawn(InpaintingMasks(), [LENGTH] * 5000)
    assert float((~known.any(dim=1)).double().mean()) == pytest.approx(0.8 + 0.1 / (LENGTH + 1) + 0.002, abs=0.03)
    begins = known[:, 0] & torch.tensor([runs(row) <= 1 for row in known]) & ~known[:, -1]
    assert float(begins.double().mean()) > 0.05


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_very_short_clips(frames: int) -> None:
    known = drawn(InpaintingMasks(0.5, 0, 0.5), [frames] * 200)
    assert not known[:, frames:].any()


def test_a_row_s_mask_does_not_depend_on_the_case_of_another() -> None:
    """Rows take the same draws whatever they turn out to be."""
    some = drawn(InpaintingMasks(0.5, 0.5, 0), [LENGTH] * 30)
    all_of_it = drawn(InpaintingMasks(1, 0, 0), [LENGTH] * 30)
    shown = some.any(dim=1)
    assert 5 < int(shown.sum()) < 25
    assert torch.equal(some[shown], all_of_it[shown])


def test_the_condition_is_the_mask_and_the_known_latents() -> None:
    latents = torch.randn(2, 3, 4)
    known = torch.tensor([[True, False, False, True], [False] * 4])
    condition = inpainting_condition(latents, known)
    assert condition.shape == (2, 4, 4)
    assert torch.equal(condition[:, 0], known.float())
    assert torch.equal(condition[0, 1:, [0, 3]], latents[0][:, [0, 3]])
    assert not condition[0, 1:, 1:3].any()
    assert not condition[1].any()
