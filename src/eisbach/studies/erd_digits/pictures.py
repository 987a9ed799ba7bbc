"""Pictures of the digits experiment: quality over steps, differences with intervals, and the digits that the models
drew."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.studies.erd_toy.axes import log_axis, target_name
from eisbach.types import Record

COLOURS = {"constant": "#555555", "min_snr": "#0072b2", "p2": "#e69f00", "erd": "#d55e00", "entropy_barrier": "#009e73"}
LABELS = {
    "constant": "constant",
    "min_snr": "Min-SNR",
    "p2": "P2",
    "erd": "ERD",
    "entropy_barrier": "entropy barrier",
}
_STYLES = {
    "constant": ("-", "o"),
    "min_snr": ((0, (5, 1.6)), "s"),
    "p2": ((0, (1.2, 1.2)), "^"),
    "erd": ("-", "D"),
    "entropy_barrier": ((0, (6, 1.4, 1.2, 1.4)), "v"),
}
"""Line and mark of each arm, for those who do not see its colour."""
DPI = 200
BACKBONES = {"unet": "UNet", "dit": "DiT", "uvit": "U-ViT"}


def setting_name(setting: str) -> str:
    """'unet/eps' as a person reads it: 'UNet, ε'."""
    backbone, _, target = setting.partition("/")
    return ", ".join(part for part in (BACKBONES.get(backbone, backbone), target_name(target)) if part)


_POOLED = "all settings"
_RATIOS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 10.0, 20.0)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def curves_picture(records: Sequence[Record], floor: float) -> bytes:
    """PNG: Fréchet distance over steps, a panel a setting (rows backbones, columns targets), thin lines seeds, thick
    their mean."""
    backbones = list(dict.fromkeys(str(row["backbone"]) for row in records))
    targets = list(dict.fromkeys(str(row["target"]) for row in records))
    figure = _figure(2.6 * len(targets) + 0.6, 2.0 * len(backbones) + 0.5)
    grid = figure.subplots(len(backbones), len(targets), squeeze=False, sharex="row", sharey="row")
    for i, backbone in enumerate(backbones):
        for j, target in enumerate(targets):
            axes = grid[i][j]
            rows = [row for row in records if row["backbone"] == backbone and row["target"] == target]
            for arm, label in LABELS.items():
                mine = [row for row in rows if row["arm"] == arm]
                if mine:
                    _lines(axes, mine, arm, label)
            axes.axhline(floor, color="#444444", lw=0.9, ls=":", label="real digits" if i == j == 0 else None)
            log_axis(axes)
            axes.set_title(setting_name(f"{backbone}/{target}"), fontsize=9)
            axes.tick_params(labelsize=7)
            if j == 0:
                axes.set_ylabel("Fréchet distance", fontsize=8)
            if i == len(backbones) - 1:
                axes.set_xlabel("training steps", fontsize=8)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    return _png(figure)


def _lines(axes: Any, rows: Sequence[Record], arm: str, label: str) -> None:
    colour, (line_style, mark) = COLOURS[arm], _STYLES[arm]
    by_step: dict[int, list[float]] = {}
    for seed in sorted({int(row["seed"] or 0) for row in rows}):
        line = sorted((int(row["step"] or 0), float(row["frechet"] or 0)) for row in rows if row["seed"] == seed)
        axes.plot(*zip(*line, strict=True), color=colour, lw=0.6, alpha=0.4)
        for step, value in line:
            by_step.setdefault(step, []).append(value)
    steps = sorted(by_step)
    means = [float(np.exp(np.mean(np.log(by_step[step])))) for step in steps]
    axes.plot(steps, means, color=colour, lw=1.6, linestyle=line_style, marker=mark, ms=4, label=label)


def differences_picture(summary: Mapping[str, Any]) -> bytes:
    """PNG: Fréchet distance, arm over baseline, in every setting (95% t interval over seeds) and pooled over
    settings."""
    comparisons = summary["comparisons"]
    # one row a setting in every panel: an arm that was trained in some settings only leaves the others empty
    rows = [*dict.fromkeys(setting for one in comparisons for setting in one["by_setting"]), _POOLED]
    figure = _figure(2.3 * len(comparisons) + 1.1, 0.28 * len(rows) + 1.1)
    panels = figure.subplots(1, len(comparisons), squeeze=False, sharey=True, sharex=True)[0]
    for axes, one in zip(panels, comparisons, strict=True):
        axes.set_xscale("log")
        for name, entry in {**one["by_setting"], _POOLED: one["log_frechet"]}.items():
            if entry["mean"] is None:
                continue
            place, bold = rows.index(name), name == _POOLED
            colour = COLOURS[one["arm"]]
            if entry["interval"] is not None:
                axes.plot(np.exp(entry["interval"]), [place, place], color=colour, lw=2.6 if bold else 1.2)
            axes.plot([np.exp(entry["mean"])], [place], "D" if bold else "o", color=colour, ms=6 if bold else 4)
        axes.axvline(1, color="#444444", lw=0.8)
        axes.axhline(len(rows) - 1.5, color="#bbbbbb", lw=0.6)
        axes.set_yticks(
            range(len(rows)), [name if name == _POOLED else setting_name(name) for name in rows], fontsize=8
        )
        axes.set_title(f"{LABELS[one['arm']]} / {LABELS[one['baseline']]}", fontsize=9)
        axes.tick_params(axis="x", labelsize=7)
        axes.grid(axis="x", color="#e4e4e4", lw=0.6)
        axes.set_axisbelow(True)
    ticks = [tick for tick in _RATIOS if panels[0].get_xlim()[0] <= tick <= panels[0].get_xlim()[1]]
    panels[0].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[0].set_xticks([], minor=True)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel("ratio of Fréchet distances (below 1: lower, better)", fontsize=8)
    return _png(figure)


def samples_picture(
    folder: str | Path, backbone: str, arms: Sequence[str], targets: Sequence[str], seed: int = 0
) -> bytes | None:
    """PNG: the first 20 digits that each arm (rows) and target (columns) drew with one backbone and seed; None where
    there are none."""
    root = Path(folder) / "cells"
    shown = {
        (arm, target): root / f"{backbone}-{target}-{arm}-{seed}" / "samples.npy" for arm in arms for target in targets
    }
    # an arm that was not trained with this backbone has no row
    arms = [arm for arm in arms if any(shown[arm, target].is_file() for target in targets)]
    if not arms:
        return None
    figure = _figure(2.5 * len(targets) + 0.9, 0.6 * len(arms) + 0.4)
    grid = figure.subplots(len(arms), len(targets), squeeze=False)
    for i, j in itertools.product(range(len(arms)), range(len(targets))):
        arm, target = arms[i], targets[j]
        path = shown[arm, target]
        axes = grid[i][j]
        axes.set_xticks([])
        axes.set_yticks([])
        if path.is_file():
            axes.imshow(tile(np.load(path, allow_pickle=False)[:20, ..., 0], 10), cmap="gray_r", vmin=0, vmax=255)
        if i == 0:
            axes.set_title(target_name(target), fontsize=9)
        if j == 0:
            axes.set_ylabel(LABELS[arm], fontsize=8, rotation=0, ha="right", va="center")
    return _png(figure)


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """Images [shape=(N, H, W)] side by side in rows of `columns`, one black pixel apart."""
    count, height, width = images.shape
    rows = -(-count // columns)
    canvas = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1), dtype=images.dtype)
    for number, image in enumerate(images):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        canvas[top : top + height, left : left + width] = image
    return canvas
