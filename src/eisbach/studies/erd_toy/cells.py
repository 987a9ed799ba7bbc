"""The toy's work in cells: each trains one ensemble, measures it and leaves a JSON and a safetensors file behind.

A cell that finds its own files, made by the same request, is done: the same command continues a run that was cut short.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eisbach.diffusion.paths import get_path
from eisbach.errors import CheckpointError
from eisbach.files import read_json, write_json
from eisbach.studies.erd_toy.arms import arm_weight, same_weights
from eisbach.studies.erd_toy.config import Kind, ToyConfig
from eisbach.studies.erd_toy.figure_data import (
    evaluation_points,
    feature_arrays,
    loss_arrays,
    ntk_arrays,
    phase_arrays,
)
from eisbach.studies.erd_toy.measure import excess, generate, likelihood_gap, quality
from eisbach.studies.erd_toy.train import (
    LevelPoints,
    Member,
    draw_points,
    midpoints,
    new_network,
    train_members,
)
from eisbach.tensor_files import read_tensors, write_tensors

_FORMAT = 1
_FEATURE_SAMPLES = 400
_COMPARISON_SEED = 2_000_003

Tick = Callable[[int], object]


@dataclass(frozen=True)
class Cell:
    """One unit of work.

    Attributes
    ----------
    kind : {"global", "piecewise", "comparison"}
    path : str
    index : int
        Bin of a piecewise model, seed of a comparison, 0 for a global one.
    """

    kind: Kind
    path: str
    index: int = 0

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.kind}-{self.path}-{self.index:02d}"

    def cost(self, config: ToyConfig) -> int:
        """Network evaluations in training: what the progress bar counts."""
        if self.kind == "comparison":
            one = config.comparison
            return one.steps * one.batch * len(config.targets) * len(one.arms)
        return config.figures.steps * config.figures.batch * len(config.targets)


def all_cells(config: ToyConfig) -> list[Cell]:
    """Every cell of a run, the long ones first so that two workers end together."""
    cells = [
        Cell("comparison", path, config.comparison.first_seed + i)
        for i in range(config.comparison.seeds)
        for path in config.paths
    ]
    cells += [Cell("global", path) for path in config.paths]
    cells += [Cell("piecewise", path, i) for i in range(len(config.figures.bins) - 1) for path in config.paths]
    return cells


def request(cell: Cell, config: ToyConfig) -> str:
    """A hash of what the cell's result depends on."""
    part = config.comparison if cell.kind == "comparison" else config.figures
    values: dict[str, Any] = {
        "format": _FORMAT,
        "cell": [cell.kind, cell.path, cell.index],
        "data": config.data.model_dump(mode="json"),
        "network": config.network.model_dump(mode="json"),
        "targets": config.targets,
        "settings": part.model_dump(mode="json"),
    }
    for unread in ("seeds", "first_seed"):
        values["settings"].pop(unread, None)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def load_cell(folder: Path, cell: Cell, config: ToyConfig) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """(facts, arrays) of a finished cell; None when it is missing, was made by another request or is broken."""
    path = folder / f"{cell.name}.json"
    if not path.is_file():
        return None
    facts = read_json(path, "toy cell")
    if not isinstance(facts, dict) or facts.get("request") != request(cell, config):
        return None
    try:
        return facts, read_tensors(folder / f"{cell.name}.safetensors")
    except CheckpointError:  # cut short between the two files
        return None


def run_cell(cell: Cell, config: ToyConfig, folder: Path, tick: Tick | None = None) -> None:
    """Does the cell's work and writes its two files, the JSON last; `tick` gets the finished steps."""
    import time

    start = time.process_time()
    work = {"global": _global, "piecewise": _piecewise, "comparison": _comparison}[cell.kind]
    facts, arrays = work(cell, config, tick)
    facts = {"request": request(cell, config), **facts, "cpu_seconds": round(time.process_time() - start, 2)}
    write_tensors(folder / f"{cell.name}.safetensors", arrays)
    write_json(folder / f"{cell.name}.json", facts)


def _constant(target: str) -> Member:
    return Member(target, lambda t: torch.ones_like(t))


def _global(cell: Cell, config: ToyConfig, tick: Tick | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    mixture, settings, targets = config.data.mixture(), config.figures, config.targets
    ensemble = train_members(
        mixture, cell.path, [_constant(name) for name in targets], config.network,
        steps=settings.steps, batch=settings.batch, seed=settings.seed, on_step=tick,
    )  # fmt: skip
    networks = [ensemble.member(i) for i in range(len(targets))]
    points = evaluation_points(mixture, cell.path, settings)
    arrays = {
        **loss_arrays(ensemble, targets, points, mixture, "global"),
        **phase_arrays(mixture, points, targets),
        **feature_arrays(networks, mixture, cell.path, _FEATURE_SAMPLES),
        **ntk_arrays(networks, mixture, cell.path, settings),
        # The untrained network is the control: what the input alone does to the kernel, whatever the target.
        **ntk_arrays([new_network(config.network, settings.seed)], mixture, cell.path, settings, "ntk_untrained"),
        **{
            f"model/{name}/{key}": value
            for i, name in enumerate(targets)
            for key, value in ensemble.member_state(i).items()
        },
    }
    return {"targets": targets}, arrays


def _piecewise(cell: Cell, config: ToyConfig, tick: Tick | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    mixture, settings, targets = config.data.mixture(), config.figures, config.targets
    low, high = settings.bins[cell.index], settings.bins[cell.index + 1]
    ensemble = train_members(
        mixture, cell.path, [_constant(name) for name in targets], config.network,
        steps=settings.steps, batch=settings.batch, seed=settings.seed, low=low, high=high, on_step=tick,
    )  # fmt: skip
    inside = [float(t) for t in midpoints(settings.levels) if low <= float(t) < high]
    levels = torch.tensor(inside or [(low + high) / 2], dtype=torch.float64)
    whole = evaluation_points(mixture, cell.path, settings)
    points = draw_points(mixture, cell.path, levels, whole.x_t.shape[1], 1_000_003)
    return {"targets": targets, "bin": [low, high]}, loss_arrays(ensemble, targets, points, mixture, "piecewise")


def _comparison(cell: Cell, config: ToyConfig, tick: Tick | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    mixture, settings = config.data.mixture(), config.comparison
    # Arms whose weights are one function are one training: it is done once and stands under each name.
    stands_for = {name: same_weights(settings.arms, cell.path, name) for name in config.targets}
    plan = [(name, arm) for name in config.targets for arm in settings.arms if stands_for[name][arm] == arm]
    ensemble = train_members(
        mixture, cell.path, [Member(name, arm_weight(arm, cell.path, name)) for name, arm in plan], config.network,
        steps=settings.steps, batch=settings.batch, seed=cell.index, on_step=tick,
    )  # fmt: skip
    targets = [name for name, _ in plan]
    levels = midpoints(settings.levels)
    points = draw_points(mixture, cell.path, levels, settings.samples, _COMPARISON_SEED)
    curves = excess(ensemble, points, mixture, targets)
    low, high, even = _log_snr_points(config, cell.path)
    gaps = likelihood_gap(ensemble, even, mixture, targets, high - low)
    rows = []
    found = None
    if settings.generated:
        samples = generate(
            ensemble, cell.path, targets, settings.generated, settings.sampling_steps, _COMPARISON_SEED + cell.index
        )
        found = quality(samples, mixture)
    edges = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    for name in config.targets:
        for arm in settings.arms:
            i = plan.index((name, stands_for[name][arm]))
            row: dict[str, Any] = {
                "path": cell.path, "target": name, "arm": arm, "seed": cell.index, "same_as": stands_for[name][arm],
                "excess": float(curves[i].mean()), "likelihood_gap": float(gaps[i]),
            }  # fmt: skip
            for a, b in itertools.pairwise(edges):
                inside = (levels >= a) & (levels < b)
                row[f"excess_{a:g}_{b:g}"] = float(curves[i][inside].mean())
            if found is not None:
                row["sliced_wasserstein"] = float(found.sliced_wasserstein[i])
                row["coverage_error"] = float(found.coverage_error[i])
                row["outliers"] = float(found.outliers[i])
            broken = [key for key, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
            for key in broken:
                row[key] = None
            rows.append(row)
    order = [plan.index((name, stands_for[name][arm])) for name in config.targets for arm in settings.arms]
    return {"rows": rows}, {"t": levels, "excess": curves[order]}


def _log_snr_points(config: ToyConfig, path: str) -> tuple[float, float, LevelPoints]:
    """The path's share of the range of log-SNR, and points evenly spaced in it."""
    settings, way = config.comparison, get_path(path)
    ends = way.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    low, high = max(settings.log_snr[0], ends[0]), min(settings.log_snr[1], ends[1])
    levels = way.t_from_log_snr(midpoints(settings.levels, low, high))
    return low, high, draw_points(config.data.mixture(), path, levels, settings.samples, _COMPARISON_SEED + 1)
