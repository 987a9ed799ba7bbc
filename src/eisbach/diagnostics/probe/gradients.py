"""What a weighting does to the step that is taken: its gradients beside the plain ones, before and after AdamW.

The layout of the result stands in `result`. Batches are training's own: the same clips, noise levels, noise and dropped
captions, in the same order, as one process would see them. No weight is moved, but for the few plain steps that take a
fresh adapter off its starting point; they are taken back with the adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from eisbach.diagnostics.probe.subject import Subject, has_dropout, starts_fresh, trainable
from eisbach.diffusion.noise_levels import NoiseLevelDensity
from eisbach.training.noising import step_generator
from eisbach.training.optimisation import build_optimiser
from eisbach.training.step import Objective, predict_batch, weigh
from eisbach.weighting.losses import COUNT, SUM

_Vector = list[torch.Tensor]
"""One tensor for each parameter, in the parameters' order."""

_BOOTSTRAPS = 2000


def dot(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """Inner product over all parameters, summed in float64 (in float32 within a parameter on devices without
    float64)."""
    dtype = torch.float32 if a and a[0].device.type == "mps" else torch.float64
    parts = [(x.detach().to(dtype) * y.detach().to(dtype)).sum() for x, y in zip(a, b, strict=True)]
    return math.fsum(torch.stack(parts).tolist()) if parts else 0.0


def norm(a: Sequence[torch.Tensor]) -> float:
    """Euclidean norm over all parameters."""
    return math.sqrt(dot(a, a))


def cosine(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """Cosine of the angle between two vectors, in [-1, 1]; NaN where one of them is zero."""
    size = norm(a) * norm(b)
    return max(-1.0, min(1.0, dot(a, b) / size)) if size > 0 else math.nan


def angle(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """Angle between two vectors in degrees, in [0, 180]; NaN where one of them is zero.

    ``2 atan2(|a' - b'|, |a' + b'|)`` of the unit vectors: the arc cosine would read 1e-6 degrees and less as noise.
    """
    size_a, size_b = norm(a), norm(b)
    if not size_a * size_b > 0:
        return math.nan
    minus = norm([x / size_a - y / size_b for x, y in zip(a, b, strict=True)])
    plus = norm([x / size_a + y / size_b for x, y in zip(a, b, strict=True)])
    return math.degrees(2.0 * math.atan2(minus, plus))


def ratio(a: float, b: float) -> float:
    """a / b; NaN where b is zero."""
    return a / b if b > 0 else math.nan


class AdamUpdates:
    """AdamW's normalised update of a stream of gradients, ``m_hat / (sqrt(v_hat) + eps)``, for weights that stay put.

    The learning rate and the decay are left out: they are the same whatever the weighting.
    """

    def __init__(self, betas: tuple[float, float], eps: float) -> None:
        self.betas, self.eps, self.step = betas, eps, 0
        self._first: _Vector = []
        self._second: _Vector = []

    @torch.no_grad()
    def update(self, gradient: Sequence[torch.Tensor], scale: float = 1.0) -> _Vector:
        """The update that AdamW would make with `scale` times this gradient as the next one."""
        if not self._first:
            self._first = [torch.zeros_like(part) for part in gradient]
            self._second = [torch.zeros_like(part) for part in gradient]
        self.step += 1
        beta1, beta2 = self.betas
        bias1, bias2 = 1 - beta1**self.step, 1 - beta2**self.step
        updates = []
        for part, first, second in zip(gradient, self._first, self._second, strict=True):
            first.mul_(beta1).add_(part, alpha=(1 - beta1) * scale)
            second.mul_(beta2).addcmul_(part, part, value=(1 - beta2) * scale**2)
            updates.append(first / bias1 / ((second / bias2).sqrt() + self.eps))
        return updates


def summary(values: Sequence[float], seed: int = 0) -> dict[str, float | int | None]:
    """Mean, standard deviation and the mean's 95% percentile-bootstrap interval over batches, of the finite values."""
    finite = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    if len(finite) == 0:
        return {"mean": None, "sd": None, "low": None, "high": None, "n": 0}
    if len(finite) == 1:
        return {"mean": float(finite[0]), "sd": None, "low": None, "high": None, "n": 1}
    draws = np.random.default_rng(seed).integers(len(finite), size=(_BOOTSTRAPS, len(finite)))
    low, high = np.quantile(finite[draws].mean(axis=1), [0.025, 0.975])
    return {
        "mean": float(finite.mean()),
        "sd": float(finite.std(ddof=1)),
        "low": float(low),
        "high": float(high),
        "n": len(finite),
    }


# --- the comparison


MOVING_STEPS = 4
"""Plain steps at the recipe's learning rate that take a fresh adapter off its starting point, where B = 0 hides A."""

_MAX_LEVELS = 6
"""Noise levels whose own gradients are measured, spread evenly over the configured ones."""

_LEVEL_SAMPLES, _LEVEL_BATCHES = 8, 4  # a level at least; four batches give their norms' ratio an interval
_TINY = 1e-6  # as in training's clipping

Advance = Callable[[int], None]


@dataclass(frozen=True)
class BatchGradients:
    """Gradients of one global batch.

    Attributes
    ----------
    plain, weighted : _Vector
        Of the mean loss, and of the loss that training differentiates.
    mean_weight : float
        Mean of the weights before normalisation "mean1".
    """

    plain: _Vector
    weighted: _Vector
    mean_weight: float


@dataclass(frozen=True)
class _OneLevel(NoiseLevelDensity):
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
        points = {"start": _measure_point(subject, parameters, advance)}
        if fresh:
            _move(subject, parameters, count, advance)
            points["moved"] = _measure_point(subject, parameters, advance)
        last = points["moved" if fresh else "start"]
        levels = measure_levels(subject, parameters, last.pop("mean_weight"), advance)
        points["start"].pop("mean_weight", None)
    return {
        "trained": kind,
        "scalars": sum(parameter.numel() for parameter in parameters.values()),
        "batches": count,
        "batch_size": train.batch_size * subject.accumulation,
        "condition_dropout": train.condition_dropout,
        "betas": list(train.optimiser.betas),
        "eps": train.optimiser.eps,
        "max_grad_norm": train.max_grad_norm,
        "skipped_batches": sum(point.pop("skipped") for point in points.values()),
        "perturbation_steps": MOVING_STEPS if fresh else 0,
        "points": points,
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
    return size * (points + len(_chosen_levels(config.levels)) * _level_batches(subject))


def _measure_point(subject: Subject, parameters: dict[str, nn.Parameter], advance: Advance) -> dict[str, Any]:
    """One *point* of the result, with ``skipped`` and ``mean_weight`` beside it."""
    train = subject.config.train
    plain_adam = AdamUpdates(train.optimiser.betas, train.optimiser.eps)
    weighted_adam = AdamUpdates(train.optimiser.betas, train.optimiser.eps)
    per_batch: list[dict[str, Any]] = []
    weights, before = [], None
    for step in range(subject.config.gradient_batches):
        made = batch_gradients(subject, parameters, step)
        advance(train.batch_size * subject.accumulation)
        if made is None:
            before = None
            continue
        sizes = norm(made.plain), norm(made.weighted)
        scales = _clip_scale(sizes[0], train.max_grad_norm), _clip_scale(sizes[1], train.max_grad_norm)
        updates = plain_adam.update(made.plain, scales[0]), weighted_adam.update(made.weighted, scales[1])
        weights.append(made.mean_weight)
        per_batch.append({
            "batch": step,
            "plain_norm": sizes[0],
            "weighted_norm": sizes[1],
            "norm_ratio": ratio(sizes[1], sizes[0]),
            "cosine": cosine(made.plain, made.weighted),
            "angle": angle(made.plain, made.weighted),
            "between_batches_angle": math.nan if before is None else angle(before, made.plain),
            "plain_clipped": scales[0] < 1,
            "weighted_clipped": scales[1] < 1,
            "clipped_norm_ratio": ratio(sizes[1] * scales[1], sizes[0] * scales[0]),
            "update_norm_ratio": ratio(norm(updates[1]), norm(updates[0])),
            "update_angle": angle(*updates),
        })  # fmt: skip
        before = made.plain
    tail = per_batch[-max(1, len(per_batch) // 3) :]  # AdamW's averages need some steps to fill

    def over(rows: list[dict[str, Any]], *names: str) -> dict[str, Any]:
        return {name: summary([float(row[name]) for row in rows]) for name in names}

    return {
        **over(per_batch, "cosine", "angle", "norm_ratio", "plain_norm", "weighted_norm", "between_batches_angle"),
        **over(per_batch, "plain_clipped", "weighted_clipped", "clipped_norm_ratio"),
        **over(tail, "update_norm_ratio", "update_angle"),
        "per_batch": per_batch,
        "skipped": subject.config.gradient_batches - len(per_batch),
        "mean_weight": math.fsum(weights) / len(weights) if weights else math.nan,
    }


def _clip_scale(size: float, max_norm: float | None) -> float:
    """What training's clipping multiplies a gradient of this norm by."""
    return 1.0 if max_norm is None else min(1.0, max_norm / (size + _TINY))


def batch_gradients(
    subject: Subject, parameters: dict[str, nn.Parameter], step: int, objective: Objective | None = None
) -> BatchGradients | None:
    """The gradients of one global batch; None where they are not finite."""
    objective = subject.objective if objective is None else objective
    leaves, seed = list(parameters.values()), subject.config.train.seed
    plain = [torch.zeros_like(leaf) for leaf in leaves]
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
        partial = weigh(objective, prediction, batch)
        stats = partial.stats if stats is None else stats + partial.stats
        _accumulate(plain, prediction.losses.sum(), leaves, keep=True)
        _accumulate(weighted, partial.unscaled, leaves, keep=False)
    assert stats is not None  # accumulation is at least 1
    # Both were summed over the micro-batches: the plain loss is a mean over samples, the weighted one has its own
    # factor.
    factor = float(objective.weighting.gradient_factor(stats))
    plain = [part / (subject.config.train.batch_size * subject.accumulation) for part in plain]
    weighted = [part * factor for part in weighted]
    if not (math.isfinite(norm(plain)) and math.isfinite(norm(weighted))):
        return None
    return BatchGradients(plain, weighted, float(stats[SUM] / stats[COUNT]))


def _accumulate(into: _Vector, scalar: torch.Tensor, leaves: list[nn.Parameter], keep: bool) -> None:
    gradients = torch.autograd.grad(scalar, leaves, retain_graph=keep, allow_unused=True)
    for place, gradient in zip(into, gradients, strict=True):
        if gradient is not None:
            place.add_(gradient)


def _move(subject: Subject, parameters: dict[str, nn.Parameter], first: int, advance: Advance) -> None:
    """A few plain steps of the recipe's optimiser at its peak rate, on the batches that follow the compared ones."""
    train = subject.config.train
    optimiser = build_optimiser(parameters, train.optimiser)
    for step in range(first, first + MOVING_STEPS):
        made = batch_gradients(subject, parameters, step)
        advance(train.batch_size * subject.accumulation)
        if made is None:
            continue
        scale = _clip_scale(norm(made.plain), train.max_grad_norm)
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
    for level in _chosen_levels(subject.config.levels):
        objective = replace(
            subject.objective, density=_OneLevel(level), weighting=replace(weighting, normalisation="none")
        )
        measured: list[tuple[float, float, float, float]] = []
        for step in range(_level_batches(subject)):
            made = batch_gradients(subject, parameters, step, objective)
            advance(subject.config.train.batch_size * subject.accumulation)
            if made is None:
                measured.append((math.nan, math.nan, math.nan, math.nan))
                continue
            size = norm(made.plain), norm(made.weighted) / (mean_weight if relative else 1.0)
            measured.append((*size, ratio(size[1], size[0]), cosine(made.plain, made.weighted)))
        columns = list(zip(*measured, strict=True))
        means = [summary(column)["mean"] for column in columns]
        names = ("plain_norm", "weighted_norm", "norm_ratio", "cosine")
        rows.append({
            "t": level, **dict(zip(names, means, strict=True)), "weighted_norms": list(columns[1]),
            "batches": sum(math.isfinite(size) for size in columns[0]),
        })  # fmt: skip
    return rows


def _chosen_levels(levels: list[float]) -> list[float]:
    """At most `_MAX_LEVELS` of the levels, the first and the last among them."""
    if len(levels) <= _MAX_LEVELS:
        return levels
    step = (len(levels) - 1) / (_MAX_LEVELS - 1)
    return [levels[round(place * step)] for place in range(_MAX_LEVELS)]


def _level_batches(subject: Subject) -> int:
    """Batches a level."""
    size = subject.config.train.batch_size * subject.accumulation
    return max(_LEVEL_BATCHES, math.ceil(_LEVEL_SAMPLES / size))
