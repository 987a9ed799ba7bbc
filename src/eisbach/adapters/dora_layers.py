"""peft's DoRA layers with another forward pass: same names, same files, same merging (see `eisbach.adapters.dora`).

Imports peft, so it is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from peft.tuners.lora import layer as peft_layers
from torch import nn

from eisbach.adapters.dora import (
    BaseNorms,
    LayerRows,
    NormGradient,
    Stack,
    dora_linear,
    make_rows,
    measure_rows,
    multiply,
    product_dtype,
    row_norm,
    stack_norms,
)


class _Shared:
    """A layer's rows as its network made them for a forward pass, and which one; a copy of the layer starts without."""

    rows: LayerRows | None = None
    forward: object = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return _Shared()


class _ClosedFormDora:
    """What the two kinds of layer share; peft's own forward remains for everything but one active, unmerged DoRA
    adapter.

    Dropout acts on the low-rank branch alone, as in LoRA. (peft's DoRA also sends dropped inputs through ``(n - 1) W``,
    with a second product of W's size; both have the same expectation, and are equal without dropout and in evaluation.)
    """

    norm_gradient: NormGradient = "detached"
    _norms: BaseNorms | None = None
    _measured: Any = None
    shared: _Shared

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shared = _Shared()

    def prepare(self, adapter_name: str, norm_gradient: NormGradient) -> None:
        """Measures the frozen weight's row norms and sets the magnitudes to the norms as they are: nothing changes
        yet."""
        self.norm_gradient = norm_gradient
        magnitude = self.lora_magnitude_vector[adapter_name].weight  # type: ignore[attr-defined]
        norm = row_norm(*self.matrices(adapter_name), self.measure(), self.scaling[adapter_name])  # type: ignore[attr-defined]
        with torch.no_grad():
            magnitude.copy_(norm.view_as(magnitude))

    def matrices(self, adapter_name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """W [shape=(out, in)], A [shape=(r, in)] and B [shape=(out, r)]; a convolution over one frame has a last axis
        of 1."""
        layer: Any = self
        weight, a, b = layer.base_layer.weight, layer.lora_A[adapter_name].weight, layer.lora_B[adapter_name].weight
        return (weight, a, b) if weight.dim() == 2 else (weight.flatten(1), a.flatten(1), b.flatten(1))

    def measure(self) -> BaseNorms:
        """The frozen weight's norms, taken anew if it was replaced, moved or written to since; reads no values on the
        host."""
        weight = self.base_layer.weight  # type: ignore[attr-defined]
        key = (_address(weight), weight._version, weight.dtype, weight.device)
        if self._norms is None or self._measured != key:
            self._norms, self._measured = measure_rows(weight if weight.dim() == 2 else weight.flatten(1)), key
        return self._norms

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        # The norms follow the weight to another device or dtype. They are no buffer: data-parallel training would send
        # buffers from process to process at every step.
        result = super()._apply(*args, **kwargs)  # type: ignore[misc]
        if self._norms is not None:
            self.measure()
        return result

    def adapter(self) -> str | None:
        """The one active DoRA adapter, or None where peft's own forward applies."""
        if self.disable_adapters or self.merged:  # type: ignore[attr-defined]
            return None
        active = [name for name in self.active_adapters if name in self.lora_A]  # type: ignore[attr-defined]
        if len(active) != 1 or not self.use_dora.get(active[0]) or self.lora_bias.get(active[0]):  # type: ignore[attr-defined]
            return None
        return active[0]

    def _dora(self, x: torch.Tensor, adapter_name: str) -> torch.Tensor:
        """The output [shape=(..., out)] for x [shape=(..., in)]."""
        layer: Any = self
        dropout, magnitude = layer.lora_dropout[adapter_name], layer.lora_magnitude_vector[adapter_name].weight
        drops = isinstance(dropout, nn.Dropout) and dropout.training and dropout.p > 0
        dropped = dropout(x) if drops else None
        weight, a, b = self.matrices(adapter_name)
        rows = self.shared.rows
        if rows is not None and rows.a.dtype == product_dtype(x):
            return multiply(x, weight, layer.base_layer.bias, rows, dropped=dropped)
        norms = self._norms if torch.compiler.is_compiling() else self.measure()
        if norms is None:
            raise RuntimeError("the layer was not prepared before it was compiled")
        return dora_linear(
            x,
            weight,
            layer.base_layer.bias,
            a,
            b,
            magnitude if magnitude.dim() == 1 else magnitude.flatten(),
            norms,
            layer.scaling[adapter_name],
            dropped=dropped,
            norm_gradient=self.norm_gradient,
        )


def _address(weight: torch.Tensor) -> int:
    """Where a weight lies; 0 for tensors without storage."""
    try:
        return weight.data_ptr()
    except RuntimeError:
        return 0


class DoraLinear(_ClosedFormDora, peft_layers.Linear):
    """DoRA over `torch.nn.Linear`."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Output [shape=(..., out)] for x [shape=(..., in)]."""
        name = None if args or kwargs else self.adapter()
        return super().forward(x, *args, **kwargs) if name is None else self._dora(x, name)


class DoraConv1d(_ClosedFormDora, peft_layers.Conv1d):
    """DoRA over a `torch.nn.Conv1d` that looks at one frame at a time (a linear map of the channels).

    Wider kernels, which no Stable Audio 3 transformer has, keep peft's forward and its detached norm.
    """

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Output [shape=(B, out, T)] for x [shape=(B, in, T)]."""
        name = None if args or kwargs or not is_framewise(self.get_base_layer()) else self.adapter()
        if name is None:
            return super().forward(x, *args, **kwargs)
        return self._dora(x.transpose(-1, -2), name).transpose(-1, -2)


def is_framewise(layer: nn.Module) -> bool:
    """True for a Conv1d that is a linear map of each frame's channels."""
    return isinstance(layer, nn.Conv1d) and (layer.kernel_size, layer.stride, layer.groups) == ((1,), (1,), 1) and (
        layer.padding in ((0,), "valid", "same")
    )  # fmt: skip


class StepRows:
    """Makes the rows of all DoRA layers of a network before each of its forward passes, a stack of layers of one shape
    at a time: a few operations a shape instead of as many a layer.

    A checkpointed block that is computed again in the backward pass reads the same rows; they are let go when the
    gradients have passed through them, or after a forward pass without gradient. A layer that finds none makes its own:
    called outside its network's forward pass, in a network that is compiled whole, or in a second forward pass before
    the backward pass of the first.
    """

    def __init__(self, layers: Iterable[_ClosedFormDora]) -> None:
        self._layers: list[Any] = list(layers)
        self._stacked: dict[Any, tuple[list[BaseNorms], BaseNorms]] = {}

    def attach(self, module: nn.Module) -> list[Any]:
        """Watches the forward passes of `module`; returns the handles that end it."""
        return [
            module.register_forward_pre_hook(self._before),
            module.register_forward_hook(self._after, always_call=True),
        ]

    def _before(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling():
            return
        pending = any(layer.shared.rows is not None for layer in self._layers)
        for layer in self._layers:
            layer.shared.rows = None
        if pending:  # of a pass without a backward pass so far, which may be what computes this one again
            return
        groups: dict[Any, list[Any]] = {}
        for layer in self._layers:
            name = layer.adapter()
            if name is not None:
                weight, a, _ = layer.matrices(name)
                key = (name, weight.shape, weight.dtype, weight.device, type(weight), a.shape, a.dtype)
                groups.setdefault((*key, layer.scaling[name], layer.norm_gradient), []).append(layer)
        for key, members in groups.items():
            self._share(key, members)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            for layer in self._layers:
                layer.shared.rows = None

    def _share(self, key: Any, layers: list[Any]) -> None:
        """Gives layers of one shape their rows for the coming forward pass."""
        name = key[0]
        weights, a, b = zip(*(layer.matrices(name) for layer in layers), strict=True)
        magnitude = [layer.lora_magnitude_vector[name].weight.flatten() for layer in layers]
        device = weights[0].device.type
        mixed = torch.is_autocast_enabled(device) and weights[0].dtype != torch.float64
        dtype = torch.get_autocast_dtype(device) if mixed else weights[0].dtype
        this = object()

        def release() -> None:  # holds no rows: they lead to the graph that holds this function
            for layer in layers:
                if layer.shared.forward is this:
                    layer.shared.rows = None

        full = layers[0].norm_gradient == "full"
        stack = Stack(weights, self._norms(key, layers), layers[0].scaling[name], full, release)
        with torch.autocast(device, enabled=False):
            made = make_rows(stack, dtype, a, b, magnitude)
        for layer, rows in zip(layers, made, strict=True):
            layer.shared.rows, layer.shared.forward = rows, this

    def _norms(self, key: Any, layers: list[Any]) -> BaseNorms:
        """The layers' norms in one stack, made anew when one of them was."""
        norms = [layer.measure() for layer in layers]
        known = self._stacked.get(key)
        if known is None or [id(norm) for norm in norms] != [id(norm) for norm in known[0]]:
            known = self._stacked[key] = norms, stack_norms(norms)
        return known[1]


def layer_classes() -> dict[type[nn.Module], type[nn.Module]]:
    """Which of peft's layers are replaced, by the type of the frozen layer."""
    return {nn.Linear: DoraLinear, nn.Conv1d: DoraConv1d}
