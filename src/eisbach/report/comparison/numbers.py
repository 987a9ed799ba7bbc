"""The tables and charts of a page: every measure by every set, with intervals."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.report.charts import REFERENCE, arms_chart
from eisbach.report.comparison.findings import MARKS, reading
from eisbach.report.structure.draw import MOST_GROUPS
from eisbach.report.structure.figures import Curve, blocks_of_groups, spectra_of_groups
from eisbach.report.wording import (
    format_difference,
    format_distance,
    format_distance_interval,
    format_interval,
    format_p,
    format_value,
)
from eisbach.statistics.records import MetricInfo
from eisbach.statistics.results import ArmSummary
from eisbach.statistics.sets import KERNEL, Nearness, Sets
from eisbach.structure.features import mel_centres
from eisbach.structure.sets import SET_METRICS, SetComparison, SetRow

_MOST_POINTS = 300


def measure_row(sets: Sets, info: MetricInfo, why: str = "") -> dict[str, Any]:
    """A line of a table: a cell a set; `why` says how to read the measure, where its own line is not wanted."""
    return {
        "label": info.label[:1].upper() + info.label[1:],
        "unit": info.unit,
        "better": info.better or "",
        "why": why or reading(info),
        "cells": [_cell(sets, name, info) for name in sets.names],
        "music": _music(sets, info),
    }


def _music(sets: Sets, info: MetricInfo) -> str:
    """Where the reference lies: its mean and SD, or its share; empty without one."""
    spread = None if sets.nearness is None else sets.nearness.spreads.get(info.name)
    if spread is None:
        return ""
    mean = format_value(replace(info, unit=""), spread.mean, spread.clips)
    return mean if info.share else f"{mean} ± {format_value(replace(info, unit=''), spread.sd)}"


def near_words(sets: Sets) -> dict[str, Any] | None:
    """What a page says of its reference; None without one."""
    near = sets.nearness
    if near is None:
        return None
    halves = [own.itself for info in near.primary if not info.share
              if (own := near.distance(sets.names[0], info.name)) is not None]  # fmt: skip
    itself = f"{min(halves):.2f} to {max(halves):.2f} SD" if halves else ""
    return {"label": near.label, "clips": near.clips, "itself": itself}


def near_rows(sets: Sets) -> list[dict[str, Any]]:
    """A line a measure that decides, and a line an embedding: every set's distance to the reference."""
    near = sets.nearness
    if near is None:
        return []
    shown = [info for info in near.metrics if info.primary or info.name.startswith(KERNEL)]
    return [
        {
            "label": info.label[:1].upper() + info.label[1:],
            "unit": "",
            "better": "",
            "why": "",
            "cells": [_near_cell(sets, near, name, info) for name in sets.names],
        }
        for info in shown
    ]


def _near_cell(sets: Sets, near: Nearness, name: str, info: MetricInfo) -> dict[str, str]:
    own, compared = near.distance(name, info.name), near.comparison(name, info.name)
    if own is None:
        return {"value": "–", "spread": "", "range": "", "missing": "", "mark": ""}
    beyond = " beyond" if info.share else ""
    cell = {
        "value": f"{format_distance(info, own.value)}{beyond}",
        "spread": "",
        "range": format_distance_interval(info, own.interval),
        "missing": "" if own.clips == sets.clips(name) else f"{own.clips} of {sets.clips(name)}",
        "mark": "",
    }
    if compared is not None:
        cell |= {
            "mark": MARKS[compared.verdict],
            "verdict": compared.verdict.replace(" ", "-"),
            "difference": f"{format_distance(info, compared.difference)} against {sets.names[0]}",
            "interval": format_distance_interval(info, compared.shown_interval),
            "effect": "",
            "p": format_p(compared.decisive_p) if compared.decisive_p is not None else "no test",
        }
    return cell


def printed_rows(sets: Sets) -> list[dict[str, Any]]:
    """The paper's own quantities, each with what speaks against it, and the surrogates that PC 1 has to be read
    against."""
    rows = []
    for info in sets.printed:
        label = info.label.partition(": ")[2] or info.label
        rows.append(measure_row(sets, replace(info, label=label), info.contradicted_by))
        if info.name == "paper_pc1_share":
            rows += [
                _plain_row(sets, "pc1_share_walk", "… of random walks with the clips’ own steps"),
                _plain_row(sets, "pc1_share_phases", "… of the clips with random phases"),
            ]
    return rows


def _plain_row(sets: Sets, column: str, label: str) -> dict[str, Any]:
    """Means of a column that is reported and not compared."""
    info = MetricInfo(column, label)
    cells = []
    for name in sets.names:
        values = [float(row[column]) for row in sets.records if row["arm"] == name and row.get(column) is not None]  # type: ignore[arg-type]
        mean = sum(values) / len(values) if values else None
        cells.append({"value": format_value(info, mean), "spread": "", "range": "", "missing": "", "mark": ""})
    return {"label": label, "unit": "", "better": "", "why": "", "cells": cells, "music": ""}


def _cell(sets: Sets, name: str, info: MetricInfo) -> dict[str, str]:
    summary, spread = sets.summaries[name, info.name], sets.spreads[name, info.name]
    clips = sets.clips(name)
    cell = {
        "value": format_value(replace(info, unit=""), summary.mean, summary.n_clips),
        "spread": "" if spread is None or info.share else format_value(replace(info, unit=""), spread),
        "range": "",
        "missing": "" if summary.n_clips == clips else f"{summary.n_clips} of {clips}",
        "mark": "",
    }
    compared = sets.comparison(name, info.name)
    if compared is not None and (sets.nearness is None or not info.primary):
        cell |= {
            "mark": MARKS[compared.verdict],
            "verdict": compared.verdict.replace(" ", "-"),
            "difference": format_difference(info, compared.difference),
            "interval": format_interval(info, compared.shown_interval),
            "effect": "" if compared.g is None else f"g = {compared.g:+.2f}, ".replace("-", "\u2212"),
            "p": format_p(compared.decisive_p) if compared.decisive_p is not None else "no test",
        }
    return cell


def measure_chart(sets: Sets, info: MetricInfo, labels: Mapping[str, str]) -> Any:
    """Every prompt or clip of every set by one measure, as SVG."""
    from markupsafe import Markup

    summaries = [_thinned(sets.summaries[name, info.name]) for name in sets.names]
    point_name = "prompt" if sets.paired else "clip"
    spread = None if sets.nearness is None else sets.nearness.spreads.get(info.name)
    if spread is not None:
        points = {str(index): value for index, value in enumerate(spread.points)}
        summaries.append(_thinned(ArmSummary(REFERENCE, info.name, spread.mean, None, points, spread.clips)))
        labels = {**labels, REFERENCE: sets.nearness.label if sets.nearness is not None else ""}
    return Markup(arms_chart(info, summaries, labels, point_name=point_name))  # it escapes every text


def _thinned(summary: ArmSummary) -> ArmSummary:
    """At most 300 points, evenly over their order: more would be a smear and swell the page."""
    step = -(-len(summary.points) // _MOST_POINTS)
    return summary if step < 2 else replace(summary, points=dict(list(summary.points.items())[::step]))


# --- the sets as wholes: distances, diversity and memorisation, pictures of spectra and blocks


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


def group_pictures(
    sketches: Sequence[tuple[str, Mapping[str, Sequence[float]]]], reference: str = ""
) -> list[GroupPicture]:
    """What can be drawn of at most seven sets from the sketch of every clip (`structure.sets.clips.clip_sketch`), each
    with its set's label; clips too short for a picture are left out of it. `reference` is the label of the music that
    the others are held against."""
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
                _address(spectra_of_groups(spectra, mel_centres(), form="svg", reference=reference)),
            )
        )
    if len(curves) == len(groups):
        made.append(
            GroupPicture(
                "Block scales",
                "How strongly the clips fall into blocks of each length: thin lines are clips, thick ones a set’s "
                "mean. A peak is the length of the sections; a low, even curve is music without sections.",
                f"Block strength by time scale for {', '.join(groups)}.",
                _address(blocks_of_groups(curves, form="svg", reference=reference)),
            )
        )
    return made


def _curves(clips: Sequence[Mapping[str, Sequence[float]]], first: str, second: str) -> list[Curve]:
    return [(np.asarray(clip[first]), np.asarray(clip[second])) for clip in clips if len(clip[first])]


def _address(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"
