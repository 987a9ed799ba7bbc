"""Classifier-free guidance (Ho & Salimans 2022): both branches of a step in one batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from eisbach.errors import UserError
from eisbach.types import Conditioning


def join(first: Conditioning, second: Conditioning) -> Conditioning:
    """The rows of `first` followed by the rows of `second`; both must have the same number of tokens and features."""
    for what, a, b in (
        ("tokens", first.tokens, second.tokens),
        ("global_embed", first.global_embed, second.global_embed),
    ):
        if a.shape[1:] != b.shape[1:]:
            raise UserError(
                f"conditioning and null conditioning differ in their {what}, {tuple(a.shape)} against "
                f"{tuple(b.shape)}; make the null conditioning from the conditioning it goes with."
            )
    mask = None
    if first.token_mask is not None or second.token_mask is not None:
        mask = torch.cat([_mask_of(first), _mask_of(second)])
    return Conditioning(
        torch.cat([first.tokens, second.tokens]), torch.cat([first.global_embed, second.global_embed]), mask
    )


def _mask_of(conditioning: Conditioning) -> Tensor:
    if conditioning.token_mask is not None:
        return conditioning.token_mask
    return torch.ones(conditioning.tokens.shape[:2], dtype=torch.bool, device=conditioning.tokens.device)


def guided(
    predict: Callable[[Tensor, Tensor, Conditioning], Tensor],
    conditioning: Conditioning,
    null_conditioning: Conditioning | None,
    guidance_scale: float,
) -> Callable[[Tensor, Tensor], Tensor]:
    """A function ``(x_t, t) -> output`` with ``output = null + guidance_scale * (conditional - null)``.

    The mix is the same in every target, because targets are affine in one another at fixed x_t.

    Parameters
    ----------
    predict : callable
        ``(x_t (B, C, T), t (B,), conditioning of B rows) -> output (B, C, T)``.
    conditioning : Conditioning
        B rows.
    null_conditioning : Conditioning or None
        B rows; may be None when guidance_scale is 1.
    guidance_scale : float
        1 is the conditional prediction alone and 0 the null prediction alone (each one evaluation of B rows);
        anything else evaluates 2B rows at once.

    Raises
    ------
    UserError
        A scale that is not finite, a null conditioning that is missing or does not match, or x_t with another number of
        rows.
    """
    if not math.isfinite(guidance_scale):
        raise UserError(f"guidance_scale must be a finite number; got {guidance_scale!r}.")

    def one_branch(branch: Conditioning) -> Callable[[Tensor, Tensor], Tensor]:
        def single(x_t: Tensor, t: Tensor) -> Tensor:
            _check_rows(x_t, branch)
            return predict(x_t, t, branch)

        return single

    if guidance_scale == 1:
        return one_branch(conditioning)
    if null_conditioning is None:
        raise UserError(f"guidance_scale {guidance_scale:g} needs a null conditioning; pass one, or use scale 1.")
    if len(null_conditioning) != len(conditioning):
        raise UserError(
            f"the null conditioning has {len(null_conditioning)} rows and the conditioning {len(conditioning)}; "
            "they must match."
        )
    if guidance_scale == 0:
        return one_branch(null_conditioning)
    both = join(conditioning, null_conditioning)

    def guided_predict(x_t: Tensor, t: Tensor) -> Tensor:
        _check_rows(x_t, conditioning)
        output = predict(torch.cat([x_t, x_t]), torch.cat([t, t]), both)
        conditional, null = output.chunk(2)
        return null + guidance_scale * (conditional - null)

    return guided_predict


def _check_rows(x_t: Tensor, conditioning: Conditioning) -> None:
    if x_t.shape[0] != len(conditioning):
        raise UserError(f"x_t has {x_t.shape[0]} rows and the conditioning {len(conditioning)}; they must match.")
