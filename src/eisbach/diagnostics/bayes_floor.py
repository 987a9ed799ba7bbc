"""The Bayes floor of a mixture: the mean squared error that no network can go below, exactly or by Monte Carlo.

``floor(t) = E|y - E[y | x_t]|^2``, summed over coordinates (Elucidated Representation Diffusion, Lemma 3.2). With p_k
the posterior and mu_k = E[y | x_t, k] it splits into a closed form and one integral over x_t::

    floor = sum_k p(k) tr Cov(y | x_t, k)  +  1/2 sum_jk E[p_j p_k |mu_j - mu_k|^2]

**How the integral is made exact.** Each pair's term is ``w_j N_j(x) p_k(x) |mu_j - mu_k|^2``: a Gaussian times a
posterior in [0, 1]. It is summed on a grid in the whitened axes of the narrower of the two components, out to `_REACH`
standard deviations. For such smooth, decaying integrands the plain trapezoidal rule converges exponentially in the
step; the step is halved until it is no wider than the narrowest component and the sum stands still to the tolerance
asked for. That needs at most two dimensions; components of one shared isotropic covariance differ only within the span
of their means, so those are exact in any dimension whose span is a plane or a line.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eisbach.diagnostics.mixture import GaussianMixture
from eisbach.diffusion.paths import Path, get_path
from eisbach.diffusion.targets import check_target, coefficients, determinant
from eisbach.errors import UserError

METHODS = ("auto", "quadrature", "monte_carlo")
_REACH = 9.0  # standard deviations: a Gaussian's mass beyond is 2e-19
_FIRST_STEP, _HALVINGS = 0.2, {1: 10, 2: 5}  # by dimension
_POINTS = 2**18  # grid points evaluated at once
_BLOCK = 2**22  # numbers drawn at once by Monte Carlo


class UnsettledError(UserError):
    """The finest grid did not resolve an integral."""


@dataclass(frozen=True)
class Floor:
    """A Bayes floor.

    Attributes
    ----------
    value : float
        Summed over coordinates; divide by the dimension to compare with a mean over coordinates.
    error : float
        Standard error of Monte Carlo; for quadrature the change at the last halving of the step; 0 for a closed form.
    method : str
        "closed form", "quadrature" or "monte_carlo".
    """

    value: float
    error: float
    method: str


def bayes_floor(
    mixture: GaussianMixture,
    path: Path | str,
    target: str,
    t: float,
    *,
    method: str = "auto",
    tolerance: float = 1e-8,
    samples: int = 1_000_000,
    relative_error: float = 0.002,
    seed: int = 0,
) -> Floor:
    """The floor at one noise level.

    Parameters
    ----------
    mixture : GaussianMixture
    path : Path or str
    target : {"eps", "x0", "v", "u"}
    t : float in [0, 1]
    method : {"auto", "quadrature", "monte_carlo"}
        "auto" is exact where that is possible and Monte Carlo elsewhere: more dimensions, or a grid that does not
        settle.
    tolerance : float, default 1e-8
        Of the quadrature, relative to the variance of the target.
    samples : int, default 1,000,000
        Most draws of x_t in Monte Carlo, which averages the exact conditional variance over them.
    relative_error : float, default 0.002
        Monte Carlo stops earlier when its standard error is this small a share of the value; 0 uses all samples.
    seed : int

    Raises
    ------
    UserError
        Unknown names, quadrature in more than two effective dimensions or one that does not settle, or fewer than 2
        samples.
    """
    path = get_path(path)
    check_target(target)
    if method not in METHODS:
        raise UserError(f"the method {method!r} is not known; choose one of {', '.join(METHODS)}.")
    if mixture.num_components == 1:
        return Floor(mixture.within_variance(path, target, t), 0.0, "closed form")
    if method != "monte_carlo":
        plane = effective(mixture)
        if plane is not None:
            try:
                return _quadrature(mixture, plane, path, target, t, tolerance)
            except UnsettledError:
                if method == "quadrature":
                    raise
        elif method == "quadrature":
            raise UserError(
                "quadrature needs components that differ in at most two dimensions, and this mixture has "
                f"{mixture.dim}; use method='monte_carlo'."
            )
    if samples < 2:
        raise UserError(f"Monte Carlo got samples={samples}; it needs at least 2.")
    return _monte_carlo(mixture, path, target, t, samples, relative_error, seed)


def floor_curve(mixture: GaussianMixture, path: Path | str, target: str, t: Tensor) -> Tensor:
    """The floor at each noise level of `t` (n,), summed over coordinates, shape (n,) float64; see `bayes_floor`."""
    return floor_curves(mixture, path, [target], t)[0]


def floor_curves(mixture: GaussianMixture, path: Path | str, targets: Sequence[str], t: Tensor) -> Tensor:
    """The floors of several targets at each noise level of `t` (n,), for the price of one: (len(targets), n) float64.

    Given x_t, every target is a multiple of the noise or of the data plus a known vector, so the floors of all targets
    are one curve: ``floor_y = (D_y / alpha)^2 floor_eps = (D_y / sigma)^2 floor_x0`` with D of `targets.determinant`.
    The better conditioned of the two is computed.
    """
    path = get_path(path)
    level = t.detach().to(torch.float64)
    alpha, sigma = path.alpha(level), path.sigma(level)
    by_noise = alpha > sigma
    base = [
        bayes_floor(mixture, path, "eps" if noise else "x0", here).value
        for here, noise in zip(level.tolist(), by_noise.tolist(), strict=True)
    ]
    det = torch.stack([determinant(path, name, level) for name in targets])
    return torch.tensor(base, dtype=torch.float64) * (det / torch.where(by_noise, alpha, sigma)).square()


def _monte_carlo(
    mixture: GaussianMixture, path: Path, target: str, t: float, samples: int, relative_error: float, seed: int
) -> Floor:
    generator = torch.Generator().manual_seed(seed)
    block = max(2, min(50_000, _BLOCK // (mixture.num_components * mixture.dim)))
    count, total, squares = 0, 0.0, 0.0
    # Averaged is the exact conditional variance at each x_t, not a squared error: the draws of y are integrated out.
    while count < samples:
        n = min(block, samples - count)
        drawn = mixture.sample_noisy(path, n, t, generator)
        values = mixture.conditional_variance(path, target, drawn.x_t, t)
        count, total, squares = count + n, total + float(values.sum()), squares + float(values.square().sum())
        mean = total / count
        error = math.sqrt(max(0.0, squares / count - mean**2) / max(1, count - 1))
        if count >= min(samples, 10_000) and error <= relative_error * abs(mean):
            break
    return Floor(mean, error, "monte_carlo")


def effective(mixture: GaussianMixture) -> GaussianMixture | None:
    """The mixture in the at most two dimensions in which its components differ; None when they differ in more.

    Only a shared isotropic covariance lets dimensions go: across the span of the means all components are alike there.
    """
    if mixture.dim <= 2:
        return mixture
    if not mixture.shares_covariance:
        return None
    centred = mixture.means - mixture.means[:1]
    _, singular, axes = torch.linalg.svd(centred, full_matrices=False)
    rank = int((singular > 1e-12 * singular.amax().clamp(min=1e-300)).sum())
    if rank > 2:
        return None
    leading = axes[: max(1, rank)]
    return GaussianMixture(mixture.weights, mixture.means @ leading.mT, mixture.component_variances()[0, 0])


def component_expectation(
    mixture: GaussianMixture,
    path: Path | str,
    t: float,
    component: int,
    function: Callable[[Tensor], Tensor],
    *,
    tolerance: float = 1e-9,
) -> tuple[float, float]:
    """(E[function(x_t) | z = component], change at the last halving), by the grid of this module.

    Parameters
    ----------
    function : callable
        x_t (n, d) -> (n,), smooth; called many times.
    tolerance : float
        The step is halved until the value changes by less.

    Raises
    ------
    UserError
        More than two dimensions; `UnsettledError` without convergence.
    """
    if mixture.dim > 2:
        raise UserError(f"a grid over x_t needs at most two dimensions; this mixture has {mixture.dim}.")
    path = get_path(path)
    level = torch.as_tensor(t, dtype=torch.float64)
    deviations = mixture.noisy_variances(path, t)[component].sqrt()
    basis = torch.eye(mixture.dim, dtype=torch.float64) if mixture._basis is None else mixture._basis[component]
    # A whitened grid point z (d,) lies at x_t = centre + basis (deviations z): the named component is a standard normal
    # in z, so one grid serves every component and level.
    to_x = (basis * deviations).mT
    centre = path.alpha(level) * mixture.means[component]
    narrowest = _narrowest(mixture, path, level, to_x)
    total, weight, previous = 0.0, 0.0, math.nan
    step = _FIRST_STEP
    for halving in range(_HALVINGS[mixture.dim] + 1):
        # Each halving adds the points that the coarser grid had not: everything but the even multiples.
        for points, mass in _grid(mixture.dim, step, new_only=halving > 0):
            values = function(points @ to_x + centre)
            total += float((values * mass).sum())
            weight += float(mass.sum())
        value = total / weight
        change = abs(value - previous)
        if change <= tolerance and (step <= narrowest or halving == _HALVINGS[mixture.dim]):
            return value, change
        previous, step = value, step / 2
    raise UnsettledError(
        f"the integral over x_t at t = {float(t):g} still changed by {change:.2g} at the finest grid: the components' "
        "widths differ too much; use Monte Carlo."
    )


def _narrowest(mixture: GaussianMixture, path: Path, level: Tensor, to_x: Tensor) -> float:
    """The smallest standard deviation of any component in the grid's axes: what falls between the points of two grids,
    both miss."""
    eye = torch.eye(mixture.dim, dtype=torch.float64)
    noisy = path.alpha(level).square() * mixture.component_covariances() + path.sigma(level).square() * eye
    to_grid = torch.linalg.inv(to_x)
    return float(torch.linalg.eigvalsh(to_grid.mT @ noisy @ to_grid).clamp(min=0).min().sqrt())


def _grid(dim: int, step: float, *, new_only: bool) -> list[tuple[Tensor, Tensor]]:
    """Whitened grid points (n, dim) and their unnormalised Gaussian masses (n,), in blocks."""
    half = math.floor(_REACH / step)
    index = torch.arange(-half, half + 1)
    axis = index.to(torch.float64) * step
    if dim == 1:
        keep = index % 2 != 0 if new_only else torch.ones_like(index, dtype=torch.bool)
        # Masses are the density without its constant, which goes out in total / weight.
        points = axis[keep, None]
        return [(points, (-0.5 * points[:, 0].square()).exp())]
    blocks = []
    rows = max(1, _POINTS // len(axis))
    for chunk in torch.arange(len(axis)).split(rows):
        first, second = torch.meshgrid(chunk, torch.arange(len(axis)), indexing="ij")
        keep = torch.ones_like(first, dtype=torch.bool)
        if new_only:
            keep = (index[first] % 2 != 0) | (index[second] % 2 != 0)
        points = torch.stack([axis[first[keep]], axis[second[keep]]], dim=1)
        inside = points.square().sum(dim=1) <= _REACH**2
        points = points[inside]
        blocks.append((points, (-0.5 * points.square().sum(dim=1)).exp()))
    return blocks


def _quadrature(
    mixture: GaussianMixture, plane: GaussianMixture, path: Path, target: str, t: float, tolerance: float
) -> Floor:
    value = mixture.within_variance(path, target, t)
    c_x, c_eps = (float(c) for c in coefficients(path, target, torch.tensor(t, dtype=torch.float64)))
    scale = c_x**2 * mixture.total_variance() + c_eps**2 * mixture.dim
    widths = plane.noisy_variances(path, t).log().sum(dim=1)
    # What z leaves open is sum over pairs of p_j p_k |D_j - D_k|^2, averaged over x_t. Under p(x_t) the factor p_j
    # turns into the prior and a draw from j: integrate over the narrower of each pair, which its grid resolves.
    pairs = list(itertools.combinations(range(plane.num_components), 2))
    error = 0.0
    for j, k in pairs:
        narrow, other = (j, k) if widths[j] <= widths[k] else (k, j)

        def share(x_t: Tensor, narrow: int = narrow, other: int = other) -> Tensor:
            predicted = plane.component_predict(path, target, x_t, t)
            apart = (predicted[:, narrow] - predicted[:, other]).square().sum(dim=1)
            return plane.posterior(path, x_t, t)[:, other] * apart

        mean, change = component_expectation(plane, path, t, narrow, share, tolerance=tolerance * scale / len(pairs))
        value += float(plane.weights[narrow]) * mean
        error += change
    return Floor(value, error, "quadrature")
