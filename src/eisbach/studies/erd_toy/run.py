"""Runs the toy's cells, in processes of their own where there are several, and gathers what they left.

A cell trains one ensemble, measures it and leaves a JSON and a safetensors file behind. One that finds its own files,
made by the same request, is done: the same command continues a run that was cut short.
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

from eisbach.config import build_config, read_yaml, save_config
from eisbach.diffusion.paths import get_path
from eisbach.errors import CheckpointError, EisbachError, UserError
from eisbach.executors import open_executor, send
from eisbach.files import read_json, write_json
from eisbach.output_folder import refuse_other_settings
from eisbach.progress import Progress
from eisbach.studies.erd_toy.config import QUICK_VALUES, Kind, ToyConfig, arm_weight, same_weights
from eisbach.studies.erd_toy.figure_data import (
    evaluation_points,
    feature_arrays,
    loss_arrays,
    ntk_arrays,
    phase_arrays,
)
from eisbach.studies.erd_toy.train import (
    LevelPoints,
    Member,
    draw_points,
    excess,
    generate,
    likelihood_gap,
    midpoints,
    new_network,
    quality,
    train_members,
)
from eisbach.tensor_files import read_tensors, write_tensors

CELLS = "cells"
Settings = ToyConfig
QUICK = QUICK_VALUES
OPTIONS = {
    "seeds": "comparison.seeds", "first-seed": "comparison.first_seed", "path": "paths", "target": "targets",
    "arm": "comparison.arms", "batch": "comparison.batch",
}  # fmt: skip
JOBS = 2
FREE = ("paths", "comparison.seeds", "comparison.first_seed")
"""May grow in one folder: a cell does not depend on them."""
_TICK_EVERY = 25  # steps between two reports of a worker


@dataclass(frozen=True)
class ToyRun:
    """What all cells left.

    Attributes
    ----------
    config : ToyConfig
    rows : list of dict
        One a trained network of the comparison: path, target, arm, seed, and its measures.
    figures : dict of str to dict of str to Tensor
        Arrays of each path's figures; see `figure_data`. Piecewise bins are joined along t.
    curves : dict of (path, target, arm) to Tensor [shape=(seeds, L)]
        Excess over the noise level, with `curve_t` (L,).
    cpu_seconds : float
        Of all cells, whenever they were made.
    """

    config: ToyConfig
    rows: list[dict[str, Any]]
    figures: dict[str, dict[str, Tensor]]
    curves: dict[tuple[str, str, str], Tensor]
    curve_t: Tensor | None
    cpu_seconds: float


def run(settings: ToyConfig, out: Path, *, jobs: int = 1, quiet: bool = False) -> None:
    """Fills `out/cells`; `page.write_page` makes the records and the page of them."""
    run_toy(settings, out, jobs=jobs, quiet=quiet)


def run_toy(config: ToyConfig, out: str | Path, *, jobs: int = 1, quiet: bool = False) -> ToyRun:
    """Does what is not done yet in `out/cells`, and returns everything.

    Parameters
    ----------
    jobs : int
        Processes, of one thread each when there are several.

    Raises
    ------
    UserError
        Fewer than one job, or `out` holds a run of other settings; the sentence names those that differ.
    StorageError
        The disk is full or the folder cannot be written.
    """
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}; it must be 1 or more.")
    out = Path(out)
    folder = out / CELLS
    file = out / "config.yaml"
    if file.is_file():
        before = build_config(ToyConfig, read_yaml(file), str(file))
        refuse_other_settings(out, "a run of the toy", before.model_dump(), config.model_dump(), free=FREE)
    cells = all_cells(config)
    todo = [cell for cell in cells if load_cell(folder, cell, config) is None]
    save_config(config, out / "config.yaml")
    total = sum(cell.cost(config) for cell in cells)
    left = sum(cell.cost(config) for cell in todo)
    unit = 1_000_000  # network evaluations, so that the bar counts in millions
    with Progress(
        max(1, total // unit), "train toy networks", unit=" M", done=(total - left) // unit, quiet=quiet
    ) as bar:
        meter = _Meter(bar, config, unit)
        with open_executor(jobs, len(todo)) as executor:
            calls = [(cell, config, folder, None if executor.here else 1) for cell in todo]
            for index, _ in executor.each(_work, calls, listen=lambda message: meter.report(*message)):
                meter.finish(todo[index])
    return gather(config, out)


class _Meter:
    """Turns steps of cells into evaluations of the one bar."""

    def __init__(self, bar: Progress, config: ToyConfig, unit: int) -> None:
        self.bar, self.config, self.unit = bar, config, unit
        self.seen: dict[str, float] = {}
        self.shown = 0

    def report(self, cell: Cell, step: int) -> None:
        steps = self.config.comparison.steps if cell.kind == "comparison" else self.config.figures.steps
        self._set(cell, cell.cost(self.config) * step / steps)

    def finish(self, cell: Cell) -> None:
        self._set(cell, cell.cost(self.config))

    def _set(self, cell: Cell, value: float) -> None:
        self.seen[cell.name] = value
        reached = int(sum(self.seen.values()) // self.unit)
        if reached > self.shown:
            self.bar.advance(reached - self.shown, cell.name)
            self.shown = reached


def _work(cell: Cell, config: ToyConfig, folder: Path, threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)

    def tick(step: int) -> None:
        if step % _TICK_EVERY == 0:
            send((cell, step))

    run_cell(cell, config, folder, tick)


def gather(config: ToyConfig, out: str | Path) -> ToyRun:
    """Everything that a finished run's cells hold.

    Raises
    ------
    EisbachError
        A cell is missing: the run was not finished.
    """
    folder = Path(out) / CELLS
    rows: list[dict[str, Any]] = []
    figures: dict[str, dict[str, Tensor]] = {}
    pieces: dict[str, list[dict[str, Tensor]]] = {}
    curves: dict[tuple[str, str, str], list[Tensor]] = {}
    curve_t, cpu = None, 0.0
    for cell in all_cells(config):
        left = load_cell(folder, cell, config)
        if left is None:
            raise EisbachError(f"the cell {cell.name} in {folder} is missing; run the same command again.")
        facts, arrays = left
        cpu += float(facts["cpu_seconds"])
        if cell.kind == "global":
            figures[cell.path] = arrays
        elif cell.kind == "piecewise":
            pieces.setdefault(cell.path, []).append(arrays)
        else:
            rows += facts["rows"]
            curve_t = arrays["t"]
            names = [(cell.path, name, arm) for name in config.targets for arm in config.comparison.arms]
            for name, curve in zip(names, arrays["excess"], strict=True):
                curves.setdefault(name, []).append(curve)
    for path, parts in pieces.items():
        for key in parts[0]:
            figures[path][key] = torch.cat([part[key] for part in parts], dim=-1)
    stacked = {name: torch.stack(left) for name, left in curves.items()}
    return ToyRun(config, rows, figures, stacked, curve_t, round(cpu, 1))


_FORMAT = 1
_FEATURE_SAMPLES = 400
_COMPARISON_SEED = 2_000_003

_Tick = Callable[[int], object]


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
            settings = config.comparison
            return settings.steps * settings.batch * len(config.targets) * len(settings.arms)
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


def run_cell(cell: Cell, config: ToyConfig, folder: Path, tick: _Tick | None = None) -> None:
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


def _global(cell: Cell, config: ToyConfig, tick: _Tick | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
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


def _piecewise(cell: Cell, config: ToyConfig, tick: _Tick | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
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


def _comparison(cell: Cell, config: ToyConfig, tick: _Tick | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
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
    sampled = None
    if settings.generated:
        samples = generate(
            ensemble, cell.path, targets, settings.generated, settings.sampling_steps, _COMPARISON_SEED + cell.index
        )
        sampled = quality(samples, mixture)
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
            if sampled is not None:
                row["sliced_wasserstein"] = float(sampled.sliced_wasserstein[i])
                row["coverage_error"] = float(sampled.coverage_error[i])
                row["outliers"] = float(sampled.outliers[i])
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
