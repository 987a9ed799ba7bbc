import re
import sys
from pathlib import Path

import own_process
import pytest
import torch
from safetensors.torch import load_file, save_file

from eisbach.weighting import build_weighting

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def example(load_example):
    return load_example("lightning_module")


@pytest.mark.whole
def test_it_runs_as_it_stands(run_example):
    printed = run_example("lightning_module", "--steps", "5", "--batch-size", "4")
    ess, of = re.search(r"^step +5 +weighted loss \d\S+ +effective samples ([\d.]+) of (\d+)$", printed, re.M).groups()
    assert of == "8"
    assert 1 <= float(ess) < 7


def one_step(example, *arguments):
    """(gradients as clipping receives them, history) of one optimiser step of the example's own trainer."""
    seen = []

    def record(module, *args, **kwargs):
        seen.extend(parameter.grad.clone() for parameter in module.network.parameters())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example.FlowMatching, "configure_gradient_clipping", record)
        patch.setattr(example.ManualFlowMatching, "clip_gradients", record)
        module = example.train(example.parse(["--steps", "1", *arguments]))
    return seen, module.history


def by_hand(example, weighted=True):
    """Loss and gradients of one batch of 8, the weight written out."""
    example.pl.seed_everything(0, verbose=False)
    weighting = build_weighting("recurrence_barrier", window_frames=16, form="power", sharpness=4.0, strength=1.0)
    network = example.FlowMatching(weighting).network
    clips = example.MadeUpLatents(8)
    x0, noise, t = (torch.stack([clips[i][key] for i in range(8)]) for key in ("x0", "noise", "t"))
    x_t = x0 * (1 - t[:, None, None]) + noise * t[:, None, None]
    output = network(torch.cat([x_t, t[:, None, None].repeat(1, 1, x_t.shape[2])], dim=1))
    losses = (output - (noise - x0)).square().mean((1, 2))
    w = weighting.sample(output, x_t=x_t, t=t, path="linear", target="u").weight
    weight = torch.minimum((1 - t) ** 2, 5 * t**2) * w
    weight = weight / weight.mean() if weighted else torch.ones(8)
    loss = (weight * losses).mean()
    return loss.detach(), torch.autograd.grad(loss, list(network.parameters()))


def assert_same(gradients, expected):
    scale = max(float(g.abs().max()) for g in expected)
    for got, want in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("manual", [[], ["--manual"]], ids=["automatic", "manual"])
@pytest.mark.parametrize(("batch", "accumulate"), [(8, 1), (4, 2), (2, 4)])
def test_micro_batches_under_lightning_are_one_batch_written_by_hand(example, batch, accumulate, manual):
    gradients, history = one_step(example, "--batch-size", str(batch), "--accumulate", str(accumulate), *manual)
    loss, expected = by_hand(example)
    assert history[0]["samples"] == 8
    assert history[0]["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert_same(gradients, expected)
    _, plain = by_hand(example, weighted=False)
    a, b = (torch.cat([g.flatten() for g in many]) for many in (gradients, plain))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) < 0.99


def edm2_step(example, *arguments):
    """(gradients of the network and of the weight that learns, how far its parameters moved) of one step."""
    made = []

    def build(*args, **options):
        made.append(build_weighting(*args, **options))
        return made[0]

    seen = []

    def record(module, *args, **kwargs):
        learned = made[0].trainable_parameters().values()
        seen.extend(parameter.grad.clone() for parameter in [*module.network.parameters(), *learned])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example, "build_weighting", build)
        patch.setattr(example.FlowMatching, "configure_gradient_clipping", record)
        patch.setattr(example.ManualFlowMatching, "clip_gradients", record)
        example.train(example.parse(["--steps", "1", "--sample", "none", "--noise-level", "edm2", *arguments]))
    start = build_weighting("none", "edm2").trainable_parameters()
    learned = made[0].trainable_parameters().items()
    moved = [not torch.equal(value, start[name]) for name, value in learned]
    return seen, moved


@pytest.mark.parametrize("manual", [[], ["--manual"]], ids=["automatic", "manual"])
@pytest.mark.parametrize(("batch", "accumulate"), [(4, 2), (2, 4)])
def test_a_weight_that_learns_learns_as_from_one_batch(example, batch, accumulate, manual):
    """Lightning divides the loss by the accumulation, and so this weight's gradients."""
    expected, _ = edm2_step(example, "--batch-size", "8", "--accumulate", "1", *manual)
    got, moved = edm2_step(example, "--batch-size", str(batch), "--accumulate", str(accumulate), *manual)
    assert len(got) > len(list(example.FlowMatching(build_weighting("none", "none")).network.parameters()))
    assert_same(got, expected)
    assert all(moved)


def _worker(rank: int, port: int, folder: str, arguments: list[str]) -> None:
    import os

    os.environ.update(
        NODE_RANK="0", LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    sys.path.insert(0, str(EXAMPLES))
    import lightning_module

    options = ["--batch-size", "2", "--accumulate", "2", "--devices", "2"]
    if arguments == ["edm2"]:
        gradients, _ = edm2_step(lightning_module, *options)
    else:
        gradients, history = one_step(lightning_module, *options, *arguments)
        assert history[0]["samples"] == 8
    save_file({f"{i:03d}": gradient for i, gradient in enumerate(gradients)}, Path(folder) / f"{rank}.safetensors")


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("manual", [[], ["--manual"]], ids=["automatic", "manual"])
def test_two_processes_with_two_micro_batches_each_are_one_batch_written_by_hand(example, tmp_path, manual, free_port):
    own_process.together(2, _worker, free_port(), str(tmp_path), manual)
    _, expected = by_hand(example)
    for rank in range(2):
        gradients = load_file(tmp_path / f"{rank}.safetensors")
        assert_same([gradients[name] for name in sorted(gradients)], expected)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.whole
def test_a_weight_that_learns_learns_from_two_processes_too(example, tmp_path, free_port):
    own_process.together(2, _worker, free_port(), str(tmp_path), ["edm2"])
    expected, _ = edm2_step(example, "--batch-size", "8", "--accumulate", "1")
    for rank in range(2):
        gradients = load_file(tmp_path / f"{rank}.safetensors")
        assert_same([gradients[name] for name in sorted(gradients)], expected)
