"""Axes and marks that the pictures of a probe share: colours, whiskers, bands, and names at the ends of lines.

Colours are Okabe and Ito's, which any colour vision tells apart; lines also differ in marker, and are named where they end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eisbach.diagnostics.probe import wording
from eisbach.diagnostics.probe.association import Estimate

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#555555",
)  # fmt: skip
SERIES = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
T_LABEL = "noise level t (1 = noise)"


def panels(count: int, width: float, height: float, ratios: Sequence[float] | None = None) -> tuple[Any, list[Any]]:
    """A figure of `count` axes side by side, inches, and the axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, count, squeeze=False, width_ratios=ratios)[0])


def band(axes: Any, levels: Sequence[Any], column: str, colour: str) -> None:
    """The middle 80% of a column over noise levels as a band, its median as a line."""
    rows = [(one.t, one.columns[column]) for one in levels if one.columns[column].q50 is not None]
    t = [row[0] for row in rows]
    axes.fill_between(t, [s.q10 for _, s in rows], [s.q90 for _, s in rows], color=colour, alpha=0.22, linewidth=0)
    axes.plot(t, [s.q50 for _, s in rows], color=colour, marker="o", markersize=4, linewidth=1.6)


def estimates(
    axes: Any, t: Sequence[float] | np.ndarray, values: Sequence[Estimate], colour: str, marker: str, label: str
) -> Any:
    """Estimates with their intervals over noise levels; returns the line."""
    rows = [(level, one) for level, one in zip(t, values, strict=True) if one.value is not None]
    for level, one in rows:
        if one.low is not None and one.high is not None:
            axes.plot([level, level], [one.low, one.high], color=colour, linewidth=1.1, alpha=0.7)
    (line,) = axes.plot(
        [level for level, _ in rows], [one.value for _, one in rows], color=colour, marker=marker, markersize=4.5, linewidth=1.5,
        label=label,
    )  # fmt: skip
    return line


def whisker(axes: Any, one: Estimate, place: float, colour: str, marker: str) -> None:
    """One estimate with its interval, lying at height `place`."""
    if one.low is not None and one.high is not None:
        axes.plot([one.low, one.high], [place, place], color=colour, linewidth=1.4)
    axes.plot([one.value], [place], color=colour, marker=marker, markersize=6, linestyle="none")


def name_ends(axes: Any, ends: Sequence[tuple[str, float, str]]) -> None:
    """Writes each line's name beside its last point; names that would touch are moved apart."""
    axes.figure.canvas.draw()  # so that limits are final
    low, high = (axes.transData.transform((0, y))[1] for y in axes.get_ylim())
    gap = 13.0 * axes.figure.dpi / 100
    wanted = [axes.transData.transform((0, value))[1] for _, value, _ in ends]
    order = np.argsort(wanted)
    placed = np.clip(np.array(wanted)[order], low, high)
    for index in range(1, len(placed)):
        placed[index] = max(placed[index], placed[index - 1] + gap)
    placed -= (placed - np.array(wanted)[order]).mean()  # a pushed-up pile is centred on its lines again
    placed -= max(0.0, float(placed[-1]) - high)
    placed += max(0.0, low - float(placed[0]))
    for index in range(len(placed) - 2, -1, -1):
        placed[index] = min(placed[index], placed[index + 1] - gap)
    for spot, index in zip(placed, order, strict=True):
        name, _, colour = ends[index]
        axes.annotate(
            name, (1.0, (spot - low) / (high - low)), xycoords="axes fraction", xytext=(5, 0), textcoords="offset points",
            color=colour, fontsize=8.5, fontweight="bold", va="center", annotation_clip=False, parse_math=False,
        )  # fmt: skip


def zero_based(axes: Any, at_least: float = 0.0) -> None:
    """A vertical axis that begins at 0 and reaches at least `at_least`."""
    top = axes.get_ylim()[1]
    axes.set_ylim(0, max(top, at_least))


def t_axes(axes: Sequence[Any]) -> None:
    """Axes over the noise level."""
    for each in axes:
        each.set_xlabel(T_LABEL)
        each.set_xlim(-0.02, 1.02)
        each.grid(axis="y", color="0.92", linewidth=0.8)
        each.set_axisbelow(True)
        bare(each)


def bare(axes: Any) -> None:
    """Axes without a frame above and to the right."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def axis_name(column: str) -> str:
    """A column's name for an axis, with its unit."""
    from eisbach.structure.metrics import METRICS

    name = wording.column(column).removeprefix("the ")
    metric = METRICS.get(column.removeprefix("structure."))
    unit = "dB" if column.endswith("_db") else metric.unit if metric is not None else ""
    return f"{name} ({unit})" if unit else name
