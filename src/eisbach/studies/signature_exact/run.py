"""The estimators of class-conditional entropy against exact mixtures: errors by step count, guidance, and scaling with
dimension."""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from eisbach.config import StrictModel
from eisbach.diagnostics.mixture import GaussianMixture
from eisbach.diagnostics.signature.chain import Guidance, follow, trajectory_seed
from eisbach.diagnostics.signature.exact import (
    fit_line,
    mixture_entropy,
    scaling_rows,
    separation,
    two_gaussian_entropy,
)
from eisbach.diagnostics.signature.model import ClassSet, mixture_model
from eisbach.diagnostics.signature.summary import curves
from eisbach.diffusion.paths import get_path
from eisbach.diffusion.schedules import get_schedule
from eisbach.files import write_json
from eisbach.output_folder import Finished
from eisbach.progress import Progress

RESULT = "signature_exact.json"
_TARGET = {"linear": "u", "vp": "eps", "gvp": "v", "edm": "x0"}


class Settings(StrictModel):
    """How much is computed; trajectories are counted a class."""

    steps: list[int] = Field(default=[16, 32, 64, 128, 256], min_length=1)
    trajectories: int = Field(100, ge=2)
    guided_trajectories: int = Field(150, ge=2)
    rate_samples: int = Field(20_000, ge=10)


QUICK: dict[str, Any] = {"steps": [16, 32], "trajectories": 10, "guided_trajectories": 10, "rate_samples": 2000}


def cases() -> dict[str, GaussianMixture]:
    """The four mixtures, by name."""
    generator = torch.Generator().manual_seed(0)
    means = 1.2 * torch.randn(4, 8, generator=generator, dtype=torch.float64)
    diagonal = torch.rand(4, 8, generator=generator, dtype=torch.float64) + 0.05
    root = torch.randn(3, 5, 5, generator=generator, dtype=torch.float64)
    full = root @ root.mT / 5 + 0.05 * torch.eye(5, dtype=torch.float64)
    line = torch.tensor([[1.0] * 64, [-1.0] * 64], dtype=torch.float64) / 4
    return {
        "4 equal, isotropic, d = 8": GaussianMixture([0.25] * 4, means, 0.3),
        "4 unequal, diagonal, d = 8": GaussianMixture([0.5, 0.3, 0.15, 0.05], means, diagonal),
        "3 unequal, full, d = 5": GaussianMixture([0.6, 0.3, 0.1], 1.5 * means[:3, :5], full),
        "2 equal, d = 64": GaussianMixture([0.5, 0.5], line, 1.0),
    }


def errors(mixture: GaussianMixture, path: str, steps: int, per_class: int, source: str) -> dict[str, object]:
    """Largest and mean error over levels; states are exact draws of x_t in forward chains, so that truth is read at the
    same ones."""
    count = mixture.num_components
    classes = ClassSet(tuple(str(index) for index in range(count)), tuple(mixture.weights.tolist()))
    label = torch.arange(count).repeat_interleave(per_class)
    model = mixture_model(mixture, path, _TARGET[path])
    states: dict[float, torch.Tensor] = {}

    def watch(x_t: torch.Tensor, t: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        keep = states.get(float(t[0]))
        part = x_t[index == 0]
        states[float(t[0])] = part if keep is None else torch.cat([keep, part])
        return model.by_class(x_t, t, index)

    watched = type(model)(model.path, model.target, count, model.shape, watch, 4096, torch.float64)
    data = mixture.sample_given(label, torch.Generator().manual_seed(1)) if source == "forward" else None
    seeds = [trajectory_seed(0, index) for index in range(len(label))]
    trajectories = follow(watched, classes, get_schedule("uniform", steps), label, seeds, data=data)
    chain, rate = curves(trajectories, classes, get_path(path), resamples=0)
    weight = mixture.weights[label] / per_class
    truth, odds, spread = [], [], []
    for i, t in enumerate(chain.t):
        exact = mixture.log_posterior(path, states[t], t)
        truth.append(float((weight * -(exact.exp() * exact).sum(dim=1)).sum()))
        ours = classes.log_posterior(trajectories.fine[i])
        difference = (ours - ours[:, :1]) - (exact - exact[:, :1])
        odds.append(float((weight @ difference[:, 1:].square().mean(dim=1)).sqrt()))
        spread.append(float((exact - exact[:, :1])[:, 1:].std()))
    exact_t = torch.tensor(truth)
    whole = classes.prior_entropy()
    half = int((exact_t - whole / 2).abs().argmin())

    def worst(values: list[float]) -> float:
        return float((torch.tensor(values) - exact_t).abs().max())

    return {
        "plain": worst(chain.fine),
        "every second step": worst(chain.coarse),
        "extrapolated": worst(chain.entropy),
        "rate": worst(rate.entropy),
        "log_odds_rmse_at_half": odds[half],
        "log_odds_sd_at_half": spread[half],
        "log_odds_rmse_at_end": odds[-1],
        "log_odds_sd_at_end": spread[-1],
    }


def _rate_pointwise(path: str, samples: int) -> float:
    """Largest relative error of the sampled rate against the closed form's derivative, over five levels."""
    mixture = GaussianMixture([0.5, 0.5], [[1.0, 0.4], [-1.0, -0.4]], 0.3)
    noise, rates = get_path(path), []
    for level in (-3.0, -2.0, -1.0, 0.0, 1.0):
        around = torch.tensor([level - 1e-3, level, level + 1e-3], dtype=torch.float64)
        t = noise.t_from_log_snr(around)
        entropy = two_gaussian_entropy(separation(mixture, path, t))
        point = mixture_entropy(mixture, path, float(t[1]), samples, torch.Generator().manual_seed(2))
        rates.append(abs(point.rate / float((entropy[0] - entropy[2]) / 2e-3) - 1))
    return max(rates)


def guidance(per_class: int) -> list[dict[str, Any]]:
    """Half times of the first mixture by guidance scale and interval."""
    mixture = cases()["4 equal, isotropic, d = 8"]
    classes = ClassSet(tuple("abcd"), (0.25,) * 4)
    label = torch.arange(4).repeat_interleave(per_class)
    seeds = [trajectory_seed(0, index) for index in range(len(label))]
    rows: list[dict[str, Any]] = []
    for scale, interval in ((1.0, None), (2.0, None), (4.0, None), (4.0, (0.6, 0.9)), (4.0, (0.0, 0.4))):
        trajectories = follow(
            mixture_model(mixture, "linear", "u"),
            classes,
            get_schedule("uniform", 64),
            label,
            seeds,
            guidance=Guidance(scale, interval),
        )
        chain, rate = curves(trajectories, classes, get_path("linear"), guided=scale != 1, resamples=300)
        rows.append(
            {
                "scale": scale,
                "interval": interval,
                "quantity": chain.quantity,
                "half_t_chain": chain.half.t,
                "half_t_chain_95": [chain.half.t_lo, chain.half.t_hi],
                "half_t_rate": rate.half.t,
            }
        )
    return rows


def _measured_speciation(per_class: int) -> dict[str, object]:
    """The chain's half time by dimension, in OU time, against the closed form, and the slope of both over ln(d)/2."""
    rows = []
    for exact in scaling_rows([2**power for power in range(2, 13)]):
        mixture = GaussianMixture(
            [0.5, 0.5], torch.tensor([[1.0], [-1.0]], dtype=torch.float64).expand(2, exact.dim), 1.0
        )
        # Twelve steps up to the noise end, then 64 around the instability: the wide path is edm, which has no trace
        # left at its end.
        path = get_path("edm", sigma_max=max(80.0, 30 * exact.sigma_half))
        middle = -2 * math.log(exact.sigma_half)
        inner = path.t_from_log_snr(torch.linspace(middle - 5, middle + 5, 96, dtype=torch.float64)).clamp(0, 1)
        times = torch.cat(
            [torch.ones(1, dtype=torch.float64), inner[(inner < 1) & (inner > 0)], torch.zeros(1, dtype=torch.float64)]
        )
        label = torch.arange(2).repeat_interleave(per_class)
        trajectories = follow(
            mixture_model(mixture, path, "x0", batch_rows=256),
            ClassSet(("a", "b"), (0.5, 0.5)),
            times,
            label,
            [trajectory_seed(0, index) for index in range(len(label))],
        )
        chain = curves(trajectories, ClassSet(("a", "b"), (0.5, 0.5)), path, resamples=300)[0]
        tau, low, high = (
            None if value is None else 0.5 * math.log1p(math.exp(-value))
            for value in (chain.half.log_snr, chain.half.log_snr_hi, chain.half.log_snr_lo)
        )
        rows.append({**asdict(exact), "tau_half_chain": tau, "tau_half_chain_95": [low, high]})
    x = [0.5 * math.log(row["dim"]) for row in rows]
    return {
        "rows": rows,
        "slope_exact": asdict(fit_line(x, [row["tau_half"] for row in rows])),
        "slope_chain": asdict(fit_line(x, [row["tau_half_chain"] for row in rows])),
        "slope_ln_sigma": asdict(fit_line(x, [math.log(row["sigma_half"]) for row in rows])),
    }


def run(settings: Settings, out: Path, *, jobs: int = 1, quiet: bool = False) -> None:
    """Writes `signature_exact.json`; pieces that are done already are kept."""
    done = Finished(out / "pieces.jsonl")
    grid = [
        (name, path, source, steps)
        for name in cases()
        for path in ("linear", "vp", "edm")
        for source in ("forward", "reverse")
        for steps in settings.steps
    ]
    table = []
    with Progress(len(grid) + len(_TARGET) + 2, "exact mixtures", quiet=quiet) as bar:
        for name, path, source, steps in grid:
            key = f"{name}, {path}, {source}, {steps}"
            table.append(done.get(key, partial(_cell, name, path, source, steps, settings.trajectories)))
            bar.advance(note=key)
        rates = {}
        for path in _TARGET:
            rates[path] = done.get(f"rate {path}", partial(_rate_pointwise, path, settings.rate_samples))
            bar.advance(note=f"rate, {path}")
        guided = done.get("guidance", lambda: guidance(settings.guided_trajectories))
        bar.advance(note="guidance")
        speciation = done.get("speciation", lambda: _measured_speciation(settings.trajectories))
        bar.advance(note="speciation")
    write_json(
        out / RESULT,
        {"errors": table, "rate_relative_error": rates, "guidance": guided, "speciation": speciation},
    )


def _cell(name: str, path: str, source: str, steps: int, trajectories: int) -> dict[str, object]:
    row = errors(cases()[name], path, steps, trajectories, source)
    return {"mixture": name, "path": path, "source": source, "steps": steps, **row}
