"""Recoverability weighting (Elucidated Representation Diffusion, Eqs. 11 and 110): effort where the input shows the
target.

``w_y = sqrt((c_x alpha)^2 + (c_eps sigma)^2)`` for a target ``y = c_x x0 + c_eps noise``. This rule is written for each
target directly, not through x0: the score depends on the parameterisation, on purpose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eisbach.diffusion.noise_levels import NoiseLevelDensity, get_density
from eisbach.diffusion.paths import Path
from eisbach.diffusion.targets import coefficients
from eisbach.errors import UserError
from eisbach.weighting.noise_level.base import NoiseWeight, inner_levels, positive

_TAIL_MASS, _MAX_RATIO = 0.05, 20.0
_NEVER = 1e-9  # a share of draws that no training meets


class ERD(NoiseWeight):
    """The recoverability score of the target: alpha for x0, sigma for eps, sqrt(alpha^2 + sigma^2) for u.

    For v Eq. 110 gives sqrt(2) alpha sigma, as here; the paper's Eq. 111 prints alpha sigma, the same up to its
    normalisation. The score assumes data of mean 0 and variance 1. It implies a different W for each target (alpha for
    x0, alpha^2 / sigma for eps, ...), so it is not one weight restated.

    **Normalised** (section 3.4: "to preserve the average loss scale"), the weights have mean 1 over the training
    density.

    **Corrected.** The rule is derived for noise levels drawn uniformly in log-SNR, where the allocation of effort
    M = w p is the weight itself (Remark E.2). For another density, p(lambda) = p(t) |dt/dlambda|, the allocation is the
    score again when the score is multiplied by ``r = p_uniform / p(lambda)``, with p_uniform the uniform density on a
    finite range of log-SNR: over all of it there is none. Outside the range r keeps its value at the edge, and r is
    capped at `max_ratio`, so that a rarely drawn noise level gets a bounded weight; there the allocation falls off with
    the density.

    Limits: the score is bounded at both ends on every path, and so are all weights here.

    Parameters
    ----------
    normalise : bool or None
        Divide by the mean weight over `density`. None, the default, does so when there is a density.
    density : NoiseLevelDensity, str or None
        What training draws t from. Without it the weight is the bare score.
    correct_density : bool, default False
        Multiply by r.
    log_snr_range : (low, high) or None
        The range on which the corrected allocation is the score, in nats of ln(alpha^2/sigma^2); where the density
        draws nothing it is cut. None takes the range that holds all draws but `tail_mass`.
    tail_mass : float in (0, 1), default 0.05
        Share of the density's draws outside the range, half on each side; read when `log_snr_range` is None. A wider
        range costs effective samples, as rare draws get large weights: on u of the linear path with a logit-normal
        density 0.71, 0.55 and 0.25 of the batch are left at 0.1, 0.05 and 0.01.
    max_ratio : float >= 1, default 20
        Largest r.

    Raises
    ------
    UserError
        An option out of its range, or one that needs a density or the correction and lacks it. In use: a density that
        shifts by length and no num_frames, one that has no density over t, or a range in which nothing is drawn.
    """

    name = "erd"

    def __init__(
        self,
        normalise: bool | None = None,
        density: NoiseLevelDensity | str | None = None,
        correct_density: bool = False,
        log_snr_range: tuple[float, float] | None = None,
        tail_mass: float = _TAIL_MASS,
        max_ratio: float = _MAX_RATIO,
    ) -> None:
        self.normalise = (density is not None) if normalise is None else normalise
        self.density = None if density is None else get_density(density)
        self.correct_density = correct_density
        self.log_snr_range = None if log_snr_range is None else _range(log_snr_range)
        self.tail_mass = positive("erd", "tail_mass", tail_mass)
        self.max_ratio = positive("erd", "max_ratio", max_ratio)
        if self.tail_mass >= 1 or self.max_ratio < 1:
            raise UserError(
                f"the erd weighting got tail_mass={tail_mass!r} and max_ratio={max_ratio!r}; it needs a tail_mass in "
                "(0, 1) and a max_ratio of at least 1."
            )
        for option in ("normalise", "correct_density"):
            value = getattr(self, option)
            if not isinstance(value, bool):
                raise UserError(f"the erd weighting's {option} must be true or false; got {value!r}.")
            if value and self.density is None:
                raise UserError(
                    f"the erd weighting with {option} needs the density that noise levels are drawn from; pass "
                    "density=get_density(...), or leave the option out for the bare score."
                )
        shaped = log_snr_range is not None or (self.tail_mass, self.max_ratio) != (_TAIL_MASS, _MAX_RATIO)
        if shaped and not correct_density:
            raise UserError(
                "the erd weighting's log_snr_range, tail_mass and max_ratio shape the correction for the density and "
                "do nothing without it; set correct_density=True, or leave them out."
            )
        self._by_length = self.density is not None and _reads_length(self.density)
        self._cache: dict[tuple[Path, str, int | None, torch.device], _Context] = {}

    def _weight(self, path: Path, target: str, t: Tensor, num_frames: int | None) -> Tensor:
        score = recoverability(path, target, t)
        if self.density is None or not (self.normalise or self.correct_density):
            return score
        context = self._context(path, target, num_frames, t)
        if self.correct_density:
            score = score * self._ratio(path, t, num_frames, context)
        return score / context.mean

    def _context(self, path: Path, target: str, num_frames: int | None, t: Tensor) -> _Context:
        """What depends on the density alone: made once for each path, target, length and device, then kept."""
        if torch.compiler.is_compiling():  # part of the graph, where a thousand quadrature points cost nothing
            return self._make_context(path, target, num_frames, t)
        key = (path, target, num_frames if self._by_length else None, t.device)
        if key not in self._cache:
            if len(self._cache) >= 4096:
                self._cache.clear()
            # Made on the CPU in float64; the one copy to the device is the only transfer.
            like = torch.zeros((), dtype=torch.float64)
            context = self._make_context(path, target, num_frames, like)
            if self.correct_density and not context.low < context.high:
                raise UserError(
                    f"the erd weighting's log_snr_range {self.log_snr_range} holds none of the noise levels that the "
                    f"density draws on the {path.name} path; widen it, or leave it out."
                )
            self._cache[key] = context.to(t)
        return self._cache[key]

    def _make_context(self, path: Path, target: str, num_frames: int | None, like: Tensor) -> _Context:
        density = self.density
        assert density is not None  # callers have looked
        # An explicit range is cut to what is drawn, so that its edges lie where the density is above 0.
        tail = _NEVER if self.log_snr_range is not None else self.tail_mass / 2
        ends = density.quantile(torch.tensor([tail, 1 - tail], dtype=like.dtype, device=like.device), num_frames)
        if self.log_snr_range is not None:
            stated = torch.tensor(self.log_snr_range[::-1], dtype=like.dtype, device=like.device)
            stated = path.t_from_log_snr(stated)
            ends = torch.stack([torch.maximum(ends[0], stated[0]), torch.minimum(ends[1], stated[1])])
        ends = inner_levels(ends)
        log_snr = path.log_snr(ends)
        context = _Context(ends[0], ends[1], -torch.log(log_snr[0] - log_snr[1]), torch.ones_like(like))
        if not self.normalise:
            return context
        q, share = (torch.as_tensor(x, dtype=like.dtype, device=like.device) for x in _RULE)
        t = inner_levels(density.quantile(q, num_frames))
        weight = recoverability(path, target, t)
        if self.correct_density:
            weight = weight * self._ratio(path, t, num_frames, context)
        return _Context(context.low, context.high, context.log_uniform, (weight * share).sum())

    def _ratio(self, path: Path, t: Tensor, num_frames: int | None, context: _Context) -> Tensor:
        """r = p_uniform / p(lambda) at t, or at the edge of the range where t is outside."""
        assert self.density is not None
        t = torch.minimum(torch.maximum(t, context.low), context.high)
        log_density = self.density.log_pdf(t, num_frames) - path.log_snr_slope(t).abs().log()
        return (context.log_uniform - log_density).clamp(max=math.log(self.max_ratio)).exp()


def recoverability(path: Path, target: str, t: Tensor) -> Tensor:
    """The score of Eq. 110, sqrt((c_x alpha)^2 + (c_eps sigma)^2), of t's shape."""
    c_x, c_eps = coefficients(path, target, t)
    return torch.hypot(c_x * path.alpha(t), c_eps * path.sigma(t))


@dataclass(frozen=True)
class _Context:
    """Ends of the range in t, ln of the uniform density on it (per nat of log-SNR), and the mean weight: 0-d
    tensors."""

    low: Tensor
    high: Tensor
    log_uniform: Tensor
    mean: Tensor

    def to(self, like: Tensor) -> _Context:
        return _Context(self.low.to(like), self.high.to(like), self.log_uniform.to(like), self.mean.to(like))


def _quadrature() -> tuple[Tensor, Tensor]:
    """Nodes and weights over quantiles in (0, 1): 8-point Gauss-Legendre on panels of 1/64, halved towards both ends.

    A density's quantile function is steep in its tails and smooth between; the panels follow that. What lies beyond
    2^-40 of each end is taken with the outermost panels.
    """
    with torch.device("cpu"):  # whatever default device is set where this is imported
        graded = 2.0 ** -torch.arange(40, 6, -1, dtype=torch.float64)
        inner = torch.arange(1, 64, dtype=torch.float64) / 64
        edges = torch.cat([torch.zeros_like(inner[:1]), graded, inner, 1 - graded, torch.ones_like(inner[:1])])
        edges = edges.unique()  # type: ignore[no-untyped-call]
        # Golub & Welsch (1969): the nodes are the eigenvalues of the Jacobi matrix of the Legendre polynomials.
        k = torch.arange(1, 8, dtype=torch.float64)
        beside = k / (4 * k * k - 1).sqrt()
        nodes, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    half = edges.diff()[:, None] / 2
    return (edges[:-1, None] + half * (1 + nodes)).flatten(), (half * 2 * vectors[0].square()).flatten()


_RULE = _quadrature()


def _range(value: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in value)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(
            f"the erd weighting's log_snr_range must be two finite numbers, the lower first, in nats of ln SNR; got "
            f"{value!r}."
        )
    return low, high


def _reads_length(density: NoiseLevelDensity) -> bool:
    try:
        density.quantile(torch.tensor([0.5], dtype=torch.float64))
    except UserError:  # it says that it needs num_frames
        return True
    return False
