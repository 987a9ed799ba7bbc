"""Gaussian mixtures whose every diffusion question has an exact answer: densities, posteriors, Bayes predictors.

Data ``x0 | z ~ N(m_z, S_z)`` with prior p(z), noised along a path: ``x_t = alpha x0 + sigma noise``. Given z, data,
noise and x_t are jointly Gaussian, so everything is closed form. In the eigenbasis of S_z (eigenvalue v, noisy variance
``s = alpha^2 v + sigma^2``, residual ``r = x_t - alpha m_z``)::

    E[x0 | x_t, z] = m_z + (alpha v / s) r      E[noise | x_t, z] = (sigma / s) r
    Var[c_x x0 + c_eps noise | x_t, z] = (c_x sigma - c_eps alpha)^2 v / s

Nothing is divided by alpha or sigma, so the formulas hold at t = 0 and t = 1 as they stand. All results are float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from eisbach.diffusion.paths import Path, get_path
from eisbach.diffusion.targets import check_target, coefficients, determinant
from eisbach.errors import UserError

_CHUNK = 2**22  # numbers in the largest temporary: 32 MiB of float64
_ROUNDING = 1e-6  # priors that come from float32 sum to 1 this closely


class NoisySample(NamedTuple):
    """Draws of a mixture and their noisy versions; see `GaussianMixture.sample_noisy`.

    Attributes
    ----------
    x_t, x0, noise : Tensor [shape=(n, d), float64]
    component : Tensor [shape=(n,), int64]
    t : Tensor [shape=(n,), float64]
    """

    x_t: Tensor
    x0: Tensor
    noise: Tensor
    component: Tensor
    t: Tensor


class GaussianMixture:
    """A mixture of K Gaussians in d dimensions.

    Parameters
    ----------
    weights : Tensor or sequence [shape=(K,)]
        Prior p(z); above 0, of sum 1.
    means : Tensor or sequence [shape=(K, d)]
    covariances : float, Tensor or sequence
        Variances, not standard deviations: a number (the same isotropic variance for all), (K,) an isotropic variance
        each, (K, d) diagonals, (K, d, d) full matrices. Singular ones are allowed, a variance of 0 is a point mass; at
        a noise level without noise such a mixture has no density and questions about it are refused.

    Attributes
    ----------
    weights : Tensor [shape=(K,)]
    means : Tensor [shape=(K, d)]
    num_components, dim : int

    Raises
    ------
    UserError
        Priors that are not positive or do not sum to 1, shapes that do not fit, values that are not finite, or a
        covariance that is not symmetric or has a negative variance.
    """

    def __init__(
        self,
        weights: Tensor | Sequence[float],
        means: Tensor | Sequence[Sequence[float]],
        covariances: Tensor | Sequence[float] | Sequence[Sequence[float]] | float,
    ) -> None:
        self.weights = _priors(weights)
        self.means = _float64(means, "means")
        if self.means.dim() != 2 or self.means.shape[0] != len(self.weights) or self.means.shape[1] < 1:
            raise UserError(
                f"the mixture has {len(self.weights)} priors and means of shape {tuple(self.means.shape)}; the means "
                f"must be ({len(self.weights)}, dimensions)."
            )
        self.num_components, self.dim = self.means.shape
        # Variances in each component's eigenbasis, (K, 1) or (K, d), and the basis (K, d, d), columns; None is the
        # axes.
        self._variances, self._basis = self._decompose(_float64(covariances, "covariances"))

    def _decompose(self, covariances: Tensor) -> tuple[Tensor, Tensor | None]:
        count, dim = self.num_components, self.dim
        allowed: dict[tuple[int, ...], tuple[int, ...]] = {(): (1, 1), (count,): (count, 1), (count, dim): (count, dim)}
        basis = None
        if tuple(covariances.shape) in allowed:
            variances = covariances.reshape(allowed[tuple(covariances.shape)])
        elif covariances.shape == (count, dim, dim):
            # Each matrix by its own scale: a narrow component beside a wide one keeps its variances.
            scale = covariances.abs().amax(dim=(1, 2)).clamp(min=torch.finfo(torch.float64).tiny)[:, None]
            if not bool(((covariances - covariances.mT).abs() <= _ROUNDING * scale[:, None]).all()):
                raise UserError("a covariance of the mixture is not symmetric; pass (K, d, d) symmetric matrices.")
            variances, basis = torch.linalg.eigh((covariances + covariances.mT) / 2)
            # eigh leaves zeros of either sign in singular matrices; what is below its own rounding is 0.
            rounding = 64 * dim * torch.finfo(torch.float64).eps * scale
            variances = torch.where(variances.abs() <= rounding, torch.zeros_like(variances), variances)
        else:
            raise UserError(
                f"the covariances have shape {tuple(covariances.shape)}; for {count} components in {dim} dimensions "
                f"they may be one variance, ({count},), ({count}, {dim}) diagonals or ({count}, {dim}, {dim}) matrices."
            )
        if bool((variances < 0).any()):
            raise UserError(
                f"a covariance of the mixture has the variance {float(variances.min()):.3g}; variances must be 0 or "
                "more."
            )
        return variances.expand(count, -1).clone(), basis

    # ---- the data ----

    def mean(self) -> Tensor:
        """E[x0], shape (d,)."""
        return self.weights @ self.means

    def component_variances(self) -> Tensor:
        """Each component's variances along its own principal axes, shape (K, d)."""
        return self._variances.expand(-1, self.dim)

    def component_covariances(self) -> Tensor:
        """Each component's covariance as a full matrix, shape (K, d, d)."""
        variances = self.component_variances()
        if self._basis is None:
            return torch.diag_embed(variances)
        return (self._basis * variances[:, None]) @ self._basis.mT

    def total_variance(self) -> float:
        """Trace of Cov(x0)."""
        spread = (self.means - self.mean()).square().sum(dim=1)
        return float(self.weights @ (spread + self.component_variances().sum(dim=1)))

    @property
    def is_isotropic(self) -> bool:
        """Whether every component's covariance is a multiple of the identity."""
        return bool((self.component_variances() == self._variances[:, :1]).all())

    @property
    def shares_covariance(self) -> bool:
        """Whether all components have the same isotropic covariance: then only their means tell them apart."""
        return self.is_isotropic and bool((self._variances == self._variances[:1]).all())

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(x0, component): n draws, shapes (n, d) and (n,)."""
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        return self.sample_given(component, generator), component

    def sample_given(self, component: Tensor, generator: torch.Generator) -> Tensor:
        """One draw of x0 from each named component, shape (n, d)."""
        standard = torch.randn(len(component), self.dim, generator=generator, dtype=torch.float64)
        shaped = standard * self._variances.sqrt()[component]
        if self._basis is not None:
            for index in component.unique().tolist():  # (n, d, d) of gathered bases would not fit
                rows = component == index
                shaped[rows] = shaped[rows] @ self._basis[index].mT
        return self.means[component] + shaped

    def sample_noisy(
        self, path: Path | str, n: int, t: Tensor | float, generator: torch.Generator, *, component: int | None = None
    ) -> NoisySample:
        """n draws with their noisy versions at t (one level or one each); from one component when it is named."""
        path, level = get_path(path), self._levels(t, n)
        if component is None:
            x0, drawn = self.sample(n, generator)
        else:
            drawn = torch.full((n,), component, dtype=torch.int64)
            x0 = self.sample_given(drawn, generator)
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        x_t = path.alpha(level)[:, None] * x0 + path.sigma(level)[:, None] * noise
        return NoisySample(x_t, x0, noise, drawn, level.expand(n))

    # ---- the noisy data ----

    def noisy_variances(self, path: Path | str, t: Tensor | float) -> Tensor:
        """s = alpha^2 v + sigma^2 along each component's axes at one noise level, shape (K, d)."""
        path, level = get_path(path), self._levels(t, 1)
        return self._noisy(path, level)[0].expand(-1, self.dim)

    def log_joint(self, path: Path | str, x_t: Tensor, t: Tensor | float) -> Tensor:
        """ln p(z) + ln p(x_t | z) in nats, shape (B, K); see `log_density` for the arguments and errors."""
        path = get_path(path)
        out = []
        for residual, noisy, _ in self._residuals(path, x_t, t):
            quadratic = (residual.square() / noisy).sum(dim=-1)
            # ln det of the covariance (b, K); an isotropic one is kept as one number, which stands for all d axes.
            volume = noisy.log().sum(dim=-1) * (self.dim // noisy.shape[-1])
            out.append(self.weights.log() - 0.5 * (quadratic + volume + self.dim * math.log(2 * math.pi)))
        return torch.cat(out)

    def log_density(self, path: Path | str, x_t: Tensor, t: Tensor | float) -> Tensor:
        """ln p(x_t) in nats, shape (B,).

        Parameters
        ----------
        path : Path or str
        x_t : Tensor [shape=(B, d)]
        t : float or Tensor [shape=() or (B,)], in [0, 1]

        Raises
        ------
        UserError
            Shapes that do not fit, t outside [0, 1], or a singular covariance at a level without noise.
        """
        return self.log_joint(path, x_t, t).logsumexp(dim=1)

    def log_posterior(self, path: Path | str, x_t: Tensor, t: Tensor | float) -> Tensor:
        """ln p(z | x_t) in nats, shape (B, K); finite where p underflows."""
        return self.log_joint(path, x_t, t).log_softmax(dim=1)

    def posterior(self, path: Path | str, x_t: Tensor, t: Tensor | float) -> Tensor:
        """p(z | x_t), shape (B, K)."""
        return self.log_joint(path, x_t, t).softmax(dim=1)

    def component_predict(self, path: Path | str, target: str, x_t: Tensor, t: Tensor | float) -> Tensor:
        """E[y | x_t, z] for each z, shape (B, K, d): with target "x0" the D_z of the entropic signature.

        Parameters
        ----------
        path : Path or str
        target : {"eps", "x0", "v", "u"}
        x_t : Tensor [shape=(B, d)]
        t : float or Tensor [shape=() or (B,)], in [0, 1]
        """
        path = get_path(path)
        check_target(target)
        return torch.cat([self._predict(path, target, *chunk) for chunk in self._residuals(path, x_t, t)])

    def bayes_predict(self, path: Path | str, target: str, x_t: Tensor, t: Tensor | float) -> Tensor:
        """E[y | x_t], shape (B, d): what a perfect network returns; see `component_predict`."""
        path = get_path(path)
        check_target(target)
        posterior = self.posterior(path, x_t, t)
        out, start = [], 0
        for chunk in self._residuals(path, x_t, t):
            predicted = self._predict(path, target, *chunk)
            out.append(torch.einsum("bk,bkd->bd", posterior[start : start + len(predicted)], predicted))
            start += len(predicted)
        return torch.cat(out)

    def conditional_variance(self, path: Path | str, target: str, x_t: Tensor, t: Tensor | float) -> Tensor:
        """E[|y - E[y | x_t]|^2 | x_t], summed over coordinates, shape (B,): its mean over x_t is the Bayes floor."""
        path = get_path(path)
        check_target(target)
        posterior = self.posterior(path, x_t, t)
        out, start = [], 0
        for residual, noisy, level in self._residuals(path, x_t, t):
            weight = posterior[start : start + len(residual)]
            predicted = self._predict(path, target, residual, noisy, level)
            centre = torch.einsum("bk,bkd->bd", weight, predicted)
            # Total variance over z: how far the components' estimates lie apart, and what each leaves open by itself.
            between = (predicted - centre[:, None]).square().sum(dim=-1)
            out.append((weight * (between + self._within(path, target, noisy, level))).sum(dim=1))
            start += len(residual)
        return torch.cat(out)

    def within_variance(self, path: Path | str, target: str, t: Tensor | float) -> float:
        """E[tr Cov(y | x_t, z)] at one noise level: the part of the Bayes floor that knowing z would leave."""
        path, level = get_path(path), self._levels(t, 1)
        check_target(target)
        within = self._within(path, target, self._noisy(path, level), level)
        return float((self.weights * within).sum())

    # ---- inside ----

    def _levels(self, t: Tensor | float, n: int) -> Tensor:
        level = torch.as_tensor(t, dtype=torch.float64).detach()
        if level.dim() > 1 or level.numel() not in (1, n):
            raise UserError(f"t must be one noise level or one a sample, shape ({n},); got {tuple(level.shape)}.")
        if not bool(((level >= 0) & (level <= 1)).all()):
            raise UserError("noise levels must lie in [0, 1], where 1 is noise; check t.")
        return level.reshape(-1)

    def _noisy(self, path: Path, level: Tensor) -> Tensor:
        """s, shape (len(level), K, 1 or d)."""
        alpha, sigma = path.alpha(level), path.sigma(level)
        noisy = alpha.square()[:, None, None] * self._variances + sigma.square()[:, None, None]
        if not bool((noisy > 0).all()):
            raise UserError(
                "the mixture has a singular covariance and x_t holds no noise at t = "
                f"{float(level[(noisy <= 0).flatten(1).any(dim=1)][0]):g}, where it has no density; ask at t > 0."
            )
        return noisy

    def _residuals(self, path: Path, x_t: Tensor, t: Tensor | float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(residual in each component's axes (b, K, d), s (b or 1, K, 1 or d), t (b or 1,)), chunk by chunk."""
        if x_t.dim() != 2 or x_t.shape[1] != self.dim:
            raise UserError(f"x_t must be (samples, {self.dim}) for this mixture; got {tuple(x_t.shape)}.")
        x, level = x_t.detach().to(torch.float64), self._levels(t, x_t.shape[0])
        step = max(1, _CHUNK // (self.num_components * self.dim))
        for start in range(0, max(1, x.shape[0]), step):  # an empty batch gives one empty chunk
            part = x[start : start + step]
            here = level if level.numel() == 1 else level[start : start + step]
            residual = part[:, None] - path.alpha(here)[:, None, None] * self.means
            if self._basis is not None:
                residual = torch.einsum("kij,bki->bkj", self._basis, residual)
            yield residual, self._noisy(path, here), here

    def _predict(self, path: Path, target: str, residual: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
        alpha, sigma = path.alpha(level)[:, None, None], path.sigma(level)[:, None, None]
        c_x, c_eps = (c[:, None, None] for c in coefficients(path, target, level))
        # y = c_x x0 + c_eps noise given x_t and z: Cov(y, x_t | z) / Var(x_t | z) on each axis, (b, K, 1 or d).
        gain = (c_x * alpha * self._variances + c_eps * sigma) / noisy
        moved = gain * residual
        if self._basis is not None:
            moved = torch.einsum("kij,bkj->bki", self._basis, moved)
        return c_x * self.means + moved

    def _within(self, path: Path, target: str, noisy: Tensor, level: Tensor) -> Tensor:
        """tr Cov(y | x_t, z), shape (b or 1, K): the same for every x_t."""
        # Var(y) - Cov(y, x_t)^2 / s, subtracted by hand: v (c_x sigma - c_eps alpha)^2 / s. As a difference it would
        # cancel where one of the two is nearly known.
        det = determinant(path, target, level)[:, None, None]
        return (det.square() * self._variances / noisy).sum(dim=-1) * (self.dim // noisy.shape[-1])


def corners(spread: float = 2.0, deviation: float = 0.3) -> GaussianMixture:
    """Four equal clusters at (+-spread, +-spread): the data of Elucidated Representation Diffusion, appendix F.1.

    Parameters
    ----------
    spread : float, default 2.0
        Distance of the centres from either axis.
    deviation : float, default 0.3
        Standard deviation within a cluster.
    """
    centres = [[x * spread, y * spread] for x in (-1.0, 1.0) for y in (-1.0, 1.0)]
    return GaussianMixture([0.25] * 4, centres, deviation**2)


def _float64(value: object, what: str) -> Tensor:
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64).detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"the {what} of the mixture are not numbers of one rectangular shape ({error}).") from error
    if not bool(tensor.isfinite().all()):
        raise UserError(f"the {what} of the mixture are not all finite; check them.")
    return tensor


def _priors(weights: object) -> Tensor:
    priors = _float64(weights, "priors")
    if priors.dim() != 1 or priors.numel() == 0:
        raise UserError(f"the priors must be one number a component, shape (K,); got {tuple(priors.shape)}.")
    if not bool((priors > 0).all()):
        raise UserError(f"a prior is {float(priors.min()):g}; priors must be above 0: leave that component out.")
    total = float(priors.sum())
    if abs(total - 1) > _ROUNDING:
        raise UserError(f"the priors sum to {total:.6g} and not to 1; divide them by their sum.")
    return priors / total
