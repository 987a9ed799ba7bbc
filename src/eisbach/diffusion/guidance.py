"""Classifier-free guidance (Ho & Salimans 2022): both branches of a step in one batch, at all noise levels or at some.

**Intervals.** Kynkäänniemi et al. (2024, arXiv 2404.07724) guide only between two noise levels, given as EDM's sigma:
outside, the conditional prediction stands alone. Here an interval is in t, as in ERD's Table 9 ([0, 0.8]: t = 1 is
noise, so guidance is off for the noisiest fifth of t); `interval_from_sigma` converts theirs.

**Projection.** Adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416) splits the step that guidance takes,
D_c - D_u between the data estimates with and without caption, into a part along D_c, which mostly makes the clip
louder and saturates it, and a part across it, which changes what it is. `Projection.strength` is how much of the part
along is left out: 0 is plain guidance, 1 (Stability's default for Stable Audio 3, its `apg_scale`) leaves all of it
out. As there, a clip is one vector over channels and frames; the paper's momentum and norm threshold are not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eisbach.diffusion.paths import Path, get_path
from eisbach.diffusion.targets import to_x0
from eisbach.errors import UserError
from eisbach.types import Conditioning


@dataclass(frozen=True)
class Projection:
    """Adaptive projected guidance for a model of this path and target (see the module's docstring).

    Attributes
    ----------
    strength : float in [0, 1]
    path, target : of the model that is guided
    """

    strength: float
    path: Path
    target: str

    def across(self, difference: Tensor, conditional: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """`difference` (B, C, T) of two outputs without `strength` times its part along the data estimate.

        At fixed x_t an output is a multiple of the data estimate plus what both branches share, so the difference of
        outputs lies along that of the estimates and is projected where it is, without dividing by a noise level.
        """
        wide = torch.float32 if x_t.device.type == "mps" else torch.float64
        along = to_x0(self.path, self.target, conditional, x_t, t).to(wide).flatten(1)
        step = difference.to(wide).flatten(1)
        squared = along.square().sum(dim=1, keepdim=True).clamp_min(torch.finfo(wide).tiny)
        parallel = (step * along).sum(dim=1, keepdim=True) / squared * along
        return (step - self.strength * parallel).to(difference.dtype).view_as(difference)


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
    interval: tuple[float, float] | None = None,
    projection: Projection | None = None,
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
    interval : (low, high) within [0, 1], or None
        Guide only where low <= t <= high; elsewhere the output is the conditional prediction, one evaluation of B rows
        where that holds for the whole batch. None guides everywhere.
    projection : Projection or None
        Leaves out what only makes the output larger: ``output = conditional + (guidance_scale - 1) * across``.

    Raises
    ------
    UserError
        A strength of the projection outside [0, 1], a scale that is not finite, an interval that is not one, a null
        conditioning that is missing or does not match, or x_t with another number of rows.
    """
    interval = None if interval is None else _check_interval(interval)
    if projection is not None and not 0 <= projection.strength <= 1:
        raise UserError(f"a projection's strength lies within 0 and 1; got {projection.strength!r}.")
    if projection is not None and projection.strength == 0:
        projection = None
    both = _both(conditioning, null_conditioning, guidance_scale)
    if both is None or (guidance_scale == 0 and interval is None and projection is None):
        branch = conditioning if both is None or null_conditioning is None else null_conditioning

        def single(x_t: Tensor, t: Tensor) -> Tensor:
            _check_rows(x_t, branch)
            return predict(x_t, t, branch)

        return single

    def guided_predict(x_t: Tensor, t: Tensor) -> Tensor:
        _check_rows(x_t, conditioning)
        inside = None if interval is None else (t >= interval[0]) & (t <= interval[1])
        if inside is not None and not bool(inside.any()):
            return predict(x_t, t, conditioning)
        output = predict(torch.cat([x_t, x_t]), torch.cat([t, t]), both)
        conditional, null = output.chunk(2)
        if projection is None:
            mixed = null + guidance_scale * (conditional - null)
        else:
            mixed = conditional + (guidance_scale - 1) * projection.across(conditional - null, conditional, x_t, t)
        if inside is None:
            return mixed
        return torch.where(inside.view(-1, *[1] * (mixed.dim() - 1)), mixed, conditional)

    return guided_predict


def _both(conditioning: Conditioning, null: Conditioning | None, guidance_scale: float) -> Conditioning | None:
    """The rows of both branches; None at scale 1, which needs the conditional one alone."""
    if not math.isfinite(guidance_scale):
        raise UserError(f"guidance_scale must be a finite number; got {guidance_scale!r}.")
    if guidance_scale == 1:
        return None
    if null is None:
        raise UserError(f"guidance_scale {guidance_scale:g} needs a null conditioning; pass one, or use scale 1.")
    if len(null) != len(conditioning):
        raise UserError(
            f"the null conditioning has {len(null)} rows and the conditioning {len(conditioning)}; they must match."
        )
    return join(conditioning, null)


def interval_from_sigma(path: Path | str, sigma_low: float, sigma_high: float) -> tuple[float, float]:
    """The interval in t of an interval in EDM's sigma, the noise beside undiminished data (sigma / alpha on any path).

    Kynkäänniemi et al. guide EDM2 on ImageNet-512 within (0.19, 1.61]. Both ends are cut to what the path has.

    Raises
    ------
    UserError
        Not 0 <= sigma_low < sigma_high.
    """
    if not 0 <= sigma_low < sigma_high:
        raise UserError(f"an interval of sigma must rise from at least 0; got {sigma_low!r} to {sigma_high!r}.")
    ends = torch.tensor([sigma_low, sigma_high], dtype=torch.float64)
    low, high = get_path(path).t_from_log_snr(-2 * ends.log()).clamp(0, 1).tolist()
    return (0.0 if sigma_low == 0 else low), (1.0 if math.isinf(sigma_high) else high)


def _check_interval(interval: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in interval)
    except (TypeError, ValueError):
        low = high = math.nan
    if not 0 <= low < high <= 1:
        raise UserError(
            f"a guidance interval is two noise levels t with 0 <= low < high <= 1 (t = 1 is noise); got {interval!r}."
        )
    return low, high


def _check_rows(x_t: Tensor, conditioning: Conditioning) -> None:
    if x_t.shape[0] != len(conditioning):
        raise UserError(f"x_t has {x_t.shape[0]} rows and the conditioning {len(conditioning)}; they must match.")
