"""DoRA as written: the adapted weight is formed anew at every forward pass. What bench/train_step.py compares with.

``W′ = m V / ‖V‖_row``, ``V = W + (alpha / rank) B A`` as a parametrisation of the layer's weight, the norm part of the
gradient: the formulation of Stability's trainer, written here from the formula.
"""

from __future__ import annotations

import re

import torch
from torch import nn
from torch.nn.utils import parametrize

from eisbach.adapters.quantised import read_weight


class RebuiltWeight(nn.Module):
    """Maps W [shape=(out, in)] to W′."""

    def __init__(self, weight: torch.Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.scale = alpha / rank
        self.lora_A = nn.Parameter(torch.zeros(rank, columns, device=weight.device))
        self.lora_B = nn.Parameter(torch.zeros(rows, rank, device=weight.device))
        self.magnitude = nn.Parameter(torch.linalg.vector_norm(weight.float(), dim=1, keepdim=True))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """W′, in the trained parameters' dtype."""
        v = read_weight(weight) + self.scale * (self.lora_B @ self.lora_A)
        return self.magnitude * v / torch.linalg.vector_norm(v, dim=1, keepdim=True)


def inject_rebuilt(module: nn.Module, targets: str, rank: int, alpha: float) -> dict[str, RebuiltWeight]:
    """Parametrises every linear layer whose name matches `targets`, freezes the rest, and returns the parametrisations
    by name."""
    module.requires_grad_(False)
    added = {}
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.Linear) and re.fullmatch(targets, name):
            added[name] = RebuiltWeight(layer.weight, rank, alpha)
            parametrize.register_parametrization(layer, "weight", added[name], unsafe=True)
    return added
