"""Panels on repetition: the triangle of a fitness scape plot, and the arcs of a motif map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eisbach.report.charts import COLOURS
from eisbach.report.figures import draw_nothing
from eisbach.report.structure.style import INK, SOFT, TICK_PT
from eisbach.structure.features import Features

if TYPE_CHECKING:
    from eisbach.structure.motif_map import MotifMap

_MOST_ARCS, _SAID_ARCS = 12, 3  # drawn, and named by their length
_SHORTEST = 3.0  # seconds; shorter segments are notes rather than passages


def draw_scape(axes: Any, features: Features) -> Any:
    """The fitness of every segment: its centre across, its length upwards; returns the image, or None when too
    short."""
    from eisbach.structure.scape import clip_scape

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
        triangle, origin="lower", aspect="auto", cmap="viridis", vmin=0.0, vmax=1.0, interpolation="nearest",
        rasterized=True,
        extent=(start, start + n * step, 0.5 * step, (n + 0.5) * step),
    )  # fmt: skip
    axes.set_xlim(start, start + n * step)
    axes.set_ylim(0.0, (n + 0.5) * step)
    first, last = scape.thumbnail(_SHORTEST)
    if np.isfinite(first) and np.nanmax(fitness) > 0.0:  # where nothing repeats no segment is the best
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
    """Arcs from every stretch that is heard again to its best match: solid in the same key, dashed when it is
    transposed.

    Windows that follow one another and return together are one arc. The strip below marks in black what is heard again
    anywhere, and the share of the piece that it covers stands above. Only the twelve longest passages get arcs.
    """
    from matplotlib.patches import Rectangle

    from eisbach.structure.motif_map import motif_map

    found = motif_map(features)
    if not len(found.start):
        draw_nothing(axes, f"under {found.window_seconds:g} s of sound")
        return
    passages = motif_passages(found)
    offset = features.trimmed_start
    end = offset + features.duration
    tallest = max([(abs(passage.to - passage.start)) / 2 for passage in passages], default=1.0)
    for index, passage in enumerate(sorted(passages, key=lambda passage: -passage.length)[:_MOST_ARCS]):
        _arc(axes, passage, offset, tallest, said=index < _SAID_ARCS)
    heard = np.zeros(max(1, round(10 * features.duration)), dtype=bool)
    for start in found.start[found.recurs]:
        heard[round(10 * start) : round(10 * (start + found.window_seconds))] = True
    axes.add_patch(Rectangle((offset, -0.2), end - offset, 0.1, facecolor="#ececec", edgecolor="0.5", linewidth=0.4))
    for first, last in _runs(heard):
        axes.add_patch(Rectangle((offset + first / 10, -0.2), (last - first) / 10, 0.1, facecolor=INK, linewidth=0))
    axes.set_ylim(-0.24, 1.1)
    axes.set_xlim(offset, end)
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.annotate(
        f"{heard.mean():.0%} heard again{_key_words(passages)}" if passages else "nothing is heard again", (1.0, 1.0),
        xycoords="axes fraction",
        ha="right", va="top", fontsize=TICK_PT, color=SOFT,
    )  # fmt: skip


def _key_words(passages: list[Passage]) -> str:
    """What dashes mean, where there are any."""
    return "" if all(passage.transposition % 12 == 0 for passage in passages) else " (dashed: transposed)"


@dataclass(frozen=True)
class Passage:
    """A stretch that returns: it starts at `start`, returns at `to`, lasts `length` (s), moved by `transposition`
    semitones."""

    start: float
    to: float
    length: float
    transposition: int


def motif_passages(found: MotifMap) -> list[Passage]:
    """The windows that recur, joined where neighbours return to neighbouring places in one transposition.

    A passage and its return each find the other; the pair is given once, the earlier place first.
    """
    step = float(found.start[1] - found.start[0]) if len(found.start) > 1 else found.window_seconds
    runs: list[list[int]] = []
    for index in np.flatnonzero(found.recurs):
        last = runs[-1][-1] if runs else None
        if (
            last is not None
            and found.start[index] - found.start[last] <= 2.01 * step
            and found.transposition[index] == found.transposition[last]
            and abs((found.match[index] - found.match[last]) - (found.start[index] - found.start[last])) <= 1.01 * step
        ):
            runs[-1].append(int(index))
        else:
            runs.append([int(index)])
    kept: list[Passage] = []
    for run in runs:
        a, b = float(found.start[run[0]]), float(found.match[run[0]])
        shift = int(found.transposition[run[0]])
        passage = Passage(
            min(a, b), max(a, b), float(found.start[run[-1]] - a) + found.window_seconds, shift if a < b else -shift
        )
        if not any(_same(passage, other) for other in kept):
            kept.append(passage)
    return kept


def _same(passage: Passage, other: Passage) -> bool:
    """Whether two passages are one pair seen from both ends (half of the shorter one shared at both places)."""
    near = 0.5 * min(passage.length, other.length)
    return abs(passage.start - other.start) < near and abs(passage.to - other.to) < near


def _arc(axes: Any, passage: Passage, offset: float, tallest: float, *, said: bool) -> None:
    """Two bars on the ground, one at each place, and an arc from middle to middle, thicker for longer passages."""
    same_key = passage.transposition % 12 == 0
    style = {"color": COLOURS[0] if same_key else COLOURS[1], "solid_capstyle": "butt"}
    for place in (passage.start, passage.to):
        axes.plot([offset + place, offset + place + passage.length], [0.0, 0.0], linewidth=3.2, alpha=0.6, **style)
    middle, radius = offset + (passage.start + passage.to + passage.length) / 2, (passage.to - passage.start) / 2
    height = 0.86 * max(0.15, radius / tallest)
    angle = np.linspace(0.0, np.pi, 80)
    axes.plot(
        middle - radius * np.cos(angle), height * np.sin(angle), linewidth=float(np.clip(0.5 * passage.length / 2, 1.0,
        4.5)),
        alpha=0.75, linestyle="-" if same_key else (0, (4, 1.2)), **style,
    )  # fmt: skip
    if not said:
        return
    words = f"{passage.length:.0f} s" + ("" if same_key else f", {passage.transposition:+d} semitones")
    axes.annotate(
        words, (middle, height), xytext=(0, 3), textcoords="offset points", ha="center", va="bottom",
        fontsize=TICK_PT - 0.5,
        color=INK, annotation_clip=False,
    )  # fmt: skip


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and last-plus-one of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
