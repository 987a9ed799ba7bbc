"""Gradients as lists of tensors: products, angles and AdamW's update, one parameter at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

Vector = list[torch.Tensor]
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
        self._first: Vector = []
        self._second: Vector = []

    @torch.no_grad()
    def update(self, gradient: Sequence[torch.Tensor], scale: float = 1.0) -> Vector:
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
