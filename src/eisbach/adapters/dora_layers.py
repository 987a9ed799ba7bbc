"""peft's DoRA layers with another forward pass: same names, same files, same merging (see `eisbach.adapters.dora`).

Imports peft, so it is imported where it is used.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import layer as peft_layers
from torch import nn

from eisbach.adapters.dora import BaseNorms, NormGradient, dora_linear, measure_rows, row_norm


class _ClosedFormDora:
    """What the two kinds of layer share; peft's own forward remains for everything but one active, unmerged DoRA
    adapter.

    Dropout acts on the low-rank branch alone, as in LoRA. (peft's DoRA also sends dropped inputs through ``(n - 1) W``,
    with a second product of W's size; both have the same expectation, and are equal without dropout and in evaluation.)
    """

    norm_gradient: NormGradient = "detached"
    _norms: BaseNorms | None = None
    _measured: Any = None

    def prepare(self, adapter_name: str, norm_gradient: NormGradient) -> None:
        """Measures the frozen weight's row norms and sets the magnitudes to the norms as they are: nothing changes
        yet."""
        self.norm_gradient = norm_gradient
        magnitude = self.lora_magnitude_vector[adapter_name].weight  # type: ignore[attr-defined]
        norm = row_norm(*self._matrices(adapter_name), self._measure(), self.scaling[adapter_name])  # type: ignore[attr-defined]
        with torch.no_grad():
            magnitude.copy_(norm.view_as(magnitude))

    def _matrices(self, adapter_name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """W [shape=(out, in)], A [shape=(r, in)] and B [shape=(out, r)]; a convolution over one frame has a last axis
        of 1."""
        layer: Any = self
        weight, a, b = layer.base_layer.weight, layer.lora_A[adapter_name].weight, layer.lora_B[adapter_name].weight
        return (weight, a, b) if weight.dim() == 2 else (weight.flatten(1), a.flatten(1), b.flatten(1))

    def _measure(self) -> BaseNorms:
        """The frozen weight's norms, taken anew if it was replaced, moved or written to since; reads no values on the
        host."""
        weight = self.base_layer.weight  # type: ignore[attr-defined]
        key = (weight.data_ptr(), weight._version, weight.dtype, weight.device)
        if self._norms is None or self._measured != key:
            self._norms, self._measured = measure_rows(weight.flatten(1)), key
        return self._norms

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        # The norms follow the weight to another device or dtype. They are no buffer: data-parallel training would send
        # buffers from process to process at every step.
        result = super()._apply(*args, **kwargs)  # type: ignore[misc]
        if self._norms is not None:
            self._measure()
        return result

    def _adapter(self) -> str | None:
        """The one active DoRA adapter, or None where peft's own forward applies."""
        if self.disable_adapters or self.merged:  # type: ignore[attr-defined]
            return None
        active = [name for name in self.active_adapters if name in self.lora_A]  # type: ignore[attr-defined]
        if len(active) != 1 or not self.use_dora.get(active[0]) or self.lora_bias.get(active[0]):  # type: ignore[attr-defined]
            return None
        return active[0]

    def _dora(self, x: torch.Tensor, adapter_name: str) -> torch.Tensor:
        """The output [shape=(..., out)] for x [shape=(..., in)]."""
        norms = self._norms if torch.compiler.is_compiling() else self._measure()
        if norms is None:
            raise RuntimeError("the layer was not prepared before it was compiled")
        layer: Any = self
        dropout, magnitude = layer.lora_dropout[adapter_name], layer.lora_magnitude_vector[adapter_name].weight
        drops = isinstance(dropout, nn.Dropout) and dropout.training and dropout.p > 0
        weight, a, b = self._matrices(adapter_name)
        return dora_linear(
            x,
            weight,
            layer.base_layer.bias,
            a,
            b,
            magnitude if magnitude.dim() == 1 else magnitude.flatten(),
            norms,
            layer.scaling[adapter_name],
            dropped=dropout(x) if drops else None,
            norm_gradient=self.norm_gradient,
        )


class DoraLinear(_ClosedFormDora, peft_layers.Linear):
    """DoRA over `torch.nn.Linear`."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Output [shape=(..., out)] for x [shape=(..., in)]."""
        name = None if args or kwargs else self._adapter()
        return super().forward(x, *args, **kwargs) if name is None else self._dora(x, name)


class DoraConv1d(_ClosedFormDora, peft_layers.Conv1d):
    """DoRA over a `torch.nn.Conv1d` that looks at one frame at a time (a linear map of the channels).

    Wider kernels, which no Stable Audio 3 transformer has, keep peft's forward and its detached norm.
    """

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Output [shape=(B, out, T)] for x [shape=(B, in, T)]."""
        name = None if args or kwargs or not is_framewise(self.get_base_layer()) else self._adapter()
        if name is None:
            return super().forward(x, *args, **kwargs)
        return self._dora(x.transpose(-1, -2), name).transpose(-1, -2)


def is_framewise(layer: nn.Module) -> bool:
    """True for a Conv1d that is a linear map of each frame's channels."""
    return isinstance(layer, nn.Conv1d) and (layer.kernel_size, layer.stride, layer.groups) == ((1,), (1,), 1) and (
        layer.padding in ((0,), "valid", "same")
    )  # fmt: skip


def layer_classes() -> dict[type[nn.Module], type[nn.Module]]:
    """Which of peft's layers are replaced, by the type of the frozen layer."""
    return {nn.Linear: DoraLinear, nn.Conv1d: DoraConv1d}
