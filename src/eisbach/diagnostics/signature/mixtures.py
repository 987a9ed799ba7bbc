"""Gaussian mixtures over dimension: exact curves on a path, predicted speciation, and how both scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from eisbach.diagnostics.mixture import GaussianMixture
from eisbach.diagnostics.signature.curve import finite_or_none
from eisbach.diagnostics.signature.exact import (
    ExactPoint,
    fit_line,
    log_snr_to_ou_time,
    mixture_entropy,
    separation,
    speciation_log_snr,
    two_gaussian_entropy,
)
from eisbach.diagnostics.signature.model import ClassSet, uniform_prior
from eisbach.diffusion.paths import get_path
from eisbach.diffusion.rate_curve import crossing
from eisbach.errors import UserError
from eisbach.progress import Progress


@dataclass(frozen=True)
class MixtureStudy:
    """Isotropic mixtures with means at random directions (two: opposite each other), ``separation sqrt(d)`` from the
    centre."""

    dims: tuple[int, ...]
    weights: tuple[float, ...]
    separation: tuple[float, ...]
    variance: tuple[float, ...]
    path: str
    levels: int
    samples: int
    seed: int

    @classmethod
    def build(
        cls,
        *,
        dims: Sequence[int],
        components: int,
        weights: Sequence[float] | None,
        separation: Sequence[float],
        variance: Sequence[float],
        path: str,
        levels: int,
        samples: int,
        seed: int,
    ) -> MixtureStudy:
        """Checked settings; single numbers stand for every component.

        Raises
        ------
        UserError
            Priors that do not sum to 1, lists of another length, dimensions below 1, or an unknown path.
        """
        shares = uniform_prior(components) if weights is None else tuple(weights)
        ClassSet(tuple(str(index) for index in range(components)), shares)
        get_path(path)
        spread, noise = (tuple(values) * (components if len(values) == 1 else 1) for values in (separation, variance))
        if len(spread) != components or len(noise) != components:
            raise UserError(
                f"{len(separation)} separations and {len(variance)} variances came for {components} components; give "
                "one number, or one for each."
            )
        if not all(0 < value < math.inf for value in (*spread, *noise)):
            raise UserError("separations and variances must be finite and above 0.")
        if not dims or any(dim < 1 for dim in dims) or list(dims) != sorted(set(dims)):
            raise UserError(f"the dimensions {list(dims)} must be whole numbers from 1 on, rising, each once.")
        return cls(tuple(dims), shares, spread, noise, path, levels, samples, seed)

    def describe(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def mixture(self, dim: int) -> GaussianMixture:
        """The mixture in `dim` dimensions."""
        generator = torch.Generator().manual_seed(self.seed)
        directions = torch.randn(len(self.weights), dim, generator=generator, dtype=torch.float64)
        if len(self.weights) == 2:
            directions[1] = -directions[0]
        directions = directions / directions.norm(dim=1, keepdim=True)
        lengths = torch.tensor(self.separation, dtype=torch.float64)[:, None] * math.sqrt(dim)
        return GaussianMixture(self.weights, directions * lengths, torch.tensor(self.variance, dtype=torch.float64))

    @property
    def has_closed_form(self) -> bool:
        """Two components of equal variance."""
        return len(self.weights) == 2 and self.variance[0] == self.variance[1]


def run_study(study: MixtureStudy, *, quiet: bool = False) -> dict[str, Any]:
    """Curves and scaling as plain values, as `mixture.json` holds them."""
    rows: list[dict[str, Any]] = []
    with Progress(len(study.dims), "mixtures", quiet=quiet) as bar:
        for dim in study.dims:
            rows.append(_row(study, dim))
            bar.advance(1, f"d = {dim}")
    known = [row for row in rows if row["half_ou_time"] is not None]
    halves = [0.5 * math.log(row["dim"]) for row in known]
    enough = len(known) >= 3
    return {
        "study": study.describe(),
        "rows": rows,
        "vp_time_over_half_ln_d": asdict(fit_line(halves, [row["half_ou_time"] for row in known])) if enough else None,
        "ln_sigma_over_half_ln_d": asdict(fit_line(halves, [-row["half_log_snr"] / 2 for row in known]))
        if enough
        else None,
    }


def _row(study: MixtureStudy, dim: int) -> dict[str, Any]:
    mixture = study.mixture(dim)
    path = get_path(study.path)
    t = _levels(study, mixture)
    log_snr = path.log_snr(t)
    if study.has_closed_form:
        entropy = two_gaussian_entropy(separation(mixture, path, t), study.weights[0])
        error = torch.zeros_like(entropy)
    else:
        generator = torch.Generator().manual_seed(study.seed + 1)
        points: list[ExactPoint] = [
            mixture_entropy(mixture, path, level, study.samples, generator) for level in t.tolist()
        ]
        entropy = torch.tensor([point.entropy for point in points], dtype=torch.float64)
        error = torch.tensor([point.entropy_se for point in points], dtype=torch.float64)
    whole = -sum(share * math.log(share) for share in study.weights)
    # Crossings are read in log-SNR, which rises towards the data; `crossing` wants a falling coordinate.
    at = {share: crossing((-log_snr).tolist(), entropy.tolist(), share * whole) for share in (0.9, 0.5, 0.1)}
    places = {share: None if value is None else -value for share, value in at.items()}
    half = places[0.5]
    tau = {share: _ou_time(value) for share, value in places.items()}
    early, late = places[0.9], places[0.1]
    complete = half is not None and early is not None and late is not None
    return {
        "dim": dim,
        "prior_entropy": whole,
        "t": t.tolist(),
        "log_snr": [finite_or_none(value) for value in log_snr.tolist()],
        "entropy": entropy.tolist(),
        "entropy_se": error.tolist(),
        "half_log_snr": half,
        "half_ou_time": tau[0.5],
        "predicted_log_snr": speciation_log_snr(mixture),
        "predicted_ou_time": _ou_time(speciation_log_snr(mixture)),
        "relative_width_ou_time": (tau[0.9] - tau[0.1]) / tau[0.5] if complete else None,  # type: ignore[operator]
        "width_ln_sigma": (late - early) / 2 if complete else None,  # type: ignore[operator]
    }


def _levels(study: MixtureStudy, mixture: GaussianMixture) -> Tensor:
    """Noise levels around the instability, evenly spaced in log-SNR, as far as the path reaches, from noise to data."""
    path = get_path(study.path)
    centre = speciation_log_snr(mixture)
    ends = path.log_snr(torch.tensor([1.0, 1e-9], dtype=torch.float64)).tolist()
    middle = 0.0 if centre is None else centre
    low, high = max(middle - 6, ends[0]), min(middle + 6, ends[1])
    if not low < high:
        raise UserError(
            f"the classes are decided at log-SNR {middle:.3g}, outside the {path.name} path's {ends[0]:.3g} to "
            f"{ends[1]:.3g}; choose another path, separation or dimension."
        )
    return path.t_from_log_snr(torch.linspace(low, high, study.levels, dtype=torch.float64)).clamp(0, 1)


def _ou_time(log_snr: float | None) -> float | None:
    return None if log_snr is None else float(log_snr_to_ou_time(torch.tensor(log_snr, dtype=torch.float64)))
