"""DoRA's linear map without its weight: the row norms in closed form, and a backward pass that never holds W′.

DoRA (Liu et al. 2024, arXiv 2402.09353, Eq. 5, with one norm for each output row) replaces W by ``W′ = m V / ‖V‖_row`` with
``V = W + s B A`` and ``s = alpha / rank``. Formed as written, W′ costs several passes over a tensor as large as W at every
step, keeps more of them for the backward pass, and asks for a gradient of W's size. None is needed::

    y = n ∘ (x Wᵀ + s (x Aᵀ) Bᵀ) + bias,    n = m / ‖V‖_row
    ‖V‖²_row = ‖W‖²_row + 2 s rowsum((W Aᵀ) ∘ B) + s² rowsum((B (A Aᵀ)) ∘ B)

‖W‖² is a constant of the frozen layer. The backward pass keeps the input, the layer's own output (which the network mostly keeps
anyway) and tensors of the adapter's size.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

NormGradient = Literal["detached", "full"]
NORM_GRADIENTS: tuple[NormGradient, ...] = ("detached", "full")
"""Whether the row norm is a constant to the gradient (the DoRA paper, §4.3, and peft) or takes part in it (Stability's trainer)."""

_BLOCK_ELEMENTS = 2**22


@torch.no_grad()
def row_norm_squared(weight: torch.Tensor) -> torch.Tensor:
    """‖W‖²_row [shape=(out,), float32, or float64 for a float64 weight] of W [shape=(out, in)], summed in float64."""
    wide = torch.float32 if weight.device.type == "mps" else torch.float64
    rows = max(1, _BLOCK_ELEMENTS // max(1, weight.shape[1]))
    parts = [block.to(wide).square().sum(dim=1) for block in weight.detach().split(rows)]
    return torch.cat(parts).to(_norm_dtype(weight))


def _norm_dtype(weight: torch.Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _norms(
    weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, base: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(‖V‖²_row [shape=(out,)], P = s W Aᵀ + s² B A Aᵀ [shape=(out, r)]); 2 P is the derivative of ‖V‖² by B.

    A sum of large terms can cancel to less than nothing, so the square is held above what rounding leaves of ‖W‖².
    """
    cross = torch.mm(weight, a.to(weight.dtype).t()).to(base.dtype).mul_(scale)
    p = torch.addmm(cross, b, torch.mm(a, a.t()), alpha=scale * scale)
    squared = base + cross.add_(p).mul_(b).sum(dim=1)
    info = torch.finfo(base.dtype)
    return torch.maximum(squared, base * info.eps).clamp_min(info.tiny), p


@torch.no_grad()
def row_norm(
    weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, base_norm_squared: torch.Tensor, scale: float
) -> torch.Tensor:
    """‖W + s B A‖_row [shape=(out,)], not differentiable.

    Parameters
    ----------
    weight : torch.Tensor [shape=(out, in)]
    a, b : torch.Tensor [shape=(r, in)], [shape=(out, r)]
    base_norm_squared : torch.Tensor [shape=(out,)]
        `row_norm_squared(weight)`.
    scale : float
        s = alpha / rank.
    """
    dtype = base_norm_squared.dtype
    return _norms(weight, a.to(dtype), b.to(dtype), base_norm_squared, scale)[0].sqrt_()


def dora_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    magnitude: torch.Tensor,
    base_norm_squared: torch.Tensor,
    scale: float,
    *,
    dropped: torch.Tensor | None = None,
    norm_gradient: NormGradient = "detached",
) -> torch.Tensor:
    """DoRA's output [shape=(..., out)] in x's dtype; gradients go to x, a, b and magnitude, never to weight and bias.

    With b = 0 and magnitude = ‖W‖_row it is the frozen layer's own output, up to the rounding of the bias.

    Parameters
    ----------
    x : torch.Tensor [shape=(..., in)]
    weight, bias : torch.Tensor [shape=(out, in)], [shape=(out,)] or None
        Frozen, in any floating dtype: they are read in x's.
    a, b : torch.Tensor [shape=(r, in)], [shape=(out, r)]
    magnitude : torch.Tensor [shape=(out,)]
        m. A row whose magnitude is exactly 0 gives no output, and its magnitude gets no gradient.
    base_norm_squared : torch.Tensor [shape=(out,)]
        `row_norm_squared(weight)`. Norms and scales are computed in its dtype.
    scale : float
        s = alpha / rank.
    dropped : torch.Tensor [shape of x] or None
        What the low-rank branch sees in place of x: x after dropout.
    norm_gradient : "detached" or "full"
        "detached" treats ‖V‖ as a constant (the DoRA paper, §4.3); "full" is the gradient of the function itself. The output
        is the same.
    """
    device, dtype = x.device.type, x.dtype
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    branch = None if dropped is None else dropped.to(dtype)
    with torch.autocast(device, enabled=False):
        return _DoraLinear.apply(
            x.to(dtype), branch, weight, bias, a, b, magnitude, base_norm_squared, scale, norm_gradient == "full"
        )


class _DoraLinear(torch.autograd.Function):
    """`dora_linear` with every tensor in place; x and dropped are in the dtype of the product."""

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
        base: torch.Tensor,
        scale: float,
        full: bool,
    ) -> torch.Tensor:
        dtype, wide_a, wide_b = x.dtype, a.to(base.dtype), b.to(base.dtype)
        squared, p = _norms(weight, wide_a, wide_b, base, scale)
        row_scale = magnitude.to(base.dtype) / squared.sqrt()
        flat = x.reshape(-1, x.shape[-1])
        branch = flat if dropped is None else dropped.reshape(flat.shape)
        hidden = torch.mm(branch, a.to(dtype).t())
        product = torch.mm(flat, weight.to(dtype).t())
        product.mul_(
            row_scale
        )  # in row_scale's precision whatever the product's: a magnitude moves by less than bf16 resolves
        if bias is not None:
            product.add_(bias.to(dtype))
        y = product.addmm_(hidden, _scaled_b(wide_b, row_scale, scale, dtype).t()).view(*x.shape[:-1], -1)
        ctx.scale, ctx.full, ctx.has_dropped = scale, full, dropped is not None
        ctx.save_for_backward(
            x if dropped is None else dropped, y, hidden, weight, bias, a, b, magnitude, row_scale, squared, base,
            p if full else None,
        )  # fmt: skip
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        # A compiler traces the backward pass under the autocast of the forward pass, and every dtype here is chosen.
        with torch.autocast(grad.device.type, enabled=False):
            return _gradients(ctx, grad)


def _gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """The gradient of every argument of `_DoraLinear.apply`."""
    branch, y, hidden, weight, bias, a, b, magnitude, row_scale, squared, base, p = ctx.saved_tensors
    needs_x, needs_dropped, _, _, needs_a, needs_b, needs_m = ctx.needs_input_grad[:7]
    scale, dtype, wide = ctx.scale, branch.dtype, base.dtype
    shape, wide_a, wide_b = branch.shape, a.to(wide), b.to(wide)
    grad, y, branch = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (grad, y, branch))
    grad_x = grad_dropped = grad_a = grad_b = grad_m = None

    buffer = torch.empty_like(grad)
    through_norm = ctx.full and (needs_a or needs_b)
    if needs_m or through_norm:
        # Σ_tokens grad ∘ (y - bias) = row_scale times the gradient of row_scale
        along = torch.mul(grad, y, out=buffer).sum(dim=0, dtype=wide)
        if bias is not None:
            along = along - grad.sum(dim=0, dtype=wide) * bias.to(wide)
        wide_m = magnitude.to(wide)
        grad_m = torch.where(wide_m == 0, 0.0, along / wide_m).to(magnitude.dtype)
    grad_hidden = torch.mm(grad, _scaled_b(wide_b, row_scale, scale, dtype))
    if needs_x:
        grad_x = torch.mm(torch.mul(grad, row_scale, out=buffer), weight.to(dtype))
        if not ctx.has_dropped:
            grad_x.addmm_(grad_hidden, a.to(dtype))
        grad_x = grad_x.view(shape)
    if needs_dropped:
        grad_dropped = torch.mm(grad_hidden, a.to(dtype)).view(shape)
    if needs_b:
        grad_b = torch.mm(grad.t(), hidden).to(wide) * (row_scale * scale)[:, None]
    if needs_a:
        grad_a = torch.mm(grad_hidden.t(), branch).to(wide)
    if through_norm:
        # the gradient of ‖V‖²; none flows where the square is held above rounding
        by_square = torch.where(squared > base * torch.finfo(wide).eps, -0.5 * along / squared, 0.0)
        rows = by_square[:, None] * wide_b
        if grad_b is not None:
            grad_b = torch.addcmul(grad_b, by_square[:, None], p, value=2.0)
        if grad_a is not None:
            grad_a = grad_a.add_(torch.mm(rows.to(weight.dtype).t(), weight).to(wide), alpha=2.0 * scale)
            grad_a = grad_a.addmm_(torch.mm(rows.t(), wide_b), wide_a, alpha=2.0 * scale * scale)
    return (
        grad_x,
        grad_dropped,
        None,
        None,
        None if grad_a is None else grad_a.to(a.dtype),
        None if grad_b is None else grad_b.to(b.dtype),
        grad_m if needs_m else None,
        None,
        None,
        None,
    )


def _scaled_b(b: torch.Tensor, row_scale: torch.Tensor, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """s n ∘ B [shape=(out, r)]: what the low-rank activations are multiplied by."""
    return (b * (row_scale * scale)[:, None]).to(dtype)
