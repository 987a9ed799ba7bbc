"""How large each sample's own gradient is, from one backward pass of the batch.

Samples do not meet in the network, so the gradient of the summed losses with respect to a layer's output holds each
sample's own, row by row. With it and the layer's input x the gradient of the layer's parameters for one sample is a sum
over its frames alone: ``Σ_t g_t x_tᵀ`` for a linear map (Goodfellow 2015, arXiv 1510.01799, whose trick of norms alone
fails once a sample has several frames). For DoRA's ``y = n ∘ (x Wᵀ + s (x Aᵀ) Bᵀ) + bias`` with ``n = m / ‖V‖`` (see
`eisbach.adapters.dora`; the norm is a constant to the gradient)::

    ∂L/∂B = n ∘ Σ_t g_t (s A x_t)ᵀ      ∂L/∂A = s Σ_t (Bᵀ (n ∘ g_t)) x_tᵀ      ∂L/∂m = Σ_t g_t ∘ (y_t - bias) / m

Where a parameter is none of these, a backward pass is made for each sample, which is exact for everything and costs as
many times more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eisbach.adapters.inject import has_adapter

_Gradients = Callable[[Tensor, Tensor, Tensor], list[Tensor]]
"""(input (B, T, in), output and its gradient (B, T, out)) -> each parameter's gradient by sample [(B, ...)]."""


@dataclass(frozen=True)
class _Call:
    """One forward pass of a layer, frames before channels."""

    layer: nn.Module
    x: Tensor
    y: Tensor
    version: int


class SampleGradients:
    """Norms of each sample's gradient over `parameters`.

    Parameters
    ----------
    module : nn.Module
        The network, with its adapter injected where it has one.
    parameters : iterable of torch.Tensor
        What trains.
    watch : bool
        False always takes a backward pass a sample: for networks that are compiled, whose layers cannot be watched.
    """

    def __init__(self, module: nn.Module, parameters: Iterable[Tensor], *, watch: bool = True) -> None:
        self._parameters = [value for value in parameters if value.requires_grad]
        self._calls: list[_Call] = []
        self._layers: dict[nn.Module, _Gradients] = {}
        if watch:
            wanted = {id(value) for value in self._parameters}
            layers, covered = _known_layers(module, wanted)
            self._layers = layers if covered >= wanted else {}

    @property
    def in_one_pass(self) -> bool:
        """Whether every parameter belongs to a layer that is understood."""
        return bool(self._layers)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keeps inputs and outputs of the layers in the forward pass that is made within."""
        self._calls.clear()
        handles = [layer.register_forward_hook(self._note) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            self._calls.append(_Call(layer, args[0].detach(), output, output._version))

    def norms(self, losses: Tensor) -> Tensor:
        """Each sample's norm [shape=(B,)]; the graph stays for the backward pass, and no parameter's gradient changes.

        Parameters
        ----------
        losses : torch.Tensor [shape=(B,)]
            Of the forward pass made within `watching`, one a sample.
        """
        calls, self._calls = self._calls, []
        apart = all(call.x.shape[0] == len(losses) and call.y._version == call.version for call in calls)
        if not calls or not apart:
            return _one_by_one(losses, self._parameters)
        gradients = torch.autograd.grad(losses.sum(), [call.y for call in calls], retain_graph=True, allow_unused=True)
        sums: dict[nn.Module, list[Tensor]] = {}
        with torch.no_grad(), torch.autocast(losses.device.type, enabled=False):
            for call, gradient in zip(calls, gradients, strict=True):
                if gradient is None:
                    continue
                x, y, grad = (_frames(call.layer, value) for value in (call.x, call.y.detach(), gradient))
                own = self._layers[call.layer](x, y, grad)
                known = sums.get(call.layer)  # a layer that is used twice has one gradient
                sums[call.layer] = own if known is None else [a + b for a, b in zip(known, own, strict=True)]
            squares = [value.flatten(1).square().sum(dim=1) for own in sums.values() for value in own]
            return torch.stack(squares).sum(dim=0).sqrt() if squares else torch.zeros_like(losses)


def _known_layers(module: nn.Module, wanted: set[int]) -> tuple[dict[nn.Module, _Gradients], set[int]]:
    """The layers that hold wanted parameters and are understood, and those parameters."""
    layers: dict[nn.Module, _Gradients] = {}
    covered: set[int] = set()
    if has_adapter(module):
        from eisbach.adapters.dora_layers import DoraConv1d, DoraLinear

        for layer in module.modules():
            if isinstance(layer, DoraLinear | DoraConv1d) and (name := layer.adapter()) is not None:
                parts = [getattr(layer, part)[name].weight for part in ("lora_A", "lora_B", "lora_magnitude_vector")]
                drops = isinstance(layer.lora_dropout[name], nn.Dropout) and layer.lora_dropout[name].p > 0
                if layer.norm_gradient == "detached" and not drops and _is_linear(layer.get_base_layer()):
                    layers[layer] = _dora_gradients(layer, name)
                    covered |= {id(part) for part in parts}
    for layer in module.modules():
        parts = [value for value in layer.parameters(recurse=False) if id(value) in wanted - covered]
        if parts and _is_linear(layer):
            layers[layer] = _linear_gradients(layer)
            covered |= {id(part) for part in parts}
    return layers, covered


def _is_linear(layer: nn.Module) -> bool:
    """True for a linear map of each frame's channels."""
    if type(layer) is nn.Linear:
        return True
    return type(layer) is nn.Conv1d and (layer.kernel_size, layer.stride, layer.groups, layer.padding) == (
        (1,), (1,), 1, (0,)
    )  # fmt: skip


def _frames(layer: Any, value: Tensor) -> Tensor:
    """(B, ..., channels) or a convolution's (B, channels, T) as (B, T, channels), at least fp32."""
    base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    value = value.transpose(1, 2) if isinstance(base, nn.Conv1d) else value
    value = value if value.dtype == torch.float64 else value.float()
    return value.reshape(len(value), -1, value.shape[-1])


def _outer(grad: Tensor, x: Tensor) -> Tensor:
    """Σ_t g_t x_tᵀ of each sample [shape=(B, out, in)]."""
    return torch.bmm(grad.mT, x)


def _linear_gradients(layer: Any) -> _Gradients:
    def gradients(x: Tensor, y: Tensor, grad: Tensor) -> list[Tensor]:
        own = [_outer(grad, x)] if layer.weight.requires_grad else []
        return [*own, grad.sum(dim=1)] if layer.bias is not None and layer.bias.requires_grad else own

    return gradients


def _dora_gradients(layer: Any, name: str) -> _Gradients:
    from eisbach.adapters.dora import row_norm

    def gradients(x: Tensor, y: Tensor, grad: Tensor) -> list[Tensor]:
        scaling = layer.scaling[name]
        weight, a, b = layer.matrices(name)
        magnitude = layer.lora_magnitude_vector[name].weight.flatten().to(x.dtype)
        scale = (magnitude / row_norm(weight, a, b, layer.measure(), scaling)).to(x.dtype)
        scaled_a, narrow_b = scaling * a.to(x.dtype), scale[:, None] * b.to(x.dtype)
        bias = layer.get_base_layer().bias
        along = (grad * (y if bias is None else y - bias.to(x.dtype))).sum(dim=1)
        by_m = (along / magnitude).masked_fill(magnitude == 0, 0.0)
        by_b = scale[:, None] * _outer(grad, x @ scaled_a.mT)
        return [scaling * _outer(grad @ narrow_b, x), by_b, by_m]

    return gradients


def _one_by_one(losses: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """A backward pass a sample."""
    norms = []
    for loss in losses:
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        norms.append(nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None]))
    return torch.stack(norms)
