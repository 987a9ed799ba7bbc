"""What the estimators ask of a model: its predictions under every class at the same noisy samples, in batches that fit
memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eisbach.devices import Placement
from eisbach.diagnostics.mixture import GaussianMixture
from eisbach.diffusion.paths import Path, get_path
from eisbach.diffusion.targets import check_target
from eisbach.errors import UserError
from eisbach.types import Conditioning

_WHOLE = "classes"
"""Name of the finest partition: every class by itself."""
_ROUNDING = 1e-6


@dataclass(frozen=True)
class ClassSet:
    """Classes, their prior and how they are grouped.

    Attributes
    ----------
    names : tuple of str
        At least 2, distinct.
    prior : tuple of float
        p(z) > 0 in the order of `names`; must sum to 1 (nothing is rescaled).
    partitions : mapping of str to mapping of str to sequence of str
        For each partition, its groups: name to the classes in it. Every class is in exactly one group of each
        partition.

    Raises
    ------
    UserError
        One class, a name twice, a prior that is not one, an empty group, a class in no group or in two, or one group
        only.
    """

    names: tuple[str, ...]
    prior: tuple[float, ...]
    partitions: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            raise UserError(
                f"{len(self.names)} class arrived; its entropy is 0 at every noise level: give at least 2 classes to "
                "tell apart."
            )
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise UserError(f"classes must differ, and {', '.join(twice)} came more than once.")
        if len(self.prior) != len(self.names):
            raise UserError(
                f"{len(self.prior)} priors came with {len(self.names)} classes; give one number for each class."
            )
        if not all(math.isfinite(value) and value > 0 for value in self.prior):
            raise UserError(
                f"the priors are {list(self.prior)[:8]}; each must be above 0: leave a class of prior 0 out."
            )
        if abs(sum(self.prior) - 1) > _ROUNDING:
            raise UserError(
                f"the priors sum to {sum(self.prior):.6g} and not to 1; divide them by their sum if that is what is "
                "meant."
            )
        for name, groups in self.partitions.items():
            self._check_partition(name, groups)

    def _check_partition(self, name: str, groups: Mapping[str, Sequence[str]]) -> None:
        if name == _WHOLE:
            raise UserError(f"a partition may not be called '{_WHOLE}', which is every class by itself; rename it.")
        if len(groups) < 2:
            raise UserError(f"the partition '{name}' has {len(groups)} group; give at least 2, or its entropy is 0.")
        empty = [group for group, members in groups.items() if not members]
        if empty:
            raise UserError(f"the partition '{name}' has the empty group '{empty[0]}'; name classes for it or drop it.")
        members = [member for group in groups.values() for member in group]
        unknown = [member for member in members if member not in self.names]
        if unknown:
            raise UserError(
                f"the partition '{name}' names '{unknown[0]}', which is none of the {len(self.names)} classes; check "
                "the name."
            )
        missing = [class_name for class_name in self.names if class_name not in members]
        if missing:
            raise UserError(
                f"the partition '{name}' leaves out {len(missing)} of {len(self.names)} classes (first: "
                f"'{missing[0]}'); put every class in a group, or leave it out of the classes."
            )
        twice = sorted({member for member in members if members.count(member) > 1})
        if twice:
            raise UserError(f"the partition '{name}' has '{twice[0]}' in two groups; a class may be in one.")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def partition_names(self) -> list[str]:
        """ "classes" and the partitions' names."""
        return [_WHOLE, *self.partitions]

    def groups(self, partition: str) -> list[str]:
        """Names of a partition's groups."""
        return list(self.names) if partition == _WHOLE else list(self.partitions[partition])

    def group_of_class(self, partition: str) -> Tensor:
        """The group's index of each class, shape (K,), int64."""
        if partition == _WHOLE:
            return torch.arange(len(self.names))
        place = {
            member: index for index, members in enumerate(self.partitions[partition].values()) for member in members
        }
        return torch.tensor([place[name] for name in self.names])

    def log_prior(self) -> Tensor:
        """ln p(z), shape (K,), float64."""
        return torch.tensor(self.prior, dtype=torch.float64).log()

    def prior_entropy(self, partition: str = _WHOLE) -> float:
        """H[Z] of a partition's groups, nats."""
        share = torch.zeros(len(self.groups(partition)), dtype=torch.float64)
        share.index_add_(0, self.group_of_class(partition), torch.tensor(self.prior, dtype=torch.float64))
        return float(-(share * share.log()).sum())

    def log_posterior(self, log_likelihood: Tensor, partition: str = _WHOLE) -> Tensor:
        """ln p(group | x_t) from the classes' log-likelihoods, up to a constant: logsumexp over each group's classes.

        Parameters
        ----------
        log_likelihood : Tensor [shape=(..., K)]

        Returns
        -------
        Tensor [shape=(..., G), float64]
        """
        joint = (log_likelihood.to(torch.float64) + self.log_prior()).log_softmax(dim=-1)
        if partition == _WHOLE:
            return joint
        member = self.group_of_class(partition)
        return torch.stack(
            [joint[..., member == group].logsumexp(dim=-1) for group in range(len(self.groups(partition)))], dim=-1
        )


def uniform_prior(count: int) -> tuple[float, ...]:
    """Equal shares."""
    return (1 / count,) * count if count else ()


def entropy_of(log_p: Tensor) -> Tensor:
    """-sum p ln p over the last axis, nats; a probability of 0 adds 0."""
    return -(log_p.exp() * log_p.clamp(min=-1e4)).sum(dim=-1)


# --- the model of each class


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
    backbone: Any,
    conditioning: Conditioning,
    shape: tuple[int, ...],
    batch_rows: int = 64,
    placement: Placement | None = None,
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
    placement : Placement or None
        How precisely the backbone computes where it is; None is fp32.
    """
    network = backbone.predict if placement is None else placement.predict(backbone.predict)
    null = backbone.null_condition(conditioning)
    parameter = next(iter(backbone.module.parameters()))
    classes = len(conditioning)

    def by_class(x_t: Tensor, t: Tensor, index: Tensor) -> Tensor:
        unconditional = int(index[0]) == classes
        chosen = (null if unconditional else conditioning).select(index % classes)
        # Image backbones keep class ids, and text ones embeddings: both go where the weights are.
        output = network(
            x_t.to(parameter.device, parameter.dtype),
            t.to(parameter.device, torch.float32),
            chosen.to(parameter.device),
        )
        return output.to(x_t.device, x_t.dtype)

    return ClassModel(backbone.path, backbone.target, classes, shape, by_class, batch_rows)
