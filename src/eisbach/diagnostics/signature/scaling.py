"""How speciation moves with dimension: logarithmically in variance-preserving time, like sqrt(d) in EDM's sigma.

Two Gaussians at +-m with |m|^2 = mu^2 d and variance s^2. Entropy depends on the noise level only through r (see
`exact`), so a given share of the entropy is gone at ``SNR = r^2 / (mu^2 d - r^2 s^2)``: shifted by ln d in log-SNR. In
OU time that is ``tau = ln(1 + 1/SNR) / 2 ~ ln(d) / 2 + O(1)`` with a window of O(1): relative to tau it narrows like 1
/ ln d. In EDM ``sigma ~ sqrt(d)`` and the window in ln sigma stays: nothing sharpens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from eisbach.diagnostics.signature.exact import log_snr_to_ou_time, two_gaussian_entropy
from eisbach.errors import UserError


@dataclass(frozen=True)
class ScalingRow:
    """One dimension.

    Attributes
    ----------
    dim : int
    tau_half, tau_predicted : float
        OU time at which half the entropy is gone, and of the instability (r = 1).
    tau_width, relative_width : float
        Between 90% and 10% of the prior entropy, in OU time, and divided by `tau_half`.
    sigma_half, sigma_predicted : float
        EDM's sigma at the same two points.
    log_sigma_width : float
        The window in ln sigma.
    """

    dim: int
    tau_half: float
    tau_predicted: float
    tau_width: float
    relative_width: float
    sigma_half: float
    sigma_predicted: float
    log_sigma_width: float


@dataclass(frozen=True)
class Fit:
    """Least squares of y on x with 95% interval of the slope (t distribution)."""

    slope: float
    slope_lo: float
    slope_hi: float
    intercept: float


def _radius_at(share: float, prior: float = 0.5) -> float:
    """The r at which the entropy is `share` of the prior's, by bisection.

    Raises
    ------
    UserError
        share outside (0, 1).
    """
    if not 0 < share < 1:
        raise UserError(f"the share of the entropy is {share!r}; it must lie strictly between 0 and 1.")
    whole = float(two_gaussian_entropy(torch.tensor(0.0), prior))
    low, high = 0.0, 20.0
    for _ in range(100):
        middle = (low + high) / 2
        if float(two_gaussian_entropy(torch.tensor(middle), prior)) > share * whole:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def scaling_rows(dims: Sequence[int], mu: float = 1.0, variance: float = 1.0) -> list[ScalingRow]:
    """Speciation of two equal Gaussians with means at distance 2 mu sqrt(d), for each dimension.

    Raises
    ------
    UserError
        The Gaussians overlap too much for a tenth of the entropy to be left: mu^2 d must exceed r^2 s^2.
    """
    radii = {share: _radius_at(share) for share in (0.9, 0.5, 0.1)} | {1.0: 1.0}

    def log_snr(dim: int, share: float) -> float:
        left = mu**2 * dim - radii[share] ** 2 * variance
        if left <= 0:
            raise UserError(
                f"in {dim} dimensions the means are {2 * mu * math.sqrt(dim):.3g} apart at a variance of "
                f"{variance:g}, and "
                f"{share:.0%} of the entropy is never reached; raise mu or lower the variance."
            )
        return math.log(radii[share] ** 2 / left)

    rows = []
    for dim in dims:
        early, half, late, unstable = (log_snr(dim, share) for share in (0.9, 0.5, 0.1, 1.0))
        tau = log_snr_to_ou_time(torch.tensor([early, half, late, unstable], dtype=torch.float64)).tolist()
        rows.append(
            ScalingRow(
                dim,
                tau_half=tau[1],
                tau_predicted=tau[3],
                tau_width=tau[0] - tau[2],
                relative_width=(tau[0] - tau[2]) / tau[1],
                sigma_half=math.exp(-half / 2),
                sigma_predicted=math.exp(-unstable / 2),
                log_sigma_width=(late - early) / 2,
            )
        )
    return rows


def fit_line(x: Sequence[float], y: Sequence[float]) -> Fit:
    """Ordinary least squares.

    Raises
    ------
    UserError
        Fewer than 3 points.
    """
    from scipy import stats

    if len(x) < 3:
        raise UserError(f"{len(x)} dimensions arrived; a slope with an interval needs at least 3.")
    found = stats.linregress(x, y)
    reach = float(stats.t.ppf(0.975, len(x) - 2)) * float(found.stderr)
    slope = float(found.slope)
    return Fit(slope, slope - reach, slope + reach, float(found.intercept))
