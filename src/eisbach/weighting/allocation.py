"""Where training effort goes over noise levels: weight times density, as a table over log-SNR.

A step draws t from a density p and multiplies the loss by a weight w. What decides is their product,
``M(lambda) = w(lambda) p(t) |dt / dlambda|`` with lambda = ln SNR: two recipes with equal M train the same, whichever
way they share it between drawing often and weighting much (only the gradient's variance differs). `allocation` gives M
normalised, with the numbers that say what a weighting does to training: the mean weight (how the loss scale changes),
the shares of effort in bands of t, and the effective share of samples.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eisbach.diffusion.noise_levels import NoiseLevelDensity, get_density
from eisbach.diffusion.paths import Path, get_path
from eisbach.diffusion.targets import check_target
from eisbach.errors import UserError
from eisbach.weighting.build import build_weighting
from eisbach.weighting.noise_level.base import NoiseWeight, x0_to_target_weight

BANDS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_CELLS = 12_000
_CUT = 2.0**-40  # quadrature stops this far from t = 0 and 1; what is drawn beyond counts with the weight at the cut
_END = 1e-6  # effort that crowds within this distance of an end has no finite mean weight behind it
_POINTS = 401


@dataclass(frozen=True)
class Band:
    """A band of noise levels, t in [low, high): its share of the draws and of the effort."""

    low: float
    high: float
    draws: float
    effort: float


@dataclass(frozen=True)
class Allocation:
    """Weight, density and their product over log-SNR.

    Attributes
    ----------
    noise_level, density : str
        Names of the weighting and of the density.
    weight_options, density_options : dict
        Their resolved options.
    path, target : str
    num_frames : int or None
    log_snr : Tensor [shape=(n,), float64], ascending
        Nats of ln(alpha^2 / sigma^2).
    t : Tensor [shape=(n,)]
        The path's noise levels there; descending, as 1 is noise.
    draws : Tensor [shape=(n,)]
        p(lambda): the density of draws, per nat of log-SNR.
    weight : Tensor [shape=(n,)]
        w: on the squared error of the trained target.
    x0_weight : Tensor [shape=(n,)]
        W: the same weight stated on the squared error of the data estimate.
    effort : Tensor [shape=(n,)]
        M(lambda) = w p / E[w]: integrates to 1 over the whole range of log-SNR.
    mean_weight : float
        E[w] under the density: what the weighting multiplies the scale of the loss by, noise level by noise level
        equal.
    effective_share : float
        E[w]^2 / E[w^2] in (0, 1]: the share of the draws that would carry as much information if weighted equally.
    bands : tuple of Band
        Shares of draws and effort in t = [0, 0.2), ..., [0.8, 1].
    log_snr_quantiles, t_quantiles : dict of float to float
        Of the effort: half of it lies below log_snr_quantiles[0.5].
    draws_log_snr_quantiles : dict of float to float
        Of the density of draws.
    notes : tuple of str
        Sentences about what the numbers cannot say, such as a mean weight that does not exist.
    """

    noise_level: str
    weight_options: dict[str, Any]
    density: str
    density_options: dict[str, Any]
    path: str
    target: str
    num_frames: int | None
    log_snr: Tensor
    t: Tensor
    draws: Tensor
    weight: Tensor
    x0_weight: Tensor
    effort: Tensor
    mean_weight: float
    effective_share: float
    bands: tuple[Band, ...]
    log_snr_quantiles: dict[float, float]
    t_quantiles: dict[float, float]
    draws_log_snr_quantiles: dict[float, float]
    notes: tuple[str, ...]

    @property
    def density_label(self) -> str:
        """The density with its options, for people: ``logit_normal(m=0, s=1)``."""
        silent = {"shift": 1.0, "shift_by_length": True}  # the first says nothing, the second is said by the length
        given = {key: value for key, value in self.density_options.items() if silent.get(key) != value}
        parts = [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in given.items()]
        if self.num_frames is not None and self.density_options.get("shift_by_length"):
            parts.append(f"{self.num_frames} frames")
        return f"{self.density}({', '.join(parts)})"

    def rows(self) -> list[dict[str, float]]:
        """The table, one row a log-SNR: log_snr, t, draws, weight, x0_weight, effort."""
        columns = ("log_snr", "t", "draws", "weight", "x0_weight", "effort")
        values = [getattr(self, column).tolist() for column in columns]
        return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]

    def summary(self) -> dict[str, Any]:
        """Everything but the table, in plain values that JSON holds."""
        return {
            "noise_level": self.noise_level,
            "weight_options": {key: _plain(value) for key, value in self.weight_options.items()},
            "density": self.density,
            "density_options": {key: _plain(value) for key, value in self.density_options.items()},
            "path": self.path,
            "target": self.target,
            "num_frames": self.num_frames,
            "mean_weight": self.mean_weight,
            "effective_share": self.effective_share,
            "bands": [vars(band) for band in self.bands],
            "log_snr_quantiles": {str(q): value for q, value in self.log_snr_quantiles.items()},
            "t_quantiles": {str(q): value for q, value in self.t_quantiles.items()},
            "draws_log_snr_quantiles": {str(q): value for q, value in self.draws_log_snr_quantiles.items()},
            "notes": list(self.notes),
        }


def allocation(
    noise_weight: NoiseWeight | str | None,
    density: NoiseLevelDensity | str,
    path: Path | str,
    target: str,
    *,
    log_snr: Tensor | None = None,
    num_frames: int | None = None,
) -> Allocation:
    """What a model with this path and target is trained on under a weighting and a density.

    Parameters
    ----------
    noise_weight : NoiseWeight, str or None
        A name is built with its default options (and with this density, if it corrects for one). None: unweighted.
    density : NoiseLevelDensity or str
    path : Path or str
    target : {"eps", "x0", "v", "u"}
        What the network predicts.
    log_snr : Tensor [shape=(n,)] or None
        Where the table is wanted, within the path's range, in any order; None gives 401 points that hold nearly all
        draws and effort (`common_grid`). The other numbers always come from the whole range.
    num_frames : int or None
        Latent frames of a sample, for densities that shift by length.

    Raises
    ------
    UserError
        Unknown names, a scheme that is undefined for this path and target, a density that needs num_frames, points
        outside the path's range, or a weight that is not a finite number of at least 0 or is 0 wherever the density
        draws.
    """
    path, target = get_path(path), check_target(target)
    density = get_density(density, path=path)
    weighting = _build(noise_weight, path, density)
    problem = _Problem(weighting, density, path, target, num_frames)
    cells = _Cells(problem)
    grid = cells.grid() if log_snr is None else _checked(log_snr, path)
    t = path.t_from_log_snr(grid).clamp(0, 1)
    draws, weight = problem.draws_at(t), problem.weight_at(t)
    inner = t.clamp(_CUT, 1 - _CUT)
    factor = x0_to_target_weight(torch.zeros_like(inner), path, target, inner)
    quantiles = cells.quantiles(cells.effort)
    return Allocation(
        noise_level="none" if weighting is None else weighting.name,
        weight_options={} if weighting is None else _options(weighting),
        density=density.name,
        density_options=density.options(),
        path=path.name,
        target=target,
        num_frames=num_frames,
        log_snr=grid,
        t=t,
        draws=draws,
        weight=weight,
        x0_weight=weight * torch.exp(-factor),
        effort=weight * draws / cells.mean,
        mean_weight=cells.mean,
        effective_share=cells.mean**2 / cells.mean_square,
        bands=cells.bands(),
        log_snr_quantiles=quantiles,
        t_quantiles={q: _t(path, quantiles[round(1 - q, 9)]) for q in QUANTILES},
        draws_log_snr_quantiles=cells.quantiles(cells.draws),
        notes=cells.notes(),
    )


def common_grid(allocations: list[Allocation], points: int = _POINTS) -> Tensor:
    """Points (n,) in log-SNR that cover the tables of several allocations on one path, for drawing them together."""
    low = min(float(allocation.log_snr[0]) for allocation in allocations)
    high = max(float(allocation.log_snr[-1]) for allocation in allocations)
    return torch.linspace(low, high, points, dtype=torch.float64)


@dataclass(frozen=True)
class _Problem:
    """The two factors, as functions of t."""

    weighting: NoiseWeight | None
    density: NoiseLevelDensity
    path: Path
    target: str
    num_frames: int | None

    def weight_at(self, t: Tensor) -> Tensor:
        if self.weighting is None:
            return torch.ones_like(t)
        weight = self.weighting(self.path, self.target, t, num_frames=self.num_frames).detach().to(t)
        if not bool((weight.isfinite() & (weight >= 0)).all()):
            where = float(t[~(weight.isfinite() & (weight >= 0))][0])
            raise UserError(
                f"the {self.weighting.name} weighting gives no finite weight of at least 0 at t = {where:.3g} on the "
                f"{self.path.name} path for the target {self.target}; choose other options or another weighting."
            )
        return weight

    def draws_at(self, t: Tensor) -> Tensor:
        """p(lambda) per nat; 0 where log-SNR is infinite."""
        log_slope = self.path.log_snr_slope(t).abs().log()
        log_pdf = self.density.log_pdf(t, self.num_frames)
        return torch.where(log_slope < math.inf, (log_pdf - log_slope).exp(), 0.0)


class _Cells:
    """Quadrature over log-SNR: narrow cells, each with its share of the draws and the weight at its middle.

    Cells end at the edges of the bands and of the density's support, so that neither is smeared.
    """

    def __init__(self, problem: _Problem) -> None:
        self.problem = problem
        path, density = problem.path, problem.density
        ends = density.quantile(torch.tensor([0.0, 1.0], dtype=torch.float64), problem.num_frames)
        ends = ends.clamp(_CUT, 1 - _CUT)
        if not ends[0] < ends[1]:
            raise UserError(
                f"the {density.name} density draws the single noise level {float(ends[0]):.4g}, so there is nothing to "
                "allocate; choose one that is spread over noise levels."
            )
        inner = torch.tensor([edge for edge in BANDS[1:-1] if ends[0] < edge < ends[1]], dtype=torch.float64)
        low, high = path.log_snr(ends.flip(0)).tolist()
        even = torch.linspace(low, high, _CELLS + 1, dtype=torch.float64)
        edges = torch.cat([even, path.log_snr(inner)]).unique()  # type: ignore[no-untyped-call]
        self.log_snr = (edges[1:] + edges[:-1]) / 2
        self.t = path.t_from_log_snr(self.log_snr).clamp(0, 1)
        self.width = edges[1:] - edges[:-1]
        self.edges = edges
        self.draws = self._draws()
        self.weight = problem.weight_at(self.t)
        products = self.weight * self.draws
        self.mean, self.mean_square = float(products.sum()), float((self.weight * products).sum())
        if not self.mean > 0 or not math.isfinite(self.mean_square):
            raise UserError(
                f"the mean weight under the {density.name} density is {self.mean:g} (mean square "
                f"{self.mean_square:g}), so there is no effort to allocate; choose a weighting that is positive and "
                "finite where noise levels are drawn."
            )
        self.effort = products / self.mean

    def _draws(self) -> Tensor:
        """Each cell's share of the draws. The first and the last also take what lies beyond the cut.

        Differences of the distribution function are exact even where the density is unbounded, but in the tails they
        have no digits left; there the density at the middle, times the width, is the better number.
        """
        problem = self.problem
        levels = problem.path.t_from_log_snr(self.edges).clamp(0, 1)
        above = problem.density.cdf(levels, problem.num_frames)  # share of draws at a higher log-SNR
        exact = above[:-1] - above[1:]
        share = torch.where(exact > 1e-7, exact, problem.draws_at(self.t) * self.width)
        share[0] += 1 - above[0]
        share[-1] += above[-1]
        return share / share.sum()

    def bands(self) -> tuple[Band, ...]:
        bands = []
        for low, high in itertools.pairwise(BANDS):
            inside = (self.t >= low) & (self.t < high) if high < 1 else self.t >= low
            bands.append(Band(low, high, float(self.draws[inside].sum()), float(self.effort[inside].sum())))
        return tuple(bands)

    def quantiles(self, shares: Tensor) -> dict[float, float]:
        """log-SNR below which a share of the draws or of the effort lies, linear within a cell."""
        return {q: self._quantile(shares, q) for q in QUANTILES}

    def _quantile(self, shares: Tensor, q: float) -> float:
        below = torch.cat([torch.zeros(1, dtype=torch.float64), shares.cumsum(0)])
        cell = int((below[1:] >= q * float(below[-1])).nonzero()[0])
        part = (q * float(below[-1]) - float(below[cell])) / float(shares[cell])
        return float(self.edges[cell] + part * self.width[cell])

    def grid(self) -> Tensor:
        """401 points over whole nats that hold all but 1e-4 of draws and effort on each side."""
        ends = [self._quantile(shares, q) for shares in (self.draws, self.effort) for q in (1e-4, 1 - 1e-4)]
        own = self.problem.path.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
        low, high = max(own[0], math.floor(min(ends))), min(own[1], math.ceil(max(ends)))
        return torch.linspace(low, high, _POINTS, dtype=torch.float64)

    def notes(self) -> tuple[str, ...]:
        sentences = []
        weighting = self.problem.weighting
        if weighting is not None and weighting.trainable_parameters():
            sentences.append(f"the {weighting.name} weighting learns: this is its present state, not where it ends.")
        end = (self.t < _END) | (self.t > 1 - _END)
        drawn = float(self.draws[end].sum())
        squares = self.weight * self.effort
        crowded, crowded_square = float(self.effort[end].sum()), float(squares[end].sum() / squares.sum())
        if crowded > max(0.01, 100 * drawn):
            sentences.append(
                f"{crowded:.0%} of the effort lies within {_END:g} of an end of t, where {drawn:.1g} of the draws "
                "fall: the mean weight does not exist (it grows with every rare draw), and the numbers here depend on "
                "where it is cut off."
            )
        elif crowded_square > max(0.01, 100 * drawn):
            sentences.append(
                "the mean square of the weight does not exist (rare draws near an end of t dominate it), so the "
                "effective share is 0 in the long run."
            )
        return tuple(sentences)


def _build(weighting: NoiseWeight | str | None, path: Path, density: NoiseLevelDensity) -> NoiseWeight | None:
    if weighting is None or isinstance(weighting, NoiseWeight):
        return weighting
    try:
        return build_weighting("none", weighting, path=path, density=density).noise_level
    except TypeError as error:
        raise UserError(
            f"the {weighting} weighting cannot be built from its name alone ({error}); build it with its options and "
            "pass the object."
        ) from error


def _options(weighting: NoiseWeight) -> dict[str, Any]:
    """The scheme's own options; the density is named beside them."""
    return {key: value for key, value in weighting.options().items() if key != "density"}


def _checked(log_snr: Tensor, path: Path) -> Tensor:
    grid = log_snr.detach().to(torch.float64).sort().values
    t = path.t_from_log_snr(grid)
    if grid.dim() != 1 or not len(grid) or not bool(grid.isfinite().all() & (t >= -1e-9).all() & (t <= 1 + 1e-9).all()):
        ends = path.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
        raise UserError(
            f"log_snr must be a vector of finite points within the {path.name} path's range, {ends[0]:.4g} to "
            f"{ends[1]:.4g}; got {tuple(log_snr.shape)} from "
            f"{float(log_snr.min()) if log_snr.numel() else math.nan:.4g} to "
            f"{float(log_snr.max()) if log_snr.numel() else math.nan:.4g}."
        )
    return grid


def _t(path: Path, log_snr: float) -> float:
    return float(path.t_from_log_snr(torch.tensor(log_snr, dtype=torch.float64)))


def _plain(value: Any) -> Any:
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)
