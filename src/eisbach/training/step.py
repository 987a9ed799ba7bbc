"""One micro-batch of training, and the held-out loss, as pure functions of (model, batch, generator): no clock, no
files, no global state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from eisbach.diffusion.noise_levels import NoiseLevelDensity
from eisbach.diffusion.paths import Path as NoisingPath
from eisbach.diffusion.targets import make_sample
from eisbach.training.noising import (
    InpaintingMasks,
    extend_into_silence,
    frames_mask,
    inpainting_condition,
    pair_by_transport,
    step_generator,
    valid_frames,
)
from eisbach.types import Conditioning, LatentBatch, PathSample
from eisbach.weighting import PartialLoss, Weighting, per_sample_mse

if TYPE_CHECKING:
    from eisbach.training.data import ConditioningCache, TrainingData

NOISE_LEVEL_BINS = 10
"""Diagnostics report the loss in this many equal bins of t over [0, 1]."""

Predict = Callable[..., torch.Tensor]
"""(x_t (B, C, T), t (B,), conditioning) -> output (B, C, T); with inpainting, a fourth argument (B, 1 + C, T)."""


@dataclass(frozen=True)
class Objective:
    """What is being learnt, apart from the weights of the network.

    Attributes
    ----------
    path : the noising path.
    target : "eps", "x0", "v" or "u".
    density : draws t.
    weighting : weighs the losses of the batch.
    condition_dropout : float in [0, 1]
        Share of samples trained without their caption.
    null_condition : Conditioning -> Conditioning
        The unconditional input that keeps the duration.
    latent_rate : float or None
        Frames a second; None reads the lengths of padded rows from their mask.
    inpainting : InpaintingMasks or None
        Shows the model parts of some clips; None is plain generation only.
    pairing : {"independent", "optimal_transport"}
        Which noise of the batch goes with which clip.
    silence_extension : float
        Mean, in frames, of how much of the padding behind a clip counts as valid in the loss; 0 is none of it.
    """

    path: NoisingPath
    target: str
    density: NoiseLevelDensity
    weighting: Weighting
    condition_dropout: float
    null_condition: Callable[[Conditioning], Conditioning]
    latent_rate: float | None = None
    inpainting: InpaintingMasks | None = None
    pairing: str = "independent"
    silence_extension: float = 0.0


@dataclass(frozen=True)
class StepOutput:
    """What one micro-batch gives.

    Attributes
    ----------
    partial : PartialLoss
        `partial.unscaled` is to be differentiated; `partial.stats` are added over micro-batches and processes.
    t : torch.Tensor [shape=(B,)]
        The noise levels drawn.
    losses : torch.Tensor [shape=(B,)]
        Unweighted loss of each sample; differentiable.
    """

    partial: PartialLoss
    t: torch.Tensor
    losses: torch.Tensor


@dataclass(frozen=True)
class Prediction:
    """What the network said of one micro-batch, before anything is weighted.

    Attributes
    ----------
    sample : PathSample
        The noisy input, its noise levels and the target.
    output : torch.Tensor [shape=(B, C, T), float32]
        Differentiable.
    losses : torch.Tensor [shape=(B,)]
        Unweighted loss of each sample; differentiable. With inpainting: over the frames to be made, plus the weighted
        loss over the known ones.
    """

    sample: PathSample
    output: torch.Tensor
    losses: torch.Tensor


@dataclass(frozen=True)
class Drawn:
    """What chance decides of one micro-batch.

    Attributes
    ----------
    t : torch.Tensor [shape=(B,)]
        Noise levels.
    noise : torch.Tensor [shape=(B, C, T)]
        In the order of the clips that it goes with.
    drop : torch.Tensor [shape=(B,), bool]
        Rows that train without their caption.
    valid : torch.Tensor [shape=(B, T), bool] or None
        Frames that the loss counts; None counts all.
    known : torch.Tensor [shape=(B, T), bool] or None
        Frames that the model is shown; None without inpainting.
    """

    t: torch.Tensor
    noise: torch.Tensor
    drop: torch.Tensor
    valid: torch.Tensor | None
    known: torch.Tensor | None

    def map(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Drawn:
        """The same with every tensor replaced by `move` of it."""
        values = (None if value is None else move(value) for value in vars(self).values())
        return Drawn(*values)  # type: ignore[arg-type]


def draw(objective: Objective, batch: LatentBatch, generator: torch.Generator) -> Drawn:
    """Everything that is random in a micro-batch, on the CPU: it can be drawn before the device asks for it."""
    x0, length = batch.latents, batch.latents.shape[-1]
    frames = valid_frames(batch, objective.latent_rate)
    num_frames = length if batch.mask is None else frames
    t = objective.density.sample(x0.shape[0], generator=generator, num_frames=num_frames)
    noise = torch.randn(x0.shape, generator=generator)
    drop = torch.rand(x0.shape[0], generator=generator) < objective.condition_dropout
    # What an option draws comes after these three, so that switching it on leaves them as they were.
    if objective.pairing == "optimal_transport":
        noise = pair_by_transport(x0, noise)
    valid = batch.mask
    if valid is not None and objective.silence_extension > 0:
        frames = extend_into_silence(frames, length, objective.silence_extension, generator)
        valid = frames_mask(frames, length)
    known = None if objective.inpainting is None else objective.inpainting.draw(frames, length, generator)
    return Drawn(t, noise, drop, valid, known)


def predict_batch(
    predict: Predict,
    objective: Objective,
    batch: LatentBatch,
    conditioning: Conditioning,
    chance: torch.Generator | Drawn,
) -> Prediction:
    """The network's answer to one micro-batch; parameters as in `micro_step`."""
    x0 = batch.latents
    drawn = chance if isinstance(chance, Drawn) else draw(objective, batch, chance)
    drawn = drawn.map(lambda tensor: tensor.to(x0.device, non_blocking=True))
    sample = make_sample(objective.path, objective.target, x0, drawn.noise, drawn.t)
    conditioning = conditioning.replace_rows(drawn.drop, objective.null_condition(conditioning))
    if objective.inpainting is None or drawn.known is None:
        output = predict(sample.x_t, drawn.t, conditioning).float()
        return Prediction(sample, output, per_sample_mse(output, sample.target, drawn.valid))
    output = predict(sample.x_t, drawn.t, conditioning, inpainting_condition(x0, drawn.known)).float()
    weight = objective.inpainting.context_weight
    losses = _inpainting_losses(output, sample.target, drawn.known, drawn.valid, weight)
    return Prediction(sample, output, losses)


def _inpainting_losses(
    output: torch.Tensor, target: torch.Tensor, known: torch.Tensor, valid: torch.Tensor | None, context_weight: float
) -> torch.Tensor:
    """Each sample's mean square error over what is to be made, plus `context_weight` times that over what is known:
    (B,).

    `known` and `valid` are masks (B, T); a mean over no frame is 0.
    """
    valid = torch.ones_like(known) if valid is None else valid
    losses = per_sample_mse(output, target, valid & ~known)
    if context_weight:
        losses = losses + context_weight * per_sample_mse(output, target, valid & known)
    return losses


def weigh(objective: Objective, prediction: Prediction, batch: LatentBatch) -> PartialLoss:
    """The weighted loss of one micro-batch."""
    inputs = weighting_inputs(objective, prediction, batch)
    return objective.weighting.partial(prediction.losses, prediction.output, **inputs)


def weighting_inputs(objective: Objective, prediction: Prediction, batch: LatentBatch) -> dict[str, Any]:
    """What a weighting may read beside losses and output, by the names of its arguments."""
    sample = prediction.sample
    known = {"x_t": sample.x_t, "t": sample.t, "path": objective.path, "target": objective.target}
    return {**known, "mask": batch.mask, "ids": batch.ids}


def micro_step(
    predict: Predict,
    objective: Objective,
    batch: LatentBatch,
    conditioning: Conditioning,
    chance: torch.Generator | Drawn,
) -> StepOutput:
    """The weighted loss of one micro-batch.

    Parameters
    ----------
    predict : (x_t (B, C, T), t (B,), conditioning[, inpainting (B, 1 + C, T)]) -> output (B, C, T)
    batch : LatentBatch
        On the device of the model.
    conditioning : Conditioning
        One row a sample, on the device of the model.
    chance : torch.Generator on the CPU, or what `draw` drew with it before
        The only source of randomness. t, noise and dropped captions are drawn in that order whatever the weighting
        is, so two arms with one seed differ in their weighting only; the extension into silence and the inpainting
        masks are drawn after them.

    Returns
    -------
    StepOutput
    """
    prediction = predict_batch(predict, objective, batch, conditioning, chance)
    return StepOutput(weigh(objective, prediction, batch), prediction.sample.t, prediction.losses)


def sums_by_noise_level(values: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Sums and counts of `values` (B,) in the bins of t: shape (2, NOISE_LEVEL_BINS)."""
    index = (t * NOISE_LEVEL_BINS).long().clamp(0, NOISE_LEVEL_BINS - 1)
    member = torch.nn.functional.one_hot(index, NOISE_LEVEL_BINS).to(values.dtype)
    return torch.stack([values @ member, member.sum(dim=0)])


_STREAM = 2  # keeps the evaluation's noise apart from the training's


@dataclass(frozen=True)
class HeldOut:
    """The held-out loss: the same clips, noise levels and noise at every evaluation, whatever the arm and the seed.

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
