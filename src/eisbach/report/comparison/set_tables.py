"""The sets as wholes for the page: tables of distances, diversity and memorisation, pictures of spectra and blocks."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eisbach.report.structure.figures import Curve, blocks_of_groups, spectra_of_groups
from eisbach.report.structure.panels import MOST_GROUPS
from eisbach.report.wording import format_p
from eisbach.structure.features import mel_centres
from eisbach.structure.sets import SET_METRICS, SetComparison, SetRow

_TEXTURE = "texture"
_COPIES_SHOWN = 10


@dataclass(frozen=True)
class SetTable:
    """A plain table about the sets as wholes: headings, rows of text, and a sentence on how to read it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def set_tables(names: Sequence[str], comparisons: Sequence[SetComparison]) -> list[SetTable]:
    """Tables of distances between sets, of what each set is by itself, and of memorisation."""
    rows: dict[tuple[str, str, str], SetRow] = {}
    for part in comparisons:
        for row in part.rows:
            rows.setdefault((row.metric, row.sets, row.embedding), row)
    tables = []
    inside = [
        row for row in rows.values() if row.sets in names and SET_METRICS[row.metric].needs != "training and held-out"
    ]
    copied = [
        row for row in rows.values() if row.sets in names and SET_METRICS[row.metric].needs == "training and held-out"
    ]
    between = [row for row in rows.values() if row.sets not in names]
    if between:
        tables.append(
            SetTable(
                "Distances between the sets",
                ["Distance", "Sets", "Value (95% interval)", "If nothing differed", "p", "A higher value means"],
                [
                    [_label(row), row.sets, _value(row), _shown(row.reference), _p(row.p_value), row.higher_means]
                    for row in between
                ],
                "Between the clips’ embeddings. For Fréchet and kernel distances the value is read beside what it is "
                "when the clips’ sets are "
                "exchanged at random: small sets are never at distance 0. A is the set that is named first, B the "
                "other.",
            )
        )
    for title, lines in (("Within each set", inside), ("Memorisation", copied)):
        if lines:
            tables.append(
                SetTable(title, ["Measure", *names, "No effect reads", "A higher value means"], _by_set(lines, names))
            )
    suspects = [
        [name, Path(str(row["clip"])).name, Path(str(row["nearest_training"])).name, _p(row["p_clip"]),
        _p(row["p_excerpt"]),
         f"{row['copied_share']:.0%}"]
        for part in comparisons
        for name, memorised in part.memorisation.items()
        for row in sorted(memorised.rows(), key=lambda row: min(row["p_clip"], row["p_excerpt"]))[:_COPIES_SHOWN]
    ]  # fmt: skip
    if suspects:
        tables.append(
            SetTable(
                "The clips nearest to training audio",
                ["Set", "Clip", "Nearest training clip", "p (clip)", "p (excerpt)", "Share copied"],
                list({tuple(row): row for row in suspects}.values()),
                f"The {_COPIES_SHOWN} most suspicious of each set. p: the share of unseen clips that are as close to "
                "the training audio.",
            )
        )
    return tables


def _p(value: float | None) -> str:
    """`format_p` for a column that is headed p."""
    return format_p(value).removeprefix("p = ").removeprefix("p ")


def _by_set(rows: Sequence[SetRow], names: Sequence[str]) -> list[list[str]]:
    lines: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        line = lines.setdefault(
            (row.metric, row.embedding), [_label(row), *["–"] * len(names), _shown(row.reference), row.higher_means]
        )
        line[1 + names.index(row.sets)] = _value(row)
    return list(lines.values())


def _label(row: SetRow) -> str:
    label = f"{row.label} ({row.unit})" if row.unit else row.label
    return label if row.embedding in ("", _TEXTURE) else f"{label}, {row.embedding}"


def _value(row: SetRow) -> str:
    if not math.isfinite(row.value):
        return "–"
    if not math.isfinite(row.low):
        return _shown(row.value)
    return f"{_shown(row.value)} ({_shown(row.low)} to {_shown(row.high)})"


def _shown(value: float | None) -> str:
    """Three figures that count, with a true minus sign; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 or size == 0 else 3
    text = f"{value:.{digits}f}"
    return text.replace("-", "\u2212") if any(digit in text for digit in "123456789") else text.lstrip("-")


@dataclass(frozen=True)
class GroupPicture:
    """A picture of the page, as a data address, with its words."""

    title: str
    caption: str
    alt: str
    uri: str


def group_pictures(sketches: Sequence[tuple[str, Mapping[str, Sequence[float]]]]) -> list[GroupPicture]:
    """What can be drawn of at most seven sets from the sketch of every clip (`structure.sets.clips.clip_sketch`), each
    with its set's label; clips too short for a picture are left out of it."""
    groups: dict[str, list[Mapping[str, Sequence[float]]]] = {}
    for label, sketch in sketches:
        groups.setdefault(label, []).append(sketch)
    if not groups or len(groups) > MOST_GROUPS:
        return []
    spectra, curves = (
        [(label, own) for label, clips in groups.items() if (own := _curves(clips, *names))]
        for names in (("energy", "spread"), ("scales", "strengths"))
    )
    made = []
    if len(spectra) == len(groups):  # a set without sound would take the colour of the next
        made.append(
            GroupPicture(
                "Mean spectra",
                "Above: where the energy lies, on average over each set’s clips (band: ± 1 standard deviation over "
                "clips). Below: how much each frequency comes and goes within a clip.",
                f"Mean spectral energy and its spread over time for {', '.join(groups)}.",
                _address(spectra_of_groups(spectra, mel_centres(), form="svg")),
            )
        )
    if len(curves) == len(groups):
        made.append(
            GroupPicture(
                "Block scales",
                "How strongly the clips fall into blocks of each length: thin lines are clips, thick ones a set’s "
                "mean. A peak is the length of the sections; a low, even curve is music without sections.",
                f"Block strength by time scale for {', '.join(groups)}.",
                _address(blocks_of_groups(curves, form="svg")),
            )
        )
    return made


def _curves(clips: Sequence[Mapping[str, Sequence[float]]], first: str, second: str) -> list[Curve]:
    return [(np.asarray(clip[first]), np.asarray(clip[second])) for clip in clips if len(clip[first])]


def _address(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"
