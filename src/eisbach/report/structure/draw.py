"""What single panels of the structure figures show, drawn on axes that the caller owns.

Beside the panels of `figures_draw`: detected sections over a matrix, mean spectra by group, the curve of block scales,
and the shares of variance that a trajectory has to be read against.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eisbach.errors import UserError
from eisbach.report.figures import View, draw_similarity, draw_trajectory, mel_frames, project
from eisbach.report.structure.style import (
    COLUMN,
    INK,
    LABEL_PT,
    LINE,
    MARKERS,
    PAGE,
    SOFT,
    TICK_PT,
    TITLE_PT,
    PictureClip,
    blank,
    colour_bar,
    heading,
    line_style,
    shorten,
)
from eisbach.structure.features import FLOOR_DB, Features
from eisbach.structure.metrics.paper import MIN_SECONDS, pc1_share_of_surrogates
from eisbach.structure.sections import find_sections

_MOST_LINES = 24  # sections whose boundaries are drawn across the whole matrix
_SHOWN_HZ = (50, 100, 200, 500, 1000, 2000, 5000, 10000)


@dataclass(frozen=True)
class Span:
    """One section: from `start` to `end` in seconds of the file, and the letter of what it sounds like."""

    start: float
    end: float
    letter: str


def section_spans(features: Features, detail: Mapping[str, Any] | None = None) -> list[Span]:
    """The sections of a clip, first to last; empty for a clip too short to have any.

    Parameters
    ----------
    detail : mapping or None
        The clip's line of an analysis' ``details.jsonl``, which holds them to a thousandth of a second; without it
        `structure.sections.find_sections` looks for them.
    """
    if detail is not None:
        return _spans(features, detail["sections"]["boundaries"], detail["sections"]["labels"])
    sections = find_sections(features)
    return _spans(features, sections.boundaries, sections.labels)


def large_spans(features: Features, detail: Mapping[str, Any] | None = None) -> list[Span]:
    """The parts of the large form, first to last; empty where it is one part, or the sections themselves.

    Parameters are those of `section_spans`.
    """
    if detail is not None:
        found = detail["sections"]
        small, boundaries, labels = found["boundaries"], found.get("large", []), found.get("large_labels", [])
    else:
        sections = find_sections(features)
        small, boundaries, labels = sections.boundaries, sections.large, sections.large_labels
    return _spans(features, boundaries, labels) if 0 < len(boundaries) < len(small) else []


def _spans(features: Features, boundaries: Sequence[float], labels: Sequence[str]) -> list[Span]:
    if not labels:
        return []
    start = float(features.trimmed_start)
    edges = itertools.pairwise((start, *boundaries, start + float(features.duration)))
    return [Span(float(a), float(b), letter) for (a, b), letter in zip(edges, labels, strict=True)]


def draw_sections(axes: Any, features: Features, spans: Sequence[Span], view: View = "texture") -> Any:
    """A self-similarity matrix with a line at every section boundary and the sections' letters above it.

    More than 24 sections are outlined on the diagonal only: lines across would hide the matrix.
    """
    image = draw_similarity(axes, features, view)
    if image is None or len(spans) < 2:
        return image
    low, high = axes.get_xlim()
    if len(spans) > _MOST_LINES:
        _outline_blocks(axes, spans, low, high)
        return image
    for span in spans[1:]:
        for line in (axes.axvline, axes.axhline):  # white on black: seen on dark and on bright ground
            line(span.start, color="black", linewidth=1.5, alpha=0.85)
            line(span.start, color="white", linewidth=0.7, linestyle=(0, (3, 2)))
    for span in spans:
        middle = (max(span.start, low) + min(span.end, high)) / 2
        fits = 0.035 * len(span.letter) * (high - low)
        if (min(span.end, high) - max(span.start, low)) > fits:
            axes.annotate(
                span.letter, (middle, 1.0), xytext=(0, 2), xycoords=("data", "axes fraction"), ha="center", va="bottom",
                textcoords="offset points", fontsize=TICK_PT, color=INK, fontweight="bold", annotation_clip=False,
                parse_math=False,
            )  # fmt: skip
    return image


def _outline_blocks(axes: Any, spans: Sequence[Span], low: float, high: float) -> None:
    from matplotlib.patches import Rectangle

    for span in spans:
        start, length = max(span.start, low), min(span.end, high) - max(span.start, low)
        for colour, width in (("black", 1.4), ("white", 0.6)):
            axes.add_patch(Rectangle((start, start), length, length, fill=False, edgecolor=colour, linewidth=width))


@dataclass(frozen=True)
class Pc1Share:
    """Shares of variance on the first principal component, 0–1.

    Attributes
    ----------
    clip : float
        Of the clip's own frames.
    walk : float
        Of random walks with the clip's own steps: what wandering without any direction gives.
    phases : float
        Of frames whose bands keep their spectra over time and have random phases: the clip's movement without its
        structure.
    """

    clip: float
    walk: float
    phases: float

    def text(self, *, narrow: bool = False) -> str:
        """The three shares in a line over a trajectory, or in two shorter ones."""
        if narrow:
            return f"PC 1 {self.clip:.0%}\nwalk {self.walk:.0%} · phases {self.phases:.0%}"
        return f"PC 1 {self.clip:.0%} · random walk {self.walk:.0%} · random phases {self.phases:.0%}"


def pc1_share(features: Features, view: View = "texture") -> Pc1Share | None:
    """The share of PC 1 of the frames that are drawn, and what it has to be compared with; None under 8 s of sound."""
    if len(features.texture) < 3 or features.duration < MIN_SECONDS:
        return None
    frames = _projected(features, view)
    walk, phases = pc1_share_of_surrogates(replace(features, mel_db=frames.astype(np.float32)))
    if np.isnan(walk):  # nothing moves at all
        return None
    return Pc1Share(float(project(frames)[1][0]), walk, phases)


def _projected(features: Features, view: View) -> np.ndarray:
    return mel_frames(features)[0] if view == "mel" else features.texture


def draw_spectra(
    top: Any, bottom: Any, mel_hz: np.ndarray, groups: Sequence[tuple[str, Sequence[tuple[np.ndarray, np.ndarray]]]],
    reference: str = "",
) -> None:  # fmt: skip
    """Mean energy (top) and spread over time (bottom) of groups of clips; a band is ± 1 SD over the group's clips.

    Parameters
    ----------
    groups : sequence of (name, sequence of `mean_spectrum`)
        None of them empty.
    reference : str
        The group that is the music that the others are held against.
    """
    for index, (name, spectra) in enumerate(groups):
        for axes, part in ((top, 0), (bottom, 1)):
            values = np.stack([curve[part] for curve in spectra])
            style = line_style(index, reference=name == reference)
            axes.plot(
                mel_hz, values.mean(axis=0), linewidth=1.2, label=name, marker=MARKERS[index % len(MARKERS)],
                markersize=2.8,
                markevery=(3 * index % 8, 8), **style,
            )  # fmt: skip
            if len(spectra) > 1:
                sd = values.std(axis=0, ddof=1)
                mean = values.mean(axis=0)
                axes.fill_between(mel_hz, mean - sd, mean + sd, color=style["color"], alpha=0.13, linewidth=0)
    for axes in (top, bottom):
        axes.set_xscale("log")
        axes.set_xlim(mel_hz[0], mel_hz[-1])
        axes.grid(color=LINE, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        shown = [hz for hz in _SHOWN_HZ if mel_hz[0] <= hz <= mel_hz[-1]]
        axes.set_xticks(shown, [f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in shown])
        axes.minorticks_off()
    top.set_ylim(bottom=max(top.get_ylim()[0], -FLOOR_DB))
    bottom.set_ylim(bottom=0.0)
    top.set_ylabel("mean energy (dB re\nmean over bands)")
    bottom.set_ylabel("spread over time\n(SD, dB)")
    bottom.set_xlabel("frequency (Hz)")


def draw_block_curves(
    axes: Any, groups: Sequence[tuple[str, Sequence[tuple[np.ndarray, np.ndarray]]]], *, name_peaks: bool = True,
    reference: str = "",
) -> None:  # fmt: skip
    """Block strength by time scale: thin lines are clips, thick ones a group's mean, a mark stands at its peak.

    Parameters
    ----------
    groups : sequence of (name, sequence of (scales in s, strengths 0–1))
        Clips of different lengths reach different scales; the mean goes as far as the shortest.
    reference : str
        As in `draw_spectra`.
    """
    tallest = 0.0
    for index, (name, curves) in enumerate(groups):
        style = line_style(index, reference=name == reference)
        shortest = min((scales for scales, _ in curves), key=len)
        stacked = np.stack([np.interp(shortest, scales, strengths) for scales, strengths in curves])
        if len(curves) > 1:
            for scales, strengths in curves:
                axes.plot(scales, strengths, color=style["color"], linewidth=0.5, alpha=0.35)
                tallest = max(tallest, float(strengths.max()))
        mean = stacked.mean(axis=0)
        best = int(mean.argmax())
        tallest = max(tallest, float(mean.max()))
        peak = f", peak at {shortest[best]:g} s" if name_peaks and mean[best] >= 0.02 else ""
        axes.plot(shortest, mean, linewidth=1.5, label=f"{name}{peak}", **style)
        axes.plot(
            shortest[best], mean[best], marker=MARKERS[index % len(MARKERS)], color=style["color"], markersize=5,
            markeredgecolor="white", markeredgewidth=0.6,
        )  # fmt: skip
    axes.set_xlim(left=0.0)
    axes.set_ylim(0.0, max(0.1, 1.12 * tallest))
    axes.set_xlabel("block length (half-width of the checkerboard, s)")
    axes.set_ylabel("contrast of blocks (0–1)")
    axes.grid(color=LINE, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def note(axes: Any, text: str) -> None:
    """A line of small grey text under a panel."""
    axes.annotate(
        text, (0.5, 1.0), xytext=(0, 2), xycoords="axes fraction", textcoords="offset points", ha="center", va="bottom",
        fontsize=TICK_PT - 0.5, color=SOFT, annotation_clip=False, parse_math=False,
    )  # fmt: skip


# --- panels: how many side by side, and what several figures put on them


MOST_GROUPS = 7
"""Lines that colours, dashes and marks can still tell apart."""
_LETTERS_AN_INCH, _HANDLE_LETTERS = 14, 9  # of a legend's text, and what a line and the gap beside it take


def columns_of(count: int) -> int:
    """Panels side by side."""
    return min(count, 4 if count > 9 else 3 if count > 4 or count == 3 else 2)


def letters_of(count: int) -> int:
    """As many as fit over a panel of `panel_grid`."""
    return 34 if count == 1 else round(72 / columns_of(count))


def shrink_of(count: int) -> float:
    """What a colour bar takes of the height of all rows, so that it stays as tall as two of them."""
    return min(1.0, 2.0 / math.ceil(count / columns_of(count)))


def panel_grid(count: int, extra: float, height: float = 1.0) -> tuple[Any, list[Any]]:
    """Square panels over one page's width (one column's for a single clip); unused places stay empty."""
    columns = columns_of(count)
    rows = math.ceil(count / columns)
    width = PAGE if count > 1 else COLUMN
    side = (width - 0.6) / columns
    figure = blank(width, rows * (side * 0.92 * height + extra))
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def trajectory_panels(
    figure: Any,
    panels: Sequence[Any],
    clips: Sequence[PictureClip] | None,
    features: Sequence[Features],
    limit: float,
    view: View,
) -> None:
    """Paths through textures on equal axes, with the share of PC 1; `clips` gives the headings, None leaves them
    out."""
    points = None
    narrow = clips is not None and columns_of(len(features)) > 2
    last = max(sound.trimmed_start + sound.duration for sound in features)
    for index, (axes, sound) in enumerate(zip(panels, features, strict=True)):
        found = draw_trajectory(axes, sound, limit, view=view, marker=0.6)
        if found is not None:
            found.set_clim(0.0, last)
            points = found
        if index:
            drop_legend(axes)
        axes.set_xlabel("PC 1 (dB)")
        axes.set_ylabel("PC 2 (dB)")
        share = pc1_share(sound, view)
        if share is not None:
            note(axes, share.text(narrow=narrow))
        if clips is not None:
            most = letters_of(len(features))
            heading(axes, clips[index].label, most=most, above_note=True, note_lines=2 if narrow else 1)
    colour_bar(figure, list(panels), points, "time (s)", shrink=shrink_of(len(features)))


def drop_legend(axes: Any) -> None:
    """Takes a panel's legend away, where another panel's says the same."""
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()


def group_legend(figure: Any, axes: Any, groups: Sequence[tuple[str, Sequence[Any]]]) -> None:
    """One legend above the panels: groups and how many clips each has."""
    handles, labels = axes.get_legend_handles_labels()
    named = [
        shorten(label, 48) + (f", {len(members)} clips" if len(members) > 1 else "")
        for label, (_, members) in zip(labels, groups, strict=True)
    ]
    room = _LETTERS_AN_INCH * figure.get_figwidth()
    columns = int(room // (max(map(len, named)) + _HANDLE_LETTERS))
    legend = figure.legend(
        handles, named, loc="outside upper center", ncols=min(3, len(named), max(1, columns)), frameon=False,
        fontsize=LABEL_PT, handlelength=3.0,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
        text.set_fontsize(TITLE_PT - 0.5)


def by_group(clips: Sequence[PictureClip], features: Sequence[Features]) -> list[tuple[str, list[Features]]]:
    """The features of each group's clips, in order; `UserError` for more groups than lines can be told apart."""
    groups: dict[str, list[Features]] = {}
    for clip, own in zip(clips, features, strict=True):
        groups.setdefault(clip.group or clip.label, []).append(own)
    if len(groups) > MOST_GROUPS:
        raise UserError(
            f"{len(groups)} groups are more than {MOST_GROUPS} lines that can be told apart; choose fewer, or group "
            "the "
            "clips by a label."
        )
    return list(groups.items())
