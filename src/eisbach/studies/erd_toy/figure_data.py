"""The numbers behind Figures 2-4 and 7-12 of Elucidated Representation Diffusion, for one path."""

from __future__ import annotations

import torch
from torch import Tensor

from eisbach.backbones.mlp import MLPEnsemble, TimeMLP
from eisbach.diagnostics.bayes_floor import floor_curves
from eisbach.diagnostics.mixture import GaussianMixture
from eisbach.diagnostics.ntk import effective_rank, eigenvalues, empirical_ntk, normalised_gram, trace_over_outputs
from eisbach.studies.erd_toy.config import FigureSettings
from eisbach.studies.erd_toy.train import LevelPoints, draw_points, excess, midpoints

_FEATURE_LEVELS = (0.1, 0.4, 0.7, 0.9)
_GRAM_LEVELS = (0.05, 0.95)
_TOP = 3
_EVALUATION_SEED = 1_000_003
_PHASE_SAMPLES = 24

_Arrays = dict[str, Tensor]


def evaluation_points(mixture: GaussianMixture, path: str, settings: FigureSettings) -> LevelPoints:
    """The points on which loss, floor and norms are measured: the same for every model."""
    return draw_points(mixture, path, midpoints(settings.levels), settings.samples, _EVALUATION_SEED)


def loss_arrays(
    ensemble: MLPEnsemble, targets: list[str], points: LevelPoints, mixture: GaussianMixture, prefix: str
) -> _Arrays:
    """`<prefix>/t` (L,) and, a target each (E, L): `<prefix>/excess`, `<prefix>/floor` and their sum, `<prefix>/loss`.

    All a coordinate. The loss is the exact floor plus the measured excess (Lemma 3.2), so the two never cross by
    chance.
    """
    floor = floor_curves(mixture, points.path, targets, points.t) / mixture.dim
    over = excess(ensemble, points, mixture, targets)
    return {f"{prefix}/t": points.t, f"{prefix}/excess": over, f"{prefix}/floor": floor, f"{prefix}/loss": floor + over}


def phase_arrays(mixture: GaussianMixture, points: LevelPoints, targets: list[str]) -> _Arrays:
    """Figures 3 and 8: root mean squares and single samples of |E[y | x_t]| and |y - E[y | x_t]|.

    `phase/signal` and `phase/noise` (E, L); `phase/sample_signal`, `phase/sample_noise` (E, L, samples).
    """
    signal, noise, one_signal, one_noise = [], [], [], []
    for name in targets:
        bayes = points.bayes(mixture, name)
        recoverable = bayes.norm(dim=2)
        lost = (points.target(name) - bayes).norm(dim=2)
        signal.append(recoverable.square().mean(dim=1).sqrt())
        noise.append(lost.square().mean(dim=1).sqrt())
        one_signal.append(recoverable[:, :_PHASE_SAMPLES])
        one_noise.append(lost[:, :_PHASE_SAMPLES])
    return {
        "phase/t": points.t,
        "phase/signal": torch.stack(signal),
        "phase/noise": torch.stack(noise),
        "phase/sample_signal": torch.stack(one_signal),
        "phase/sample_noise": torch.stack(one_noise),
    }


@torch.no_grad()
def feature_arrays(networks: list[TimeMLP], mixture: GaussianMixture, path: str, samples: int) -> _Arrays:
    """Figure 9: last hidden layers at four noise levels in the plane of the first two principal axes at t = 0.1.

    `features/projection` (E, 4, n, 2), `features/component` (n,), `features/spread` and `features/separation` (E, 4).
    Spread is the root mean square distance from the centre in the full feature space; separation the share of that
    variance that lies between clusters, 1 where each cluster is one point and 0 where they coincide.
    `features/explained` (E,): share of the variance at t = 0.1 that the plane holds.
    """
    points = draw_points(mixture, path, torch.tensor(_FEATURE_LEVELS), samples, _EVALUATION_SEED + 1)
    component = points.component[0]
    flat, t = points.flat
    projection, spread, separation, explained = [], [], [], []
    for network in networks:
        hidden = network.features(flat, t).double().reshape(len(_FEATURE_LEVELS), samples, -1)
        centre = hidden[0].mean(dim=0)
        _, singular, axes = torch.linalg.svd(hidden[0] - centre, full_matrices=False)
        projection.append((hidden - centre) @ axes[:2].T)
        explained.append(singular[:2].square().sum() / singular.square().sum())
        spread.append((hidden - hidden.mean(dim=1, keepdim=True)).square().sum(dim=2).mean(dim=1).sqrt())
        separation.append(_between_share(hidden, component))
    return {
        "features/t": points.t,
        "features/component": component,
        "features/projection": torch.stack(projection),
        "features/spread": torch.stack(spread),
        "features/separation": torch.stack(separation),
        "features/explained": torch.stack(explained),
    }


def _between_share(hidden: Tensor, component: Tensor) -> Tensor:
    """Share of the variance of (L, n, width) that lies between components, shape (L,)."""
    centred = hidden - hidden.mean(dim=1, keepdim=True)
    total = centred.square().sum(dim=2).mean(dim=1)
    between = torch.zeros_like(total)
    for k in component.unique():
        rows = component == k
        between += rows.double().mean() * centred[:, rows].mean(dim=1).square().sum(dim=1)
    return between / total.clamp(min=1e-300)


def ntk_arrays(
    networks: list[TimeMLP], mixture: GaussianMixture, path: str, settings: FigureSettings, prefix: str = "ntk"
) -> _Arrays:
    """Figures 4, 10, 11 and 12: spectra over the noise level, Gram matrices, and the kernel between noise levels.

    `<prefix>/t` (M,), `<prefix>/top` (E, M, 3) eigenvalues of the full kernel divided by the number of samples,
    `<prefix>/rank` (E, M) effective rank and `<prefix>/rank_trace` the same of the trace kernel, `<prefix>/mean` (E, M)
    mean of the trace kernel's diagonal; `<prefix>/gram` (E, 2, n, n) sorted by cluster and `<prefix>/contrast` (E, 2):
    mean cosine within minus between clusters; `<prefix>/joint_t` (J,), `<prefix>/joint` (E, J, J): |Theta(t, t')| /
    root(|Theta(t, t)|
    |Theta(t', t')|) in the Frobenius norm, and `<prefix>/joint_raw` (E, J, J): mean of the trace kernel over pairs of
    samples.
    """
    curve_t = midpoints(settings.ntk_levels)
    curve = draw_points(mixture, path, curve_t, settings.ntk_samples, _EVALUATION_SEED + 2)
    grams = draw_points(mixture, path, torch.tensor(_GRAM_LEVELS), settings.ntk_samples, _EVALUATION_SEED + 2)
    joint = draw_points(mixture, path, curve_t, settings.joint_samples, _EVALUATION_SEED + 3)
    order = grams.component[0].argsort(stable=True)
    cluster = grams.component[0][order]
    collected: dict[str, list[Tensor]] = {}

    def keep(name: str, value: Tensor) -> None:
        collected.setdefault(f"{prefix}/{name}", []).append(value)

    for network in networks:
        top, rank, rank_trace, mean = [], [], [], []
        for level in range(len(curve_t)):
            kernel = _kernel(network, curve.x_t[level], float(curve_t[level]))
            values, traced = eigenvalues(kernel), trace_over_outputs(kernel)
            top.append(values[:_TOP])
            rank.append(effective_rank(values))
            rank_trace.append(effective_rank(eigenvalues(traced)))
            mean.append(float(traced.diagonal().mean()))
        keep("top", torch.stack(top))
        for name, numbers in (("rank", rank), ("rank_trace", rank_trace), ("mean", mean)):
            keep(name, torch.tensor(numbers, dtype=torch.float64))
        cosines = [
            normalised_gram(_kernel(network, grams.x_t[i][order], t)).double() for i, t in enumerate(_GRAM_LEVELS)
        ]
        keep("gram", torch.stack(cosines))
        keep("contrast", torch.stack([_contrast(cosine, cluster) for cosine in cosines]))
        flat, t = joint.flat
        whole = empirical_ntk(network, (flat, t)).double()
        n, count = settings.joint_samples, len(curve_t)
        blocks = whole.reshape(count, n, 2, count, n, 2)
        size = blocks.square().sum(dim=(1, 2, 4, 5)).sqrt()
        keep("joint", size / torch.outer(size.diagonal(), size.diagonal()).sqrt())
        keep("joint_raw", torch.einsum("anobmo->ab", blocks) / n**2)
    arrays = {name: torch.stack(values) for name, values in collected.items()}
    return {f"{prefix}/t": curve_t, f"{prefix}/joint_t": curve_t, f"{prefix}/cluster": cluster, **arrays}


def _kernel(network: TimeMLP, x_t: Tensor, t: float) -> Tensor:
    return empirical_ntk(network, (x_t.float(), torch.full((len(x_t),), t)))


def _contrast(cosines: Tensor, cluster: Tensor) -> Tensor:
    same = cluster[:, None] == cluster
    off = ~torch.eye(len(cluster), dtype=torch.bool)
    return cosines[same & off].mean() - cosines[~same].mean()
