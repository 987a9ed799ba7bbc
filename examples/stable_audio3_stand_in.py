"""A small module with the interface of Stable Audio 3's trainer, so that its example runs where that is not installed.

It has the names, the call and the loss's structure that `stable_audio3_trainer.py` relies on, and nothing else of
theirs: the network is three convolutions, the data are made up, and the text is not read.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

CHANNELS, FRAMES = 8, 160  # 15 s at 10.77 latent frames a second


class Model(nn.Module):
    """`model(x_t, t, cond=..., padding_mask=...)` gives the velocity (B, C, T)."""

    diffusion_objective = "rectified_flow"
    pretransform = None

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv1d(2 * CHANNELS + 2, width, 5, padding=2),
            nn.SiLU(),
            nn.Conv1d(width, width, 5, padding=8, dilation=4),
            nn.SiLU(),
            nn.Conv1d(width, CHANNELS, 1),
        )

    def conditioner(self, metadata: list[dict[str, Any]], device: torch.device) -> dict[str, Any]:
        return {"prompt": [torch.zeros(len(metadata), 1, 1, device=device), None]}

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cond: dict[str, Any],
        cfg_dropout_prob: float = 0.0,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        level = t[:, None, None].expand(-1, 1, x.shape[2])
        parts = [x, level, cond["inpaint_masked_input"][0], cond["inpaint_mask"][0]]
        output = self.model(torch.cat(parts, dim=1))
        return output if padding_mask is None else output * padding_mask[:, None]


class DiffusionCondTrainingWrapper(pl.LightningModule):
    """Noises, predicts, and averages over clips: the masked error of each, plus that of its given context."""

    def __init__(self, model: nn.Module, mask_loss_weight: float = 1.0, lr: float = 1e-3) -> None:
        super().__init__()
        self.diffusion = model
        self.diffusion_objective = model.diffusion_objective
        self.mask_loss_weight, self.lr = mask_loss_weight, lr
        self.cfg_dropout_prob = 0.1
        self.generator = torch.Generator().manual_seed(1)
        self.losses: list[float] = []

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.AdamW(self.diffusion.parameters(), lr=self.lr)]

    def training_step(self, batch: tuple[Tensor, list[dict[str, Any]]], batch_idx: int) -> Tensor:
        x0, metadata = batch
        conditioning = self.diffusion.conditioner(metadata, self.device)
        valid = torch.stack([entry["padding_mask"][0] for entry in metadata])
        t, noise, context = self.draw(x0)
        conditioning["inpaint_mask"] = [context.float()[:, None]]
        conditioning["inpaint_masked_input"] = [x0 * context[:, None]]
        x_t = x0 * (1 - t)[:, None, None] + noise * t[:, None, None]
        output = self.diffusion(x_t, t, cond=conditioning, cfg_dropout_prob=self.cfg_dropout_prob, padding_mask=valid)
        error = (output - (noise - x0)).square().mean(1)  # (B, T)
        loss = _mean_where(error, valid & ~context).mean()
        if self.mask_loss_weight > 0:
            loss = loss + self.mask_loss_weight * _mean_where(error, valid & context).mean()
        self._last_t = t.detach()
        self._last_per_elem_loss = error.detach().mean(1)
        self.losses.append(float(loss.detach()))
        return loss

    def draw(self, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """t (B,), noise like x0, and which frames are given as context (B, T)."""
        t = torch.sigmoid(torch.randn(len(x0), generator=self.generator))
        starts = torch.randint(0, FRAMES, (len(x0), 1), generator=self.generator)
        frames = torch.arange(FRAMES)
        context = (frames >= starts) & (frames < starts + 24)
        return t, torch.randn(x0.shape, generator=self.generator), context


def _mean_where(error: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, error, 0.0).sum(1) / where.sum(1).clamp(min=1)


class MadeUpLatents(Dataset):
    """Clips that develop (even index) or drone (odd), with the metadata of pre-encoded latents."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        generator = torch.Generator().manual_seed(index)
        number = FRAMES // 8 if index % 2 == 0 else 1
        x0 = torch.randn(CHANNELS, number, generator=generator).repeat_interleave(FRAMES // number, dim=1)
        x0 = x0 + 0.1 * torch.randn(CHANNELS, FRAMES, generator=generator)
        valid = torch.arange(FRAMES) < FRAMES - 8 * (index % 3)
        return x0 * valid, {"prompt": "", "padding_mask": [valid]}


def collate(samples: list[tuple[Tensor, dict[str, Any]]]) -> tuple[Tensor, list[dict[str, Any]]]:
    return torch.stack([x0 for x0, _ in samples]), [metadata for _, metadata in samples]


def make_model(seed: int = 0) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Model()


def fit(
    module: pl.LightningModule, steps: int, batch_size: int = 4, accumulate: int = 1, devices: int = 1, **options: Any
) -> None:
    """Trains with a Trainer like that of their script."""
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=devices,
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    clips = MadeUpLatents(steps * accumulate * batch_size * devices)
    loader = DataLoader(clips, batch_size=batch_size, collate_fn=collate)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        trainer.fit(module, loader)
