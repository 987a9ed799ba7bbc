"""The empirical neural tangent kernel of any network: ``Theta((x, t), (x', t')) = J(x, t) J(x', t')^T``.

J is the Jacobian of the network's output with respect to chosen parameters (Elucidated Representation Diffusion, Eqs. 2
and 14). Rows may come from different noise levels, which gives the joint kernel that couples them. Two methods, both
through torch.func: ``jacobian`` forms blocks of J and multiplies them; ``products`` pushes each column through vjp and
jvp and never holds a Jacobian, slower and lean. Networks that torch.func.vmap cannot batch are asked sample by sample.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from eisbach.errors import UserError
from eisbach.types import Conditioning

if TYPE_CHECKING:
    from eisbach.backbones.base import Backbone

_Outputs = Literal["full", "trace"]
_Method = Literal["jacobian", "products"]
_BUDGET = 2**26  # numbers in one block of Jacobian rows: 256 MiB in float32

Parameters = dict[str, Tensor]


def empirical_ntk(
    module: nn.Module,
    inputs: Sequence[Tensor],
    other: Sequence[Tensor] | None = None,
    *,
    parameters: str | Sequence[str] | None = None,
    outputs: _Outputs = "full",
    directions: Tensor | None = None,
    method: _Method = "jacobian",
    vectorise: bool = True,
    samples_at_once: int | None = None,
) -> Tensor:
    """The kernel between two sets of samples, detached, in the parameters' dtype.

    Parameters
    ----------
    module : nn.Module
        Called as ``module(*inputs)``; returns (K, ...), one output a sample. It is called in the mode (train or eval)
        that it is in; a network with dropout must be in eval mode.
    inputs : sequence of Tensor [each (K, ...)]
        For a diffusion network (x_t, t, ...); samples may have different t.
    other : sequence of Tensor [each (K', ...)] or None
        The second set; None takes the first again.
    parameters : str, sequence of str or None
        A regular expression that whole parameter names must match, or names; None takes all that have a gradient.
    outputs : {"full", "trace"}
        (K, O, K', O) for outputs of O numbers, or (K, K'): the sum over o of [., o, ., o].
    directions : Tensor [shape=(R, O)] or None
        Look at the R projections of the output instead of its O numbers. With random signs / sqrt(R) the trace is an
        unbiased estimate of the full trace, at R backward passes a sample.
    method : {"jacobian", "products"}
    vectorise : bool
        Batch samples with torch.func.vmap; False asks them one by one.
    samples_at_once : int or None
        Samples whose Jacobians are held together; None fits them into 256 MiB.

    Raises
    ------
    UserError
        Inputs that do not fit each other, or parameters that the network does not have.
    """
    if method not in ("jacobian", "products") or outputs not in ("full", "trace"):
        raise UserError(
            f"the NTK got method={method!r} and outputs={outputs!r}; methods are jacobian and products, outputs full "
            "and trace."
        )
    first, second = _checked(inputs), None if other is None else _checked(other)
    chosen = select_parameters(module, parameters)
    apply = _single(module, chosen, directions)
    rows = first if second is None else second
    with torch.no_grad():
        width = apply(chosen, *[value[0] for value in first]).numel()
    size = width * sum(value.numel() for value in chosen.values())
    step = max(1, _BUDGET // size) if samples_at_once is None else samples_at_once
    if step < 1:
        raise UserError(f"the NTK got samples_at_once={samples_at_once}; it must be 1 or more.")
    # Only the plain form of attention has both a batching rule and a forward derivative. Parameters that were not
    # chosen would otherwise be followed outside torch.func, and the kernel with them.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        if method == "products":
            return _by_products(apply, chosen, first, rows, outputs, vectorise, width)
        return _by_jacobians(apply, chosen, first, second, outputs, vectorise, width, step)


def _by_jacobians(
    apply: Callable[..., Tensor],
    chosen: Parameters,
    first: tuple[Tensor, ...],
    second: tuple[Tensor, ...] | None,
    outputs: _Outputs,
    vectorise: bool,
    width: int,
    step: int,
) -> Tensor:
    """Blocks of J J'^T; of a set with itself only one triangle is computed."""
    rows = first if second is None else second
    symmetric = second is None
    blocks, others = range(0, len(first[0]), step), range(0, len(rows[0]), step)
    kernel = next(iter(chosen.values())).new_zeros(
        (len(first[0]), len(rows[0])) if outputs == "trace" else (len(first[0]), width, len(rows[0]), width)
    )
    for i in blocks:
        left = _jacobian(apply, chosen, _rows(first, i, step), vectorise)
        for j in others:
            if symmetric and j < i:
                continue
            right = left if symmetric and i == j else _jacobian(apply, chosen, _rows(rows, j, step), vectorise)
            if outputs == "trace":
                # sum over outputs of J_o J'_o^T is one product of rows of length O P; (k, O, k', O) is never made.
                block = left.flatten(1) @ right.flatten(1).T
                kernel[i : i + step, j : j + step] = block
                if symmetric and j > i:
                    kernel[j : j + step, i : i + step] = block.T
            else:
                block = torch.einsum("iap,jbp->iajb", left, right)
                kernel[i : i + step, :, j : j + step] = block
                if symmetric and j > i:
                    kernel[j : j + step, :, i : i + step] = block.permute(2, 3, 0, 1)
    return kernel


def backbone_ntk(
    backbone: Backbone,
    x_t: Tensor,
    t: Tensor,
    conditioning: Conditioning,
    other: tuple[Tensor, Tensor, Conditioning] | None = None,
    **options: Any,
) -> Tensor:
    """`empirical_ntk` of a backbone: samples are (x_t, t, conditioning) rows, parameters those of `backbone.module`.

    Parameters
    ----------
    x_t : Tensor [shape=(K, C, T)]
    t : Tensor [shape=(K,)]
    conditioning : Conditioning
        One row a sample.
    other : (x_t, t, conditioning) or None
    options
        As in `empirical_ntk`; a regular expression for `parameters` sees the names of `backbone.module`.
    """
    wrapper = _Predictor(backbone)
    pattern = options.pop("parameters", None)
    if isinstance(pattern, str):
        pattern = rf"inner\.(?:{pattern})"
    elif pattern is not None:
        pattern = [f"inner.{name}" for name in pattern]
    second = None if other is None else _unpacked(*other)
    return empirical_ntk(wrapper, _unpacked(x_t, t, conditioning), second, parameters=pattern, **options)


class _Predictor(nn.Module):
    """A backbone's `predict` as a module over its own parameters."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.inner = backbone.module
        self._predict = backbone.predict

    def forward(self, x_t: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor, mask: Tensor | None = None) -> Tensor:
        """The backbone's output; functional_call has put the chosen parameters into `inner`."""
        return self._predict(x_t, t, Conditioning(tokens, pooled, mask))


def _unpacked(x_t: Tensor, t: Tensor, conditioning: Conditioning) -> tuple[Tensor, ...]:
    mask = conditioning.token_mask
    return (x_t, t, conditioning.tokens, conditioning.global_embed, *([] if mask is None else [mask]))


def select_parameters(module: nn.Module, parameters: str | Sequence[str] | None) -> Parameters:
    """The chosen parameters by name, detached; see `empirical_ntk`."""
    known = dict(module.named_parameters())
    if parameters is None:
        names = [name for name, value in known.items() if value.requires_grad]
    elif isinstance(parameters, str):
        try:
            names = [name for name in known if re.fullmatch(parameters, name)]
        except re.error as error:
            raise UserError(f"the pattern {parameters!r} is not a regular expression ({error}).") from error
    else:
        missing = [name for name in parameters if name not in known]
        if missing:
            raise UserError(f"the network has no parameter '{missing[0]}'; it has {_some(known)}.")
        names = list(parameters)
    if not names:
        raise UserError(f"no parameter of the network is chosen by {parameters!r}; it has {_some(known)}.")
    return {name: known[name].detach() for name in names}


def _some(known: dict[str, Any]) -> str:
    names = list(known)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _checked(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    counts = {len(value) for value in inputs if value.dim()}
    if not inputs or any(value.dim() == 0 for value in inputs) or len(counts) != 1 or 0 in counts:
        raise UserError("the NTK needs inputs with one row a sample, the same number in each and at least one.")
    return tuple(value.detach() for value in inputs)


def _rows(inputs: tuple[Tensor, ...], start: int, step: int) -> tuple[Tensor, ...]:
    return tuple(value[start : start + step] for value in inputs)


def _single(module: nn.Module, chosen: Parameters, directions: Tensor | None) -> Callable[..., Tensor]:
    """(parameters, one sample's inputs) -> its flat output."""

    def apply(values: Parameters, *sample: Tensor) -> Tensor:
        out = torch.func.functional_call(module, values, tuple(value[None] for value in sample))
        flat = out.reshape(-1)
        return flat if directions is None else directions.to(flat.dtype) @ flat

    return apply


def _jacobian(apply: Callable[..., Tensor], chosen: Parameters, sample: tuple[Tensor, ...], vectorise: bool) -> Tensor:
    """Rows of J, shape (k, O, P)."""
    if vectorise:
        jacobians = torch.func.vmap(torch.func.jacrev(apply), in_dims=(None, *[0] * len(sample)))(chosen, *sample)
        return torch.cat([value.reshape(*value.shape[:2], -1) for value in jacobians.values()], dim=2)
    rows = []
    for index in range(len(sample[0])):
        live = {name: value.clone().requires_grad_() for name, value in chosen.items()}
        with torch.enable_grad():
            out = apply(live, *[value[index] for value in sample])
            grads = [
                torch.autograd.grad(entry, list(live.values()), retain_graph=True, allow_unused=True) for entry in out
            ]
        rows.append(
            torch.stack(
                [
                    torch.cat(
                        [
                            torch.zeros_like(p).flatten() if g is None else g.flatten()
                            for g, p in zip(grad, live.values(), strict=True)
                        ]
                    )
                    for grad in grads
                ]
            ).detach()
        )
    return torch.stack(rows)


def _by_products(
    apply: Callable[..., Tensor],
    chosen: Parameters,
    first: tuple[Tensor, ...],
    second: tuple[Tensor, ...],
    outputs: _Outputs,
    vectorise: bool,
    width: int,
) -> Tensor:
    """Theta(x, x') e_o = jvp at x of (vjp at x' of e_o), column by column."""
    # No Jacobian (O, P) is ever held, only one gradient and one tangent: memory of the parameters, for K' O backward
    # and K K' O forward passes.
    like = next(iter(chosen.values()))
    basis = torch.eye(width, dtype=like.dtype, device=like.device)

    def columns(column: Tensor, *sample: Tensor) -> Tensor:
        """The kernel's column (K, O) for one output direction of one second sample."""
        pull = torch.func.vjp(lambda values: apply(values, *sample), chosen)[1]
        tangent = pull(column)[0]

        def push(*here: Tensor) -> Tensor:
            return torch.func.jvp(lambda values: apply(values, *here), (chosen,), (tangent,))[1]

        if vectorise:
            return torch.func.vmap(push)(*first)
        return torch.stack([push(*[value[i] for value in first]) for i in range(len(first[0]))])

    products = []
    for index in range(len(second[0])):
        sample = [value[index] for value in second]
        products.append(torch.stack([columns(column, *sample) for column in basis], dim=2))  # (K, O, O')
    kernel = torch.stack(products, dim=2)  # (K, O, K', O')
    return trace_over_outputs(kernel).detach() if outputs == "trace" else kernel.detach()


def trace_over_outputs(kernel: Tensor) -> Tensor:
    """(K, O, K', O) -> (K, K'); a kernel that is already (K, K') is returned as it is."""
    return kernel if kernel.dim() == 2 else torch.einsum("iaja->ij", kernel)


def eigenvalues(kernel: Tensor) -> Tensor:
    """Eigenvalues of a symmetric kernel over K samples, divided by K, descending, shape (K,) or (K O,), float64.

    Divided by K they estimate those of the kernel as an operator on L2 of the samples' law, so they can be compared
    between numbers of samples.
    """
    count = kernel.shape[0]
    flat = kernel.double().reshape(count if kernel.dim() == 2 else count * kernel.shape[1], -1)
    if flat.shape[0] != flat.shape[1]:
        raise UserError(f"only the kernel of a set with itself has eigenvalues; got {tuple(kernel.shape)}.")
    # Rounding leaves the two triangles unequal, and the solver would read one of them.
    return torch.linalg.eigvalsh((flat + flat.T) / 2).flip(0) / count


def effective_rank(values: Tensor) -> float:
    """exp of the Shannon entropy of the eigenvalues' shares (Roy & Vetterli 2007): 1 for one mode, n for n equal
    ones."""
    spectrum = values.double().clamp(min=0)
    total = spectrum.sum()
    if not float(total) > 0:
        return float("nan")
    share = spectrum / total
    return float((-torch.special.xlogy(share, share)).sum().exp())


def normalised_gram(kernel: Tensor) -> Tensor:
    """Cosines between the samples' gradients, shape (K, K): the trace kernel divided by the root of its diagonal
    twice."""
    traced = trace_over_outputs(kernel)
    norms = traced.diagonal().clamp(min=torch.finfo(traced.dtype).tiny).sqrt()
    return traced / norms[:, None] / norms
