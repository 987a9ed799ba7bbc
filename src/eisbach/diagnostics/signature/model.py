"""What the estimators ask of a model: its predictions under every class at the same noisy samples, in batches that fit
memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eisbach.diagnostics.mixture import GaussianMixture
from eisbach.diffusion.paths import Path, get_path
from eisbach.diffusion.targets import check_target
from eisbach.errors import UserError
from eisbach.types import Conditioning


@dataclass(frozen=True)
class ClassModel:
    """Predictions by class, on one path and in one target.

    Attributes
    ----------
    path : Path
    target : {"eps", "x0", "v", "u"}
    num_classes : int
    shape : tuple of int
        Of one sample, without the batch.
    by_class : callable
        ``(x_t (R, ...), t (R,), class index (R,) int64) -> output (R, ...)``; the index `num_classes` asks for the
        unconditional prediction, which only guidance needs.
    batch_rows : int
        Rows of one call.
    dtype : torch.dtype
        Of x_t as `by_class` reads it.
    """

    path: Path
    target: str
    num_classes: int
    shape: tuple[int, ...]
    by_class: Callable[[Tensor, Tensor, Tensor], Tensor]
    batch_rows: int = 64
    dtype: torch.dtype = torch.float32

    @torch.no_grad()
    def outputs(self, x_t: Tensor, t: float) -> Tensor:
        """Every class's prediction at every sample, shape (N, K, D) with D the numbers in a sample, float64.

        Parameters
        ----------
        x_t : Tensor [shape=(N, ...)]
        t : float
        """
        count, classes = x_t.shape[0], self.num_classes
        index = torch.arange(count * classes)
        parts = [
            self._call(x_t[part // classes], t, part % classes).flatten(1).to(torch.float64)
            for part in index.split(self.batch_rows)
        ]
        return torch.cat(parts).reshape(count, classes, -1)

    @torch.no_grad()
    def unconditional(self, x_t: Tensor, t: float) -> Tensor:
        """The unconditional prediction, shape (N, D), float64."""
        parts = x_t.split(self.batch_rows)
        done = [self._call(part, t, torch.full((len(part),), self.num_classes)).flatten(1) for part in parts]
        return torch.cat(done).to(torch.float64)

    def _call(self, x_t: Tensor, t: float, index: Tensor) -> Tensor:
        output = self.by_class(x_t, torch.full((len(x_t),), t, dtype=x_t.dtype), index)
        if output.shape != x_t.shape:
            raise UserError(
                f"the network returned {tuple(output.shape)} for x_t of {tuple(x_t.shape)}; they must match."
            )
        if not bool(output.isfinite().all()):
            raise UserError(f"the network gave values that are not finite at t = {t:g}; check the checkpoint.")
        return output


def mixture_model(mixture: GaussianMixture, path: Path | str, target: str = "x0", batch_rows: int = 4096) -> ClassModel:
    """The perfect network for a Gaussian mixture: components are the classes, and the answers are exact."""
    path = get_path(path)
    check_target(target)

    def by_class(x_t: Tensor, t: Tensor, index: Tensor) -> Tensor:
        if int(index[0]) == mixture.num_components:
            return mixture.bayes_predict(path, target, x_t, t)
        every = mixture.component_predict(path, target, x_t, t)
        return every[torch.arange(len(index)), index]

    return ClassModel(path, target, mixture.num_components, (mixture.dim,), by_class, batch_rows, torch.float64)


def backbone_model(
    backbone: Any, conditioning: Conditioning, shape: tuple[int, ...], batch_rows: int = 64
) -> ClassModel:
    """A backbone under one row of conditioning for each class.

    Parameters
    ----------
    backbone : Backbone
        Put into evaluation mode by the caller.
    conditioning : Conditioning
        K rows, in the classes' order.
    shape : tuple of int
        Of one sample.
    """
    null = backbone.null_condition(conditioning)
    parameter = next(iter(backbone.module.parameters()))
    classes = len(conditioning)

    def by_class(x_t: Tensor, t: Tensor, index: Tensor) -> Tensor:
        unconditional = int(index[0]) == classes
        chosen = (null if unconditional else conditioning).select(index % classes)
        # Image backbones keep class ids, and text ones embeddings: both go where the weights are.
        output = backbone.predict(
            x_t.to(parameter.device, parameter.dtype),
            t.to(parameter.device, torch.float32),
            chosen.to(parameter.device),
        )
        return output.to(x_t.device, x_t.dtype)

    return ClassModel(backbone.path, backbone.target, classes, shape, by_class, batch_rows)
