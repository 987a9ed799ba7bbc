"""Panels of the figures of musical structure: how many side by side, and what several figures put on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from eisbach.errors import UserError
from eisbach.report.figures import View, draw_trajectory
from eisbach.report.structure.draw import note, pc1_share
from eisbach.report.structure.style import (
    COLUMN,
    LABEL_PT,
    PAGE,
    TITLE_PT,
    PictureClip,
    blank,
    colour_bar,
    heading,
    shorten,
)
from eisbach.structure.features import Features

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
    last = max(one.trimmed_start + one.duration for one in features)
    for index, (axes, one) in enumerate(zip(panels, features, strict=True)):
        found = draw_trajectory(axes, one, limit, view=view, marker=0.6)
        if found is not None:
            found.set_clim(0.0, last)
            points = found
        if index:
            drop_legend(axes)
        axes.set_xlabel("PC 1 (dB)")
        axes.set_ylabel("PC 2 (dB)")
        share = pc1_share(one, view)
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
