"""The clips on a page: a card for each that can be heard, a row for each that was measured, their flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eisbach.experiments.comparing import Sets
from eisbach.experiments.measures import FLAT
from eisbach.report.comparison.listen import ListenGroup
from eisbach.report.comparison.players import Player, clock
from eisbach.report.wording import format_flatness, format_value
from eisbach.statistics.metric_info import MetricInfo
from eisbach.structure.metrics import METRICS
from eisbach.types import Record

_MOST_ROWS = 200
_OPEN_CARDS = 24  # groups are open until so many players show

_FLAG_MEANINGS: Mapping[str, str] = {
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


def listen_group(
    sets: Sets, group: ListenGroup, players: Mapping[int, Player], labels: Mapping[str, str], reference: str = ""
) -> dict[str, Any]:
    """The players under one heading."""

    def card(name: str, row: Record | None, take: str) -> dict[str, Any]:
        clip = {"set": labels[name], "colour": sets.names.index(name) % 8}
        if row is None:
            return clip | {"name": "", "player": None}
        matched = sets.results is not None and sets.paired and name not in sets.results.unmatched_arms
        called = str(row.get("id") or ("" if matched else row["prompt_id"]))
        said = dict.fromkeys(filter(None, (labels[name], labels.get(group.heading, group.heading), take, called)))
        player = players[id(row)]
        return clip | {
            "name": called,
            "said": ", ".join(said),
            "player": player,
            "judged": _judged(sets, row),
            "facts": _facts(sets, row),
            "flags": _said_flags(row),
            "part": _part(row, player),
        }

    return {
        "heading": labels.get(group.heading, group.heading),
        "text": group.text,
        "takes": [
            {
                "heading": take.heading,
                "cards": [
                    *(card(name, row, take.heading) for name, row in zip(take.sets, take.clips, strict=True)),
                    *(_music_card(sets, row, players[id(row)], reference) for row in take.beside),
                ],
            }
            for take in group.takes
        ],
    }


def _music_card(sets: Sets, row: Record, player: Player, label: str) -> dict[str, Any]:
    """A clip of the reference, to hear the others against."""
    return {
        "set": _upper(label),
        "colour": "music",
        "name": str(row.get("id") or ""),
        "said": f"{label}: {row.get('id')}",
        "player": player,
        "judged": _judged(sets, row),
        "facts": _facts(sets, row),
        "flags": _said_flags(row),
        "part": _part(row, player),
    }


def _facts(sets: Sets, row: Record) -> list[tuple[str, str]]:
    return [(_upper(info.label), format_value(info, _value(row, info))) for info in sets.primary if not info.share]


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _judged(sets: Sets, row: Record) -> str:
    """What the judge of flatness, and any other measure of yes and no that decides, says of a clip."""
    said = list(filter(None, [format_flatness(row)]))
    for info in sets.primary:
        if info.share and info.name != FLAT.name and row.get(info.name) is not None:
            said.append(f"{info.label}: {'yes' if row[info.name] else 'no'}")
    return "; ".join(said)


def _part(row: Record, player: Player) -> str:
    """How much of a long clip can be heard, where it is not all."""
    whole = float(row.get("duration") or 0.0)
    if player.seconds <= 0 or player.seconds > whole - 1.0:
        return ""
    return f"Heard here: the first {clock(player.seconds)} of {clock(whole)}; measured and pictured: all of it."


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
        labels = [
            METRICS[name].label[:1].lower() + METRICS[name].label[1:] if name in METRICS else name for name in undefined
        ]
        parts.append(f"No value: {', '.join(labels[:4])}{f' and {len(labels) - 4} more' if len(labels) > 4 else ''}.")
    return " ".join(parts)


def _own_flags(row: Record) -> str:
    return ", ".join(flag for flag in str(row.get("flags") or "").split(";") if flag)


def open_groups(groups: Sequence[ListenGroup]) -> int:
    """How many groups are open from the start."""
    cards = 0
    for index, group in enumerate(groups):
        cards += sum(len(take.clips) for take in group.takes)
        if cards > _OPEN_CARDS:
            return max(1, index)
    return len(groups)


def flag_table(sets: Sets, labels: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: how many clips of each set carry each flag, and what it says."""
    counts: dict[str, dict[str, int]] = {}
    for row in sets.records:
        for flag in filter(None, str(row.get("flags") or "").split(";")):
            own = counts.setdefault(flag, dict.fromkeys(sets.names, 0))
            own[str(row["arm"])] += 1
    ordered = sorted(counts.items(), key=lambda item: (item[0].startswith("undefined:"), item[0]))
    rows = [[flag, *(str(own[name]) for name in sets.names), _flag_means(flag)] for flag, own in ordered]
    return ["Flag", *(labels[name] for name in sets.names), "What it means"], rows


def _flag_means(flag: str) -> str:
    kind, _, name = flag.partition(":")
    if kind == "undefined" and name in METRICS:
        return f"{METRICS[name].label} has no value for these clips (too short, silent, or nothing to measure)"
    return _FLAG_MEANINGS.get(flag, "see docs/front-end.md")


def clip_table(sets: Sets, noun: str, labels: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: the first clips of all sets by the primary measures."""
    units = [f"{_upper(info.label)}{f' ({info.unit})' if info.unit else ''}" for info in sets.primary]
    rows = [
        [
            str(row.get("id") or row["path"]),
            labels[str(row["arm"])],
            *(format_value(replace(info, unit=""), _value(row, info)) for info in sets.primary),
            _own_flags(row),
        ]
        for row in sets.records[:_MOST_ROWS]
    ]
    return ["Clip", _upper(noun), *units, "Flags"], rows


def clip_words(count: int) -> str:
    """Which clips the table of clips holds."""
    if count <= _MOST_ROWS:
        return "by the primary measures"
    return f"the first {_MOST_ROWS} of {count:,}, by the primary measures; all are in records.jsonl and records.parquet"
