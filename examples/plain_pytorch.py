"""Eisbach's weighting in a plain PyTorch loop: flow matching on made-up latents, with gradient accumulation.

    python examples/plain_pytorch.py --steps 40

Half of the clips develop (a new state every few frames), half are flat (a drone, or a loop). The weighting never sees
which is which; the last lines show how much of the training effort each kind got. To use it in your own loop, copy
`step`.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from eisbach import Weighting, build_weighting
from eisbach.weighting import effective_sample_size, per_sample_mse

CHANNELS, FRAMES, LATENT_RATE = 8, 128, 10.0  # 12.8 s clips at 10 latent frames a second


def make_clips(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (count, C, T), a mask of their valid frames (count, T), and which of them develop (count,)."""

    def states(number: int) -> Tensor:
        return torch.randn(CHANNELS, number, generator=generator)

    clips = []
    for index in range(count):
        if index % 2 == 0:  # develops: a new state every 0.8 s
            clip = states(FRAMES // 8).repeat_interleave(8, dim=1)
        elif index % 4 == 1:  # a loop of 1.6 s
            clip = states(2).repeat_interleave(8, dim=1).repeat(1, FRAMES // 16)
        else:  # a drone
            clip = states(1).repeat(1, FRAMES)
        clips.append(clip + 0.1 * states(FRAMES))
    lengths = torch.randint(FRAMES - 16, FRAMES + 1, (count,), generator=generator)  # the rest is padding
    mask = torch.arange(FRAMES) < lengths[:, None]
    return torch.stack(clips) * mask[:, None], mask, torch.arange(count) % 2 == 0


class Network(nn.Module):
    """A small convolutional network that predicts the velocity u = noise - x0 from x_t and t."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.enter = nn.Conv1d(CHANNELS + 1, width, 1)
        self.blocks = nn.ModuleList(nn.Conv1d(width, width, 5, padding=4 * 2**i, dilation=2 * 2**i) for i in range(3))
        self.leave = nn.Conv1d(width, CHANNELS, 1)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        h = self.enter(torch.cat([x_t, t[:, None, None].expand(-1, 1, x_t.shape[2])], dim=1))
        for block in self.blocks:
            h = h + block(torch.nn.functional.silu(h))
        return self.leave(h)


def step(
    network: Network,
    weighting: Weighting,
    optimizer: torch.optim.Optimizer,
    micro_batches: list[tuple[Tensor, Tensor]],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """One optimiser step over several micro-batches (x0, mask): the same gradient as one batch of all of them."""
    optimizer.zero_grad()
    loss, stats, weights = 0.0, 0.0, []
    for x0, mask in micro_batches:
        noise = torch.randn(x0.shape, generator=generator)
        t = torch.rand(len(x0), generator=generator)  # t = 1 is noise
        x_t = (1 - t)[:, None, None] * x0 + t[:, None, None] * noise
        output = network(x_t, t)
        losses = per_sample_mse(output, noise - x0, mask)  # (B,), not reduced
        part = weighting.partial(losses, output, x_t=x_t, t=t, path="linear", target="u", mask=mask)
        part.unscaled.backward()  # instead of losses.mean().backward()
        loss, stats = loss + part.unscaled.detach(), stats + part.stats
        weights.append(part.terms.sample_weight)
    # Every mean in the weighting is over the whole step; only now is it known. Several processes: all_reduce(stats)
    # here.
    factor = weighting.finish_gradients(network.parameters(), stats)
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return {"loss": loss * factor, "ess": effective_sample_size(stats), "weights": torch.cat(weights)}


def train(arguments: argparse.Namespace) -> tuple[Network, list[dict[str, Tensor]]]:
    """The trained network, and loss, effective sample size and sample weights of each step."""
    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    network = Network()
    # window_seconds: what lasts longer than this counts as development. latent_rate turns it into frames.
    options = {"window_seconds": 1.6, "latent_rate": LATENT_RATE} if arguments.sample.startswith(("dev", "rec")) else {}
    weighting = build_weighting(arguments.sample, arguments.noise_level, strength=arguments.strength, **options)
    learned = weighting.trainable_parameters().values()  # none, but for `edm2`
    optimizer = torch.optim.AdamW([*network.parameters(), *learned], lr=2e-3)
    print(weighting)
    history, developing = [], []
    for number in range(1, arguments.steps + 1):
        x0, mask, develops = make_clips(arguments.batch_size, generator)
        micro_batches = list(zip(x0.chunk(arguments.accumulate), mask.chunk(arguments.accumulate), strict=True))
        history.append(step(network, weighting, optimizer, micro_batches, generator))
        developing.append(develops)
        if number % 10 == 0 or number == arguments.steps:
            last = history[-1]
            print(
                f"step {number:4d}  weighted loss {last['loss']:.4f}  effective samples {last['ess']:.1f} of {len(x0)}"
            )
    weights, develops = torch.cat([entry["weights"] for entry in history]), torch.cat(developing)
    print(f"mean sample weight: developing {weights[develops].mean():.3f}, flat {weights[~develops].mean():.3f}")
    share = weights[develops].sum() / weights.sum()
    print(f"effort on developing clips: {share:.0%} (they are {develops.float().mean():.0%} of the clips)")
    return network, history


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=16, help="clips in an optimiser step")
    parser.add_argument("--accumulate", type=int, default=2, help="micro-batches in an optimiser step")
    parser.add_argument("--sample", default="recommended", help="sample weighting, or none")
    parser.add_argument("--noise-level", default="min_snr", help="noise-level weighting, or none")
    parser.add_argument("--strength", type=float, default=1.0, help="how much of the sample weighting to use, 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    train(parse())
