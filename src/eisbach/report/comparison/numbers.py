"""The tables and charts of a page: every measure by every set, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from eisbach.experiments.comparing import Sets
from eisbach.report.charts import REFERENCE, arms_chart
from eisbach.report.comparison.findings import MARKS, reading
from eisbach.report.wording import (
    format_difference,
    format_distance,
    format_distance_interval,
    format_interval,
    format_p,
    format_value,
)
from eisbach.statistics.metric_info import MetricInfo
from eisbach.statistics.results import KERNEL, ArmSummary, Nearness
from eisbach.structure.metrics import METRICS

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
        rows.append(measure_row(sets, replace(info, label=label), METRICS[info.name].contradicted_by))
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
