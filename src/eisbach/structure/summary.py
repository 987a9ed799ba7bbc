"""Means of records by group, for a person to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eisbach.structure.flatness import FLAT_KINDS
from eisbach.structure.metrics import METRICS
from eisbach.types import Record

_LENGTH_TOLERANCE = 0.1
_COUNTED = 100  # clips up to which a share is said as a count


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
    for name in METRICS:
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


def _share(group: Mapping[str, Any], share: float | None) -> str:
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
    lines.append(["judged flat", *[_share(groups[n], groups[n]["share_flat"]) for n in names]])
    for kind in FLAT_KINDS if any(groups[n]["flat_kinds"] for n in names) else ():
        lines.append([f"  as {kind}", *[_share(groups[n], groups[n]["flat_kinds"].get(kind)) for n in names]])
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
