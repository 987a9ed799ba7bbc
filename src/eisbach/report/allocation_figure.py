"""The picture of an allocation: weight, density of draws and their product over log-SNR, with noise levels on top.

Also the pieces that other pictures over log-SNR are made of: a panel of curves, labels that stand beside their curves,
and the second axis of noise levels. Colours are Okabe and Ito's, told apart by line style as well.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eisbach.errors import UserError
from eisbach.files import atomic_write

if TYPE_CHECKING:
    from eisbach.weighting.allocation import Allocation

DPI = 150
MOST = 12
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA3377", "#8C6D00", "#56B4E9")
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
        1 to 12, on one path and target; with several, made with one `log_snr` grid (`weighting.allocation.common_grid`).
    labels : sequence of str or None
        What to call each; None takes the weightings' names.
    out : path or None
        Also write the PNG there (atomically).

    Raises
    ------
    UserError
        None or too many, different paths or targets, or a label missing.
    """
    if not 1 <= len(allocations) <= MOST:
        raise UserError(f"a picture holds 1 to {MOST} allocations, not {len(allocations)}; choose fewer.")
    first = allocations[0]
    if any((one.path, one.target) != (first.path, first.target) for one in allocations):
        raise UserError(
            "the allocations of one picture must share path and target; draw one picture for each combination."
        )
    labels = [one.noise_level for one in allocations] if labels is None else list(labels)
    if len(labels) != len(allocations):
        raise UserError(f"{len(allocations)} allocations came with {len(labels)} labels; give one for each.")
    figure, panels = panels_over_log_snr(3, ratios=(1.15, 0.7, 1.25), height=7.4)
    curves = [
        [Curve(label, one.log_snr.numpy(), getattr(one, part).numpy(), index) for index, (label, one) in enumerate(zip(labels, allocations, strict=True))]
        for part in ("weight", "draws", "effort")
    ]  # fmt: skip
    seen = np.max([[*(one.draws / one.draws.max()).tolist()] for one in allocations], axis=0) > 1e-3
    draw_curves(panels[0], curves[0], f"weight on the loss of {first.target}", log=True, seen=seen)
    densities = _distinct(
        [Curve(_density(one), c.x, c.y, i) for i, (one, c) in enumerate(zip(allocations, curves[1], strict=True))]
    )
    if len(densities) == 1:
        _ground(panels[1], densities[0])
        _ground(panels[2], densities[0])
        panels[1].set_title(f"density of draws: {densities[0].label}", loc="left", fontsize=_HEAD, color=INK)
    else:
        draw_curves(panels[1], curves[1], "density of draws, per nat of log-SNR")
    draw_curves(
        panels[2],
        curves[2],
        "effort = weight × density, normalised" + (", over the draws (grey)" if len(densities) == 1 else ""),
    )
    for panel in panels[1:]:
        panel.set_ylim(bottom=0)
    grid = first.log_snr.numpy()
    noise_level_axis(panels[0], grid, first.t.numpy())
    panels[-1].set_xlim(grid[0], grid[-1])
    return save(figure, title or f"{first.path} path, target {first.target}", out)


def panels_over_log_snr(
    rows: int, *, columns: int = 1, ratios: Sequence[float] | None = None, width: float = 7.2, height: float = 3.4
) -> tuple[Any, list[Any]]:
    """A figure and its panels, top to bottom, each with log-SNR as x; no pyplot, no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=True, height_ratios=ratios).flat)
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
    seen: np.ndarray | None = None,
    decades: float = 5.0,
) -> None:
    """Curves with labels at the right margin, joined to their ends by a thin line; equal curves share one.

    Parameters
    ----------
    log : bool
        Logarithmic y axis of at most `decades`, which fit the part of the curves where `seen` is True.
    """
    merged = _distinct(curves)
    for curve in merged:
        panel.plot(curve.x, curve.y, linewidth=1.7, solid_capstyle="round", **curve.line)
    if log:
        panel.set_yscale("log")
        shown = np.concatenate([curve.y if seen is None else curve.y[seen] for curve in merged])
        shown = shown[np.isfinite(shown) & (shown > 0)]
        high = float(shown.max())
        low = max(float(shown.min()), high / 10**decades)
        panel.set_ylim(low / 1.5, high * 1.5)
        if high / low < 8:
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
    top.set_xlabel("noise level t", fontsize=_LABEL, color=INK)


def save(figure: Any, title: str, out: str | Path | None) -> bytes:
    """PNG bytes with a fixed layout, also written to `out`; the same figure gives the same bytes."""
    if title:
        figure.suptitle(title, fontsize=_HEAD + 1.5, fontweight="bold", color=INK, parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    png = buffer.getvalue()
    if out is not None:
        atomic_write(out, _writer(png))
    return png


def _writer(png: bytes) -> Callable[[Path], None]:
    def write(partial: Path) -> None:
        partial.write_bytes(png)

    return write


def _ground(panel: Any, curve: Curve) -> None:
    panel.fill_between(curve.x, curve.y, color=FILL, linewidth=0, zorder=0.5)
    panel.plot(curve.x, curve.y, color=SOFT, linewidth=0.9, zorder=0.6)


def _density(one: Allocation) -> str:
    options = ", ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in one.density_options.items()
    )
    frames = f", {one.num_frames} frames" if one.num_frames is not None else ""
    return f"{one.density}({options}{frames})"


def _distinct(curves: Sequence[Curve]) -> list[Curve]:
    """Curves that coincide are drawn once, under all their labels."""
    found: list[Curve] = []
    for curve in curves:
        for index, other in enumerate(found):
            if np.allclose(curve.y, other.y, rtol=1e-6, atol=1e-12 * float(np.nanmax(np.abs(other.y)))):
                if curve.label not in other.label.split(" = "):
                    found[index] = Curve(f"{other.label} = {curve.label}", other.x, other.y, other.index)
                break
        else:
            found.append(curve)
    return found


def _margin_labels(panel: Any, curves: Sequence[Curve], *, at_peak: bool) -> None:
    """Labels right of the panel, in the order of what they point at, pushed apart where they would touch."""
    to_axes = panel.transData + panel.transAxes.inverted()
    x_low, x_high = min(c.x[0] for c in curves), max(c.x[-1] for c in curves)
    panel.set_xlim(x_low, x_high)
    anchors = []
    for curve in curves:
        low, high = panel.get_ylim()
        visible = np.flatnonzero((curve.y >= low) & (curve.y <= high) & np.isfinite(curve.y))
        spot = visible[-1] if len(visible) else len(curve.y) - 1
        if at_peak and len(visible):
            spot = int(np.nanargmax(curve.y))
        anchors.append(to_axes.transform((curve.x[spot], np.clip(curve.y[spot], low, high))))
    order = sorted(range(len(curves)), key=lambda i: -anchors[i][1])
    gap = 0.155 / (panel.get_position().height * panel.figure.get_figheight())
    heights = _spread([float(anchors[i][1]) for i in order], gap)
    for i, height in zip(order, heights, strict=True):
        line = curves[i].line
        panel.plot([1.015, 1.05], [height, height], transform=panel.transAxes, clip_on=False, linewidth=1.7, **line)
        if not at_peak:
            panel.plot([float(anchors[i][0]), 1.015], [float(anchors[i][1]), height], transform=panel.transAxes,
                       clip_on=False, linewidth=0.6, color=line["color"], alpha=0.6)  # fmt: skip
        panel.annotate(curves[i].label, (1.06, height), xycoords="axes fraction", va="center", ha="left",
                       fontsize=_LABEL, color=line["color"], annotation_clip=False, parse_math=False)  # fmt: skip


def _spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Heights (descending) at least `gap` apart, close to the wanted ones and, where they fit, within [0, 1]."""
    placed = [min(wanted[0], 1.0)]
    for height in wanted[1:]:
        placed.append(min(height, placed[-1] - gap))
    if placed[-1] < 0:
        placed[-1] = 0.0
        for index in range(len(placed) - 2, -1, -1):
            placed[index] = max(placed[index], placed[index + 1] + gap)
    return placed


def _plain_log_ticks(panel: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
