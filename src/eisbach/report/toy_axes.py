"""What the toy's pictures share: a grid of panels, colours by target and arm, and a finished PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eisbach.report.allocation_figure import COLOURS, INK, LINE, SOFT

DPI = 110
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


@dataclass(frozen=True)
class ToyPicture:
    """One picture.

    Attributes
    ----------
    name : str
        File name without its ending.
    title, caption, alt : str
        Heading, one or two sentences on how to read it, and what it shows for someone who cannot see it.
    png : bytes
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes


def panels(rows: int, columns: int, width: float = 2.6, height: float = 2.0, **options: Any) -> tuple[Any, Any]:
    """(figure, axes of shape (rows, columns)), without any global state of matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns + 0.4, height * rows + 0.5), layout="constrained")
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


def finish(figure: Any) -> bytes:
    """The PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def path_name(path: str) -> str:
    """A path as a person reads it."""
    return PATH_NAMES.get(path, path)


def target_name(target: str) -> str:
    """A target as a person reads it."""
    return TARGET_NAMES.get(target, target)


def arm_name(arm: str) -> str:
    """A weighting as a person reads it."""
    return ARM_NAMES.get(arm, arm.replace("_", " "))
