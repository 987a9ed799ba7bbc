"""Reduction, normalisation and the split over micro-batches, against sums written out."""

import gc
import itertools
import math

import numpy as np
import own_process
import pytest
import torch

from eisbach.errors import UserError
from eisbach.weighting import (
    EntropyBarrier,
    RecurrenceBarrier,
    Weighting,
    build_weighting,
    effective_sample_size,
    per_sample_mse,
)
from eisbach.weighting.noise_level import MinSNR

SETTINGS = [
    (sample, noise, reduction, normalisation)
    for sample, noise, reduction, normalisation in itertools.product(
        ("none", "entropy_barrier", "recurrence_barrier"), ("none", "min_snr"), ("sample", "batch"), ("none", "mean1")
    )
    if sample == "none" or (reduction, normalisation) != ("batch", "mean1")
]


def build(sample: str, noise: str, reduction: str, normalisation: str, strength: float = 0.6) -> Weighting:
    options = {"window_frames": 3} if sample == "recurrence_barrier" else {}
    return build_weighting(
        sample, noise, reduction=reduction, normalisation=normalisation, strength=strength, **options
    )


def batch(size: int = 8, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_t, target = (torch.randn(size, 3, 12, generator=generator, dtype=torch.float64) for _ in range(2))
    t = torch.rand(size, generator=generator, dtype=torch.float64) * 0.9 + 0.05
    mask = torch.arange(12)[None] < torch.randint(9, 13, (size, 1), generator=generator)
    return {"x_t": x_t, "y": target, "t": t, "mask": mask}


def network() -> torch.nn.Module:
    torch_state = torch.Generator().manual_seed(5)
    layer = torch.nn.Conv1d(3, 3, 3, padding=1).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch_state, dtype=torch.float64))
    return layer


def losses_and_output(layer: torch.nn.Module, data: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    output = layer(data["x_t"])
    return per_sample_mse(output, data["y"], data["mask"]), output


def arguments(data: dict[str, torch.Tensor]) -> dict:
    return {"x_t": data["x_t"], "t": data["t"], "path": "linear", "target": "u", "mask": data["mask"]}


def rows(data: dict[str, torch.Tensor], which: slice) -> dict[str, torch.Tensor]:
    return {key: value[which] for key, value in data.items()}


@pytest.mark.parametrize("setting", SETTINGS)
def test_loss_is_the_written_out_sum(setting):
    sample, noise, reduction, normalisation = setting
    data, layer, strength = batch(), network(), 0.6
    losses, output = losses_and_output(layer, data)
    terms = build(*setting)(losses, output, **arguments(data))
    loss = losses.detach().numpy()
    w = np.ones(8)
    if sample == "entropy_barrier":
        w = EntropyBarrier()(output, mask=data["mask"]).weight.numpy()
    if sample == "recurrence_barrier":
        w = RecurrenceBarrier(window_frames=3)(output, **arguments(data)).weight.numpy()
    t = data["t"].numpy()
    n = np.minimum((1 - t) ** 2, 5 * t**2) if noise == "min_snr" else np.ones(8)
    if sample == "none":
        each = n
    elif reduction == "sample":
        each = n * ((1 - strength) + strength * w)
    else:
        each = n * ((1 - strength) + strength * w.mean())
    if normalisation == "mean1":
        each = each / each.mean()
        assert float(terms.weight.mean()) == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(terms.weight, each, rtol=1e-10)
    np.testing.assert_allclose(float(terms.loss.detach()), (each * loss).mean(), rtol=1e-10)
    np.testing.assert_allclose(terms.sample_weight, w, rtol=1e-10)
    np.testing.assert_allclose(terms.noise_weight, n, rtol=1e-10)
    np.testing.assert_allclose(terms.per_sample, loss)
    np.testing.assert_allclose(float(terms.effective_sample_size), each.sum() ** 2 / (each**2).sum(), rtol=1e-10)
    assert terms.belief.isnan().all() == (sample == "none")
    assert terms.loss.requires_grad
    for name in ("per_sample", "sample_weight", "noise_weight", "weight", "belief", "effective_sample_size"):
        assert not getattr(terms, name).requires_grad


def test_equation_5_as_printed():
    y = torch.randn(4, 6, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    losses = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    w = EntropyBarrier()(y).weight
    for strength in (0.0, 0.25, 1.0):
        weighting = Weighting(sample=EntropyBarrier(), reduction="batch", strength=strength)
        expected = 3.0 * ((1 - strength) + strength * w.mean())
        torch.testing.assert_close(weighting(losses, y).loss, expected, rtol=1e-12, atol=0)


def gradients(layer: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in layer.parameters()])


@pytest.mark.parametrize("setting", SETTINGS)
def test_micro_batches_equal_the_whole_batch(setting):
    weighting, data = build(*setting), batch()
    whole = network()
    terms = weighting(*losses_and_output(whole, data), **arguments(data))
    terms.loss.backward()
    for cuts in ([0, 4, 8], [0, 1, 3, 8]):
        parts, stats, unscaled = network(), 0, 0
        for start, stop in itertools.pairwise(cuts):
            piece = rows(data, slice(start, stop))
            partial = weighting.partial(*losses_and_output(parts, piece), **arguments(piece))
            partial.unscaled.backward()
            stats, unscaled = stats + partial.stats, unscaled + partial.unscaled.detach()
        factor = weighting.gradient_factor(stats)
        torch.testing.assert_close(gradients(parts) * factor, gradients(whole), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(unscaled * factor, terms.loss.detach(), rtol=1e-10, atol=0)
        torch.testing.assert_close(effective_sample_size(stats), terms.effective_sample_size, rtol=1e-10, atol=0)


def _worker(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    results = {}
    data = rows(batch(), slice(rank * 4, rank * 4 + 4))
    for index, setting in enumerate(SETTINGS):
        weighting = build(*setting)
        layer = torch.nn.parallel.DistributedDataParallel(network())
        # Two micro-batches of 2 in each process: accumulation and data-parallel at once.
        stats = torch.zeros(4, dtype=torch.float64)
        for start in (0, 2):
            piece = rows(data, slice(start, start + 2))
            context = layer.no_sync() if start == 0 else torch.enable_grad()
            with context:
                partial = weighting.partial(*losses_and_output(layer, piece), **arguments(piece))
                partial.unscaled.backward()
            stats += partial.stats
        torch.distributed.all_reduce(stats)
        factor = weighting.gradient_factor(stats, already_divided_by=world_size)
        results[str(index)] = gradients(layer) * factor
    if rank == 0:
        np.savez(f"{folder}/gradients.npz", **{key: value.numpy() for key, value in results.items()})
    del layer
    gc.collect()  # the wrapper's threads must end before the process group does
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_equal_the_whole_batch(tmp_path):
    own_process.together(2, _worker, 2, str(tmp_path))
    with np.load(tmp_path / "gradients.npz") as results:
        assert len(results.files) == len(SETTINGS)
        for index, setting in enumerate(SETTINGS):
            whole, data = network(), batch()
            build(*setting)(*losses_and_output(whole, data), **arguments(data)).loss.backward()
            np.testing.assert_allclose(results[str(index)], gradients(whole), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sample", ["entropy_barrier", "recurrence_barrier"])
def test_each_samples_gradient_keeps_its_direction(sample):
    """The weight is a constant to the gradient: every sample's own gradient is only scaled (the barrier paper, section
    1)."""
    data = batch(4)
    weighting = build(sample, "min_snr", "sample", "none", strength=1.0)
    terms = weighting(*losses_and_output(network(), data), **arguments(data))
    for index in range(4):
        plain, weighted, one = network(), network(), rows(data, slice(index, index + 1))
        losses_and_output(plain, one)[0].mean().backward()
        weighting(*losses_and_output(weighted, one), **arguments(one)).loss.backward()
        ratio = gradients(weighted) / gradients(plain)
        torch.testing.assert_close(ratio, terms.weight[index].expand_as(ratio), rtol=1e-9, atol=0)


def test_strength_zero_is_the_plain_mean():
    data, layer = batch(), network()
    losses, output = losses_and_output(layer, data)
    for reduction in ("sample", "batch"):
        weighting = Weighting(sample=EntropyBarrier(), reduction=reduction, strength=0.0)
        torch.testing.assert_close(weighting(losses, output).loss, losses.mean(), rtol=1e-12, atol=0)


def test_a_batch_of_one_with_mean1_is_the_plain_loss():
    data = rows(batch(), slice(0, 1))
    losses, output = losses_and_output(network(), data)
    terms = build("entropy_barrier", "min_snr", "sample", "mean1")(losses, output, **arguments(data))
    torch.testing.assert_close(terms.loss, losses[0], rtol=1e-12, atol=0)
    assert float(terms.effective_sample_size) == pytest.approx(1)


def test_effective_sample_size_counts():
    stats = torch.tensor([4.0, 2.0, 2.0, 4.0])  # weights 1, 1, 0, 0
    assert effective_sample_size(stats) == 2
    assert effective_sample_size(torch.tensor([4.0, 0.0, 0.0, 4.0])) == 0


@pytest.mark.parametrize("where", ["output", "loss"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_reaches_the_loss(where, bad):
    for setting in SETTINGS:
        data = batch()
        losses, output = losses_and_output(network(), data)
        losses, output = losses.detach().clone(), output.detach().clone()
        if where == "output":
            if setting[0] == "none":
                continue  # nothing reads the output; its error is in the caller's losses
            output[2, 1, 3] = bad
        else:
            losses[2] = bad
        partial = build(*setting).partial(losses, output, **arguments(data))
        assert not partial.terms.loss.isfinite()
        total = partial.unscaled * build(*setting).gradient_factor(partial.stats)
        assert not total.isfinite()


def test_all_weights_zero_gives_no_step_instead_of_nan():
    weighting = Weighting(noise_level=MinSNR(), normalisation="mean1")
    assert weighting.gradient_factor(torch.tensor([2.0, 0.0, 0.0, 2.0])) == 0
    assert weighting.gradient_factor(torch.tensor([2.0, math.nan, 0.0, 2.0])).isnan()


def test_bf16_losses_are_summed_in_float32():
    data, layer = batch(), network()
    losses, output = losses_and_output(layer, data)
    terms = build("entropy_barrier", "none", "sample", "none")(losses.bfloat16(), output.bfloat16())
    assert terms.loss.dtype == torch.float32
    assert terms.weight.dtype == torch.float32


def test_autocast_changes_nothing():
    data = {key: value.float() if value.is_floating_point() else value for key, value in batch().items()}
    generator = torch.Generator().manual_seed(3)
    output = torch.randn(8, 3, 12, generator=generator)
    losses = torch.rand(8, generator=generator)
    for setting in SETTINGS:
        plain = build(*setting)(losses, output, **arguments(data))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = build(*setting)(losses, output, **arguments(data))
        assert torch.equal(plain.loss, cast.loss)


def test_per_sample_mse_with_and_without_a_mask():
    generator = torch.Generator().manual_seed(4)
    output, target = (torch.randn(3, 4, 10, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = ((output - target) ** 2).numpy().mean((1, 2))
    np.testing.assert_allclose(per_sample_mse(output, target), expected, rtol=1e-12)
    mask = torch.arange(10)[None] < torch.tensor([10, 4, 0])[:, None]
    output[1, :, 6] = math.nan
    cut = ((output - target) ** 2).numpy()[1, :, :4].mean()
    np.testing.assert_allclose(per_sample_mse(output, target, mask), [expected[0], cut, 0.0], rtol=1e-12)
    with pytest.raises(UserError, match="same shape"):
        per_sample_mse(output, target[..., :5])


def test_build_weighting_routes_options_and_refuses_strangers():
    built = build_weighting(
        "recurrence_barrier", "min_snr", latent_rate=5.4, gamma=2.0, window_seconds=1.5, sharpness=4.0
    )
    assert built.sample.window_frames == 8
    assert built.sample.sharpness == 4
    assert built.noise_level.gamma == 2
    assert build_weighting("entropy_barrier", latent_rate=5.4).noise_level is None
    assert build_weighting("none") == Weighting()
    with pytest.raises(UserError, match="its options are act_above, center, entropy"):
        build_weighting("recurrence_barrier", "none", latent_rate=5.4, gama=1)
    with pytest.raises(UserError, match="its options are target"):
        build_weighting("none", "constant", gamma=1)
    with pytest.raises(UserError, match="its options are none"):
        build_weighting("none", gamma=1)
    with pytest.raises(UserError, match="choose one of none, recommended, entropy_barrier"):
        build_weighting("entropy")
    with pytest.raises(UserError, match="choose one of none, constant"):
        build_weighting("none", "p3")


def test_bad_calls_are_user_errors():
    with pytest.raises(UserError, match="leaves exactly 1"):
        Weighting(sample=EntropyBarrier(), reduction="batch", normalisation="mean1")
    with pytest.raises(UserError, match="choose one of sample, batch"):
        Weighting(reduction="mean")
    with pytest.raises(UserError, match="choose one of none, mean1"):
        Weighting(normalisation="sum")
    for strength in (-0.1, 1.1, math.nan):
        with pytest.raises(UserError, match=r"\[0, 1\]"):
            Weighting(strength=strength)
    y = torch.ones(4, 3, 8)
    with pytest.raises(UserError, match="one loss for each sample"):
        Weighting()(torch.ones(3), y)
    with pytest.raises(UserError, match="one loss for each sample"):
        Weighting()(torch.ones(()), y)
    with pytest.raises(UserError, match="one loss for each sample"):
        Weighting()(torch.ones(0), y[:0])
    with pytest.raises(UserError, match="needs t, path and target"):
        Weighting(noise_level=MinSNR())(torch.ones(4), y)
    with pytest.raises(UserError, match="one noise level a sample"):
        Weighting(noise_level=MinSNR())(torch.ones(4), y, t=torch.ones(2), path="linear", target="u")
