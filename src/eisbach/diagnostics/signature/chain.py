"""Log-likelihood ratios of classes along stochastic trajectories, and the entropy rate at every level they visit.

**Chain.** Given z, a step from x_t down to x_s has the likelihood N(mu_z, Sigma) with mu_z = (posterior kernel at D_z),
D_z = E[x0 | x_t, z]. With any common reference D and delta_z = D_z - D the ratio is, since the kernel's coefficients
satisfy of_x0 / variance = alpha_s / sigma_s^2 and of_x0^2 / variance = SNR_s - SNR_t::

    Delta L_z = delta_z . W - (SNR_s - SNR_t) |delta_z|^2 / 2,      W = (alpha_s / sigma_s^2) (x_s - mu)

W is the innovation of ``Y = (alpha / sigma^2) x``, which obeys ``dY = D dSNR + dB``: this is Girsanov's theorem,
discretised by holding D_z over a step. The error is of first order in the step; the same trajectory read with every
second step has twice of it, at no further evaluation, which gives both an estimate of the error and its extrapolation.
Summed over steps from noise, ``p(z | x_t) ~ p(z) exp L_z``. On a probability-flow ODE nothing is random given x_t and
there is no likelihood: refused.

**Rate.** ``dH/dSNR = -E|D_Z - D|^2 / 2`` with D = sum_z p(z | x_t) D_z over the classes considered (not the model's
unconditional output).

**Guidance.** Trajectories that are driven by another estimate D_g (guidance) give the cross-entropy C = E[-ln p(Z |
x_t)], and Ito's formula its rate: ``dC/dSNR = -E[(D_Z - D) . (D_g - D) - |D_Z - D|^2 / 2]``, which is the entropy's
where D_g = D_Z. With D_g = D_0 + w (D_Z - D_0) and D_0 ~ D it is (2 w - 1) times as fast.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eisbach.diagnostics.signature.model import ClassModel, ClassSet
from eisbach.diffusion.paths import Path
from eisbach.diffusion.samplers import check_times, posterior_kernel
from eisbach.diffusion.targets import convert, require_defined
from eisbach.errors import UserError

_MIN_STEPS = 8


@dataclass(frozen=True)
class Guidance:
    """Guided trajectories: scale w, and the levels t in which it acts (None: all)."""

    scale: float
    interval: tuple[float, float] | None = None

    def acts(self, t: float) -> bool:
        """Whether the chain is guided at t."""
        return self.interval is None or self.interval[0] <= t <= self.interval[1]


@dataclass
class Trajectories:
    """What was read along N trajectories at n levels (the end, clean data, is not one of them).

    Attributes
    ----------
    t : Tensor [shape=(n,)]
        From noise to data.
    label : Tensor [shape=(N,), int64]
        The class that each was made for.
    fine, coarse : Tensor [shape=(n, N, K), float64]
        L_z with every step and with every second.
    gap : Tensor [shape=(n, N, P)]
        E[|D_Z - D|^2 | x_t] for each partition.
    drift : Tensor [shape=(n, N, P)] or None
        (D_z - D) . (D_g - D) - |D_z - D|^2 / 2 for the trajectory's own group, in reverse chains.
    """

    t: Tensor
    label: Tensor
    fine: Tensor
    coarse: Tensor
    gap: Tensor
    drift: Tensor | None

    @staticmethod
    def join(parts: Sequence[Trajectories]) -> Trajectories:
        """All trajectories of the parts, which visited the same levels."""
        drifts = [part.drift for part in parts if part.drift is not None]
        return Trajectories(
            t=parts[0].t,
            label=torch.cat([part.label for part in parts]),
            fine=torch.cat([part.fine for part in parts], dim=1),
            coarse=torch.cat([part.coarse for part in parts], dim=1),
            gap=torch.cat([part.gap for part in parts], dim=1),
            drift=torch.cat(drifts, dim=1) if len(drifts) == len(parts) else None,
        )


def check_chain(path: Path, target: str, times: Tensor, eta: float) -> Tensor:
    """The schedule, checked; float64 on the CPU.

    Raises
    ------
    UserError
        eta other than 1, too few steps, a malformed schedule or a target that is undefined at t = 1.
    """
    if eta == 0:
        raise UserError(
            "the chain estimator got a deterministic sampler (eta 0, the probability-flow ODE): given x_t such a step "
            "leaves nothing "
            "to chance, so it has no likelihood under a class; use eta 1, or the rate estimator's curve alone."
        )
    if eta != 1:
        raise UserError(
            f"the chain estimator got eta {eta:g}, and only with eta 1 is a step drawn from the posterior that its "
            "likelihood is of; use 1."
        )
    levels = check_times(times, path)
    if len(levels) - 1 < _MIN_STEPS:
        raise UserError(
            f"{len(levels) - 1} steps arrived; the discretisation would be the answer: use at least {_MIN_STEPS}, "
            "better 64."
        )
    require_defined(path, target, levels[:-1])
    return levels


def trajectory_seed(seed: int, index: int) -> int:
    """A 63-bit seed of one trajectory, by SHA-256: independent of batching and of the other trajectories."""
    digest = hashlib.sha256(f"signature/{seed}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@torch.no_grad()
def follow(
    model: ClassModel,
    classes: ClassSet,
    times: Tensor,
    label: Tensor,
    seeds: Sequence[int],
    *,
    data: Tensor | None = None,
    guidance: Guidance | None = None,
    eta: float = 1.0,
    on_level: Callable[[], object] | None = None,
) -> Trajectories:
    """Reads N trajectories together.

    Parameters
    ----------
    times : Tensor [shape=(n + 1,)]
        Falling to 0 from 1, or from a level that is as good as noise (log-SNR at most -6), where nothing counts as
        known yet.
    label : Tensor [shape=(N,), int64]
        Class of each trajectory.
    seeds : sequence of N int
        Each trajectory's own noise.
    data : Tensor [shape=(N, ...)] or None
        Clean samples, which are noised step by step (a forward chain, read backwards). None generates: a reverse chain
        of the model's own class, ancestral (eta 1).
    guidance : Guidance or None
        Of a reverse chain.
    on_level : callable or None
        Called after each level.

    Raises
    ------
    UserError
        As `check_chain`; data or labels that do not fit; guidance of data.
    """
    levels = check_chain(model.path, model.target, times, eta)
    _check_inputs(model, classes, label, seeds, data, guidance)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw() -> Tensor:  # (N, D), each row from its own trajectory's noise
        size = math.prod(model.shape)
        return torch.stack([torch.randn(size, generator=generator, dtype=torch.float64) for generator in generators])

    visited = levels[:-1]
    alpha, sigma = model.path.alpha(visited), model.path.sigma(visited)
    snr = torch.exp(model.path.log_snr(visited))
    states = None if data is None else _noised(model.path, data.to(torch.float64).flatten(1), visited, draw)
    x = sigma[0] * draw() if states is None else states[0]
    members = [classes.group_of_class(name) for name in classes.partition_names]
    # ln p(x_t | z) up to a constant (n, N, K), read at every step and, for the error of the step size, at every other.
    fine = torch.zeros(len(visited), len(label), len(classes), dtype=torch.float64)
    coarse = fine.clone()
    gaps, drifts = [], []
    held: tuple[Tensor, Tensor] | None = None  # (delta, reference) of the coarse reading's step
    for i, t in enumerate(visited.tolist()):
        delta, reference, own = _estimates(model, x, t, visited[i : i + 1], label, guidance)
        driven = own if states is None else None
        gap, drift = _rates(classes, members, fine[i], delta, driven, label)
        gaps.append(gap)
        if drift is not None:
            drifts.append(drift)
        if i + 1 < len(visited):
            if driven is None:
                assert states is not None  # one of the two moves the chain
                ahead = states[i + 1]
            else:
                ahead = _reverse_step(model.path, x, reference + driven, visited[i], visited[i + 1], draw)
            moved = alpha[i + 1] / sigma[i + 1] ** 2 * ahead - alpha[i] / sigma[i] ** 2 * x
            step = snr[i + 1] - snr[i]
            if held is None or i % 2 == 0:
                held = (delta, reference)
            fine[i + 1] = fine[i] + _log_ratio(delta, reference, moved, step)
            coarse[i + 1] = coarse[i] + _log_ratio(*held, moved, step)
            x = ahead
        if on_level is not None:
            on_level()
    return Trajectories(visited, label, fine, coarse, torch.stack(gaps), torch.stack(drifts) if drifts else None)


def _reverse_step(path: Path, x: Tensor, x0: Tensor, t: Tensor, s: Tensor, draw: Callable[[], Tensor]) -> Tensor:
    """x_s (N, D) of an ancestral step from x_t towards the data estimate."""
    kernel = posterior_kernel(path, t, s)
    return float(kernel.of_x) * x + float(kernel.of_x0) * x0 + kernel.variance.sqrt() * draw()


def _check_inputs(
    model: ClassModel,
    classes: ClassSet,
    label: Tensor,
    seeds: Sequence[int],
    data: Tensor | None,
    guidance: Guidance | None,
) -> None:
    if model.num_classes != len(classes) or len(label) != len(seeds):
        raise UserError(
            f"the model has {model.num_classes} classes and {len(classes)} were named, with {len(label)} labels and "
            f"{len(seeds)} seeds."
        )
    if data is not None and guidance is not None:
        raise UserError("guidance changes how samples are made, and data is there already; leave one of them out.")


def _estimates(
    model: ClassModel, x: Tensor, t: float, batch_t: Tensor, label: Tensor, guidance: Guidance | None
) -> tuple[Tensor, Tensor, Tensor]:
    """What the model makes of x [shape=(N, D)] at one level: each class's data estimate less their mean
    [shape=(N, K, D)], that mean [shape=(N, D)], and what drives a reverse chain, the own class's part [shape=(N, D)],
    guided."""
    shaped = x.reshape(-1, *model.shape).to(model.dtype)
    outputs = model.outputs(shaped, t)
    centre = outputs.mean(dim=1)
    scale = _x0_slope(model, batch_t)
    # Differences from the mean first, then the scale: near t = 0 the estimates themselves would cancel badly.
    delta = scale * (outputs - centre[:, None])
    reference = convert(model.path, model.target, "x0", centre, x, batch_t)
    driven = delta[torch.arange(len(label)), label]
    if guidance is not None and guidance.scale != 1 and guidance.acts(t):
        null = scale * (model.unconditional(shaped, t) - centre)
        driven = null + guidance.scale * (driven - null)
    return delta, reference, driven


def _log_ratio(delta: Tensor, reference: Tensor, moved: Tensor, step: Tensor) -> Tensor:
    innovation = moved - step * reference
    return torch.einsum("nkd,nd->nk", delta, innovation) - 0.5 * step * delta.square().sum(dim=-1)


def _x0_slope(model: ClassModel, t: Tensor) -> Tensor:
    """d x0 / d output at fixed x_t, with its sign: differences of predictions become differences of D without
    cancellation."""
    unit, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    slope = convert(model.path, model.target, "x0", unit, zero, t) - convert(
        model.path, model.target, "x0", zero, zero, t
    )
    return slope.reshape(())


def _noised(path: Path, data: Tensor, visited: Tensor, draw: Callable[[], Tensor]) -> list[Tensor]:
    """The states of one forward Markov chain at the visited levels, from noise to data."""
    alpha, sigma, log_snr = path.alpha(visited), path.sigma(visited), path.log_snr(visited)
    states = [alpha[-1] * data + sigma[-1] * draw()]
    for i in range(len(visited) - 1, 0, -1):  # from level i up to i - 1
        fresh = sigma[i - 1] * torch.sqrt(-torch.expm1(log_snr[i - 1] - log_snr[i]))
        states.append(alpha[i - 1] / alpha[i] * states[-1] + fresh * draw())
    return states[::-1]


def _rates(
    classes: ClassSet,
    members: list[Tensor],
    log_likelihood: Tensor,
    delta: Tensor,
    driven: Tensor | None,
    label: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """(gap, drift) of each partition at one level, each (N, P)."""
    log_p = classes.log_posterior(log_likelihood)
    centre = torch.einsum("nk,nkd->nd", log_p.exp(), delta)
    rows = torch.arange(len(label))
    gaps, drifts = [], []
    for member in members:
        groups = int(member.max()) + 1
        if groups == len(member):
            log_group, apart = log_p, delta - centre[:, None]
        else:
            inside = torch.nn.functional.one_hot(member, groups).to(log_p.dtype)  # (K, G)
            log_group = torch.stack([log_p[:, member == g].logsumexp(dim=1) for g in range(groups)], dim=1)
            within = (log_p - log_group[:, member]).exp()  # p(class | its group, x_t)
            apart = torch.einsum("nk,kg,nkd->ngd", within, inside, delta) - centre[:, None]
        squares = apart.square().sum(dim=-1)
        gaps.append((log_group.exp() * squares).sum(dim=1))
        if driven is not None:
            own = member[label]
            pushed = (apart[rows, own] * (driven - centre)).sum(dim=-1)
            drifts.append(pushed - 0.5 * squares[rows, own])
    return torch.stack(gaps, dim=1), torch.stack(drifts, dim=1) if drifts else None
