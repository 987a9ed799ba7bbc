"""From trajectories to curves: means weighted by the prior, intervals by bootstrap over trajectories within each
class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from eisbach.diagnostics.signature.chain import Trajectories
from eisbach.diagnostics.signature.curve import HalfTime, SignatureCurve, finite_or_none
from eisbach.diagnostics.signature.model import ClassSet, entropy_of
from eisbach.diffusion.paths import Path
from eisbach.diffusion.rate_curve import crossing
from eisbach.errors import UserError


class Resamples:
    """Weights of trajectories: the estimate's own first, then bootstrap resamples that draw within each class.

    Class z counts with its prior p(z) whatever number of trajectories it has. A resample draws one fewer than the class
    has, so that its variance is that of the estimate (Rao & Wu 1988): drawing as many gives (m - 1) / m of it, 17% too
    little with 6 trajectories.

    Parameters
    ----------
    label : np.ndarray [shape=(N,), int]
    prior : sequence of K float
    count : int
        Resamples; 0 for none.
    seed : int

    Raises
    ------
    UserError
        A class without trajectories, or with a single one where resamples are asked for.
    """

    def __init__(self, label: np.ndarray, prior: tuple[float, ...], count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        weights = np.zeros((1 + count, len(label)))
        for index, share in enumerate(prior):
            rows = np.nonzero(label == index)[0]
            if len(rows) == 0 or (count and len(rows) < 2):
                raise UserError(
                    f"class {index} has {len(rows)} trajectories; an interval needs at least 2 in each class: ask for "
                    "more."
                )
            weights[0, rows] = share / len(rows)
            if count:
                drawn = rng.multinomial(len(rows) - 1, np.full(len(rows), 1 / len(rows)), size=count)
                weights[1:, rows] = drawn * (share / (len(rows) - 1))
        self.weights = weights

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Means of `values` [shape=(n, N)]: [shape=(1 + count, n)]."""
        return self.weights @ values.T


def curves(
    trajectories: Trajectories,
    classes: ClassSet,
    path: Path,
    *,
    guided: bool = False,
    resamples: int = 1000,
    seed: int = 0,
    path_options: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> list[SignatureCurve]:
    """Two curves a partition: by the chain and by the integrated rate.

    Parameters
    ----------
    guided : bool
        The trajectories are of a guided chain: curves are cross-entropies E[-ln p(own group | x_t)], and named so.
    resamples : int
        Of the bootstrap behind the 95% intervals.

    `meta["log_loss"]` of each curve is the mean of -ln p(own group | x_t) at each level, without extrapolation. Of a
    model whose samples follow its own conditional estimates it equals the entropy; where it is larger the posterior is
    overconfident there.
    """
    draw = Resamples(trajectories.label.numpy(), classes.prior, resamples, seed)
    t = trajectories.t.numpy()
    log_snr = path.log_snr(trajectories.t).numpy()
    slope = _snr_slope(path, trajectories.t)
    made = []
    for place, name in enumerate(classes.partition_names):
        own = classes.group_of_class(name)[trajectories.label]
        fine, coarse = (
            draw(_reading(classes, name, part, own, guided)) for part in (trajectories.fine, trajectories.coarse)
        )
        rate = 0.5 * slope * draw(_rate_of(trajectories, place, guided))
        whole = classes.prior_entropy(name)
        shared: dict[str, Any] = {
            "partition": name,
            "groups": classes.groups(name),
            "quantity": "cross-entropy" if guided else "entropy",
            "prior_entropy": whole,
            "t": t.tolist(),
            "log_snr": [finite_or_none(float(value)) for value in log_snr],
            "rate": rate[0].tolist(),
            "path": path.name,
            "path_options": dict(path_options or {}),
            "meta": {
                **(meta or {}),
                "log_loss": draw(_reading(classes, name, trajectories.fine, own, guided=True))[0].tolist(),
            },
        }
        shared["rate_lo"], shared["rate_hi"] = _interval(rate)
        # First-order error, halved: extrapolate. The entropy is extrapolated and not the log-odds, whose error is not
        # small where a class is long decided and would be blown up there.
        chain = 2 * fine - coarse
        integral = whole - _integral(t, rate)
        for estimator, values in (("chain", chain), ("rate", integral)):
            low, high = _interval(values)
            extra = {"fine": fine[0].tolist(), "coarse": coarse[0].tolist()} if estimator == "chain" else {}
            made.append(SignatureCurve(
                estimator=estimator, entropy=values[0].tolist(), entropy_lo=low, entropy_hi=high,
                half=half_time(t, values, whole / 2, path), **extra, **shared,
            ))  # fmt: skip
    return made


def _rate_of(trajectories: Trajectories, place: int, guided: bool) -> np.ndarray:
    """Twice what a partition's entropy loses per nat of log-SNR times SNR, (n, N): the gap, or a guided chain's
    drift."""
    if not guided:
        return np.asarray(trajectories.gap[..., place])
    if trajectories.drift is None:
        raise UserError("guided trajectories carry no drift; follow them with the guidance they were made with.")
    return np.asarray(2 * trajectories.drift[..., place])


def _reading(classes: ClassSet, name: str, log_likelihood: torch.Tensor, own: torch.Tensor, guided: bool) -> np.ndarray:
    """Posterior entropy, or -ln p of the own group, at each level and trajectory, (n, N)."""
    log_p = classes.log_posterior(log_likelihood, name)
    if not guided:
        return entropy_of(log_p).numpy()
    return -log_p[:, torch.arange(len(own)), own].numpy()


def _snr_slope(path: Path, t: torch.Tensor) -> np.ndarray:
    """-dSNR/dt, at least 0; 0 where SNR is 0 (its derivative vanishes there on every path of that kind)."""
    snr = torch.exp(path.log_snr(t))
    return torch.where(snr > 0, -snr * path.log_snr_slope(t), torch.zeros_like(snr)).numpy()


def _integral(t: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Trapezoid rule from the first level on, (B, n)."""
    areas = 0.5 * (rate[:, 1:] + rate[:, :-1]) * (t[:-1] - t[1:])
    return np.concatenate([np.zeros((len(rate), 1)), areas.cumsum(axis=1)], axis=1)


def _interval(values: np.ndarray) -> tuple[list[float], list[float]]:
    resampled = values[1:] if len(values) > 1 else values
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    return low.tolist(), high.tolist()


def half_time(t: np.ndarray, values: np.ndarray, level: float, path: Path) -> HalfTime:
    """Where the curve falls to `level`, from the estimate (row 0) and its resamples (the others) [shape=(1 + B, n)]."""
    crossings = [crossing(t.tolist(), row, level) for row in values.tolist()]
    if crossings[0] is None:
        return HalfTime()
    known = [value for value in crossings[1:] if value is not None]
    low = high = None
    if known and len(known) == len(crossings) - 1:
        low, high = (float(value) for value in np.percentile(known, [2.5, 97.5]))

    def log_snr(value: float | None) -> float | None:
        return None if value is None else finite_or_none(float(path.log_snr(torch.tensor(value, dtype=torch.float64))))

    return HalfTime(crossings[0], low, high, log_snr(crossings[0]), log_snr(high), log_snr(low))
