"""Weights by clip: a remembered belief and what a person gave, over every split of a step and every other option."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from safetensors.torch import load, save

from eisbach.errors import CheckpointError, UserError
from eisbach.weighting import Weighting, build_weighting, clips
from eisbach.weighting.clips import ClipMemory, GivenWeights
from eisbach.weighting.sample import SAMPLE_WEIGHTINGS

IDS = [f"clip {number}" for number in range(6)]
BARRIERS = {
    "entropy_barrier": {},
    "recurrence_barrier": {"window_frames": 8, "form": "power", "sharpness": 4.0},
    "development_barrier": {"window_frames": 8},
}
CONTEXT = {"path": "linear", "target": "u"}


def batch(step: int, masked: bool = False) -> dict:
    """Six samples of a step: clips in another order each time, one of them twice, and noise levels on both sides."""
    generator = torch.Generator().manual_seed(step)
    order = torch.randperm(6, generator=generator).tolist()
    x0 = torch.stack([_clip(number) for number in order])
    t = torch.rand(6, generator=generator) * 0.98 + 0.01
    noise = torch.randn(x0.shape, generator=generator)
    level = t.view(-1, 1, 1)
    mask = torch.ones(6, 64, dtype=torch.bool)
    mask[0, 48:] = False
    return {
        "ids": [IDS[number] for number in [*order[:5], order[0]]], "t": t, "x_t": (1 - level) * x0 + level * noise,
        "output": noise - x0 + 0.1 * torch.randn(x0.shape, generator=generator),
        "losses": torch.rand(6, generator=generator) + 0.5, "mask": mask if masked else None,
    }  # fmt: skip


def _clip(number: int) -> torch.Tensor:
    """Clip 0 is one tone; the others develop more and more."""
    time = torch.arange(64.0)
    channels = torch.arange(1, 5.0)[:, None]
    return torch.sin(channels * time / 5) * (1 + number * torch.sin(time / 9 + channels))


def part_of(whole: dict, rows: slice) -> dict:
    return {key: None if value is None else value[rows] for key, value in whole.items()}


def partial(weighting: Weighting, part: dict):
    rest = {key: value for key, value in part.items() if key not in ("losses", "output")}
    return weighting.partial(part["losses"], part["output"], **rest, **CONTEXT)


@pytest.mark.parametrize("barrier", BARRIERS)
@pytest.mark.parametrize(
    ("noise_level", "normalisation", "act_above", "masked"),
    itertools.product(["none", "min_snr"], ["none", "mean1"], [None, 0.5], [False, True]),
)
def test_a_step_cut_in_parts_is_the_step(barrier, noise_level, normalisation, act_above, masked):
    assert set(BARRIERS) == set(SAMPLE_WEIGHTINGS)
    options = {"normalisation": normalisation, "memory": {"below": 0.6, "decay": 0.7}, "act_above": act_above}
    for cuts in ([0, 2, 6], [0, 1, 2, 3, 4, 5, 6]):
        whole, parts = (build_weighting(barrier, noise_level, **options, **BARRIERS[barrier]) for _ in range(2))
        for step in range(4):
            data = batch(step, masked)
            one = partial(whole, data)
            made = [partial(parts, part_of(data, slice(a, b))) for a, b in itertools.pairwise(cuts)]
            stats = torch.stack([part.stats for part in made]).sum(0)
            loss = torch.stack([part.unscaled for part in made]).sum() * parts.gradient_factor(stats)
            torch.testing.assert_close(loss.float(), one.terms.loss, rtol=1e-5, atol=1e-7)
            whole.end_step()
            parts.end_step()
        first, second = whole.state_dict(), parts.state_dict()
        assert first.keys() == second.keys() == {"memory.ids", "memory.belief_sums", "memory.counts"}
        for key, value in first.items():
            torch.testing.assert_close(second[key], value, rtol=1e-5, atol=1e-6)
        assert len(whole.memory) == 6


@pytest.mark.parametrize("count", [4, 3, 1])  # micro-batches of a step, dealt out: the second process may have fewer
def test_processes_have_the_memory_of_one_process_with_more_accumulation(monkeypatch, count):
    options = {"memory": {"below": 0.6, "decay": 0.7}, "window_frames": 8}
    alone = build_weighting("recurrence_barrier", **options)
    ranks = [build_weighting("recurrence_barrier", **options) for _ in range(2)]
    for step in range(4):
        data = [batch(10 * step + micro) for micro in range(count)]
        for micro, part in enumerate(data):
            partial(alone, part)
            partial(ranks[micro % 2], part)
        alone.end_step()
        everyone = [[rank.memory._readable(*noted) for noted in rank.memory._notes] for rank in ranks]
        monkeypatch.setattr(clips, "of_all_processes", lambda mine, everyone=everyone: everyone)
        for rank in ranks:
            rank.end_step()
        monkeypatch.undo()
    for rank in ranks:
        for key, value in alone.state_dict().items():
            assert torch.equal(rank.state_dict()[key], value)


def test_a_belief_is_the_decayed_mean_of_what_was_read_below():
    memory = ClipMemory(below=0.5, decay=0.8)
    levels = torch.tensor([0.1, 0.5, 0.49, 0.9, 0.2])
    beliefs = torch.tensor([0.9, 0.1, 0.3, 0.2, math.nan], dtype=torch.float64)
    memory.note(["a", "a", "a", "b", "c"], beliefs, levels)
    assert memory.belief("a") is None  # nothing counts before the step ends
    memory.update()
    memory.note(["a"], torch.tensor([0.5], dtype=torch.float64), torch.tensor([0.0]))
    memory.update()
    expected = (0.8**2 * 0.9 + 0.8 * 0.3 + 0.5) / (0.8**2 + 0.8 + 1)
    assert memory.belief("a") == pytest.approx(expected, rel=1e-12)
    assert memory.belief("b") is None  # at or above `below`
    assert memory.belief("c") is None  # too short to be judged
    assert len(memory) == 1
    plain = ClipMemory(below=1.0, decay=1.0)
    plain.note(["a"] * 4, torch.tensor([0.1, 0.2, 0.3, 0.6], dtype=torch.float64), torch.zeros(4))
    plain.update()
    assert plain.belief("a") == pytest.approx(0.3)


@pytest.mark.parametrize("barrier", BARRIERS)
def test_clips_are_weighed_by_what_is_remembered_and_average_one(barrier):
    weighting = build_weighting(barrier, strength=1.0, memory={"below": 0.7}, act_above=0.4, **BARRIERS[barrier])
    first = partial(weighting, batch(0))
    assert first.weight.tolist() == [1.0] * 6  # nothing is known yet
    weighting.end_step()
    for step in range(1, 6):
        partial(weighting, batch(step))
        weighting.end_step()
    beliefs = torch.tensor([weighting.memory.belief(name) for name in IDS], dtype=torch.float64)
    expected = weighting.sample.weight_of(beliefs)
    expected = dict(zip(IDS, (expected / expected.mean()).tolist(), strict=True))
    data = batch(9)
    made = partial(weighting, data)
    wanted = [expected[name] if t >= 0.4 else 1.0 for name, t in zip(data["ids"], data["t"].tolist(), strict=True)]
    assert made.weight.tolist() == pytest.approx(wanted, rel=1e-5)
    assert min(wanted) < 1 < max(wanted)
    assert sum(expected.values()) / 6 == pytest.approx(1.0)
    fresh = partial(weighting, {**data, "ids": ["new"] * 6})
    assert fresh.weight.tolist() == [1.0] * 6
    # What the prediction itself says stays what it was: the log of beliefs is that of the weighting without memory.
    alone = build_weighting(barrier, strength=1.0, **BARRIERS[barrier])
    torch.testing.assert_close(made.terms.belief, partial(alone, data).terms.belief)
    torch.testing.assert_close(
        weighting.sample.weight_of(made.terms.belief), made.terms.sample_weight, rtol=1e-4, atol=1e-6
    )


def test_the_memory_survives_a_file_and_refuses_another():
    memory = ClipMemory(below=0.9)
    names = ["plain", "ünïcode 𝄞", "with\nbreak", 'quote "', ""]
    memory.note(names, torch.rand(5, dtype=torch.float64), torch.zeros(5))
    memory.update()
    other = ClipMemory(below=0.9)
    other.load_state_dict(load(save(memory.state_dict())))
    assert [other.belief(name) for name in names] == [memory.belief(name) for name in names]
    empty = ClipMemory(below=0.9)
    empty.load_state_dict(load(save(ClipMemory(below=0.9).state_dict())))
    assert len(empty) == 0
    state = memory.state_dict()
    for change, said in (
        ({"memory.ids": None}, "lacks memory.ids"),
        ({"memory.ids": torch.tensor([1, 2], dtype=torch.uint8)}, "cannot be read"),
        ({"memory.counts": state["memory.counts"][:2]}, "5 sums and 2 counts"),
    ):
        damaged = {key: value for key, value in {**state, **change}.items() if value is not None}
        with pytest.raises(CheckpointError, match=said):
            other.load_state_dict(damaged)


def test_what_a_memory_cannot_be_combined_with_is_said():
    memory = {"below": 0.6}
    for options, said in (
        ({"sample": "none", "memory": memory}, "name a sample weighting"),
        ({"reduction": "batch", "memory": memory}, "use reduction 'sample'"),
        ({"level_means": [[0.0, 0.5]], "memory": memory}, "leave level_means or the memory out"),
        ({"gate_below": 0.5, "memory": memory}, "say memory.below and act_above, no gate"),
        ({"act_above": 0.5}, "give memory with it"),
        ({"memory": {"decay": 0.5}}, "memory must be a group of below"),
        ({"memory": 0.6}, "memory must be a group of below"),
        ({"memory": {"below": 0.6, "above": 1}}, "memory must be a group of below"),
        ({"memory": {"below": 0.0}}, r"below must lie in \(0, 1\]"),
        ({"memory": {"below": "0.5"}}, "below must lie in"),
        ({"memory": {"below": 0.5, "decay": 1.1}}, r"decay must lie in \[0, 1\]"),
        ({"memory": memory, "act_above": 1.5}, "noise level t in"),
    ):
        with pytest.raises(UserError, match=said):
            build_weighting(**{"sample": "entropy_barrier", **options})
    weighting = build_weighting("entropy_barrier", memory=memory)
    data = batch(0)
    for missing in ({"ids": None}, {"ids": ["a"]}, {"ids": "abcdef"}, {"t": None}):
        with pytest.raises(UserError, match="need the id of each sample's clip and its noise level"):
            partial(weighting, {**data, **missing})


def test_given_weights_move_effort_between_clips_and_never_between_noise_levels():
    given = GivenWeights({"quiet": (0.0, 0.7), "loud": (3.0, 0.0), "half": (0.5, 0.3)}, count=5)
    names, levels = ["quiet", "loud", "half", "other", "another"], [0.0, 0.2, 0.3, 0.5, 0.7, 1.0]
    for t in levels:
        weights = given(names, torch.full((5,), t))
        raw = [0.0 if t >= 0.7 else 1.0, 3.0, 0.5 if t >= 0.3 else 1.0, 1.0, 1.0]
        assert weights.tolist() == pytest.approx([value / (sum(raw) / 5) for value in raw])
        assert float(weights.mean()) == pytest.approx(1.0)
    assert math.isnan(given(["loud"], torch.tensor([math.nan])).item())
    double = given(names, torch.full((5,), 0.5, dtype=torch.float64))
    assert double.dtype == torch.float64


@pytest.mark.parametrize("reduction", ["sample", "batch"])
@pytest.mark.parametrize("sample", ["none", "entropy_barrier"])
def test_given_weights_multiply_whatever_else_weighs(sample, reduction):
    from dataclasses import replace

    plain = build_weighting(sample, "min_snr", reduction=reduction)
    given = GivenWeights({IDS[0]: (0.0, 0.3), IDS[1]: (2.0, 0.0)}, count=6)
    data = batch(3)
    bare, made = partial(plain, data), partial(replace(plain, given=given), data)
    expected = bare.weight * given(data["ids"], data["t"])
    torch.testing.assert_close(made.weight, expected)
    torch.testing.assert_close(made.unscaled, (expected * data["losses"]).sum())
    with pytest.raises(UserError, match="need the id"):
        partial(replace(plain, given=given), {**data, "ids": None})


@pytest.mark.parametrize("act_above", [None, 0.999])
def test_a_nan_in_the_output_or_the_noise_level_is_not_hidden_by_a_memory(act_above):
    for key in ("output", "t"):
        weighting = build_weighting("entropy_barrier", memory={"below": 0.6}, act_above=act_above)
        data = batch(1)
        data[key] = data[key].clone()
        data[key][0] = math.nan
        assert math.isnan(partial(weighting, data).weight[0])
        weighting.end_step()
        assert math.isfinite(sum(weighting.state_dict()["memory.belief_sums"].tolist()))


def test_given_weights_out_of_range_or_all_zero_are_refused():
    for rows, count, said in (
        ({"a": (-1.0, 0.0)}, 2, "finite number of at least 0"),
        ({"a": (1.0, 1.5)}, 2, r"noise level t in \[0, 1\]"),
        ({"a": (math.inf, 0.5)}, 2, "finite number"),
        ({"a": (0.0, 0.6), "b": (0.0, 0.2)}, 2, "every clip that trains has weight 0 at noise levels from 0.6 on"),
    ):
        with pytest.raises(UserError, match=said):
            GivenWeights(rows, count)


def test_beliefs_are_read_on_devices_without_doubles(monkeypatch):
    """Apple's GPU has no float64."""

    def refuse(*_):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    memory = ClipMemory(0.6)
    memory.note(["a", "b"], torch.tensor([0.25, 0.5]), torch.tensor([0.5, 0.9]))
    monkeypatch.setattr(torch.Tensor, "double", refuse)
    memory.update()
    assert memory.belief("a") == 0.25
    assert memory.belief("b") is None
