"""DoRA's linear map without its weight: the row norms in closed form, and a backward pass that never holds W′.

DoRA (Liu et al. 2024, arXiv 2402.09353, Eq. 5, with one norm for each output row) replaces W by ``W′ = m V / ‖V‖_row``
with ``V = W + s B A`` and ``s = alpha / rank``. Formed as written, W′ costs several passes over a tensor as large as W
at every step, keeps more of them for the backward pass, and asks for a gradient of W's size. None is needed::

    y = n ∘ (x Wᵀ + s (x Aᵀ) Bᵀ) + bias,    n = m / ‖V‖_row
    ‖V‖²_row = ‖W‖²_row + 2 s rowsum((W Aᵀ) ∘ B) + s² rowsum((B (A Aᵀ)) ∘ B)

‖W‖² is a constant of the frozen layer. The backward pass keeps the input, the layer's own output (which the network
mostly keeps anyway) and tensors of the adapter's size.

The work is in two stages. `make_rows` turns A, B and m of all layers of one shape into what their products read, in a
few operations for the whole stack; `multiply` is a layer's product. A step calls the first once a shape and the second
once a layer: on a GPU a small operation costs as much as a large one until the large ones are long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from eisbach.adapters.quantised import read_weight

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
    """The norms of the rows of W [shape=(out, in)], in any floating dtype, quantised ones of what they stand for; reads
    no values on the host."""
    weight = read_weight(weight.detach())
    wide = torch.float32 if weight.device.type == "mps" else torch.float64
    rows = max(1, _BLOCK_ELEMENTS // max(1, weight.shape[1]))
    squared = torch.cat([block.to(wide).square().sum(dim=1) for block in weight.split(rows)])
    squared = squared.to(torch.float64 if weight.dtype == torch.float64 else torch.float32)
    info = torch.finfo(squared.dtype)
    return BaseNorms(squared, (squared * info.eps).clamp_min(info.tiny))


class LayerRows(NamedTuple):
    """What a layer's product reads of its adapter (see `multiply`).

    Attributes
    ----------
    a : torch.Tensor [shape=(r, in)]
        s A, in the dtype of the product.
    b : torch.Tensor [shape=(out, r)]
        n ∘ B, in the dtype of the product.
    scale : torch.Tensor [shape=(out,), float32 or float64]
        n = m / ‖V‖. Rounded to bf16, 1.003 would be 1.
    """

    a: Tensor
    b: Tensor
    scale: Tensor


@dataclass(frozen=True, eq=False)
class Stack:
    """Layers of one shape, and what of them does not train.

    Attributes
    ----------
    weights : sequence of torch.Tensor [shape=(out, in)]
        Frozen, of one dtype.
    base : BaseNorms
        `measure_rows` of each, stacked: [shape=(layers, out)].
    alpha : float
        s = alpha / rank, the scale of the update.
    full : bool
        Whether the norm takes part in the gradient.
    on_backward : callable or None
        Called when the last gradient has passed.
    """

    weights: Sequence[Tensor]
    base: BaseNorms
    alpha: float
    full: bool
    on_backward: Callable[[], None] | None = None


def make_rows(
    stack: Stack, dtype: torch.dtype, a: Sequence[Tensor], b: Sequence[Tensor], magnitude: Sequence[Tensor]
) -> list[LayerRows]:
    """The rows of every layer of a stack, differentiable in a, b and magnitude through `multiply` alone.

    Parameters
    ----------
    dtype : dtype of the products
    a, b, magnitude : one a layer: torch.Tensor [shape=(r, in)], [shape=(out, r)], [shape=(out,)]
    """
    parts = cast(tuple[Tensor, ...], _Rows.apply(stack, dtype, *a, *b, *magnitude))
    count = len(a)
    return [LayerRows(parts[i], parts[count + i], parts[2 * count + i]) for i in range(count)]


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    """Products of a stack [(L, n, k) @ (L, k, m)]: one operation on a device; on the CPU one a layer, where a batched
    product of such shapes is slower and rounds otherwise than the layer's own."""
    if left.device.type != "cpu":
        return torch.bmm(left, right)
    return torch.stack([torch.mm(x, y) for x, y in zip(left, right, strict=True)])


def _squared_norms(stack: Stack, scaled_a: Tensor, narrow_a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(‖V‖²_row [shape=(L, out)], W Âᵀ and ½ B Â Âᵀ [shape=(L, out, r)]) for Â = s A, which comes wide and in the
    product's dtype.

    ‖V‖² = ‖W‖² + 2 rowsum(B ∘ (W Âᵀ + ½ B Â Âᵀ)). The factor 2 is not an ``alpha`` of the sum of the two products:
    torch 2.13's inductor turns ``add(x, mm(…), alpha=2)`` into an addmm without the 2.
    """
    dtype = stack.weights[0].dtype
    norm_a = narrow_a if dtype == narrow_a.dtype else scaled_a.to(dtype)
    # The frozen weights lie apart, and joining them would copy the model: one product a layer.
    cross = torch.stack([torch.mm(read_weight(w), row.t()) for w, row in zip(stack.weights, norm_a, strict=True)])
    half = _matmul(b, _matmul(scaled_a, scaled_a.mT).mul_(0.5))
    both = half + cross
    rank = b.shape[-1]
    squared = torch.baddbmm(
        stack.base.squared.reshape(-1, 1, 1), both.reshape(-1, 1, rank), b.reshape(-1, rank, 1), alpha=2.0
    ).view(stack.base.squared.shape)
    return torch.maximum(squared, stack.base.floor), cross, half


class _Rows(torch.autograd.Function):
    """`make_rows`: (stack, dtype, A of every layer, B of every layer, m of every layer) -> their rows in that order.

    What comes back from `multiply` for (a, b, scale) of a layer is what it has at hand, not quite their gradients: of
    `scale`, n ∂L/∂n, into which the part that goes through b is already counted. What is kept for the backward pass
    hangs on the context and not among the saved tensors: a checkpointed block saves the same whether its rows were
    made inside it or before.
    """

    @staticmethod
    def forward(ctx: Any, stack: Stack, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        count, wide = len(tensors) // 3, stack.base.squared.dtype
        a, b, magnitude = (torch.stack(tensors[i * count : (i + 1) * count]).to(wide) for i in range(3))
        a = _times(a, stack.alpha)
        narrow_a = a.to(dtype)
        squared, cross, half = _squared_norms(stack, a, narrow_a, b)
        scale = magnitude / squared.sqrt()
        narrow_b = (b * scale[..., None]).to(dtype)
        ctx.stack, ctx.kept = stack, (magnitude, scale, (squared, a, b, cross, half) if stack.full else None)
        ctx.set_materialize_grads(False)
        return (*narrow_a.unbind(), *narrow_b.unbind(), *scale.unbind())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        device = ctx.kept[0].device.type
        if not torch.compiler.is_compiling() and not torch.is_autocast_enabled(device):
            return _row_gradients(ctx, grads)
        # Every dtype here is chosen; a compiler traces this under the forward pass's autocast, without saying so.
        with torch.autocast(device, enabled=False):
            return _row_gradients(ctx, grads)


def _row_gradients(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """The gradients of every A, B and m, behind two arguments without one, from what `multiply` gave back."""
    stack: Stack = ctx.stack
    if stack.on_backward is not None:
        stack.on_backward()
    count = len(grads) // 3
    used = [i for i in range(count) if grads[i] is not None]  # a layer that took no part has no gradient
    result: list[Any] = [None] * (2 + 3 * count)
    if not used:
        return tuple(result)
    by_a, by_b, along = (_with_zeros(grads[part * count : (part + 1) * count]) for part in range(3))
    magnitude, scale, norm = ctx.kept
    grad_m = (along / magnitude).masked_fill_(magnitude == 0, 0.0)
    grad_b = by_b * scale[..., None]
    grad_a = by_a.to(scale.dtype)
    if norm is not None:
        grad_a, grad_b = _through_norm(stack, along, grad_a, grad_b, *norm)
    grad_a = _times(grad_a, stack.alpha)
    for i in used:
        result[2 + i], result[2 + count + i], result[2 + 2 * count + i] = grad_a[i], grad_b[i], grad_m[i]
    return tuple(result)


def _with_zeros(grads: Sequence[Tensor | None]) -> Tensor:
    """Gradients stacked, zeros in the places of those that are missing."""
    known = next(grad for grad in grads if grad is not None)
    return torch.stack([torch.zeros_like(known) if grad is None else grad for grad in grads])


def _through_norm(
    stack: Stack,
    along: Tensor,
    grad_a: Tensor,
    grad_b: Tensor,
    squared: Tensor,
    scaled_a: Tensor,
    b: Tensor,
    cross: Tensor,
    half: Tensor,
) -> tuple[Tensor, Tensor]:
    """The gradients of s A and B with the part added that goes through ‖V‖."""
    # twice the gradient of ‖V‖²; none flows where the square is held at its floor
    by_square = (along / squared).masked_fill_(squared <= stack.base.floor, 0.0).neg_()[..., None]
    grad_b = torch.addcmul(grad_b, by_square, 2.0 * half + cross)
    rows = by_square * b
    narrow = rows.to(stack.weights[0].dtype).mT
    grad_a = grad_a + torch.stack(
        [torch.mm(row, read_weight(weight)) for row, weight in zip(narrow, stack.weights, strict=True)]
    )
    square = _matmul(rows.mT, b)
    if grad_a.device.type != "cpu":
        return torch.baddbmm(grad_a, square, scaled_a), grad_b
    for target, left, right in zip(grad_a, square, scaled_a, strict=True):
        target.addmm_(left, right)
    return grad_a, grad_b


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
    scaled_a = (a.to(wide) * scale)[None]
    stack = Stack([weight], stack_norms([base]), scale, full=False)
    return _squared_norms(stack, scaled_a, scaled_a.to(weight.dtype), b.to(wide)[None])[0][0].sqrt_()


def stack_norms(norms: Sequence[BaseNorms]) -> BaseNorms:
    """The norms of several layers of one shape: [shape=(layers, out)]."""
    return BaseNorms(torch.stack([each.squared for each in norms]), torch.stack([each.floor for each in norms]))


def product_dtype(x: Tensor) -> torch.dtype:
    """What a product of x is computed in: autocast's dtype under autocast, else x's own."""
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(x.device.type):
        return x.dtype
    return torch.get_autocast_dtype(x.device.type)


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
    stack = Stack([weight], stack_norms([base]), scale, full=norm_gradient == "full")
    dtype = product_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        rows = make_rows(stack, dtype, [a], [b], [magnitude])[0]
    return multiply(x, weight, bias, rows, dropped=dropped)


def multiply(
    x: Tensor, weight: Tensor, bias: Tensor | None, rows: LayerRows, *, dropped: Tensor | None = None
) -> Tensor:
    """DoRA's output [shape=(..., out)] from rows that `make_rows` made for `product_dtype(x)`; the rest is as in
    `dora_linear`."""
    device, dtype = x.device.type, rows.a.dtype
    if not torch.is_autocast_enabled(device):
        return cast(Tensor, _Product.apply(x, dropped, weight, bias, *rows))
    branch = None if dropped is None else dropped.to(dtype)
    with torch.autocast(device, enabled=False):
        return cast(Tensor, _Product.apply(x.to(dtype), branch, weight, bias, *rows))


class _Product(torch.autograd.Function):
    """`multiply` with every argument in place; x and dropped are in the dtype of the product."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
    ) -> Tensor:
        dtype = x.dtype
        flat = x.reshape(-1, x.shape[-1])
        branch = flat if dropped is None else dropped.reshape(flat.shape)
        hidden = torch.mm(branch, a.t())
        product = torch.mm(flat, read_weight(weight, dtype).t())
        product.mul_(scale)
        if bias is not None:
            product.add_(bias.to(dtype))
        y = product.addmm_(hidden, b.t()).view(*x.shape[:-1], -1)
        ctx.has_dropped = dropped is not None
        ctx.save_for_backward(x if dropped is None else dropped, y, hidden, weight, bias, a, b, scale)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if not torch.compiler.is_compiling() and not torch.is_autocast_enabled(grad.device.type):
            return _gradients(ctx, grad)
        # Every dtype here is chosen; a compiler traces this under the forward pass's autocast, without saying so.
        with torch.autocast(grad.device.type, enabled=False):
            return _gradients(ctx, grad)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """What `_Product` gives back for its arguments; for a, b and scale what `_Rows` takes."""
    branch, y, hidden, weight, bias, a, b, scale = ctx.saved_tensors
    needs_x, needs_dropped, _, _, needs_rows = ctx.needs_input_grad[:5]
    dtype, shape = branch.dtype, branch.shape
    grad, y, branch = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (grad, y, branch))
    grad_x = grad_dropped = grad_a = grad_b = along = None

    buffer = torch.empty_like(grad)
    if needs_rows:
        # Σ_tokens grad ∘ (y - bias) = n times the gradient of n
        along = torch.mul(grad, y, out=buffer).sum(dim=0, dtype=scale.dtype)
        if bias is not None:
            along = along.addcmul_(grad.sum(dim=0, dtype=scale.dtype), bias.to(scale.dtype), value=-1.0)
    grad_hidden = torch.mm(grad, b)
    if needs_x:
        grad_x = torch.mm(torch.mul(grad, scale, out=buffer), read_weight(weight, dtype))
        if not ctx.has_dropped:
            grad_x.addmm_(grad_hidden, a)
        grad_x = grad_x.view(shape)
    if needs_dropped:
        grad_dropped = torch.mm(grad_hidden, a).view(shape)
    if needs_rows:
        grad_b = torch.mm(grad.t(), hidden)
        grad_a = torch.mm(grad_hidden.t(), branch)
    return grad_x, grad_dropped, None, None, grad_a, grad_b, along


def _times(tensor: Tensor, scale: float) -> Tensor:
    return tensor if scale == 1.0 else tensor * scale
