"""Eisbach's weighting in a diffusers-style training script: UNet2DModel, DDPMScheduler and accelerate, on made-up
images.

    python examples/diffusers_accelerate.py --steps 20
    accelerate launch --cpu --num_processes 2 examples/diffusers_accelerate.py --steps 20

Three things differ from the script you have: `DiscretePath` tells the weighting which noise level a timestep of *this*
scheduler is; the loss is `part.unscaled`; and before clipping the gradients are multiplied by one number, which makes
every mean run over all micro-batches and processes.
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from eisbach import Weighting, build_weighting
from eisbach.diffusion.discrete_path import DiscretePath, scheduler_target
from eisbach.weighting import PartialLoss, effective_sample_size, per_sample_mse

SIZE = 16


def make_images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (count, 3, H, W) in about [-1, 1], and which of them have content: a bright square; the others are plain
    noise."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.randn(count, 3, SIZE, SIZE, generator=generator)
    corners = torch.randint(0, SIZE - 5, (count, 2), generator=generator)
    structured = torch.arange(count) % 2 == 0
    for image, (top, left), has_square in zip(images, corners, structured, strict=True):
        if has_square:
            image *= 0.2
            image[:, top : top + 5, left : left + 5] += 1.0
    return images, structured


def make_network() -> UNet2DModel:
    return UNet2DModel(
        sample_size=SIZE,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
    )


def make_weighting(sample: str, noise_level: str) -> Weighting:
    # Images: the barrier's energy is spread over height and width together. Of the data estimate, since a network that
    # predicts noise puts out noise; relative, so that contrast does not decide; and only where the estimate says
    # something.
    options = {"source": "x0", "energy": "relative", "gate_below": 0.6} if sample == "entropy_barrier" else {}
    return build_weighting(sample, noise_level, strength=1.0, **options)


def draw(images: Tensor, scheduler: DDPMScheduler, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise like the images, and a timestep for each."""
    timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(images),), generator=generator)
    return torch.randn(images.shape, generator=generator).to(images.device), timesteps.to(images.device)


def micro_batch_loss(
    network: torch.nn.Module,
    scheduler: DDPMScheduler,
    path: DiscretePath,
    weighting: Weighting,
    images: Tensor,
    noise: Tensor,
    timesteps: Tensor,
) -> PartialLoss:
    """One micro-batch's share of the weighted loss, for the scheduler's own prediction type."""
    noisy = scheduler.add_noise(images, noise, timesteps)
    output = network(noisy, timesteps).sample
    prediction_type = scheduler.config.prediction_type
    wanted = noise if prediction_type == "epsilon" else scheduler.get_velocity(images, noise, timesteps)
    losses = per_sample_mse(output, wanted)
    t = path.timesteps_to_t(timesteps)
    return weighting.partial(losses, output, x_t=noisy, t=t, path=path, target=scheduler_target(prediction_type))


def train(arguments: argparse.Namespace, accelerator: Accelerator | None = None) -> tuple[torch.nn.Module, list[dict]]:
    """The trained network (unwrapped), and what each optimiser step printed."""
    if accelerator is None:
        accelerator = Accelerator(gradient_accumulation_steps=arguments.accumulate, cpu=True)
    torch.manual_seed(arguments.seed)
    scheduler = DDPMScheduler(prediction_type=arguments.prediction, beta_schedule="squaredcos_cap_v2")
    path = DiscretePath.from_scheduler(scheduler)  # this scheduler's own table, not a formula that resembles it
    weighting = make_weighting(arguments.sample, arguments.noise_level)
    network = make_network()
    learned = weighting.trainable_parameters().values()  # none, but for `edm2`
    optimizer = torch.optim.AdamW([*network.parameters(), *learned], lr=1e-3)
    number = arguments.steps * arguments.accumulate * accelerator.num_processes * arguments.batch_size
    loader = DataLoader(TensorDataset(*make_images(number, arguments.seed)), batch_size=arguments.batch_size)
    network, optimizer, loader = accelerator.prepare(network, optimizer, loader)
    generator = torch.Generator().manual_seed(arguments.seed * 1000 + accelerator.process_index)

    history, stats, loss = [], 0.0, 0.0
    for images, structured in loader:
        noise, timesteps = draw(images, scheduler, generator)
        with accelerator.accumulate(network):
            part = micro_batch_loss(network, scheduler, path, weighting, images, noise, timesteps)
            accelerator.backward(part.unscaled)
            stats, loss = stats + part.stats, loss + part.unscaled.detach()
            if accelerator.sync_gradients:
                stats, loss = accelerator.reduce(stats, "sum"), accelerator.reduce(loss, "sum")
                # accelerate has divided by the accumulation steps, and DDP has averaged over the processes: undone
                # here.
                divided = accelerator.gradient_accumulation_steps * accelerator.num_processes
                weighting.finish_gradients(network.parameters(), stats, already_divided_by=divided)
                accelerator.clip_grad_norm_(network.parameters(), 1.0)
                history.append(
                    {
                        "loss": float(loss * weighting.gradient_factor(stats)),
                        "effective_samples": float(effective_sample_size(stats)),
                        "samples": int(stats[0]),
                    }
                )
                stats, loss = 0.0, 0.0
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients and len(history) % 5 == 0:
            weights = part.terms.sample_weight
            accelerator.print(
                f"step {len(history):4d}  weighted loss {history[-1]['loss']:.4f}  effective samples "
                f"{history[-1]['effective_samples']:.1f} of {history[-1]['samples']}  mean sample weight: with content "
                f"{weights[structured].mean():.3f}, noise {weights[~structured].mean():.3f}"
            )
    return accelerator.unwrap_model(network), history


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8, help="images in a micro-batch of one process")
    parser.add_argument("--accumulate", type=int, default=2, help="micro-batches in an optimiser step")
    parser.add_argument("--prediction", choices=["epsilon", "v_prediction"], default="v_prediction")
    parser.add_argument("--sample", default="entropy_barrier", help="sample weighting, or none")
    parser.add_argument("--noise-level", default="min_snr", help="noise-level weighting, or none")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    train(parse())
