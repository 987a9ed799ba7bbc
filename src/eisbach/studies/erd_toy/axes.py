"""What the toy's pictures share: a grid of panels, colours by target and arm, and a finished PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from eisbach.report.allocation_figure import COLOURS, INK, LINE, SOFT

DPI = 200
TARGET_NAMES = {"eps": "ε", "x0": "x0", "v": "v", "u": "u"}
PATH_NAMES = {"linear": "linear", "vp": "VP", "gvp": "GVP (cosine)", "edm": "EDM"}
ARM_NAMES = {
    "constant": "constant",
    "min_snr": "Min-SNR",
    "p2": "P2",
    "erd": "ERD",
    "erd_corrected": "ERD, density corrected",
}
CLUSTER_COLOURS = COLOURS[:4]
CLUSTER_MARKERS = ("o", "^", "s", "D")


def panels(
    rows: int, columns: int, width: float = 2.6, height: float = 2.0, *, images: bool = False, **options: Any
) -> tuple[Any, Any]:
    """(figure, axes of shape (rows, columns)), without any global state of matplotlib; `images` closes up square
    panels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layout: Any = "compressed" if images else "constrained"
    figure = Figure(figsize=(width * columns + 0.4, height * rows + 0.5), layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(SOFT)
        axis.tick_params(which="both", colors=SOFT, labelsize=7, labelcolor=INK)
        axis.grid(color=LINE, linewidth=0.5)
        axis.set_axisbelow(True)
    return figure, axes


def titles(axes: Any, columns: Sequence[str], rows: Sequence[str], x_label: str, y_label: str = "") -> None:
    """Column names on top, row names and the y axis at the left, the x axis at the bottom."""
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(name, fontsize=9, color=INK)
    for row, name in zip(axes, rows, strict=True):
        row[0].set_ylabel(f"{name}\n{y_label}" if y_label else name, fontsize=8, color=INK)
    for axis in axes[-1]:
        axis.set_xlabel(x_label, fontsize=8, color=INK)


def log_axis(axis: Any) -> None:
    """A logarithmic y axis with plain numbers, and with 2 and 5 between the powers of ten where there are few of
    these."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def colour_bar(figure: Any, image: Any, axes: Any, label: str) -> None:
    """A colour bar beside all panels, in the panels' sizes of text, opaque where the marks are not."""
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=28, pad=0.015)
    bar.set_label(label, fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7, colors=SOFT, labelcolor=INK)
    bar.solids.set_alpha(1.0)


def finish(figure: Any) -> bytes:
    """The PNG, with 256 colours: as sharp as before and a third of the size."""
    from PIL import Image  # matplotlib's own dependency

    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, metadata={"Software": None})
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    return small.getvalue()


def path_name(path: str) -> str:
    """A path as a person reads it."""
    return PATH_NAMES.get(path, path)


def target_name(target: str) -> str:
    """A target as a person reads it."""
    return TARGET_NAMES.get(target, target)


def arm_name(arm: str) -> str:
    """A weighting as a person reads it."""
    return ARM_NAMES.get(arm, arm.replace("_", " "))
