"""Class-conditional entropy of Gaussian mixtures: a closed form for two, Monte Carlo with its error for any, and when
it falls.

**Two Gaussians** ``N(m_1, S)``, ``N(m_2, S)`` of equal covariance: only the projection of x_t on the discriminant tells
them apart, so in any dimension ``H = E_z E_{u ~ N(0,1)} softplus(-(log-odds of z))`` with log-odds ``ln(p_z / p_other)
+ 2 r^2 + 2 r u`` and ``r^2 = alpha^2 D^T (alpha^2 S + sigma^2 I)^{-1} D / 4``, D = m_1 - m_2. With equal priors this is
FORMULAS' ``E ln(1 + exp(-2 r^2 - 2 r u))`` and ``r^2 = alpha^2 |m|^2 / (alpha^2 s^2 + sigma^2)`` at means +-m.

**When.** At the point between two equal Gaussians the marginal's score along the discriminant changes sign where r = 1
(its slope is ``(r^2 - 1) / v``): there the symmetric state becomes unstable and a trajectory must choose (Biroli et al.
2024). For a mixture with between-class covariance B and mean within-class covariance W the same argument about the
overall mean gives the first such point at ``SNR = 1 / lambda_max(B - W)``. That is exact for equal Gaussians; with
unequal priors or covariances the posterior at the mean is not the prior, and it is a first approximation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eisbach.diagnostics.mixture import GaussianMixture
from eisbach.diagnostics.signature.model import entropy_of
from eisbach.diffusion.paths import Path, get_path
from eisbach.errors import UserError

_REACH, _POINTS = 40.0, 2**14 + 1  # of the integral over u: spacing 0.005 resolves the softplus up to r = 40


def two_gaussian_entropy(r: Tensor, prior: float = 0.5) -> Tensor:
    """H[Z | X_t] in nats of two Gaussians of equal covariance, to 1e-10.

    The trapezoid rule on an analytic integrand that vanishes at both ends converges exponentially.

    Parameters
    ----------
    r : Tensor [any shape], >= 0
        Half the distance of the means in standard deviations of x_t along the discriminant.
    prior : float in (0, 1)
        p of the first; the other has the rest.

    Returns
    -------
    Tensor [shape of r, float64]

    Raises
    ------
    UserError
        prior outside (0, 1).
    """
    if not 0 < prior < 1:
        raise UserError(f"the prior of the first of two Gaussians is {prior!r}; it must lie strictly between 0 and 1.")
    r = torch.as_tensor(r, dtype=torch.float64)
    u = torch.linspace(-_REACH, _REACH, _POINTS, dtype=torch.float64)
    density = torch.exp(-0.5 * u**2) * (2 * _REACH / (_POINTS - 1) / math.sqrt(2 * math.pi))
    total = torch.zeros_like(r)
    for share, odds in ((prior, prior / (1 - prior)), (1 - prior, (1 - prior) / prior)):
        log_odds = math.log(odds) + 2 * r[..., None] ** 2 + 2 * r[..., None] * u
        total = total + share * (density * torch.nn.functional.softplus(-log_odds)).sum(dim=-1)
    return total


def separation(mixture: GaussianMixture, path: Path | str, t: Tensor) -> Tensor:
    """r of two Gaussians of equal covariance at each noise level, shape of t.

    Raises
    ------
    UserError
        Not two components, or unequal covariances: use `mixture_entropy`.
    """
    if mixture.shares_covariance and mixture.num_components == 2:  # no (d, d) matrices: d may be thousands
        level, path = torch.as_tensor(t, dtype=torch.float64), get_path(path)
        apart = (mixture.means[0] - mixture.means[1]).norm() / 2
        variance = mixture.component_variances()[0, 0]
        return path.alpha(level) * apart / torch.sqrt(path.alpha(level) ** 2 * variance + path.sigma(level) ** 2)
    covariances = mixture.component_covariances()
    if mixture.num_components != 2 or not torch.allclose(covariances[0], covariances[1], rtol=1e-9, atol=0):
        raise UserError(
            "the closed form is for two Gaussians of equal covariance; this mixture is another: use the Monte Carlo "
            "estimate."
        )
    path = get_path(path)
    t = torch.as_tensor(t, dtype=torch.float64)
    variances, basis = torch.linalg.eigh(covariances[0])
    apart = basis.T @ (mixture.means[0] - mixture.means[1]) / 2
    alpha, sigma = path.alpha(t)[..., None], path.sigma(t)[..., None]
    return torch.sqrt((alpha**2 * apart**2 / (alpha**2 * variances + sigma**2)).sum(dim=-1))


@dataclass(frozen=True)
class ExactPoint:
    """H[Z | X_t] at one noise level.

    Attributes
    ----------
    entropy, entropy_se : float
        Nats; the standard error of the Monte Carlo mean.
    rate, rate_se : float
        -dH / d log-SNR, nats: ``SNR E|D_Z - D|^2 / 2``.
    """

    entropy: float
    entropy_se: float
    rate: float
    rate_se: float


def mixture_entropy(
    mixture: GaussianMixture, path: Path | str, t: float, n: int, generator: torch.Generator, chunk: int = 4096
) -> ExactPoint:
    """Entropy and its rate at one noise level, from exact posteriors at n draws of x_t (stratified by component).

    Stratified: component z is drawn round(n p_z) times, at least twice, and counted with its prior.

    Parameters
    ----------
    t : float in [0, 1]
    n : int
        Draws in all; the standard error falls as 1 / sqrt(n).
    """
    path = get_path(path)
    parts = []
    for component, share in enumerate(mixture.weights.tolist()):
        left, values = max(2, round(n * share)), []
        while left > 0:
            size = min(left, chunk)
            x_t = mixture.sample_noisy(path, size, t, generator, component=component).x_t
            values.append(_entropy_and_gap(mixture, path, x_t, t))
            left -= size
        parts.append((share, torch.cat(values)))
    mean = sum((share * value.mean(dim=0) for share, value in parts), torch.zeros(2, dtype=torch.float64))
    variance = sum(
        (share**2 * value.var(dim=0) / len(value) for share, value in parts), torch.zeros(2, dtype=torch.float64)
    )
    entropy, gap = mean.tolist()
    entropy_se, gap_se = variance.sqrt().tolist()
    return ExactPoint(entropy, entropy_se, gap / 2, gap_se / 2)


def _entropy_and_gap(mixture: GaussianMixture, path: Path, x_t: Tensor, t: float) -> Tensor:
    """Posterior entropy and SNR E[|D_Z - D|^2 | x_t], shape (n, 2).

    At one x_t, SNR |D_Z - D|^2 is the squared difference of the noise estimates, which is finite also where SNR is not.
    """
    log_p = mixture.log_posterior(path, x_t, t)
    predicted = mixture.component_predict(path, "eps", x_t, t)
    weight = log_p.exp()[..., None]
    between = (predicted - (weight * predicted).sum(dim=1, keepdim=True)).square()
    return torch.stack([entropy_of(log_p), (weight * between).sum(dim=(1, 2))], dim=1)


def speciation_log_snr(mixture: GaussianMixture) -> float | None:
    """ln SNR at which the mean of the noisy mixture becomes unstable, ``-ln lambda_max(B - W)``; None where it never
    does."""
    centred = mixture.means - mixture.mean()
    if mixture.is_isotropic:  # B has rank below K: its largest eigenvalue is that of a K x K matrix
        scaled = mixture.weights.sqrt()[:, None] * centred
        within_variance = mixture.weights @ mixture.component_variances()[:, 0]
        largest = float(torch.linalg.eigvalsh(scaled @ scaled.T)[-1] - within_variance)
        return -math.log(largest) if largest > 0 else None
    between = torch.einsum("k,ki,kj->ij", mixture.weights, centred, centred)
    within = torch.einsum("k,kij->ij", mixture.weights, mixture.component_covariances())
    largest = float(torch.linalg.eigvalsh(between - within)[-1])
    return -math.log(largest) if largest > 0 else None


def log_snr_to_ou_time(log_snr: Tensor) -> Tensor:
    """Time of the Ornstein-Uhlenbeck process ``x = e^-tau x0 + sqrt(1 - e^-2tau) noise``: tau = ln(1 + 1/SNR) / 2.

    The clock in which speciation in variance-preserving diffusion is ``ln(d) / 2 + O(1)``.
    """
    return 0.5 * torch.nn.functional.softplus(-log_snr)


# --- how times grow with the distance of the classes


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
                f"in {dim} dimensions the means are {2 * mu * math.sqrt(dim):.3g} apart at a variance of {variance:g}, "
                f"and {share:.0%} of the entropy is never reached; raise mu or lower the variance."
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
    line = stats.linregress(x, y)
    reach = float(stats.t.ppf(0.975, len(x) - 2)) * float(line.stderr)
    slope = float(line.slope)
    return Fit(slope, slope - reach, slope + reach, float(line.intercept))
