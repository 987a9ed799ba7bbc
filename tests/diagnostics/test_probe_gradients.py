"""Gradients of a probe against autograd, torch's AdamW and cases whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from eisbach.diagnostics.probe.gradients import (
    MOVING_STEPS,
    AdamUpdates,
    _chosen_levels,
    angle,
    batch_gradients,
    cosine,
    dot,
    measure_gradients,
    measure_levels,
    norm,
    ratio,
    summary,
    units,
)
from eisbach.diagnostics.probe.result import ProbeConfig
from eisbach.diagnostics.probe.run import run_probe
from eisbach.diagnostics.probe.subject import Subject, trainable, trained_weights
from eisbach.training import train
from eisbach.training.noising import step_generator
from eisbach.training.step import micro_step
from eisbach.weighting import Weighting

Load = Callable[..., Subject]
Configure = Callable[..., ProbeConfig]

EQ5 = {"sample": "entropy_barrier", "reduction": "batch", "strength": 1.0}


def ignore(count: int) -> None:
    """No progress."""


def test_products_and_angles_of_known_vectors() -> None:
    a, b = [torch.tensor([3.0, 0.0]), torch.tensor([[0.0]])], [torch.tensor([0.0, 0.0]), torch.tensor([[2.0]])]
    assert dot(a, b) == 0.0
    assert norm(a) == 3.0
    assert angle(a, b) == pytest.approx(90.0)
    assert angle(a, [-x for x in a]) == pytest.approx(180.0)
    both = [x + y for x, y in zip(a, b, strict=True)]
    assert cosine(a, both) == pytest.approx(3 / math.sqrt(13))
    assert angle(a, both) == pytest.approx(math.degrees(math.atan2(2, 3)))
    tiny = [torch.tensor([3.0, 3e-7], dtype=torch.float64), torch.tensor([[0.0]])]
    assert angle([x.double() for x in a], tiny) == pytest.approx(math.degrees(1e-7), rel=1e-6)  # below acos's reach
    zero = [torch.zeros(2), torch.zeros(1, 1)]
    assert math.isnan(cosine(a, zero))
    assert math.isnan(angle(a, zero))
    assert math.isnan(ratio(1.0, 0.0))


def test_sums_are_taken_in_float64() -> None:
    large = [torch.full((1000,), 1e4), torch.full((1000,), 1e-4)]
    assert dot(large, large) == pytest.approx(1e11 + 1000 * float(torch.tensor(1e-4)) ** 2, rel=1e-15)


def test_updates_are_those_of_torch_adamw() -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.zeros(5))]
    optimiser = torch.optim.AdamW(parameters, lr=1.0, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.0)
    mine = AdamUpdates((0.8, 0.95), 1e-3)
    for step in range(6):
        gradient = [torch.randn(p.shape, generator=generator) for p in parameters]
        before = [p.detach().clone() for p in parameters]
        for parameter, part in zip(parameters, gradient, strict=True):
            parameter.grad = part * 0.3
        optimiser.step()
        moved = [old - p.detach() for old, p in zip(before, parameters, strict=True)]
        for got, want in zip(mine.update(gradient, 0.3), moved, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5, msg=f"step {step}")


def test_summary_brackets_the_mean_and_leaves_out_what_is_undefined() -> None:
    found = summary([1.0, 2.0, 3.0, 4.0, math.nan])
    assert found["n"] == 4
    assert found["mean"] == 2.5
    assert found["sd"] == pytest.approx(math.sqrt(5 / 3))
    assert 1.0 <= found["low"] < 2.5 < found["high"] <= 4.0  # type: ignore[operator]
    assert summary([]) == {"mean": None, "sd": None, "low": None, "high": None, "n": 0}
    assert summary([2.0]) == {"mean": 2.0, "sd": None, "low": None, "high": None, "n": 1}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_gradients_are_those_of_training(load: Load, accumulation: int) -> None:
    weighting = {"sample": "entropy_barrier", "strength": 0.8, "noise_level": "min_snr", "normalisation": "mean1"}
    subject = load(weighting=weighting, accumulation=accumulation, condition_dropout=0.5)
    with trainable(subject) as (kind, parameters, fresh):
        assert (kind, fresh) == ("lora", True)
        made = batch_gradients(subject, parameters, 1)
        assert made is not None
        for objective, found in (
            (subject.objective, made.weighted),
            (replace(subject.objective, weighting=Weighting()), made.plain),
        ):
            stats, unscaled = torch.zeros(4), torch.zeros(())
            for micro in range(accumulation):
                batch, index = subject.micro_batch(1, micro)
                generator = step_generator(0, index)
                step = micro_step(subject.backbone.predict, objective, batch, subject.conditioning(batch), generator)
                stats, unscaled = stats + step.partial.stats, unscaled + step.partial.unscaled
            loss = unscaled * objective.weighting.gradient_factor(stats)
            wanted = torch.autograd.grad(loss.float(), list(parameters.values()))
            assert norm(wanted) > 0
            for got, want in zip(found, wanted, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)


def test_the_first_step_of_training_has_the_norms_and_losses_that_the_probe_foresaw(
    configure: Configure, tmp_path: Path
) -> None:
    config = configure(weighting={"sample": "entropy_barrier", "strength": 0.7}, max_grad_norm=1e-3)
    found = run_probe(config, quiet=True)
    recipe = config.train.model_copy(update={"steps": 2, "log_every": 1, "out": str(tmp_path / "run")})
    import json

    lines = (train(recipe, quiet=True) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = next(row for row in map(json.loads, lines) if "loss" in row)
    start = found.gradients["points"]["start"]["per_batch"][0]
    assert logged["grad_norm"] == pytest.approx(start["weighted_norm"], rel=1e-4)
    assert start["weighted_clipped"]
    assert start["clipped_norm_ratio"] == pytest.approx(1.0, rel=1e-3)
    assert logged["loss"] == pytest.approx(found.batches[0]["loss"], rel=1e-4)


def test_a_batch_scalar_shrinks_the_gradient_and_nothing_else(load: Load) -> None:
    subject = load(weighting=EQ5, max_grad_norm=None)
    point = measure_gradients(subject, ignore)["points"]["start"]
    assert point["norm_ratio"]["mean"] < 0.6
    assert point["angle"]["mean"] < 1e-3
    assert point["cosine"]["mean"] == pytest.approx(1.0, abs=1e-6)
    assert point["update_norm_ratio"]["mean"] == pytest.approx(1.0, abs=0.02)  # AdamW divides it out again
    assert point["update_angle"]["mean"] < 3.0
    assert point["plain_clipped"]["mean"] == point["weighted_clipped"]["mean"] == 0.0
    assert point["clipped_norm_ratio"] == point["norm_ratio"]
    assert point["between_batches_angle"]["mean"] > 5.0
    assert len(point["per_batch"]) == 3
    assert point["update_angle"]["n"] == 1  # the last third


def test_the_norm_ratio_of_a_batch_scalar_is_the_mean_weight(load: Load) -> None:
    subject = load(weighting={**EQ5, "strength": 0.5})
    with trainable(subject) as (_, parameters, _fresh):
        made = batch_gradients(subject, parameters, 0)
        assert made is not None
        batch, index = subject.micro_batch(0, 0)
        with torch.no_grad():
            step = micro_step(
                subject.predict, subject.objective, batch, subject.conditioning(batch), step_generator(0, index)
            )
        scalar = 0.5 + 0.5 * float(step.partial.terms.sample_weight.mean())
        assert norm(made.weighted) / norm(made.plain) == pytest.approx(scalar, rel=1e-5)


def test_sample_weights_turn_the_gradient_and_no_weighting_does_not(load: Load) -> None:
    turned = measure_gradients(load(weighting={"noise_level": "min_snr"}), ignore)["points"]["start"]
    assert turned["angle"]["mean"] > 1.0
    assert turned["update_angle"]["mean"] > 1.0
    same = measure_gradients(load(weighting={}), ignore)["points"]["start"]
    assert same["angle"]["mean"] < 1e-4
    assert same["norm_ratio"]["mean"] == pytest.approx(1.0, rel=1e-6)
    assert same["update_norm_ratio"]["mean"] == pytest.approx(1.0, rel=1e-6)


def test_a_fresh_adapter_is_also_seen_off_its_start(load: Load) -> None:
    subject = load()
    with trainable(subject) as (_, parameters, _fresh):
        made = batch_gradients(subject, parameters, 0)
        assert made is not None
        by_name = dict(zip(parameters, made.plain, strict=True))
        assert all(not value.any() for name, value in by_name.items() if "lora_A" in name)  # B = 0 hides A
    found = measure_gradients(subject, ignore)
    assert set(found["points"]) == {"start", "moved"}
    assert found["perturbation_steps"] == MOVING_STEPS
    assert found["points"]["moved"]["plain_norm"]["mean"] != found["points"]["start"]["plain_norm"]["mean"]


def test_clipping_divides_out_what_the_weighting_shrank(load: Load) -> None:
    free = measure_gradients(load(weighting=EQ5, max_grad_norm=1e6), ignore)["points"]["start"]
    never = measure_gradients(load(weighting=EQ5, max_grad_norm=None), ignore)["points"]["start"]
    assert free["plain_clipped"]["mean"] == 0.0
    assert free == never
    tight = measure_gradients(load(weighting=EQ5, max_grad_norm=1e-4), ignore)["points"]["start"]
    assert (tight["plain_clipped"]["mean"], tight["weighted_clipped"]["mean"]) == (1.0, 1.0)
    assert tight["norm_ratio"] == free["norm_ratio"]
    assert tight["clipped_norm_ratio"]["mean"] == pytest.approx(1.0, abs=0.05)
    assert tight["update_angle"] != free["update_angle"]


def test_single_noise_levels_show_the_weight_of_their_level(load: Load) -> None:
    subject = load(weighting={"noise_level": "min_snr", "options": {"gamma": 5.0}})
    for row in measure_gradients(subject, ignore)["levels"]:
        t = row["t"]
        assert row["norm_ratio"] == pytest.approx(min((1 - t) ** 2, 5 * t**2), rel=1e-4)
        assert row["cosine"] == pytest.approx(1.0, abs=1e-6)
        assert row["batches"] == len(row["weighted_norms"]) == 4  # of three samples: four batches at least
        assert row["weighted_norm"] == pytest.approx(sum(row["weighted_norms"]) / 4)


def test_single_noise_levels_under_mean_one_are_relative_to_the_training_mean(load: Load) -> None:
    subject = load(weighting={"noise_level": "min_snr", "normalisation": "mean1", "options": {"gamma": 5.0}})
    with trainable(subject) as (_, parameters, _fresh):
        rows = measure_levels(subject, parameters, 0.25, ignore)
    for row in rows:
        assert row["norm_ratio"] == pytest.approx(min((1 - row["t"]) ** 2, 5 * row["t"] ** 2) / 0.25, rel=1e-4)


def test_levels_are_thinned_evenly() -> None:
    levels = [round(0.05 * step, 2) for step in range(1, 20)]
    chosen = _chosen_levels(levels)
    assert len(chosen) == 6
    assert (chosen[0], chosen[-1]) == (levels[0], levels[-1])
    assert _chosen_levels(levels[:4]) == levels[:4]


@pytest.mark.parametrize("adapter", [{"type": "dora", "rank": 2}, {"type": "lora", "rank": 2}, {"type": "none"}])
def test_the_model_is_left_as_it_was(load: Load, adapter: dict[str, object]) -> None:
    subject = load(adapter=adapter)
    module = subject.backbone.module
    state = {name: value.clone() for name, value in module.state_dict().items()}
    required = {name: value.requires_grad for name, value in module.named_parameters()}
    random_state = torch.get_rng_state()
    found = measure_gradients(subject, ignore)
    after = module.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], value) for name, value in state.items())
    assert {name: value.requires_grad for name, value in module.named_parameters()} == required
    assert all(parameter.grad is None for parameter in module.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert subject.backbone.identity() == subject.identity
    assert set(found["points"]) == ({"start"} if adapter["type"] == "none" else {"start", "moved"})
    if adapter["type"] == "none":
        assert found["trained"] == "all"
        assert found["scalars"] == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("kind", ["lora", "none"])
def test_what_was_trained_is_probed_where_it_stands(
    configure: Configure, load: Load, tmp_path: Path, kind: str
) -> None:
    adapter = {"type": kind, **({"rank": 2} if kind == "lora" else {})}
    recipe = configure(adapter=adapter).train.model_copy(update={"steps": 4, "out": str(tmp_path / "run")})
    folder = train(recipe, quiet=True) / ("adapter" if kind == "lora" else "model")
    subject = load({"adapter": str(folder)}, adapter=adapter)
    module = subject.backbone.module
    state = {name: value.clone() for name, value in module.state_dict().items()}
    found = measure_gradients(subject, ignore)
    assert set(found["points"]) == {"start"}  # a trained adapter's B is not zero
    base = measure_gradients(load(adapter=adapter), ignore)["points"]["start"]
    assert found["points"]["start"]["plain_norm"]["mean"] != pytest.approx(base["plain_norm"]["mean"], rel=1e-3)

    def losses() -> torch.Tensor:
        batch, index = subject.micro_batch(0, 0)
        with torch.no_grad():
            step = micro_step(
                subject.predict, subject.objective, batch, subject.conditioning(batch), step_generator(0, index)
            )
        return step.partial.terms.per_sample

    before = losses()
    with trainable(subject) as (_, _parameters, fresh):
        assert not fresh
        in_layers = losses()
    with trained_weights(subject):  # folded in, as the rows see it
        folded = losses()
    torch.testing.assert_close(in_layers, folded, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, folded, rtol=1e-3)
    assert all(torch.equal(module.state_dict()[name], value) for name, value in state.items())


def test_a_trained_adapter_under_full_training_is_folded_in(configure: Configure, load: Load, tmp_path: Path) -> None:
    recipe = configure().train.model_copy(update={"steps": 3, "out": str(tmp_path / "run")})
    folder = train(recipe, quiet=True) / "adapter"
    subject = load({"adapter": str(folder)}, adapter={"type": "none"})
    state = {name: value.clone() for name, value in subject.backbone.module.state_dict().items()}
    with trainable(subject) as (kind, parameters, fresh):
        assert (kind, fresh) == ("all", False)
        assert any(not torch.equal(parameters[name], state[name]) for name in parameters)
    assert all(torch.equal(value, state[name]) for name, value in subject.backbone.module.state_dict().items())


def test_batches_of_one_can_be_compared(load: Load) -> None:
    point = measure_gradients(load(batch_size=1), ignore)["points"]["start"]
    assert (point["angle"]["n"], point["between_batches_angle"]["n"]) == (3, 2)


def test_broken_batches_are_counted_and_left_out(load: Load) -> None:
    subject = load(weighting={"sample": "recurrence_barrier", "strength": 1.0})
    honest, calls = subject.predict, []

    def broken(x_t: torch.Tensor, t: torch.Tensor, conditioning: object) -> torch.Tensor:
        calls.append(1)
        output = honest(x_t, t, conditioning)  # type: ignore[arg-type]
        return output * math.nan if len(calls) == 2 else output

    subject.predict = broken  # type: ignore[method-assign]
    found = measure_gradients(subject, ignore)
    assert found["skipped_batches"] == 1
    assert found["points"]["start"]["angle"]["n"] == 2
    subject.predict = lambda x_t, t, conditioning: x_t * math.nan  # type: ignore[method-assign]
    nothing = measure_gradients(subject, ignore)
    assert nothing["skipped_batches"] == 6
    assert nothing["points"]["moved"]["angle"]["n"] == 0
    assert nothing["points"]["moved"]["update_angle"]["mean"] is None
    assert all(row["batches"] == 0 and row["norm_ratio"] is None for row in nothing["levels"])


def test_dropout_in_the_adapter_is_drawn_as_in_training(load: Load) -> None:
    subject = load(adapter={"type": "lora", "rank": 2, "dropout": 0.5})
    state = torch.get_rng_state()
    first, second = (measure_gradients(subject, ignore)["points"] for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    without = measure_gradients(load(), ignore)["points"]
    assert first["start"]["plain_norm"] != without["start"]["plain_norm"]


def test_progress_adds_up(load: Load) -> None:
    for change in ({}, {"adapter": {"type": "none"}}, {"accumulation": 2}):
        subject, done = load(**change), []
        measure_gradients(subject, done.append)
        assert sum(done) == units(subject)
    subject = load({"gradient_batches": 0})
    assert (measure_gradients(subject, ignore), units(subject)) == ({}, 0)
