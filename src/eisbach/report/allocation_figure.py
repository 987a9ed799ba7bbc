"""The picture of an allocation: weight, density of draws and their product over log-SNR, with noise levels on top.

Also the pieces that other pictures over log-SNR are made of: a panel of curves, labels that stand beside their curves,
and the second axis of noise levels. Colours start with Okabe and Ito's, and line styles tell them apart as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eisbach.errors import UserError
from eisbach.report.fonts import figure_png, new_figure

if TYPE_CHECKING:
    from eisbach.weighting.allocation import Allocation

_MOST = 12
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA3377", "#E69F00", "#56B4E9", "#1d1f24", "#8C6D00", "#7A5CC8")
STYLES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.4, 1.2, 1.4)))
INK, SOFT, LINE, FILL = "#1d1f24", "#5b606b", "#dcd9d0", "#e9e6de"
_LABEL, _TICK, _HEAD = 9.0, 8.0, 9.5
_T_TICKS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True)
class Curve:
    """One labelled line: `x` and `y` of equal length, and its place in the order of colours and line styles."""

    label: str
    x: np.ndarray
    y: np.ndarray
    index: int

    @property
    def line(self) -> dict[str, Any]:
        """matplotlib's options for it. Neighbouring colours never share a line style."""
        return {"color": COLOURS[self.index % len(COLOURS)], "linestyle": STYLES[self.index % len(STYLES)]}


def allocation_picture(
    allocations: Sequence[Allocation],
    labels: Sequence[str] | None = None,
    *,
    out: str | Path | None = None,
    title: str = "",
) -> bytes:
    """PNG with three panels over log-SNR: weight on the trained loss, density of draws, and effort (their product).

    Parameters
    ----------
    allocations : sequence of Allocation
        1 to 12, on one path and target; with several, made with one `log_snr` grid
        (`weighting.allocation.common_grid`).
    labels : sequence of str or None
        What to call each; None takes the weightings' names.
    out : path or None
        Also write the PNG there (atomically).

    Raises
    ------
    UserError
        None or too many, different paths or targets, or a label missing.
    """
    import torch

    labels = _checked_labels(allocations, labels)
    first = allocations[0]
    figure, panels = panels_over_log_snr(3, ratios=(1.15, 0.7, 1.25), height=7.4)
    # Tails that hold next to nothing would only squeeze the rest.
    shapes = torch.stack(
        [shape / shape.max() for allocation in allocations for shape in (allocation.draws, allocation.effort)]
    )
    held = (shapes.amax(0) > 2e-3).nonzero()
    shown = slice(int(held[0]), int(held[-1]) + 1)
    grid = first.log_snr[shown].numpy()
    panels[-1].set_xlim(grid[0], grid[-1])
    weights, draws, efforts = (
        [
            Curve(label, grid, getattr(allocation, part)[shown].numpy(), i)
            for i, (label, allocation) in enumerate(zip(labels, allocations, strict=True))
        ]
        for part in ("weight", "draws", "effort")
    )
    draw_curves(
        panels[0], weights, f"weight on the loss of {first.target}", log=True, limits=_weight_limits(allocations)
    )
    densities = _distinct(
        [
            Curve(allocation.density_label, c.x, c.y, i)
            for i, (allocation, c) in enumerate(zip(allocations, draws, strict=True))
        ]
    )
    if len(densities) == 1:
        _ground(panels[1], densities[0])
        _ground(panels[2], densities[0])
        panels[1].set_title(f"density of draws: {densities[0].label}", loc="left", fontsize=_HEAD, color=INK)
    else:
        draw_curves(panels[1], draws, "density of draws, per nat of log-SNR")
    draw_curves(
        panels[2],
        efforts,
        "effort = weight × density, normalised" + (", over the draws (grey)" if len(densities) == 1 else ""),
    )
    for panel in panels[1:]:
        panel.set_ylim(bottom=0)
    noise_level_axis(panels[0], grid, first.t[shown].numpy())
    return save(figure, title or f"{first.path} path, target {first.target}", out)


def _checked_labels(allocations: Sequence[Allocation], labels: Sequence[str] | None) -> list[str]:
    """What to call each allocation; a `UserError` for those that cannot share a picture."""
    if not 1 <= len(allocations) <= _MOST:
        raise UserError(f"a picture holds 1 to {_MOST} allocations, not {len(allocations)}; choose fewer.")
    first = allocations[0]
    if any((allocation.path, allocation.target) != (first.path, first.target) for allocation in allocations):
        raise UserError(
            "the allocations of one picture must share path and target; draw one picture for each combination."
        )
    if any(allocation.log_snr.tolist() != first.log_snr.tolist() for allocation in allocations):
        raise UserError(
            "the allocations of one picture must be tabulated at the same points; make them with "
            "log_snr=common_grid(allocations)."
        )
    labels = [allocation.noise_level for allocation in allocations] if labels is None else list(labels)
    if len(labels) != len(allocations):
        raise UserError(f"{len(allocations)} allocations came with {len(labels)} labels; give one for each.")
    return labels


def _weight_limits(allocations: Sequence[Allocation], decades: float = 5.0) -> tuple[float, float]:
    """Ends of a logarithmic axis on which the weights show wherever there are draws or effort to speak of."""
    low, high = np.inf, 0.0
    for allocation in allocations:
        busy = (allocation.draws > 0.02 * allocation.draws.max()) | (allocation.effort > 0.02 * allocation.effort.max())
        weight = allocation.weight[busy & (allocation.weight > 0)]
        low, high = min(low, float(weight.min())), max(high, float(weight.max()))
    room = 1.5 if high / low > 1.5 else 3.0  # a constant weight is a line in the middle
    return max(low, high / 10**decades) / room, high * room


def panels_over_log_snr(
    rows: int,
    *,
    columns: int = 1,
    ratios: Sequence[float] | None = None,
    width: float = 7.2,
    height: float = 3.4,
    share_x: bool = True,
) -> tuple[Any, list[Any]]:
    """A figure and its panels, top to bottom, each with log-SNR as x; no pyplot, no global state."""
    figure = new_figure(width, height, facecolor="white")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=share_x, height_ratios=ratios).flat)
    for index, panel in enumerate(panels):
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(SOFT)
        panel.tick_params(labelsize=_TICK, colors=SOFT)
        panel.grid(axis="y", color=LINE, linewidth=0.6)
        panel.set_axisbelow(True)
        if index >= len(panels) - columns:
            panel.set_xlabel("log-SNR  ln(α²/σ²), nats      ← noise · data →", fontsize=_LABEL, color=INK)
    return figure, panels


def draw_curves(
    panel: Any,
    curves: Sequence[Curve],
    heading: str,
    *,
    log: bool = False,
    limits: tuple[float, float] | None = None,
) -> None:
    """Curves with labels at the right margin, joined to their ends by a thin line; equal curves share one.

    Parameters
    ----------
    log : bool
        Logarithmic y axis; labels then join the curves' ends, else they stand at their peaks' heights.
    limits : (low, high) or None
        Of the y axis. None takes what the curves need.
    """
    merged = _distinct(curves)
    if len(merged) == 1 < len(curves):
        merged = [replace(merged[0], label="the same for all")]
    for curve in merged:
        panel.plot(curve.x, curve.y, linewidth=1.7, solid_capstyle="round", **curve.line)
    if log:
        panel.set_yscale("log")
    if limits is not None:
        panel.set_ylim(*limits)
        if log and limits[1] / limits[0] < 50:
            _plain_log_ticks(panel)
    panel.set_title(heading, loc="left", fontsize=_HEAD, color=INK)
    _margin_labels(panel, merged, at_peak=not log)


def noise_level_axis(panel: Any, log_snr: np.ndarray, t: np.ndarray) -> None:
    """A second x axis on top: the noise levels t that belong to the log-SNRs, where there is room for a number."""
    span = log_snr[-1] - log_snr[0]
    order = sorted(
        (tick for tick in _T_TICKS if t[-1] <= tick <= t[0]), key=lambda tick: (len(f"{tick:g}"), abs(tick - 0.5))
    )
    places: list[tuple[float, float]] = []
    for tick in order:  # short numbers near the middle first
        x = float(np.interp(tick, t[::-1], log_snr[::-1]))
        if all(abs(x - other) > 0.055 * span for other, _ in places):
            places.append((x, tick))
    top = panel.secondary_xaxis("top")
    top.set_xticks([x for x, _ in places], [f"{tick:g}" for _, tick in places])
    top.tick_params(labelsize=_TICK, colors=SOFT)
    top.spines["top"].set_color(SOFT)
    panel.annotate("noise level t", (1.015, 1.0), xytext=(0, 5), xycoords="axes fraction", textcoords="offset points",
                   fontsize=_TICK, color=SOFT, annotation_clip=False)  # fmt: skip


def save(figure: Any, title: str, out: str | Path | None) -> bytes:
    """PNG bytes with a fixed layout, also written to `out`; the same figure gives the same bytes."""
    if title:
        figure.suptitle(title, fontsize=_HEAD + 1.5, fontweight="bold", color=INK, parse_math=False)
    return figure_png(figure, out, colours=192)


def _ground(panel: Any, curve: Curve) -> None:
    panel.fill_between(curve.x, curve.y, color=FILL, linewidth=0, zorder=0.5)
    panel.plot(curve.x, curve.y, color=SOFT, linewidth=0.9, zorder=0.6)


def _distinct(curves: Sequence[Curve]) -> list[Curve]:
    """Curves that coincide are drawn once, under all their labels."""
    distinct: list[Curve] = []
    for curve in curves:
        for index, other in enumerate(distinct):
            if np.allclose(curve.y, other.y, rtol=1e-6, atol=1e-12 * float(np.nanmax(np.abs(other.y)))):
                if curve.label not in other.label.split(" = "):
                    distinct[index] = Curve(f"{other.label} = {curve.label}", other.x, other.y, other.index)
                break
        else:
            distinct.append(curve)
    return distinct


def _margin_labels(panel: Any, curves: Sequence[Curve], *, at_peak: bool) -> None:
    """Labels right of the panel, in the order of what they point at, pushed apart where they would touch."""
    to_axes = panel.transData + panel.transAxes.inverted()
    anchors = []
    for curve in curves:
        low, high = panel.get_ylim()
        inside = np.flatnonzero((curve.y >= low) & (curve.y <= high) & np.isfinite(curve.y))
        spot = int(np.nanargmax(curve.y)) if at_peak else int(inside[-1]) if len(inside) else len(curve.y) - 1
        anchors.append(to_axes.transform((curve.x[spot], np.clip(curve.y[spot], low, high))))
    order = sorted(range(len(curves)), key=lambda i: (-round(anchors[i][1], 2), -anchors[i][0]))
    texts = [_wrapped(curve.label) for curve in curves]
    line_height = 0.155 / (panel.get_position().height * panel.figure.get_figheight())
    heights = _spread([float(anchors[i][1]) for i in order], [line_height * (1 + texts[i].count("\n")) for i in order])
    for i, height in zip(order, heights, strict=True):
        line = curves[i].line
        panel.plot([1.015, 1.05], [height, height], transform=panel.transAxes, clip_on=False, linewidth=1.7, **line)
        if not at_peak and anchors[i][0] > 0.97:
            panel.plot([float(anchors[i][0]), 1.015], [float(anchors[i][1]), height], transform=panel.transAxes,
                       clip_on=False, linewidth=0.6, color=line["color"], alpha=0.6)  # fmt: skip
        panel.annotate(texts[i], (1.065, height), xycoords="axes fraction", va="center", ha="left", linespacing=1.05,
                       fontsize=_LABEL, color=INK, annotation_clip=False, parse_math=False)  # fmt: skip


def _wrapped(label: str, width: int = 22) -> str:
    """Names joined by '=' over several lines, so that one long label does not squeeze the panel."""
    lines = [""]
    for name in label.split(" = "):
        joined = f"{lines[-1]} = {name}" if lines[-1] else name
        if lines[-1] and len(joined) > width:
            lines[-1] += " ="
            lines.append(name)
        else:
            lines[-1] = joined
    return "\n".join(lines)


def _spread(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Heights (descending) of labels of these sizes that do not touch, close to the wanted ones and within [0,
    0.97]."""
    gaps = [(a + b) / 2 for a, b in itertools.pairwise(sizes)]
    placed = [min(wanted[0], 0.97)]  # above stands the name of the second axis
    for height, gap in zip(wanted[1:], gaps, strict=True):
        placed.append(min(height, placed[-1] - gap))
    if placed[-1] < 0:
        placed[-1] = 0.0
        for index in range(len(placed) - 2, -1, -1):
            placed[index] = max(placed[index], placed[index + 1] + gaps[index])
    return placed


def _plain_log_ticks(panel: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
