"""Frozen weights in few bits: what their layers compute, what they keep, and adapters on top of them."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

from eisbach import adapters
from eisbach.adapters.dora import measure_rows
from eisbach.adapters.quantised import QUANTISED, QuantisedLinear, is_quantised, quantise_frozen, read_weight
from eisbach.errors import ConfigError

pytest.importorskip("torchao")

BITS = {"int8": 8, "fp8": 8, "nf4": 4}
ERROR = {"int8": 0.01, "fp8": 0.04, "nf4": 0.12}
"""Largest relative error (norm of the difference over the norm) of a normal weight of this size."""


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(128, 256), nn.Linear(256, 128, bias=False)
            self.memory = nn.Parameter(torch.randn(3, 128))
            self.norm = nn.LayerNorm(128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.second(torch.nn.functional.silu(self.first(x))) + self.memory.sum(dim=0))


class Model:
    adapter_targets = ("first", "second")

    def __init__(self) -> None:
        self.module = Network()

    def identity(self) -> str:
        return "network"


def adapted(kind: str, **options: Any) -> tuple[Network, dict[str, nn.Parameter]]:
    model = Model()
    norm = {"norm_gradient": options.pop("norm_gradient")} if "norm_gradient" in options else {}
    parameters = adapters.inject(model, adapters.adapter_config(model, kind=kind, rank=4, alpha=8.0), **norm, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in sorted(parameters):
            noise = 0.05 * torch.randn(parameters[name].shape, generator=generator)
            parameters[name].copy_(parameters[name] * (1 + noise) if "magnitude" in name else noise)
    return model.module, parameters


def inputs() -> torch.Tensor:
    return torch.randn(5, 128, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("form", QUANTISED)
def test_a_weight_is_stored_in_its_bits_and_read_back_within_its_rounding(form: str) -> None:
    network = Network().requires_grad_(False)
    before = {name: layer.weight.clone() for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    assert quantise_frozen(network, form) == len(before) == 2
    for name, weight in before.items():
        layer = network.get_submodule(name)
        assert isinstance(layer, QuantisedLinear)
        assert is_quantised(layer.weight)
        found = read_weight(layer.weight, torch.float32)
        assert type(found) is torch.Tensor
        assert found.shape == weight.shape
        error = float((found - weight).norm() / weight.norm())
        assert 0 < error < ERROR[form]
        parts, _ = layer.weight.__tensor_flatten__()
        stored = sum(getattr(layer.weight, part).nbytes for part in parts)
        assert stored * 8 / weight.numel() == pytest.approx(BITS[form], rel=0.06)


@pytest.mark.parametrize("form", QUANTISED)
def test_rows_and_weights_of_zeros_stay_zeros(form: str) -> None:
    """As layers that start at zero have them; a scale of zero would divide zero by zero."""
    network = Network().requires_grad_(False)
    with torch.no_grad():
        network.first.weight[3] = 0.0
        network.second.weight.zero_()
    quantise_frozen(network, form)
    assert read_weight(network.first.weight)[3].abs().max() == 0
    assert read_weight(network.second.weight).abs().max() == 0
    assert read_weight(network.first.weight).isfinite().all()


@pytest.mark.parametrize("form", QUANTISED)
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("options", [{"kind": "lora"}, {"kind": "dora"}, {"kind": "dora", "norm_gradient": "full"}])
def test_adapters_train_as_on_the_weight_that_is_read_back(form: str, mixed: bool, options: dict[str, str]) -> None:
    """Outputs and gradients against the same network with the dequantised weights in plain layers: nothing but the
    weights' rounding is new."""
    quantised, ours = adapted(**options, quantised=form)
    plain, theirs = adapted(**options)
    with torch.no_grad():
        for name, layer in plain.named_modules():
            if isinstance(layer, nn.Linear) and isinstance(quantised.get_submodule(name), QuantisedLinear):
                layer.weight.copy_(read_weight(quantised.get_submodule(name).weight))
        for name, parameter in theirs.items():
            parameter.copy_(ours[name])
    x = inputs()
    results = []
    for network, parameters in ((quantised, ours), (plain, theirs)):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            output = network(x)
        results.append((output, torch.autograd.grad(output.float().square().sum(), list(parameters.values()))))
    close = {"rtol": 0.05, "atol": 0.05} if mixed else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(results[0][0], results[1][0], **close)
    for mine, its in zip(results[0][1], results[1][1], strict=True):
        assert mine.dtype == torch.float32
        assert (mine - its).norm() <= (0.03 if mixed else 1e-4) * its.norm() + 1e-12


@pytest.mark.parametrize("form", QUANTISED)
def test_row_norms_are_those_of_the_weight_that_is_read_back(form: str) -> None:
    network, _ = adapted("dora", quantised=form)
    layer: Any = network.first
    weight = read_weight(layer.get_base_layer().weight).double()
    torch.testing.assert_close(
        measure_rows(layer.get_base_layer().weight).squared.double(), weight.square().sum(dim=1), rtol=1e-6, atol=0
    )


def test_nothing_but_few_bits_is_kept_for_the_backward_pass() -> None:
    network = Network().requires_grad_(False)
    quantise_frozen(network, "int8")
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    x = inputs().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(x).sum().backward()
    largest = 128 * 256 * 4
    assert not [tensor for tensor in kept if not is_quantised(tensor) and tensor.nbytes >= largest]
    assert x.grad is not None


def test_bf16_training_casts_what_is_not_quantised_but_norms() -> None:
    network, parameters = adapted("dora", quantised="int8", frozen_dtype=torch.bfloat16)
    assert network.memory.dtype == network.first.bias.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in network.norm.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}


def test_what_cannot_be_quantised_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no layer of this model can be quantised"):
        quantise_frozen(nn.Sequential(nn.Linear(3, 5)).requires_grad_(False), "nf4")
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ConfigError, match=r"pip install \"eisbach\[quant\]\""):
        quantise_frozen(Network().requires_grad_(False), "int8")
