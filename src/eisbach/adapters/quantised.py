"""Frozen weights in few bits through torchao (`pip install "eisbach[quant]"`): int8, fp8 or nf4, read back where they
are multiplied.

Nothing is computed in few bits: a layer's weight is dequantised for its product and let go (QLoRA, Dettmers et al.
2023, arXiv 2305.14314), so what changes is the weight by its rounding, and what is saved is its memory. The gradient
flows to the layer's input as from any frozen weight.
"""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from eisbach.errors import ConfigError

QuantisedFormat = Literal["int8", "fp8", "nf4"]
QUANTISED: tuple[QuantisedFormat, ...] = ("int8", "fp8", "nf4")
"""Bits a weight: 8, with one scale a row; 8, floating (e4m3), with one scale a row; 4, in the quantiles of a normal
distribution, with one scale for 64 weights."""

_NF4_BLOCK, _NF4_SCALES = 64, 256  # weights a scale, and at most so many scales that are quantised together
_LEAST = 1e-12  # a row of zeros has the scale of this, where its own would divide zero by zero


def is_quantised(weight: Tensor) -> bool:
    """Whether a weight is one of torchao's tensors."""
    return type(weight) not in (Tensor, nn.Parameter) and hasattr(type(weight), "dequantize") and (
        type(weight).__module__.partition(".")[0] == "torchao"
    )  # fmt: skip


def read_weight(weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A frozen weight as a plain tensor in `dtype` (its own unless given); what is quantised is dequantised.

    A plain weight in that dtype is returned as it is.
    """
    if is_quantised(weight):
        tensor: Any = weight
        if hasattr(tensor, "get_original_weight"):  # nf4, whose `dequantize` is a table's look-up
            plain = cast(Tensor, tensor.get_original_weight())
        else:
            plain = cast(Tensor, tensor.dequantize())
        weight = plain
    return weight if dtype is None or weight.dtype == dtype else weight.to(dtype)


class _FrozenProduct(torch.autograd.Function):
    """x Wᵀ + bias with a quantised W, which alone is kept for the backward pass; only x gets a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(weight)
        return nn.functional.linear(x, read_weight(weight, x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            return grad @ read_weight(weight, grad.dtype), None, None


class QuantisedLinear(nn.Linear):
    """`torch.nn.Linear` over a frozen weight in few bits; bias as it was."""

    def forward(self, x: Tensor) -> Tensor:
        """Output [shape=(..., out)] for x [shape=(..., in)], in autocast's dtype under autocast, else in x's."""
        device = x.device.type
        if not torch.is_autocast_enabled(device):
            return cast(Tensor, _FrozenProduct.apply(x, self.weight, self.bias))
        x = x if x.dtype == torch.float64 else x.to(torch.get_autocast_dtype(device))
        with torch.autocast(device, enabled=False):
            return cast(Tensor, _FrozenProduct.apply(x, self.weight, self.bias))


def _check_torchao(form: str) -> None:
    """Refuses a quantised format where torchao is missing.

    Raises
    ------
    ConfigError
        Says what to install.
    """
    try:
        import torchao  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f'frozen is {form}, which needs torchao: pip install "eisbach[quant]"; or set frozen to bf16.'
        ) from error


@torch.no_grad()
def quantise_frozen(module: nn.Module, form: QuantisedFormat) -> int:
    """Quantises the weights of frozen linear layers in place and returns how many.

    Layers whose weight does not fill nf4's blocks, and convolutions, stay as they are.

    Parameters
    ----------
    module : torch.nn.Module
        With its adapter in place: adapted layers' frozen weights are quantised too.
    form : "int8", "fp8" or "nf4"

    Raises
    ------
    ConfigError
        torchao is not installed, or no layer can be quantised.
    """
    _check_torchao(form)
    count = 0
    for layer in module.modules():
        if type(layer) is nn.Linear and not layer.weight.requires_grad and _fits(layer.weight, form):
            layer.weight = nn.Parameter(quantise(layer.weight.detach(), form), requires_grad=False)
            layer.__class__ = QuantisedLinear
            count += 1
    if count == 0:
        raise ConfigError(f"frozen is {form}, and no layer of this model can be quantised; set frozen to bf16 or auto.")
    return count


def _fits(weight: Tensor, form: QuantisedFormat) -> bool:
    return form != "nf4" or weight.numel() % _NF4_BLOCK == 0


def quantise(weight: Tensor, form: QuantisedFormat) -> Tensor:
    """A weight [shape=(out, in)] as torchao's tensor of that format; for nf4 its elements must fill blocks of 64."""
    from torchao.quantization import Float8Tensor, Int8Tensor, PerRow

    if form == "int8":
        return cast(Tensor, Int8Tensor.from_hp(weight.contiguous(), granularity=PerRow()))
    if form == "fp8":
        return cast(Tensor, Float8Tensor.from_hp(weight.contiguous(), granularity=PerRow(), hp_value_lb=_LEAST))
    from torchao.quantization.quantize_.workflows import to_nf4

    together = math.gcd(weight.numel() // _NF4_BLOCK, _NF4_SCALES)
    return cast(Tensor, to_nf4(weight.contiguous(), _NF4_BLOCK, together))
