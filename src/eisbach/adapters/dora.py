"""DoRA's linear map without its weight: the row norms in closed form, and a backward pass that never holds W′.

DoRA (Liu et al. 2024, arXiv 2402.09353, Eq. 5, with one norm for each output row) replaces W by ``W′ = m V / ‖V‖_row``
with ``V = W + s B A`` and ``s = alpha / rank``. Formed as written, W′ costs several passes over a tensor as large as W
at every step, keeps more of them for the backward pass, and asks for a gradient of W's size. None is needed::

    y = n ∘ (x Wᵀ + s (x Aᵀ) Bᵀ) + bias,    n = m / ‖V‖_row
    ‖V‖²_row = ‖W‖²_row + 2 s rowsum((W Aᵀ) ∘ B) + s² rowsum((B (A Aᵀ)) ∘ B)

‖W‖² is a constant of the frozen layer. The backward pass keeps the input, the layer's own output (which the network
mostly keeps anyway) and tensors of the adapter's size.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch

NormGradient = Literal["detached", "full"]
NORM_GRADIENTS: tuple[NormGradient, ...] = ("detached", "full")
"""Whether the row norm is a constant to the gradient (the DoRA paper, §4.3, and peft) or takes part in it (Stability's
trainer)."""

_BLOCK_ELEMENTS = 2**22


class BaseNorms(NamedTuple):
    """What the closed form needs of a frozen weight, measured once.

    Attributes
    ----------
    squared : torch.Tensor [shape=(out,), float32, or float64 for a float64 weight]
        ‖W‖²_row, summed in float64. Norms and row scales are computed in its dtype.
    floor : torch.Tensor [shape=(out,)]
        The least ‖V‖² that is believed: the terms of the closed form may cancel, and rounding leaves about this much of
        ‖W‖².
    """

    squared: torch.Tensor
    floor: torch.Tensor


@torch.no_grad()
def measure_rows(weight: torch.Tensor) -> BaseNorms:
    """The norms of the rows of W [shape=(out, in)], in any floating dtype; reads no values on the host."""
    wide = torch.float32 if weight.device.type == "mps" else torch.float64
    rows = max(1, _BLOCK_ELEMENTS // max(1, weight.shape[1]))
    squared = torch.cat([block.to(wide).square().sum(dim=1) for block in weight.detach().split(rows)])
    squared = squared.to(torch.float64 if weight.dtype == torch.float64 else torch.float32)
    info = torch.finfo(squared.dtype)
    return BaseNorms(squared, (squared * info.eps).clamp_min(info.tiny))


def _norms(
    weight: torch.Tensor, scaled_a: torch.Tensor, narrow_a: torch.Tensor, b: torch.Tensor, base: BaseNorms
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(‖V‖²_row [shape=(out,)], W Âᵀ and ½ B Â Âᵀ [shape=(out, r)]) for Â = s A, which comes wide and in the weight's
    dtype.

    ‖V‖² = ‖W‖² + 2 rowsum(B ∘ (W Âᵀ + ½ B Â Âᵀ)). The factor 2 is not an ``alpha`` of the sum of the two products:
    torch 2.13's inductor turns ``add(x, mm(…), alpha=2)`` into an addmm without the 2.
    """
    cross = torch.mm(weight, narrow_a.t())
    half = torch.mm(b, torch.mm(scaled_a, scaled_a.t()).mul_(0.5))
    both = half + cross
    squared = torch.baddbmm(base.squared[:, None, None], both[:, None, :], b[:, :, None], alpha=2.0)[:, 0, 0]
    return torch.maximum(squared, base.floor), cross, half


@torch.no_grad()
def row_norm(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, base: BaseNorms, scale: float) -> torch.Tensor:
    """‖W + s B A‖_row [shape=(out,)], not differentiable.

    Parameters
    ----------
    weight : torch.Tensor [shape=(out, in)]
    a, b : torch.Tensor [shape=(r, in)], [shape=(out, r)]
    base : BaseNorms
        `measure_rows(weight)`.
    scale : float
        s = alpha / rank.
    """
    wide = base.squared.dtype
    scaled_a = a.to(wide) * scale
    return _norms(weight, scaled_a, scaled_a.to(weight.dtype), b.to(wide), base)[0].sqrt_()


def dora_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    magnitude: torch.Tensor,
    base: BaseNorms,
    scale: float,
    *,
    dropped: torch.Tensor | None = None,
    norm_gradient: NormGradient = "detached",
) -> torch.Tensor:
    """DoRA's output [shape=(..., out)] in x's dtype (autocast's, under autocast); gradients go to x, a, b and magnitude
    alone.

    With b = 0 and magnitude = ‖W‖_row it is the frozen layer's own output, up to the rounding of the bias.

    Parameters
    ----------
    x : torch.Tensor [shape=(..., in)]
    weight, bias : torch.Tensor [shape=(out, in)], [shape=(out,)] or None
        Frozen, in any floating dtype: they are read in x's.
    a, b : torch.Tensor [shape=(r, in)], [shape=(out, r)]
    magnitude : torch.Tensor [shape=(out,)]
        m. A row whose magnitude is exactly 0 gives no output, and its magnitude gets no gradient.
    base : BaseNorms
        `measure_rows(weight)`.
    scale : float
        s = alpha / rank.
    dropped : torch.Tensor [shape of x] or None
        What the low-rank branch sees in place of x: x after dropout.
    norm_gradient : "detached" or "full"
        "detached" treats ‖V‖ as a constant (the DoRA paper, §4.3); "full" is the gradient of the function itself. The
        output is the same.
    """
    full = norm_gradient == "full"
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return _DoraLinear.apply(x, dropped, weight, bias, a, b, magnitude, *base, scale, full)
    dtype = x.dtype if x.dtype == torch.float64 else torch.get_autocast_dtype(device)
    branch = None if dropped is None else dropped.to(dtype)
    with torch.autocast(device, enabled=False):
        return _DoraLinear.apply(x.to(dtype), branch, weight, bias, a, b, magnitude, *base, scale, full)


class _DoraLinear(torch.autograd.Function):
    """`dora_linear` with every argument in place; x and dropped are in the dtype of the product.

    Small operations are counted here: on a GPU each costs as much as a large one until the large ones are long.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: torch.Tensor,
        dropped: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        magnitude: torch.Tensor,
        squared: torch.Tensor,
        floor: torch.Tensor,
        scale: float,
        full: bool,
    ) -> torch.Tensor:
        dtype, wide = x.dtype, squared.dtype
        scaled_a, b = _times(a.to(wide), scale), b.to(wide)
        narrow_a = scaled_a.to(dtype)
        read = weight.to(dtype)
        norm_a = narrow_a if weight.dtype == dtype else scaled_a.to(weight.dtype)
        squared, cross, half = _norms(weight, scaled_a, norm_a, b, BaseNorms(squared, floor))
        row_scale = magnitude.to(wide) / squared.sqrt()
        flat = x.reshape(-1, x.shape[-1])
        branch = flat if dropped is None else dropped.reshape(flat.shape)
        hidden = torch.mm(branch, narrow_a.t())
        product = torch.mm(flat, read.t())
        product.mul_(row_scale)  # row_scale stays in fp32: rounded to bf16, 1.003 would be 1
        if bias is not None:
            product.add_(bias.to(dtype))
        scaled_b = (b * row_scale[:, None]).to(dtype)
        y = product.addmm_(hidden, scaled_b.t()).view(*x.shape[:-1], -1)
        ctx.scale, ctx.full, ctx.has_dropped = scale, full, dropped is not None
        ctx.save_for_backward(
            x if dropped is None else dropped, y, hidden, weight, bias, narrow_a, scaled_b, magnitude, row_scale,
            *((squared, floor, scaled_a, b, cross, half) if full else ()),
        )  # fmt: skip
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        if not torch.compiler.is_compiling() and not torch.is_autocast_enabled(grad.device.type):
            return _gradients(ctx, grad)
        # Every dtype here is chosen; a compiler traces this under the forward pass's autocast, without saying so.
        with torch.autocast(grad.device.type, enabled=False):
            return _gradients(ctx, grad)


def _gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """The gradient of every argument of `_DoraLinear.apply`; those of the adapter are in the dtype of the norms."""
    branch, y, hidden, weight, bias, narrow_a, scaled_b, magnitude, row_scale, *norm = ctx.saved_tensors
    needs_x, needs_dropped, _, _, needs_a, needs_b, needs_m = ctx.needs_input_grad[:7]
    dtype, wide, shape = branch.dtype, row_scale.dtype, branch.shape
    grad, y, branch = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (grad, y, branch))
    grad_x = grad_dropped = grad_a = grad_b = grad_m = None

    buffer = torch.empty_like(grad)
    through_norm = ctx.full and (needs_a or needs_b)
    if needs_m or through_norm:
        # Σ_tokens grad ∘ (y - bias) = row_scale times the gradient of row_scale
        along = torch.mul(grad, y, out=buffer).sum(dim=0, dtype=wide)
        if bias is not None:
            along = along.addcmul_(grad.sum(dim=0, dtype=wide), bias.to(wide), value=-1.0)
        grad_m = (along / magnitude).masked_fill_(magnitude == 0, 0.0)
    grad_hidden = torch.mm(grad, scaled_b)
    if needs_x:
        grad_x = torch.mm(torch.mul(grad, row_scale, out=buffer), weight.to(dtype))
        if not ctx.has_dropped:
            grad_x.addmm_(grad_hidden, narrow_a)
        grad_x = grad_x.view(shape)
    if needs_dropped:
        grad_dropped = torch.mm(grad_hidden, narrow_a).view(shape)
    if needs_b:
        grad_b = torch.mm(grad.t(), hidden) * row_scale[:, None]
    if needs_a:
        grad_a = torch.mm(grad_hidden.t(), branch).to(wide)
    if through_norm:
        squared, floor, scaled_a, b, cross, half = norm
        # twice the gradient of ‖V‖²; none flows where the square is held at its floor
        by_square = (along / squared).masked_fill_(squared <= floor, 0.0).neg_()[:, None]
        if grad_b is not None:
            grad_b = torch.addcmul(grad_b, by_square, 2.0 * half + cross)
        if grad_a is not None:
            rows = by_square * b
            grad_a.add_(torch.mm(rows.to(weight.dtype).t(), weight))
            grad_a.addmm_(torch.mm(rows.t(), b), scaled_a)
    if grad_a is not None:
        grad_a = _times(grad_a, ctx.scale)
    return grad_x, grad_dropped, None, None, grad_a, grad_b, grad_m if needs_m else None, None, None, None, None


def _times(tensor: torch.Tensor, scale: float) -> torch.Tensor:
    return tensor if scale == 1.0 else tensor * scale
