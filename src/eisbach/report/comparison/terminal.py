"""An analysis as text and as plain values: what a terminal shows, and what `--json` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eisbach.experiments.measures import HEARD
from eisbach.report.comparison.findings import (
    MARKS,
    headline_sentences,
    headline_verdict,
    nearness_verdict,
    recovered_sentences,
)
from eisbach.report.listen.page import score_lines
from eisbach.report.wording import (
    format_difference,
    format_distance,
    format_distance_interval,
    format_interval,
    format_p,
    format_value,
)
from eisbach.statistics.records import MetricInfo
from eisbach.statistics.sets import KERNEL, Sets
from eisbach.structure.flatness import FLAT_KINDS
from eisbach.structure.metrics import METRICS
from eisbach.structure.sets.whole import WholeSets
from eisbach.types import Record

if TYPE_CHECKING:
    from eisbach.experiments.analysis import AnalysedSets
    from eisbach.report.listen.votes import ListeningScore

_SHARE = MetricInfo("share", "share", share=True)
_LENGTH_TOLERANCE = 0.1
_COUNTED = 100  # clips up to which a share is said as a count


def summary_json(
    analysed: AnalysedSets, page: Path | None = None, votes: ListeningScore | None = None
) -> dict[str, Any]:
    """An analysis as plain values: verdict, sentences, means, records and statistics."""
    comparison, results = analysed.to_json(), analysed.sets.results
    return {
        "verdict": headline_verdict(results),
        "sentences": [*headline_sentences(results), *recovered_sentences(results)],
        "groups": summarise(analysed.records),
        "records": analysed.records,
        "skipped": comparison["skipped"],
        "comparison": comparison,
        "page": page and str(page),
        "votes": votes and votes.to_json(),
    }


def summary_lines(analysed: AnalysedSets, votes: ListeningScore | None = None) -> list[str]:
    """An analysis for a terminal: what `terminal_lines` says, memorisation, and what listeners chose."""
    heard = [] if votes is None else ["", "listeners:", *score_lines(votes)]
    return [*terminal_lines(analysed.records, analysed.sets), *_memorisation_lines(analysed.whole), *heard]


def terminal_lines(records: Sequence[Record], sets: Sets) -> list[str]:
    """An analysis for a terminal: a table of means, the verdict, the primary measures of every set, matching, notes."""
    table, results = format_summary(summarise(records)), sets.results
    beside = _nearness_lines(sets)
    if results is None:
        return [table, *beside, *(f"note: {note}" for note in sets.notes if beside)]
    if beside:
        return [table, *beside, sets.how, *(f"note: {note}" for note in (*sets.refused.values(), *sets.notes))]
    lines = [table, "", str(headline_verdict(results) or ""), *recovered_sentences(results)]
    for name in sets.names[1:]:
        if name in sets.refused:
            lines.append(f"\n{sets.refused[name]}")
            continue
        lines.append(f"\n{name} against {sets.names[0]} (difference, 95% interval, Hedges g, p corrected):")
        for info in sets.primary:
            compared = sets.comparison(name, info.name)
            if compared is None:
                continue
            g = "" if compared.g is None else f", g {compared.g:+.2f}"
            lines.append(
                f"  {info.label}: {format_difference(info, compared.difference)} "
                f"({format_interval(info, compared.shown_interval)}){g}, {format_p(compared.decisive_p)}  "
                f"{MARKS[compared.verdict]}"
            )
    return [*lines, sets.how, *(f"note: {note}" for note in sets.notes)]


def _nearness_lines(sets: Sets) -> list[str]:
    """Every set's distances to the reference for a terminal; empty without a reference."""
    near = sets.nearness
    if near is None:
        return []
    lines = ["", nearness_verdict(near, sets.names)]
    for name in sets.names:
        lines.append(
            f"\n{name}, distance to {near.label} ({near.clips} clips; 95% interval; mark against {sets.names[0]}):"
        )
        for info in near.metrics:
            own, compared = near.distance(name, info.name), near.comparison(name, info.name)
            if own is None or not (info.primary or info.name.startswith(KERNEL)):
                continue
            mark = "" if compared is None else f"  {MARKS[compared.verdict]}, {format_p(compared.decisive_p)}"
            lines.append(
                f"  {info.label}: {format_distance(info, own.value)} "
                f"({format_distance_interval(info, own.interval)}){mark}"
            )
    return lines


def _memorisation_lines(whole: WholeSets) -> list[str]:
    """What memorisation found of every set, for a terminal; empty where no training audio was named.

    What is undefined is left out, and why stands below.
    """
    rows = {
        (row.sets, row.metric): row
        for part in whole.comparisons
        for row in part.rows
        if row.metric in ("memorised_clips", "memorised_excerpts", "copied_share")
    }
    lines = [
        f"  {name}: {row.label[:1].lower()}{row.label[1:]}: {format_value(_SHARE, row.value)}"
        + ("" if row.reference is None else f" ({format_value(_SHARE, row.reference)} is expected without copying)")
        for (name, _), row in rows.items()
        if math.isfinite(row.value)
    ]
    why = [f"  note: {note}" for part in whole.comparisons for note in part.notes if "held-out" in note]
    return ["", "memorisation:", *lines, *dict.fromkeys(why)] if rows else []


# --- means by group


def summarise(records: Sequence[Record], by: str = "group") -> dict[str, dict[str, Any]]:
    """Means and counts of each group of records.

    Per group: `clips`, `seconds` (median analysed), `share_flat` of the `judged` clips, `flat_kinds` (kind -> share),
    `flags` (name -> count), and under `metrics` each metric's `mean`, `sd` (None for one clip) and `n` (clips for which
    it is defined).
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(str(record.get(by, "")), []).append(record)
    return {name: _one_group(rows) for name, rows in groups.items()}


def _one_group(rows: Sequence[Record]) -> dict[str, Any]:
    metrics = {}
    for name in (*METRICS, *(name for name in HEARD if any(name in row for row in rows))):
        values = np.array([row[name] for row in rows if row.get(name) is not None], dtype=float)
        metrics[name] = {
            "mean": float(values.mean()) if len(values) else None,
            "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
            "n": len(values),
        }
    flags: dict[str, int] = {}
    for row in rows:
        for flag in filter(None, str(row["flags"]).split(";")):
            flags[flag] = flags.get(flag, 0) + 1
    judged = [bool(row["is_flat"]) for row in rows if row.get("is_flat") is not None]
    return {
        "clips": len(rows),
        "seconds": float(np.median([float(row["analysed_seconds"] or 0.0) for row in rows])),
        "share_flat": float(np.mean(judged)) if judged else None,
        "judged": len(judged),
        "flat_kinds": _flat_kinds(rows),
        "metrics": metrics,
        "flags": flags,
    }


def _flat_kinds(rows: Sequence[Record]) -> dict[str, float]:
    """Share of the clips that are flat, by their likeliest kind; empty for records of before the kinds were told."""
    told = [row for row in rows if row.get(f"flat_{FLAT_KINDS[0]}") is not None]
    if not told:
        return {}
    called = [max(FLAT_KINDS, key=lambda kind: float(row[f"flat_{kind}"] or 0.0)) for row in told if row["is_flat"]]  # type: ignore[arg-type]
    return {kind: called.count(kind) / len(told) for kind in FLAT_KINDS}


def _judged_share(group: Mapping[str, Any], share: float | None) -> str:
    """'1 of 7' of at most 100 clips, else per cent."""
    if share is None:
        return "–"
    count = group["judged"]
    return f"{round(share * count)} of {count}" if count <= _COUNTED else f"{share:.0%}"


def format_summary(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """A text table: a row a metric, a column a group (mean ± SD), then what to be careful about."""
    names = list(groups)
    heads = _shorten(names)
    lines = [["", *heads], ["clips", *[str(groups[n]["clips"]) for n in names]]]
    lines.append(["analysed seconds (median)", *[f"{groups[n]['seconds']:.1f}" for n in names]])
    for key, metric in METRICS.items():
        label = f"{metric.label} ({metric.unit})" if metric.unit else metric.label
        label += " †" if metric.as_printed else ""
        lines.append([label, *[_cell(groups[n]["metrics"][key], groups[n]["clips"]) for n in names]])
    for key, (label, _) in HEARD.items():
        cells = [_cell(groups[n]["metrics"][key], groups[n]["clips"]) if key in groups[n]["metrics"] else "–"
                 for n in names]  # fmt: skip
        if any(key in groups[n]["metrics"] for n in names):
            lines.append([f"{label[:1].upper()}{label[1:]}", *cells])
    lines.append(["judged flat", *[_judged_share(groups[n], groups[n]["share_flat"]) for n in names]])
    for kind in FLAT_KINDS if any(groups[n]["flat_kinds"] for n in names) else ():
        lines.append([f"  as {kind}", *[_judged_share(groups[n], groups[n]["flat_kinds"].get(kind)) for n in names]])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join([line[0].ljust(widths[0]), *[c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)]])
            for line in lines]  # fmt: skip
    text.insert(1, "─" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join([*text, *_warnings(groups, names, heads)])


def _cell(numbers: Mapping[str, Any], clips: int) -> str:
    if numbers["mean"] is None:
        return "–"
    spread = "" if numbers["sd"] is None else f" ± {numbers['sd']:.2f}"
    return f"{numbers['mean']:.2f}{spread}" + ("" if numbers["n"] == clips else f" [{numbers['n']}]")


def _warnings(groups: Mapping[str, Mapping[str, Any]], names: Sequence[str], heads: Sequence[str]) -> list[str]:
    lines = ["†: as the paper prints it; contradicted by ground truth (docs/structure-limits.md)."]
    if any(m["n"] != groups[n]["clips"] and m["n"] for n in names for m in groups[n]["metrics"].values()):
        lines.append("[n]: defined for n clips only.")
    seconds = [groups[n]["seconds"] for n in names]
    if max(seconds) > (1 + _LENGTH_TOLERANCE) * min(seconds):
        lines.append("careful: the groups differ in length; structure metrics compare only clips of equal length.")
    for name, head in zip(names, heads, strict=True):
        flags = {k: v for k, v in groups[name]["flags"].items() if not k.startswith("undefined:")}
        if flags:
            lines.append(f"flags in {head}: " + ", ".join(f"{k} {v}" for k, v in sorted(flags.items())) + ".")
    return lines


def _shorten(names: Sequence[str], width: int = 28) -> list[str]:
    return [name if len(name) <= width else "…" + name[-(width - 1) :] for name in names]
