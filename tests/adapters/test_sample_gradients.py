"""Norms of each sample's gradient in one backward pass, against a backward pass a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from eisbach import adapters
from eisbach.adapters.sample_gradients import SampleGradients
from eisbach.backbones import load_backbone


def single(module: nn.Module, losses: torch.Tensor) -> torch.Tensor:
    """Each sample's own backward pass."""
    norms = []
    for loss in losses:
        module.zero_grad()
        loss.backward(retain_graph=True)
        grads = [value.grad.flatten() for value in module.parameters() if value.grad is not None]
        norms.append(torch.cat(grads).norm())
    module.zero_grad()
    return torch.stack(norms)


def predicted(backbone: Any, batch: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    x_t = torch.randn(batch, backbone.latent_channels, 11, generator=generator)
    conditioning = backbone.condition(["a calm cello", "a bright celesta", "slow harp"][:batch], [4.0] * batch)
    output = backbone.predict(x_t, torch.tensor([0.1, 0.5, 0.9])[:batch], conditioning)
    return output.square().mean(dim=(1, 2)) * torch.tensor([1.0, 4.0, 0.0])[:batch]


@pytest.mark.parametrize(
    ("kind", "options", "one_pass"),
    [
        ("lora", {}, True),
        ("dora", {}, True),
        ("lora", {"dropout": 0.5}, True),  # what the factors see is what is read
        ("dora", {"dropout": 0.5}, False),
        ("dora", {"norm_gradient": "full"}, False),
    ],
)
def test_one_pass_gives_what_a_pass_a_sample_gives(
    tiny_model: Path, kind: str, options: dict[str, Any], one_pass: bool
) -> None:
    backbone = load_backbone(str(tiny_model))
    config = adapters.adapter_config(backbone, kind=kind, rank=3, alpha=6.0, dropout=options.get("dropout", 0.0))
    norm = {key: value for key, value in options.items() if key == "norm_gradient"}
    parameters = adapters.inject(backbone, config, seed=1, **norm)
    with torch.no_grad():
        for index, parameter in enumerate(parameters.values()):
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
    backbone.module.train()
    gradients = SampleGradients(backbone.module, parameters.values())
    assert gradients.in_one_pass is one_pass
    with gradients.watching():
        losses = predicted(backbone)
    before = [parameter.grad for parameter in parameters.values()]
    found = gradients.norms(losses)
    assert [parameter.grad for parameter in parameters.values()] == before  # nothing was added
    torch.testing.assert_close(found, single(backbone.module, losses), rtol=1e-4, atol=1e-7)
    assert found[0] > 0
    assert found[2] == 0  # its loss is nothing


class Twice(nn.Module):
    """One layer used twice, a convolution over single frames, and a layer that sees each sample without frames."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.frame = nn.Linear(6, 6), nn.Conv1d(6, 4, 1)
        self.level = nn.Linear(1, 6, bias=False)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        hidden = self.wide(torch.tanh(self.wide(x + self.level(t[:, None])[:, None])))
        return self.frame(hidden.transpose(1, 2)).square().mean(dim=(1, 2))


def test_a_layer_that_is_used_twice_has_one_gradient() -> None:
    torch.manual_seed(0)
    module = Twice().double()
    gradients = SampleGradients(module, module.parameters())
    assert gradients.in_one_pass
    x, t = torch.randn(5, 7, 6, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    with gradients.watching():
        losses = module(x, t)
    torch.testing.assert_close(gradients.norms(losses), single(module, losses), rtol=1e-9, atol=0)


class Folded(nn.Module):
    """A linear layer that sees all frames of all samples as rows, or one whose output is overwritten."""

    def __init__(self, overwrite: bool) -> None:
        super().__init__()
        self.layer, self.overwrite = nn.Linear(6, 6), overwrite

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.overwrite:
            return self.layer(x).mul_(2.0).square().mean(dim=(1, 2))
        return self.layer(x.flatten(0, 1)).view_as(x).square().mean(dim=(1, 2))


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_cannot_be_told_apart_is_done_one_by_one(overwrite: bool) -> None:
    torch.manual_seed(0)
    module = Folded(overwrite).double()
    gradients = SampleGradients(module, module.parameters())
    with gradients.watching():
        losses = module(torch.randn(4, 3, 6, dtype=torch.float64))
    torch.testing.assert_close(gradients.norms(losses), single(module, losses), rtol=1e-9, atol=0)


def test_a_parameter_of_another_kind_takes_a_pass_a_sample() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    gradients = SampleGradients(module, module.parameters())
    assert not gradients.in_one_pass
    with gradients.watching():
        losses = module(torch.randn(3, 2, 4)).square().mean(dim=(1, 2)) * torch.arange(3)
    torch.testing.assert_close(gradients.norms(losses), single(module, losses))
