"""Training batches, drawn as training draws them, without any training: how far the weights spread within one."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from eisbach.diagnostics.probe.result import plain
from eisbach.diagnostics.probe.rows import unnormalised
from eisbach.diagnostics.probe.subject import Subject
from eisbach.training.step import Prediction, predict_batch, step_generator, weigh, weighting_inputs
from eisbach.types import LatentBatch, LossTerms, Record


def simulate_batches(subject: Subject, advance: Callable[[int], None]) -> list[Record]:
    """One row a global batch of one process (`result.BATCH_COLUMNS`); `advance` is told how many samples are done."""
    rows = []
    for step in range(subject.simulated_batches):
        rows.append(simulate_batch(subject, step))
        advance(units(subject) // subject.simulated_batches)
    return rows


def units(subject: Subject) -> int:
    """What `simulate_batches` advances by in all: its samples."""
    return subject.simulated_batches * subject.config.train.batch_size * subject.accumulation


@torch.inference_mode()
def simulate_batch(subject: Subject, step: int) -> Record:
    """The weights of one global batch: its samples, noise levels, noise and dropped captions are training's own."""
    objective, seed = subject.objective, subject.config.train.seed
    weighting = objective.weighting
    t, losses, weights, samples, beliefs = [], [], [], [], []
    stats, unscaled = torch.zeros((), device=subject.device), torch.zeros((), device=subject.device)
    for micro in range(subject.accumulation):
        batch, index = subject.micro_batch(step, micro)
        generator = step_generator(seed, index)
        prediction = predict_batch(subject.predict, objective, batch, subject.conditioning(batch), generator)
        if not bool(prediction.output.isfinite().all()):
            return _broken(step, subject)
        partial = weigh(objective, prediction, batch.mask)
        stats, unscaled = stats + partial.stats, unscaled + partial.unscaled
        terms = _alone(subject, prediction, batch)
        t.append(prediction.sample.t)
        losses.append(partial.terms.per_sample)
        samples.append(terms.sample_weight)
        beliefs.append(terms.belief)
        # Under Eq. 5 the sample weights make one factor of the step and leave only the noise levels' weights to differ.
        weights.append(terms.noise_weight if weighting.reduction == "batch" else terms.weight)
    factor = weighting.gradient_factor(stats)
    own = torch.cat(weights).double()
    final = own * factor * len(own)
    total, squares = float(final.sum()), float(final.square().sum())
    return plain({
        "batch": step,
        "samples": len(own),
        "cv": _variation(final),
        "ess_share": total**2 / squares / len(own) if squares > 0 else math.nan,
        "mean_weight": (own if weighting.normalisation == "mean1" else final).mean(),
        "mean_sample_weight": torch.cat(samples).mean(),
        "cv_sample_weight": _variation(torch.cat(samples).double()),
        "mean_belief": torch.cat(beliefs).nanmean(),
        "mean_t": torch.cat(t).mean(),
        "loss": torch.cat(losses).mean(),
        "weighted_loss": unscaled * factor,
    })  # fmt: skip


def _alone(subject: Subject, prediction: Prediction, batch: LatentBatch) -> LossTerms:
    objective = subject.objective
    inputs = weighting_inputs(objective, prediction, batch.mask)
    return unnormalised(objective.weighting)(prediction.losses, prediction.output, **inputs)


def _variation(weights: torch.Tensor) -> float:
    """Standard deviation over mean, of the population: 0 for equal weights, and for a batch of one."""
    mean = float(weights.mean())
    return float(weights.std(correction=0)) / mean if mean > 0 else math.nan


def _broken(step: int, subject: Subject) -> Record:
    from eisbach.diagnostics.probe.result import BATCH_COLUMNS

    row: Record = dict.fromkeys(BATCH_COLUMNS)
    return row | {"batch": step, "samples": subject.config.train.batch_size * subject.accumulation}
