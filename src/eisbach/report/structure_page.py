"""The page of `eisbach analyze`: sets side by side, with intervals, pictures, and players that show the detected sections."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eisbach import __version__
from eisbach.experiments.metric_info import FLAT, MetricInfo
from eisbach.experiments.statistics import FEW_UNITS, ArmSummary
from eisbach.experiments.verdicts import (
    format_difference,
    format_interval,
    format_p,
    format_value,
)
from eisbach.files import write_text
from eisbach.report.audio_embed import BUDGET_BYTES
from eisbach.report.charts import arms_chart
from eisbach.report.page import render_page
from eisbach.report.structure_compare import Sets
from eisbach.report.structure_listen import ListenGroup, embedded_words, plan_groups
from eisbach.report.structure_players import Player, make_players
from eisbach.report.structure_set_pictures import GroupPicture, group_pictures
from eisbach.report.structure_set_tables import SetTable
from eisbach.report.tables import MARK_MEANINGS, MARKS
from eisbach.structure.metrics import METRICS
from eisbach.types import Record, Skipped

LISTEN = 24
"""Clips that a page lets one hear unless asked otherwise."""
_MOST_SKIPPED, _MOST_ROWS, _MOST_POINTS = 200, 200, 300
_SHOWN_MARK = ("▲ higher, ▼ lower", "a difference from the reference was shown (corrected p below 0.05)")
_OPEN_CARDS = 12  # groups are open until so many players show

FLAG_MEANINGS: Mapping[str, str] = {
    "silent": "peak below -80 dBFS: nothing could be measured; counts as flat",
    "clipped": "overdriven: the loudest samples are cut off, which adds harmonics",
    "narrow_band": "nothing above 4.3 kHz: an old or telephone-like recording; textures differ for that reason alone",
    "too_short": "too short for some measure, which is empty for this clip",
    "capped": "longer than what is analysed; the rest was left out",
    "dc_offset": "the waveform does not swing around zero",
    "phase_cancelling": "its channels cancel one another in mono: the mixture is not what a listener hears",
    "truncated": "the file ends before its header says it should",
    "mislabelled": "the file's ending names another format than it holds",
}
"""What a flag says; `undefined:<measure>` is explained by the measure."""


@dataclass(frozen=True)
class StructurePage:
    """Everything that the page says.

    Attributes
    ----------
    sets : Sets
    command : str
        Shell line that makes the page again.
    title : str
        "" names the sets.
    set_tables, set_notes : sequence of SetTable, of str
        Distances between sets and memorisation, and what a reader must know of them.
    skipped : sequence of Skipped
    captions : mapping of str to str
        Words of each prompt.
    listen : int
        Clips to embed at most; 0 for none.
    chosen : sequence of str
        Ids of clips that are embedded in place of a sample.
    pictures : bool
    audio_budget : int
        Bytes of base64 that all audio may take.
    files : sequence of (name, words)
        What lies beside the page.
    """

    sets: Sets
    command: str
    title: str = ""
    set_tables: Sequence[SetTable] = ()
    set_notes: Sequence[str] = ()
    skipped: Sequence[Skipped] = ()
    captions: Mapping[str, str] = field(default_factory=dict)
    listen: int = LISTEN
    chosen: Sequence[str] = ()
    pictures: bool = True
    audio_budget: int = BUDGET_BYTES
    files: Sequence[tuple[str, str]] = ()


def write_structure_page(out: str | Path, page: StructurePage, *, quiet: bool = True) -> Path:
    """Writes `out/index.html` atomically and returns its path.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written.
    """
    path = Path(out) / "index.html"
    write_text(path, render_structure_page(page, quiet=quiet))
    return path


def render_structure_page(page: StructurePage, *, quiet: bool = True) -> str:
    """The page as text: one file that needs no network."""
    return render_page("structure.html.j2", **_values(page, quiet))


def _values(page: StructurePage, quiet: bool) -> dict[str, Any]:
    sets = page.sets
    groups = plan_groups(sets, page.listen, page.captions, page.chosen)
    rows = [row for group in groups for take in group.takes for row in take.clips if row is not None]
    players = make_players(rows, budget=page.audio_budget, pictures=page.pictures, quiet=quiet)
    by_row = {id(row): player for row, player in zip(rows, players, strict=True)}
    pictures: list[GroupPicture] = group_pictures(players, sets.names) if page.pictures else []
    primary = [info for info in sets.metrics if info.primary] or sets.metrics[:1]
    further = [info for info in sets.metrics if info not in primary]
    point_name = "prompt" if sets.paired else "clip"
    return {
        "title": page.title or _title(sets.names),
        "facts": _facts(sets, page.skipped),
        "sets": [{"name": name, "clips": _count(sets, name)} for name in sets.names],
        "findings": _findings(sets, primary),
        "how": sets.how,
        "notes": sets.notes,
        "counted": "prompts" if sets.paired else "clips",
        "primary_rows": [_row(sets, info) for info in primary],
        "further_rows": [_row(sets, info) for info in further],
        "printed_rows": _printed_rows(sets),
        "marks": [_SHOWN_MARK, *MARK_MEANINGS[2:]],
        "charts": [(info, _chart(sets, info, point_name)) for info in primary],
        "point_name": point_name,
        "groups": [_group(sets, group, by_row, primary) for group in groups],
        "open_groups": _open(groups),
        "embedded_words": embedded_words(sets, rows, players, page.audio_budget, bool(page.chosen)),
        "group_pictures": pictures,
        "pictured_words": f"Made from the {len(rows)} clips that can be heard above.",
        "set_tables": page.set_tables,
        "set_notes": page.set_notes,
        "metrics": [*primary, *further],
        "few_units": FEW_UNITS,
        "command": page.command,
        "files": page.files,
        "flags": _flags(sets),
        "clip_rows": _clip_rows(sets, primary),
        "clip_metrics": primary,
        "clip_words": _clip_words(len(sets.records)),
        "skipped": list(page.skipped[:_MOST_SKIPPED]),
        "skipped_count": len(page.skipped),
        "version": __version__,
    }


def _title(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"The musical structure of {names[0]}"
    others = list(names[1:])
    said = others[0] if len(others) == 1 else f"{', '.join(others[:-1])} and {others[-1]}"
    return f"{said} beside {names[0]}"


def _count(sets: Sets, name: str) -> int:
    return sum(row["arm"] == name for row in sets.records)


def _facts(sets: Sets, skipped: Sequence[Skipped]) -> list[tuple[str, str]]:
    minutes = sum(float(row.get("duration") or 0.0) for row in sets.records) / 60.0
    facts = [("set" if len(sets.names) == 1 else "sets", str(len(sets.names))), ("clips", f"{len(sets.records):,}")]
    facts.append(("minutes of audio", f"{minutes:,.0f}" if minutes >= 10 else f"{minutes:.1f}"))
    if skipped:
        facts.append(("left out", f"{len(skipped):,}"))
    return facts


def _findings(sets: Sets, primary: Sequence[MetricInfo]) -> list[str]:
    """What can be said, in a sentence a set."""
    if sets.results is None:
        name = sets.names[0]
        said = [
            f"{info.label} {format_value(info, sets.summaries[name, info.name].mean)}"
            for info in primary[:6]
            if math.isfinite(sets.summaries[name, info.name].mean)
        ]
        if not said:
            return [f"None of the primary measures is defined for the clips of {name}: they are too short or silent."]
        return [
            f"{name}, on average: {'; '.join(said)}. A single set has nothing to differ from: name a second folder to compare."
        ]
    return [_difference_sentence(sets, name, primary) for name in sets.names[1:]]


def _difference_sentence(sets: Sets, name: str, primary: Sequence[MetricInfo]) -> str:
    shown, alike, leaning = [], [], []
    for info in primary:
        one = sets.comparison(name, info.name)
        if one is None or not math.isfinite(one.difference):
            continue
        if one.verdict in ("higher", "lower"):
            interval = format_interval(info, one.shown_interval)
            shown.append(f"{one.verdict} {info.label} ({format_difference(info, one.difference)}, {interval})")
        elif one.verdict == "no difference":
            alike.append(info.label)
        elif one.shown_interval is not None and (one.shown_interval[0] > 0 or one.shown_interval[1] < 0):
            leaning.append(f"{'higher' if one.difference > 0 else 'lower'} {info.label}")
    reference = sets.names[0]
    if shown:
        text = f"{name} has {_list(shown)} than {reference}, by the primary measures after correction."
    else:
        text = f"No primary measure shows a difference between {name} and {reference}; that is no proof that there is none."
    if leaning:
        text += f" Leaning, but not certain after correction: {_list(leaning)}."
    return text + (f" Practically alike: {_list(alike)}." if alike else "")


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _row(sets: Sets, info: MetricInfo, why: str = "") -> dict[str, Any]:
    if not why and info.name in METRICS:
        why = f"higher: {METRICS[info.name].higher_means}"
    return {
        "label": info.label[:1].upper() + info.label[1:],
        "unit": info.unit,
        "why": why,
        "cells": [_cell(sets, name, info) for name in sets.names],
    }


def _printed_rows(sets: Sets) -> list[dict[str, Any]]:
    """The paper's own quantities, each with what speaks against it, and the surrogates that PC 1 has to be read against."""
    rows = []
    for info in sets.printed:
        label = info.label.partition(": ")[2] or info.label
        rows.append(_row(sets, replace(info, label=label), METRICS[info.name].contradicted_by))
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
        cells.append({"value": format_value(info, mean), "spread": "", "missing": "", "mark": ""})
    return {"label": label, "unit": "", "why": "", "cells": cells}


def _cell(sets: Sets, name: str, info: MetricInfo) -> dict[str, str]:
    summary, spread = sets.summaries[name, info.name], sets.spreads[name, info.name]
    clips = _count(sets, name)
    cell = {
        "value": format_value(replace(info, unit=""), summary.mean),
        "spread": "" if spread is None or info.share else format_value(replace(info, unit=""), spread),
        "missing": "" if summary.n_clips == clips else f"{summary.n_clips} of {clips}",
        "mark": "",
    }
    one = sets.comparison(name, info.name)
    if one is not None:
        cell |= {
            "mark": MARKS[one.verdict],
            "difference": format_difference(info, one.difference),
            "interval": format_interval(info, one.shown_interval),
            "effect": "" if one.g is None else f"g = {one.g:+.2f}, ".replace("-", "\u2212"),
            "p": format_p(one.decisive_p) if one.decisive_p is not None else "no test",
        }
    return cell


def _chart(sets: Sets, info: MetricInfo, point_name: str) -> Any:
    from markupsafe import Markup

    summaries = [_thinned(sets.summaries[name, info.name]) for name in sets.names]
    names = {name: name for name in sets.names}
    return Markup(arms_chart(info, summaries, names, point_name=point_name))  # it escapes every text


def _thinned(summary: ArmSummary) -> ArmSummary:
    """At most 300 points, evenly over their order: more would be a smear and swell the page."""
    step = -(-len(summary.points) // _MOST_POINTS)
    return summary if step < 2 else replace(summary, points=dict(list(summary.points.items())[::step]))


def _group(
    sets: Sets, group: ListenGroup, players: Mapping[int, Player], primary: Sequence[MetricInfo]
) -> dict[str, Any]:
    return {
        "heading": group.heading,
        "text": group.text,
        "takes": [
            {
                "heading": take.heading,
                "cards": [
                    _card(sets, name, row, players.get(id(row)), primary)
                    for name, row in zip(take.sets, take.clips, strict=True)
                ],
            }
            for take in group.takes
        ],
    }


def _card(
    sets: Sets, name: str, row: Record | None, player: Player | None, primary: Sequence[MetricInfo]
) -> dict[str, Any]:
    card: dict[str, Any] = {
        "set": name,
        "index": sets.names.index(name),
        "name": "",
        "player": player,
        "facts": [],
        "flags": "",
    }
    if row is None:
        return card
    facts = [
        (info.label[:1].upper() + info.label[1:], format_value(info, _value(row, info)))
        for info in primary
        if not info.share
    ]
    flat = row.get(FLAT.name)
    judged = "" if flat is None else "judged flat" if flat else "judged developing"
    return card | {"name": str(row["id"]), "judged": judged, "facts": facts, "flags": _said_flags(row)}


def _value(row: Record, info: MetricInfo) -> float | None:
    value = row.get(info.name)
    return float(value) if isinstance(value, int | float) else None


def _said_flags(row: Record) -> str:
    """Flags in words: what has no value, and the rest by name."""
    flags = [flag for flag in str(row.get("flags") or "").split(";") if flag]
    undefined = [flag.partition(":")[2] for flag in flags if flag.startswith("undefined:")]
    named = [flag for flag in flags if not flag.startswith("undefined:")]
    parts = [f"Flags: {', '.join(named)}."] if named else []
    if undefined:
        labels = [METRICS[name].label.lower() if name in METRICS else name for name in undefined]
        parts.append(f"No value: {', '.join(labels[:4])}{f' and {len(labels) - 4} more' if len(labels) > 4 else ''}.")
    return " ".join(parts)


def _own_flags(row: Record) -> str:
    return ", ".join(flag for flag in str(row.get("flags") or "").split(";") if flag)


def _open(groups: Sequence[ListenGroup]) -> int:
    """How many groups are open from the start."""
    cards = 0
    for index, group in enumerate(groups):
        cards += sum(len(take.clips) for take in group.takes)
        if cards > _OPEN_CARDS:
            return max(1, index)
    return len(groups)


def _flags(sets: Sets) -> list[dict[str, Any]]:
    """How many clips of each set carry each flag."""
    counts: dict[str, dict[str, int]] = {}
    for row in sets.records:
        for flag in filter(None, str(row.get("flags") or "").split(";")):
            own = counts.setdefault(flag, dict.fromkeys(sets.names, 0))
            own[str(row["arm"])] += 1
    return [
        {"name": flag, "counts": [own[name] for name in sets.names], "means": _flag_means(flag)}
        for flag, own in sorted(counts.items(), key=lambda item: (item[0].startswith("undefined:"), item[0]))
    ]


def _flag_means(flag: str) -> str:
    kind, _, name = flag.partition(":")
    if kind == "undefined" and name in METRICS:
        return f"{METRICS[name].label.lower()} has no value for these clips (too short, silent, or nothing to measure)"
    return FLAG_MEANINGS.get(flag, "see docs/structure.md")


def _clip_rows(sets: Sets, primary: Sequence[MetricInfo]) -> list[dict[str, Any]]:
    return [
        {
            "id": row["id"],
            "set": row["arm"],
            "shown": [format_value(replace(info, unit=""), _value(row, info)) for info in primary],
            "flags": _own_flags(row),
        }
        for row in sets.records[:_MOST_ROWS]
    ]


def _clip_words(count: int) -> str:
    if count <= _MOST_ROWS:
        return "by the primary measures"
    return f"the first {_MOST_ROWS} of {count:,}, by the primary measures; all are in records.jsonl and records.parquet"
