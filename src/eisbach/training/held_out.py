"""The held-out loss: the same clips, noise levels and noise at every evaluation, whatever the arm and the seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from eisbach.diffusion.targets import make_sample
from eisbach.training.conditioning import ConditioningCache
from eisbach.training.data import TrainingData
from eisbach.training.step import Objective, Predict, step_generator
from eisbach.types import LatentBatch
from eisbach.weighting import per_sample_mse

_STREAM = 2  # keeps the evaluation's noise apart from the training's


@dataclass(frozen=True)
class HeldOut:
    """Fixed batches and fixed noise levels.

    Attributes
    ----------
    batches : list of LatentBatch
        On the CPU.
    noise_levels : list of float in (0, 1]
    """

    batches: list[LatentBatch]
    noise_levels: list[float]

    @classmethod
    def of(cls, data: TrainingData, noise_levels: Sequence[float], batches: int, batch_size: int) -> HeldOut:
        """The first batches of `data` in its most frequent length; a small split is not repeated to fill them."""
        size = min(batch_size, data.clips)
        count = min(batches, max(1, data.clips // size))
        dataset = data.datasets[int(data.shares.argmax())]
        return cls([dataset.batch(index, size) for index in range(count)], list(noise_levels))

    @torch.no_grad()
    def losses(
        self,
        predict: Predict,
        objective: Objective,
        conditioning: ConditioningCache,
        to_device: Callable[[LatentBatch], LatentBatch],
    ) -> dict[str, float | dict[str, float]]:
        """Mean unweighted loss, whole and by noise level, with every caption kept."""
        sums = dict.fromkeys(self.noise_levels, 0.0)
        count = 0
        for index, batch in enumerate(self.batches):
            batch = to_device(batch)
            rows = conditioning(batch)
            noise = torch.randn(batch.latents.shape, generator=step_generator(index, _STREAM)).to(batch.latents.device)
            count += len(batch.ids)
            for level in self.noise_levels:
                t = torch.full((len(batch.ids),), level, device=batch.latents.device)
                sample = make_sample(objective.path, objective.target, batch.latents, noise, t)
                output = predict(sample.x_t, t, rows).float()
                sums[level] += per_sample_mse(output, sample.target, batch.mask).sum().item()
        by_level = {f"{level:g}": value / count for level, value in sums.items()}
        return {
            "held_out_loss": sum(by_level.values()) / len(by_level),
            "held_out_loss_by_noise_level": by_level,
        }
