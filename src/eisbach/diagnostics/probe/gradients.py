"""What a weighting does to the step that is taken: its gradients beside the plain ones, before and after AdamW.

The layout of the result stands in `result`. Batches are training's own: the same clips, noise levels, noise and dropped
captions, in the same order, as one process would see them. No weight is moved, but for the few plain steps that take a fresh
adapter off its starting point; they are taken back with the adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from eisbach.diagnostics.probe.subject import Subject
from eisbach.diagnostics.probe.trainable import has_dropout, starts_fresh, trainable
from eisbach.diagnostics.probe.vectors import AdamUpdates, Vector, angle, cosine, norm, ratio, summary
from eisbach.diffusion.noise_levels import NoiseLevelDensity
from eisbach.training.optimisation import build_optimiser
from eisbach.training.step import Objective, predict_batch, step_generator, weigh
from eisbach.weighting.compose import COUNT, SUM

MOVING_STEPS = 4
"""Plain steps at the recipe's learning rate that take a fresh adapter off its starting point, where B = 0 hides A."""

MAX_LEVELS = 6
"""Noise levels whose own gradients are measured, spread evenly over the configured ones."""

_LEVEL_SAMPLES = 8  # samples a level at least
_TINY = 1e-6  # as in training's clipping

Advance = Callable[[int], None]


@dataclass(frozen=True)
class BatchGradients:
    """Gradients of one global batch.

    Attributes
    ----------
    plain, weighted : Vector
        Of the mean loss, and of the loss that training differentiates.
    halves : tuple of two Vectors, or None
        Of the mean losses of the first and the second half of the samples; None where not asked for, or for a batch of one.
    mean_weight : float
        Mean of the weights before normalisation "mean1".
    """

    plain: Vector
    weighted: Vector
    halves: tuple[Vector, Vector] | None
    mean_weight: float


@dataclass(frozen=True)
class OneLevel(NoiseLevelDensity):
    """Every draw is t."""

    t: float = 0.5
    name: ClassVar[str] = "one_level"

    def quantile(self, q: torch.Tensor, num_frames: int | torch.Tensor | None = None) -> torch.Tensor:
        """t, whatever q."""
        return torch.full_like(q, self.t)


def measure_gradients(subject: Subject, advance: Advance) -> dict[str, Any]:
    """`ProbeResult.gradients`; `advance` is told how many samples are done."""
    train = subject.config.train
    count = subject.config.gradient_batches
    if count == 0:
        return {}
    with trainable(subject) as (kind, parameters, fresh):
        found = {"start": measure_point(subject, parameters, advance)}
        if fresh:
            move(subject, parameters, count, advance)
            found["moved"] = measure_point(subject, parameters, advance)
        last = found["moved" if fresh else "start"]
        levels = measure_levels(subject, parameters, last.pop("mean_weight"), advance)
        found["start"].pop("mean_weight", None)
    return {
        "trained": kind,
        "scalars": sum(parameter.numel() for parameter in parameters.values()),
        "batches": count,
        "batch_size": train.batch_size * subject.accumulation,
        "condition_dropout": train.condition_dropout,
        "betas": list(train.optimiser.betas),
        "eps": train.optimiser.eps,
        "max_grad_norm": train.max_grad_norm,
        "skipped_batches": sum(point.pop("skipped") for point in found.values()),
        "perturbation_steps": MOVING_STEPS if fresh else 0,
        "points": found,
        "levels": levels,
    }


def units(subject: Subject) -> int:
    """What `measure_gradients` advances by in all."""
    config = subject.config
    if config.gradient_batches == 0:
        return 0
    size = config.train.batch_size * subject.accumulation
    fresh = starts_fresh(subject)
    points = config.gradient_batches * (2 if fresh else 1) + (MOVING_STEPS if fresh else 0)
    return size * (points + len(chosen_levels(config.levels)) * level_batches(subject))


def measure_point(subject: Subject, parameters: dict[str, nn.Parameter], advance: Advance) -> dict[str, Any]:
    """One *point* of the result, with ``skipped`` and ``mean_weight`` beside it."""
    train = subject.config.train
    clip = train.max_grad_norm
    streams = {name: AdamUpdates(train.optimiser.betas, train.optimiser.eps) for name in ("plain", "weighted")}
    clipped: dict[str, AdamUpdates] | None = None  # as long as nothing was clipped, the two pairs are one
    per_batch: list[dict[str, Any]] = []
    adamw: dict[str, list[float]] = {"norm_ratio": [], "angle": []}
    adamw_clipped: dict[str, list[float]] = {"norm_ratio": [], "angle": []}
    weights, before = [], None
    for step in range(subject.config.gradient_batches):
        made = batch_gradients(subject, parameters, step)
        advance(train.batch_size * subject.accumulation)
        if made is None:
            before = None
            continue
        sizes = norm(made.plain), norm(made.weighted)
        weights.append(made.mean_weight)
        row = {
            "batch": step,
            "plain_norm": sizes[0],
            "weighted_norm": sizes[1],
            "norm_ratio": ratio(sizes[1], sizes[0]),
            "cosine": cosine(made.plain, made.weighted),
            "angle": angle(made.plain, made.weighted),
            "halves_angle": math.nan if made.halves is None else angle(*made.halves),
            "between_batches_angle": math.nan if before is None else angle(before, made.plain),
        }
        scales = (1.0, 1.0)
        if clip is not None:
            scales = tuple(min(1.0, clip / (size + _TINY)) for size in sizes)  # type: ignore[assignment]
            row |= {"plain_clipped": scales[0] < 1, "weighted_clipped": scales[1] < 1}
            row["clipped_norm_ratio"] = ratio(sizes[1] * scales[1], sizes[0] * scales[0])
        if clipped is None and scales != (1.0, 1.0):
            clipped = {name: stream.copy() for name, stream in streams.items()}
        row |= _follow(adamw, streams, made, (1.0, 1.0), "adamw")
        if clipped is not None:
            row |= _follow(adamw_clipped, clipped, made, scales, "adamw_clipped")
        elif clip is not None:
            for key, values in adamw.items():
                adamw_clipped[key].append(values[-1])
        per_batch.append(row)
        before = made.plain
    names = ("cosine", "angle", "norm_ratio", "plain_norm", "weighted_norm", "between_batches_angle", "halves_angle")
    return {
        **{name: summary([row[name] for row in per_batch]) for name in names},
        "clipped": None if clip is None else _clipping(per_batch),
        "adamw": _course(adamw),
        "adamw_clipped": None if clip is None else _course(adamw_clipped),
        "per_batch": per_batch,
        "skipped": subject.config.gradient_batches - len(per_batch),
        "mean_weight": math.fsum(weights) / len(weights) if weights else math.nan,
    }


def batch_gradients(
    subject: Subject,
    parameters: dict[str, nn.Parameter],
    step: int,
    objective: Objective | None = None,
    *,
    halves: bool = True,
) -> BatchGradients | None:
    """The gradients of one global batch; None where they are not finite."""
    objective = subject.objective if objective is None else objective
    leaves, seed = list(parameters.values()), subject.config.train.seed
    size = subject.config.train.batch_size
    total = size * subject.accumulation
    cut = total // 2 if halves else 0
    parts = [[torch.zeros_like(leaf) for leaf in leaves] for _ in range(2 if cut else 1)]
    weighted = [torch.zeros_like(leaf) for leaf in leaves]
    stats: torch.Tensor | None = None
    for micro in range(subject.accumulation):
        batch, index = subject.micro_batch(step, micro)
        generator = step_generator(seed, index)
        with torch.random.fork_rng(enabled=has_dropout(subject)):
            if has_dropout(subject):  # the network's own dropout draws what it draws in training
                torch.manual_seed(generator.initial_seed())
            prediction = predict_batch(subject.predict, objective, batch, subject.conditioning(batch), generator)
        if not bool(prediction.output.isfinite().all()):
            return None
        partial = weigh(objective, prediction, batch.mask)
        stats = partial.stats if stats is None else stats + partial.stats
        split = max(0, min(size, cut - micro * size))  # samples of this micro-batch that lie in the first half
        both = (prediction.losses[:split], prediction.losses[split:]) if cut else (prediction.losses,)
        for part, losses in zip(parts, both, strict=True):
            if len(losses):
                _accumulate(part, losses.sum(), leaves, keep=True)
        _accumulate(weighted, partial.unscaled, leaves, keep=False)
    assert stats is not None  # accumulation is at least 1
    factor = float(objective.weighting.gradient_factor(stats))
    plain = [torch.stack(pieces).sum(dim=0) / total for pieces in zip(*parts, strict=True)]
    weighted = [part * factor for part in weighted]
    if not (math.isfinite(norm(plain)) and math.isfinite(norm(weighted))):
        return None
    pair = ([part / cut for part in parts[0]], [part / (total - cut) for part in parts[1]]) if cut else None
    return BatchGradients(plain, weighted, pair, float(stats[SUM] / stats[COUNT]))


def _accumulate(into: Vector, scalar: torch.Tensor, leaves: list[nn.Parameter], keep: bool) -> None:
    gradients = torch.autograd.grad(scalar, leaves, retain_graph=keep, allow_unused=True)
    for place, gradient in zip(into, gradients, strict=True):
        if gradient is not None:
            place.add_(gradient)


def move(subject: Subject, parameters: dict[str, nn.Parameter], first: int, advance: Advance) -> None:
    """A few plain steps of the recipe's optimiser at its peak rate, on the batches that follow the compared ones."""
    train = subject.config.train
    optimiser = build_optimiser(parameters, train.optimiser)
    for step in range(first, first + MOVING_STEPS):
        made = batch_gradients(subject, parameters, step, halves=False)
        advance(train.batch_size * subject.accumulation)
        if made is None:
            continue
        scale = 1.0 if train.max_grad_norm is None else min(1.0, train.max_grad_norm / (norm(made.plain) + _TINY))
        for parameter, gradient in zip(parameters.values(), made.plain, strict=True):
            parameter.grad = (gradient * scale).to(parameter.dtype)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def measure_levels(
    subject: Subject, parameters: dict[str, nn.Parameter], mean_weight: float, advance: Advance
) -> list[dict[str, Any]]:
    """Gradients of batches at a single noise level: the same clips and noise at each."""
    weighting = subject.objective.weighting
    relative = weighting.normalisation == "mean1" and mean_weight > 0
    rows = []
    for level in chosen_levels(subject.config.levels):
        objective = replace(
            subject.objective, density=OneLevel(level), weighting=replace(weighting, normalisation="none")
        )
        found = []
        for step in range(level_batches(subject)):
            made = batch_gradients(subject, parameters, step, objective, halves=False)
            advance(subject.config.train.batch_size * subject.accumulation)
            if made is not None:
                size = norm(made.plain), norm(made.weighted) / (mean_weight if relative else 1.0)
                found.append((*size, ratio(size[1], size[0]), cosine(made.plain, made.weighted)))
        columns = [[row[place] for row in found] for place in range(4)]
        means = [math.fsum(column) / len(column) if column else None for column in columns]
        names = ("plain_norm", "weighted_norm", "norm_ratio", "cosine")
        rows.append({"t": level, **dict(zip(names, means, strict=True)), "batches": len(found)})
    return rows


def chosen_levels(levels: list[float]) -> list[float]:
    """At most `MAX_LEVELS` of the levels, the first and the last among them."""
    if len(levels) <= MAX_LEVELS:
        return levels
    step = (len(levels) - 1) / (MAX_LEVELS - 1)
    return [levels[round(place * step)] for place in range(MAX_LEVELS)]


def level_batches(subject: Subject) -> int:
    """Batches a level."""
    return math.ceil(_LEVEL_SAMPLES / (subject.config.train.batch_size * subject.accumulation))


def _follow(
    course: dict[str, list[float]],
    streams: dict[str, AdamUpdates],
    made: BatchGradients,
    scales: tuple[float, float],
    name: str,
) -> dict[str, float]:
    plain = streams["plain"].update(made.plain, scales[0])
    weighted = streams["weighted"].update(made.weighted, scales[1])
    course["norm_ratio"].append(ratio(norm(weighted), norm(plain)))
    course["angle"].append(angle(plain, weighted))
    return {f"{name}_{key}": values[-1] for key, values in course.items()}


def _course(course: dict[str, list[float]]) -> dict[str, Any]:
    def mean_of_last(values: list[float]) -> float | None:
        tail = [value for value in values[-max(1, len(values) // 3) :] if math.isfinite(value)]
        return math.fsum(tail) / len(tail) if tail else None

    return {**course, "last": {key: mean_of_last(values) for key, values in course.items()}}


def _clipping(per_batch: list[dict[str, Any]]) -> dict[str, Any]:
    count = len(per_batch)
    shares = {
        f"{name}_share": sum(row[f"{name}_clipped"] for row in per_batch) / count if count else None
        for name in ("plain", "weighted")
    }
    return {"norm_ratio": summary([row["clipped_norm_ratio"] for row in per_batch]), **shares}
