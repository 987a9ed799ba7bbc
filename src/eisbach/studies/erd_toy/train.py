"""Training of toy networks side by side, and how good they are against the exact truth.

Every member sees the same draws of data, noise and noise level in each step. Measured are excess over the Bayes floor,
likelihood gap, and what a network generates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eisbach.backbones.mlp import MLPEnsemble, TimeMLP
from eisbach.diagnostics.mixture import GaussianMixture
from eisbach.diffusion.paths import get_path
from eisbach.diffusion.targets import add_noise, convert, determinant, make_target
from eisbach.studies.erd_toy.config import ToyNetwork, Weight

_AHEAD = 50  # steps whose noise levels and weights are made at once


@dataclass(frozen=True)
class Member:
    """One network of an ensemble: what it predicts and how its loss is weighted."""

    target: str
    weight: Weight


def new_network(network: ToyNetwork, seed: int) -> TimeMLP:
    """An untrained network; equal for equal seeds."""
    generator = torch.Generator().manual_seed(2 * seed)
    return TimeMLP(2, network.width, network.depth, network.embedding, network.time_scale, generator)


def train_members(
    mixture: GaussianMixture,
    path: str,
    members: Sequence[Member],
    network: ToyNetwork,
    *,
    steps: int,
    batch: int,
    seed: int,
    low: float = 0.0,
    high: float = 1.0,
    on_step: Callable[[int], object] | None = None,
) -> MLPEnsemble:
    """The trained ensemble; member i minimises the mean of weight_i(t) |f(x_t, t) - y_i|^2 / d over t uniform in [low,
    high].

    All members start from the same weights and see the same (x0, noise, t): what differs between them is target and
    weight alone. Adam is elementwise, so the ensemble's step is each member's own step.

    Parameters
    ----------
    seed : int
        Of the initial weights and, in a stream of its own, of the draws.
    on_step : callable or None
        Called with the number of finished steps.
    """
    ensemble = MLPEnsemble([new_network(network, seed)] * len(members))
    optimiser = torch.optim.Adam(ensemble.parameters(), lr=network.learning_rate, fused=True)
    generator = torch.Generator().manual_seed(2 * seed + 1)
    names = list(dict.fromkeys(member.target for member in members))
    index = torch.tensor([names.index(member.target) for member in members])
    for first in range(0, steps, _AHEAD):
        count = min(_AHEAD, steps - first)
        t = low + (high - low) * torch.rand(count * batch, generator=generator, dtype=torch.float64)
        weights = torch.stack([member.weight(t) for member in members]).float().reshape(len(members), count, batch)
        x0 = mixture.sample(count * batch, generator)[0].float()
        noise = torch.randn(count * batch, 2, generator=generator)
        t = t.float()
        x_t = add_noise(path, x0, noise, t)
        targets = torch.stack([make_target(path, name, x0, noise, t) for name in names])
        for step in range(count):
            rows = slice(step * batch, (step + 1) * batch)
            optimiser.zero_grad(set_to_none=True)
            error = ensemble(x_t[rows], t[rows]) - targets[index, rows]
            loss = (weights[:, step] * error.square().mean(dim=2)).mean(dim=1).sum()
            loss.backward()
            optimiser.step()
            if on_step is not None:
                on_step(first + step + 1)
    return ensemble


@dataclass(frozen=True)
class LevelPoints:
    """Draws of x_t at each of L noise levels, and the exact Bayes predictor there, for judging networks.

    Attributes
    ----------
    t : Tensor [shape=(L,)]
    x_t, x0, noise : Tensor [shape=(L, n, 2), float64]
    component : Tensor [shape=(L, n)]
    """

    path: str
    t: Tensor
    x_t: Tensor
    x0: Tensor
    noise: Tensor
    component: Tensor

    @property
    def flat(self) -> tuple[Tensor, Tensor]:
        """(x_t (L n, 2), t (L n,)) in float32: what a network is asked."""
        levels, n, dim = self.x_t.shape
        return self.x_t.reshape(levels * n, dim).float(), self.t.repeat_interleave(n).float()

    def bayes(self, mixture: GaussianMixture, target: str) -> Tensor:
        """E[y | x_t] at every point, shape (L, n, 2)."""
        levels, n, dim = self.x_t.shape
        t = self.t.repeat_interleave(n)
        return mixture.bayes_predict(self.path, target, self.x_t.reshape(-1, dim), t).reshape(levels, n, dim)

    def target(self, target: str) -> Tensor:
        """y at every point, shape (L, n, 2)."""
        levels, n, dim = self.x_t.shape
        t = self.t.repeat_interleave(n)
        y = make_target(self.path, target, self.x0.reshape(-1, dim), self.noise.reshape(-1, dim), t)
        return y.reshape(levels, n, dim)


def draw_points(mixture: GaussianMixture, path: str, t: Tensor, samples: int, seed: int) -> LevelPoints:
    """Points at each level of `t` (L,); the same x0 and noise at every level, equal shares of the components."""
    level = t.to(torch.float64)
    generator = torch.Generator().manual_seed(seed)
    component = torch.arange(samples) % mixture.num_components
    x0 = mixture.sample_given(component, generator)
    noise = torch.randn(samples, mixture.dim, generator=generator, dtype=torch.float64)
    way = get_path(path)
    x_t = way.alpha(level)[:, None, None] * x0 + way.sigma(level)[:, None, None] * noise
    shape = (len(level), samples)
    return LevelPoints(path, level, x_t, x0.expand(*shape, -1), noise.expand(*shape, -1), component.expand(shape))


def midpoints(cells: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """The middles of equal cells of [low, high], float64."""
    return low + (high - low) * (torch.arange(cells, dtype=torch.float64) + 0.5) / cells


@torch.no_grad()
def predict_points(ensemble: MLPEnsemble, points: LevelPoints, levels_at_once: int = 8) -> Tensor:
    """Every member's prediction at every point, shape (E, L, n, 2), float64."""
    out = []
    x_t, t = points.flat
    levels, n, dim = points.x_t.shape
    for start in range(0, levels, levels_at_once):
        rows = slice(start * n, (start + levels_at_once) * n)
        predicted = ensemble(x_t[rows], t[rows]).double()
        out.append(predicted.reshape(ensemble.size, -1, n, dim))
    return torch.cat(out, dim=1)


_ANGLES = 32
_REFERENCE = 131_072
_OUTLIER = 4.0  # standard deviations from the nearest centre
_START_LOG_SNR = -9.0  # where generation starts: data is 1/90 of noise, and every target still determines x0


def excess(ensemble: MLPEnsemble, points: LevelPoints, mixture: GaussianMixture, targets: list[str]) -> Tensor:
    """E|f(x_t, t) - E[y | x_t]|^2 / d of each member at each level, shape (E, L): the optimisable part of its loss.

    Measured against the exact Bayes predictor, not as loss minus floor, so it carries none of the target's own noise.

    Parameters
    ----------
    targets : list of str
        Each member's target.
    """
    predicted = predict_points(ensemble, points)
    bayes = {name: points.bayes(mixture, name) for name in dict.fromkeys(targets)}
    return torch.stack([(predicted[i] - bayes[name]).square().mean(dim=(1, 2)) for i, name in enumerate(targets)])


def likelihood_gap(
    ensemble: MLPEnsemble, points: LevelPoints, mixture: GaussianMixture, targets: list[str], width: float
) -> Tensor:
    """``1/2 int E|eps_hat - E[eps | x_t]|^2 d lambda`` of each member in nats, shape (E,): what its errors cost in the
    evidence bound over the points' range of log-SNR (Kingma & Gao 2023).

    The same number whatever the network predicts and whatever the path: an error in the target is restated as one in
    the noise.

    Parameters
    ----------
    points : LevelPoints
        At levels evenly spaced in log-SNR.
    width : float
        Width of that range in nats.
    """
    own = excess(ensemble, points, mixture, targets) * points.x_t.shape[-1]
    alpha = get_path(points.path).alpha(points.t)
    scale = torch.stack([(alpha / determinant(points.path, name, points.t)).square() for name in targets])
    return 0.5 * width * (own * scale).mean(dim=1)


@dataclass(frozen=True)
class Quality:
    """Of each member's generated points, shape (E,) each.

    Attributes
    ----------
    sliced_wasserstein : Tensor
        Mean over directions of the Wasserstein-1 distance to the data, in the data's unit.
    coverage_error : Tensor
        Total variation between the clusters' shares and their priors, in [0, 1].
    outliers : Tensor
        Share of points farther than 4 standard deviations from every centre.
    """

    sliced_wasserstein: Tensor
    coverage_error: Tensor
    outliers: Tensor


@torch.no_grad()
def generate(ensemble: MLPEnsemble, path: str, targets: list[str], count: int, steps: int, seed: int) -> Tensor:
    """Points generated by each member from the same noise, shape (E, count, 2): DDIM steps even in t.

    The steps start at a log-SNR of -9 and not at t = 1, where a network that predicts noise says nothing of the data.
    """
    way = get_path(path)
    start = way.t_from_log_snr(torch.tensor(_START_LOG_SNR, dtype=torch.float64)).clamp(max=1.0)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64) * start
    generator = torch.Generator().manual_seed(seed)
    # The noise and its mirror images: an exact network then fills symmetric clusters equally, and chance adds nothing.
    quarter = torch.randn(-(-count // 4), 2, generator=generator)
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    noise = (signs[:, None] * quarter).reshape(-1, 2)[:count]
    x = (way.sigma(start).float() * noise).expand(ensemble.size, -1, -1)
    for here, there in itertools.pairwise(times):
        t = here.float().expand(count)
        output = ensemble(x, t)
        data = torch.stack([convert(path, y, "x0", o, z, t) for y, o, z in zip(targets, output, x, strict=True)])
        left = torch.stack([convert(path, y, "eps", o, z, t) for y, o, z in zip(targets, output, x, strict=True)])
        x = data if float(there) == 0 else way.alpha(there).float() * data + way.sigma(there).float() * left
    return x.double()


def quality(samples: Tensor, mixture: GaussianMixture, seed: int = 0) -> Quality:
    """How the points (E, n, 2) compare with the mixture; equal isotropic clusters are supposed for the outliers.

    Points that are not finite make the member's numbers infinite (or all outliers), never silently better.
    """
    generator = torch.Generator().manual_seed(seed)
    angles = torch.arange(_ANGLES, dtype=torch.float64) * (math.pi / _ANGLES)
    directions = torch.stack([angles.cos(), angles.sin()])
    reference = (mixture.sample(_REFERENCE, generator)[0] @ directions).sort(dim=0).values
    count = samples.shape[1]
    ranks = ((torch.arange(count, dtype=torch.float64) + 0.5) / count * _REFERENCE).long()
    broken = ~samples.isfinite().all(dim=2)
    clean = samples.nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6)
    distance = ((clean @ directions).sort(dim=1).values - reference[ranks]).abs().mean(dim=(1, 2))
    apart = torch.cdist(clean, mixture.means.expand(len(samples), -1, -1))
    near, which = apart.min(dim=2)
    shares = torch.nn.functional.one_hot(which, mixture.num_components).double().mean(dim=1)
    deviation = mixture.component_variances().max().sqrt()
    outside = ((near > _OUTLIER * deviation) | broken).double().mean(dim=1)
    return Quality(distance, 0.5 * (shares - mixture.weights).abs().sum(dim=1), outside)
