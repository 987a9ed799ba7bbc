"""Eisbach's weighting in a LightningModule: automatic optimisation (the default) or manual, on any number of devices.

    python examples/lightning_module.py --steps 20
    python examples/lightning_module.py --steps 20 --manual
    python examples/lightning_module.py --steps 20 --devices 2

Lightning divides each loss by `accumulate_grad_batches`, and DDP averages gradients over the processes. Neither knows
that a weighting's means are over the whole step. So `training_step` returns a sum (`part.unscaled`), and one hook,
which Lightning calls before it clips, multiplies the gradients by the one number that makes the step right. A weighting
that learns (`edm2`) has parameters of its own: the optimiser gets them, and the hook looks after their gradients.
"""

from __future__ import annotations

import argparse
import warnings

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from eisbach import Weighting, build_weighting
from eisbach.weighting import PartialLoss, effective_sample_size, per_sample_mse

CHANNELS, FRAMES, LATENT_RATE = 8, 128, 10.0


class MadeUpLatents(Dataset):
    """Clips that develop (even index) or drone (odd), each with noise and a noise level of its own.

    A clip is a function of its index, so training sees the same on any number of processes. With your data, draw noise
    and t in `training_step` as you always did.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        number = FRAMES // 8 if index % 2 == 0 else 1
        states = torch.randn(CHANNELS, number, generator=generator).repeat_interleave(FRAMES // number, dim=1)
        return {
            "x0": states + 0.1 * torch.randn(CHANNELS, FRAMES, generator=generator),
            "noise": torch.randn(CHANNELS, FRAMES, generator=generator),
            "t": torch.rand((), generator=generator),
        }


class FlowMatching(pl.LightningModule):
    """Rectified flow on latents (B, C, T), weighted, with automatic optimisation."""

    def __init__(self, weighting: Weighting, lr: float = 2e-3) -> None:
        super().__init__()
        self.weighting, self.lr = weighting, lr
        self.network = nn.Sequential(
            nn.Conv1d(CHANNELS + 1, 48, 5, padding=2),
            nn.SiLU(),
            nn.Conv1d(48, 48, 5, padding=8, dilation=4),
            nn.SiLU(),
            nn.Conv1d(48, CHANNELS, 1),
        )
        self.stats: Tensor | float = 0.0
        self.loss: Tensor | float = 0.0
        self.history: list[dict[str, float]] = []

    def micro_batch_loss(self, batch: dict[str, Tensor]) -> PartialLoss:
        x0, noise, t = batch["x0"], batch["noise"], batch["t"]
        level = t[:, None, None]
        x_t = (1 - level) * x0 + level * noise  # t = 1 is noise
        output = self.network(torch.cat([x_t, level.expand(-1, 1, x_t.shape[2])], dim=1))
        losses = per_sample_mse(output, noise - x0)
        part = self.weighting.partial(losses, output, x_t=x_t, t=t, path="linear", target="u")
        self.stats, self.loss = self.stats + part.stats, self.loss + part.unscaled.detach()
        return part

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.micro_batch_loss(batch).unscaled

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Lightning has divided by the accumulation, and DDP has averaged over the processes: undone here.
        self.finish_gradients(already_divided_by=self.trainer.accumulate_grad_batches * self.trainer.world_size)

    def finish_gradients(self, already_divided_by: float) -> None:
        """Multiplies the step's gradients by the one number that needs the whole step, and starts a new sum."""
        # Over the processes; with one process this is the sum itself.
        stats = self.trainer.strategy.reduce(self.stats, reduce_op="sum")
        loss = self.trainer.strategy.reduce(self.loss, reduce_op="sum") * self.weighting.gradient_factor(stats)
        self.weighting.finish_gradients(self.network.parameters(), stats, already_divided_by)
        ess, samples = float(effective_sample_size(stats)), int(stats[0])
        self.history.append({"loss": float(loss), "effective_samples": ess, "samples": samples})
        if self.trainer.is_global_zero and len(self.history) % 5 == 0:
            print(f"step {len(self.history):4d}  weighted loss {loss:.4f}  effective samples {ess:.1f} of {samples}")
        self.stats = self.loss = 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        learned = self.weighting.trainable_parameters().values()  # none, but for `edm2`
        return torch.optim.AdamW([*self.network.parameters(), *learned], lr=self.lr)


class ManualFlowMatching(FlowMatching):
    """The same with manual optimisation, for modules that have several optimisers or a schedule of their own."""

    def __init__(self, weighting: Weighting, accumulate: int, lr: float = 2e-3) -> None:
        super().__init__(weighting, lr)
        self.automatic_optimization = False
        self.accumulate = accumulate

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.manual_backward(self.micro_batch_loss(batch).unscaled)
        if (batch_idx + 1) % self.accumulate == 0 or self.trainer.is_last_batch:
            self.finish_gradients(already_divided_by=self.trainer.world_size)  # nobody divided by the accumulation
            self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
            optimizer.step()
            optimizer.zero_grad()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        pass  # already done in training_step, where it comes before clipping


def train(arguments: argparse.Namespace, **trainer_options: object) -> FlowMatching:
    """The trained module."""
    pl.seed_everything(arguments.seed, verbose=False)
    options = {"window_seconds": 1.6, "latent_rate": LATENT_RATE} if arguments.sample != "none" else {}
    weighting = build_weighting(arguments.sample, arguments.noise_level, **options)
    module = ManualFlowMatching(weighting, arguments.accumulate) if arguments.manual else FlowMatching(weighting)
    clips = MadeUpLatents(arguments.steps * arguments.accumulate * arguments.batch_size * arguments.devices)
    automatic = {} if arguments.manual else {"accumulate_grad_batches": arguments.accumulate, "gradient_clip_val": 1.0}
    trainer = pl.Trainer(
        max_steps=arguments.steps,
        accelerator="cpu",
        devices=arguments.devices,
        strategy="auto" if arguments.devices == 1 else "ddp",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **automatic,
        **trainer_options,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        trainer.fit(module, DataLoader(clips, batch_size=arguments.batch_size))
    return module


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps")
    parser.add_argument("--batch-size", type=int, default=8, help="clips in a micro-batch of one process")
    parser.add_argument("--accumulate", type=int, default=2, help="micro-batches in an optimiser step")
    parser.add_argument("--devices", type=int, default=1, help="CPU processes")
    parser.add_argument("--manual", action="store_true", help="manual optimisation")
    parser.add_argument("--sample", choices=["recommended", "none"], default="recommended", help="sample weighting")
    parser.add_argument("--noise-level", default="min_snr", help="noise-level weighting; edm2 with --sample none")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    train(parse())
