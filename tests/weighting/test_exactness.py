"""One batch of 8, two accumulated batches of 4 and two data-parallel processes give the same gradients, whatever shapes
the weights."""

from __future__ import annotations

import gc
import itertools
from typing import Any

import numpy as np
import own_process
import pytest
import torch

from eisbach.diffusion.noise_levels import get_density
from eisbach.weighting import Weighting, build_weighting, per_sample_mse

MEANS = [[0.1, 0.2], [0.5, 0.15], [0.9, 0.02]]
CASES: dict[str, dict[str, Any]] = {
    "gated data estimate": {
        "sample": "entropy_barrier",
        "source": "x0",
        "energy": "relative",
        "gate_below": 0.6,
        "gate_width": 0.2,
        "normalisation": "mean1",
    },
    "level means": {"sample": "recurrence_barrier", "window_frames": 3, "level_means": MEANS, "strength": 1.0},
    "Eq. 5, gated": {"sample": "entropy_barrier", "reduction": "batch", "gate_above": 0.3},
    "learned": {"sample": "entropy_barrier", "noise_level": "edm2", "strength": 0.8},
    "learned, Eq. 5": {"sample": "entropy_barrier", "noise_level": "edm2", "reduction": "batch"},
    "corrected for its density": {
        "noise_level": "erd",
        "density": get_density("logit_normal"),
        "normalisation": "mean1",
    },
    "tabulated": {"noise_level": "tabulated", "points": MEANS, "normalisation": "mean1"},
}


def build(case: str) -> Weighting:
    torch.manual_seed(0)  # a learned weight draws its features
    weighting = build_weighting(path="linear", **CASES[case])
    with torch.no_grad():  # as if trained for a while: at the start a learned weight is flat
        for index, parameter in enumerate(weighting.trainable_parameters().values()):
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
    return weighting


def network() -> torch.nn.Module:
    layer = torch.nn.Conv1d(3, 3, 3, padding=1).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return layer


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_t, goal = (torch.randn(8, 3, 12, generator=generator, dtype=torch.float64) for _ in range(2))
    t = torch.rand(8, generator=generator, dtype=torch.float64) * 0.9 + 0.05
    mask = torch.arange(12)[None] < torch.randint(9, 13, (8, 1), generator=generator)
    return {"x_t": x_t, "goal": goal, "t": t, "mask": mask}


def share(weighting: Weighting, layer: torch.nn.Module, data: dict[str, torch.Tensor], part: slice):
    piece = {key: value[part] for key, value in data.items()}
    output = layer(piece["x_t"])
    losses = per_sample_mse(output, piece["goal"], piece["mask"])
    arguments = {"x_t": piece["x_t"], "t": piece["t"], "path": "linear", "target": "u", "mask": piece["mask"]}
    return weighting.partial(losses, output, **arguments)


def gradients(*owners: Any) -> torch.Tensor:
    return torch.cat([p.grad.flatten().double() for owner in owners for p in owner])


def parameters(weighting: Weighting, layer: torch.nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return list(layer.parameters()), list(weighting.trainable_parameters().values())


def in_one(case: str) -> torch.Tensor:
    weighting, layer = build(case), network()
    share(weighting, layer, batch(), slice(0, 8)).terms.loss.backward()
    return gradients(*parameters(weighting, layer))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cuts", [(0, 4, 8), (0, 1, 3, 8)])
def test_accumulated(case, cuts):
    weighting, layer = build(case), network()
    stats = torch.zeros(4, dtype=torch.float64)
    for start, stop in itertools.pairwise(cuts):
        part = share(weighting, layer, batch(), slice(start, stop))
        part.unscaled.backward()
        stats += part.stats
    weighting.finish_gradients([*layer.parameters(), *weighting.trainable_parameters().values()], stats)
    joined = gradients(*parameters(weighting, layer))
    # a learned weight's parameters are float32
    torch.testing.assert_close(joined, in_one(case), rtol=2e-5 if "learned" in case else 1e-10, atol=1e-7)


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results = {}
    for case in CASES:
        weighting, layer = build(case), torch.nn.parallel.DistributedDataParallel(network())
        part = share(weighting, layer, batch(), slice(4 * rank, 4 * rank + 4))
        part.unscaled.backward()
        stats = part.stats.clone()
        torch.distributed.all_reduce(stats)
        weighting.finish_gradients(layer.parameters(), stats, already_divided_by=2)
        results[case] = gradients(*parameters(weighting, layer))
    if rank == 0:
        np.savez(f"{folder}/gradients.npz", **{key: value.numpy() for key, value in results.items()})
    del layer
    gc.collect()  # the wrapper's threads must end before the process group does
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.whole
def test_two_processes(tmp_path):
    own_process.together(2, _worker, str(tmp_path))
    with np.load(tmp_path / "gradients.npz") as results:
        assert set(results.files) == set(CASES)
        for case in CASES:
            np.testing.assert_allclose(
                results[case], in_one(case), rtol=2e-5 if "learned" in case else 1e-10, atol=1e-7
            )


@pytest.mark.parametrize("case", CASES)
def test_the_raw_weight_is_what_multiplies_each_loss(case):
    weighting, data = build(case), batch()
    output = torch.randn(8, 3, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    losses = torch.rand(8, generator=torch.Generator().manual_seed(4), dtype=torch.float64).requires_grad_()
    arguments = {"x_t": data["x_t"], "t": data["t"], "path": "linear", "target": "u", "mask": data["mask"]}
    part = weighting.partial(losses, output, **arguments)
    (slope,) = torch.autograd.grad(part.unscaled, losses)
    torch.testing.assert_close(part.weight, slope)
    assert not part.weight.requires_grad
    assert float(part.samples) == 8
    torch.testing.assert_close(part.mean_sample_weight, part.terms.shaped_weight.mean().double())
    if weighting.gate is None and weighting.level_means is None:
        torch.testing.assert_close(part.terms.shaped_weight, part.terms.sample_weight)


@pytest.mark.parametrize(
    "case",
    [case if count < 2 else pytest.param(case, marks=pytest.mark.slow) for count, case in enumerate(CASES)],
)
@pytest.mark.whole
def test_compiled_whole(case):
    weighting, data = build(case), batch()
    output = torch.randn(8, 3, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    losses = torch.rand(8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    arguments = {"x_t": data["x_t"], "t": data["t"], "mask": data["mask"]}

    def step(losses, output, arguments):
        return weighting(losses, output, path="linear", target="u", **arguments).loss

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(losses, output, arguments), step(losses, output, arguments), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("case", CASES)
def test_half_precision_outputs_and_autocast(case):
    weighting, data = build(case), batch()
    output = torch.randn(8, 3, 12, generator=torch.Generator().manual_seed(3)).bfloat16()
    losses = torch.rand(8, generator=torch.Generator().manual_seed(4)).bfloat16()
    arguments = {"x_t": data["x_t"].bfloat16(), "t": data["t"].float(), "mask": data["mask"]}
    plain = weighting(losses, output, path="linear", target="u", **arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = weighting(losses, output, path="linear", target="u", **arguments)
    assert plain.loss.dtype == torch.float32
    assert torch.equal(plain.loss, cast.loss)
    assert plain.loss.isfinite()
