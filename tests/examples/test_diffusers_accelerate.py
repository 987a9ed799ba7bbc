import gc
import re
import sys
from pathlib import Path

import own_process
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from safetensors.torch import load_file, save_file

from eisbach.diffusion.discrete_path import DiscretePath
from eisbach.weighting import EntropyBarrier, build_weighting, gate_table

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def example(load_example):
    return load_example("diffusers_accelerate")


@pytest.mark.whole
def test_it_runs_as_it_stands(run_example):
    printed = run_example("diffusers_accelerate", "--steps", "5", "--batch-size", "4", "--prediction", "epsilon")
    assert re.search(r"^step +5 +weighted loss \d", printed, re.M)
    ess, of, content, noise = re.search(
        r"effective samples ([\d.]+) of (\d+) .*with content ([\d.]+), noise ([\d.]+)", printed
    ).groups()
    assert of == "8"
    assert 1 <= float(ess) < 8
    assert float(content) > float(noise)


def settled_draw(images, scheduler, generator):
    """Noise and timesteps that belong to the image, however the batch is cut and whichever process has it."""
    noise, timesteps = [], []
    for image in images:
        own = torch.Generator().manual_seed(int(float(image.abs().sum()) * 1e4))
        noise.append(torch.randn(image.shape, generator=own))
        timesteps.append(torch.randint(0, scheduler.config.num_train_timesteps, (), generator=own))
    return torch.stack(noise), torch.stack(timesteps)


def one_step(example, *arguments, learned=lambda: ()):
    """(gradients before clipping, history) of one optimiser step of the example's own loop; `learned` gives further
    parameters whose gradients stand behind the network's."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    seen = []

    class Recording(Accelerator):
        def clip_grad_norm_(self, parameters, *args, **kwargs):
            seen.extend(parameter.grad.clone() for parameter in [*parameters, *learned()])

    options = example.parse(["--steps", "1", *arguments])
    accelerator = Recording(gradient_accumulation_steps=options.accumulate, cpu=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example, "draw", settled_draw)
        _, history = example.train(options, accelerator)
    return seen, history


@pytest.mark.parametrize(("batch", "accumulate"), [(4, 2), (2, 4)])
def test_a_weight_that_learns_learns_as_from_one_batch(example, batch, accumulate, monkeypatch):
    """accelerate divides the loss by the accumulation, and so this weight's gradients."""
    made = []

    def keep(*args):
        made.append(build_weighting(*args))
        return made[-1]

    monkeypatch.setattr(example, "make_weighting", keep)
    gradients = []
    for split in ((8, 1), (batch, accumulate)):
        options = ["--batch-size", str(split[0]), "--accumulate", str(split[1])]
        options += ["--sample", "none", "--noise-level", "edm2"]
        seen, _ = one_step(example, *options, learned=lambda: made[-1].trainable_parameters().values())
        start = build_weighting("none", "edm2").trainable_parameters()
        moved = [not torch.equal(value, start[name]) for name, value in made[-1].trainable_parameters().items()]
        assert all(moved)
        gradients.append(seen)
    assert_same(gradients[1], gradients[0])


def by_hand(example, prediction, weighted=True):
    """Gradients of one batch of 8: Min-SNR as diffusers' scripts write it, times the sample weight below t = 0.6."""
    torch.manual_seed(0)
    network = example.make_network()
    scheduler = DDPMScheduler(prediction_type=prediction, beta_schedule="squaredcos_cap_v2")
    images, _ = example.make_images(8, 0)
    noise, timesteps = settled_draw(images, scheduler, None)
    noisy = scheduler.add_noise(images, noise, timesteps)
    output = network(noisy, timesteps).sample
    wanted = noise if prediction == "epsilon" else scheduler.get_velocity(images, noise, timesteps)
    losses = ((output - wanted) ** 2).mean((1, 2, 3))
    snr = compute_snr(scheduler, timesteps)
    weight = snr.clamp(max=5.0) / (snr if prediction == "epsilon" else snr + 1)
    abar = scheduler.alphas_cumprod[timesteps][:, None, None, None]
    with torch.no_grad():
        if prediction == "epsilon":
            estimate = (noisy - (1 - abar).sqrt() * output) / abar.sqrt()
        else:
            estimate = abar.sqrt() * noisy - (1 - abar).sqrt() * output
        w = EntropyBarrier(energy="relative")(estimate).weight
        gate = gate_table(below=0.6)((timesteps + 1) / 1000)
        weight = weight * (1 + gate * (w - 1))
    loss = ((weight if weighted else torch.ones_like(weight)) * losses).mean()
    return loss.detach(), torch.autograd.grad(loss, list(network.parameters()))


def assert_same(gradients, expected):
    scale = max(float(g.abs().max()) for g in expected)
    for got, want in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=2e-4, atol=2e-5 * scale)


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
@pytest.mark.parametrize(("batch", "accumulate"), [(8, 1), (4, 2), (2, 4)])
def test_micro_batches_under_accelerate_are_one_batch_written_by_hand(example, prediction, batch, accumulate):
    arguments = ["--batch-size", str(batch), "--accumulate", str(accumulate), "--prediction", prediction]
    gradients, history = one_step(example, *arguments)
    loss, expected = by_hand(example, prediction)
    assert history[0]["samples"] == 8
    assert history[0]["loss"] == pytest.approx(float(loss), rel=1e-4)
    assert_same(gradients, expected)
    _, plain = by_hand(example, prediction, weighted=False)
    a, b = (torch.cat([g.flatten() for g in many]) for many in (gradients, plain))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) < 0.999


def _worker(rank: int, port: int, folder: str) -> None:
    import os

    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    os.environ["ACCELERATE_USE_CPU"] = "true"
    torch.set_num_threads(1)
    sys.path.insert(0, str(EXAMPLES))
    import diffusers_accelerate

    gradients, history = one_step(diffusers_accelerate, "--batch-size", "2", "--accumulate", "2")
    assert history[0]["samples"] == 8
    save_file({f"{i:03d}": gradient for i, gradient in enumerate(gradients)}, Path(folder) / f"{rank}.safetensors")
    gc.collect()  # the wrapper's threads must end before the process group does
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.whole
def test_two_processes_with_two_micro_batches_each_are_one_batch_written_by_hand(example, tmp_path, free_port):
    own_process.together(2, _worker, free_port(), str(tmp_path))
    _, expected = by_hand(example, "v_prediction")
    for rank in range(2):
        gradients = load_file(tmp_path / f"{rank}.safetensors")
        assert_same([gradients[name] for name in sorted(gradients)], expected)


def test_the_path_is_this_scheduler_s_table(example):
    """A rescaled table gives other weights at the same timesteps: nothing assumes a formula."""
    usual, rescaled = DDPMScheduler(), DDPMScheduler(rescale_betas_zero_snr=True)
    timesteps = torch.tensor([900, 950])
    weighting = example.make_weighting("none", "min_snr")
    weights = []
    for scheduler in (usual, rescaled):
        path = DiscretePath.from_scheduler(scheduler)
        t = path.timesteps_to_t(timesteps)
        weights.append(weighting(torch.ones(2), torch.zeros(2, 3, 4, 4), t=t, path=path, target="v").weight)
    assert (weights[1] < 0.8 * weights[0]).all()
