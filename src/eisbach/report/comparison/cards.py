"""The clips on a page: a card for each that can be heard, a row for each that was measured, their flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eisbach.errors import UserError
from eisbach.experiments.measures import FLAT
from eisbach.report.charts import arm_class
from eisbach.report.comparison.players import Player, clock
from eisbach.report.wording import format_flatness, format_value
from eisbach.statistics.records import MetricInfo
from eisbach.statistics.sets import Sets
from eisbach.structure.batch import Clip, sample_clips
from eisbach.structure.metrics import METRICS
from eisbach.types import Record, RecordValue

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
        clip = {"set": labels[name], "colour": arm_class(sets.names.index(name))}
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
        "colour": "arm-music",
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


# --- which clips a page lets one hear, in what company, and what it says of those that it leaves out


@dataclass(frozen=True)
class Take:
    """Clips that stand side by side, each with the name of its set (None where a set lacks it).

    The heading is empty where nothing tells the takes of a group apart; `beside` are clips of the reference.
    """

    heading: str
    sets: list[str]
    clips: list[Record | None]
    beside: list[Record] = field(default_factory=list)


@dataclass(frozen=True)
class ListenGroup:
    """Takes under one heading: a prompt where sets are matched, a set where they are not."""

    heading: str
    text: str
    takes: list[Take] = field(default_factory=list)


def plan_groups(sets: Sets, most: int, captions: Mapping[str, str], chosen: Sequence[str] = ()) -> list[ListenGroup]:
    """The clips to hear: at most `most`, or those whose ids are `chosen`.

    Matched sets stand prompt by prompt; of the others each gets an equal share, spread evenly over its clips.

    Raises
    ------
    UserError
        A chosen id that no clip has.
    """
    if chosen:
        return _chosen(sets, chosen)
    if most < 1:
        return []
    apart = list(sets.results.unmatched_arms) if sets.results is not None and sets.paired else sets.names
    matched = plan_takes(sets.records, [name for name in sets.names if name not in apart], captions, most)
    room = most if not matched else max(4, most // 4)
    clips = [
        Clip(Path(str(row["path"])), {"group": row["arm"], "index": index})
        for index, row in enumerate(sets.records)
        if row["arm"] in apart
    ]
    sample = [sets.records[int(str(clip.keys["index"]))] for clip in sample_clips(clips, room)]
    return matched + _by_set(sets, sample)


def plan_takes(
    records: Sequence[Record], arms: Sequence[str], captions: Mapping[str, str], most: int
) -> list[ListenGroup]:
    """The same prompt and seed in every one of some matched arms, a group a prompt, for at most `most` clips.

    With several training seeds the lowest one is played. When there are too many clips, the first seed of every
    prompt comes before the second of any, so that every prompt is heard as long as there is room.
    """
    by_key: dict[tuple[str, RecordValue], dict[str, Record | None]] = {}
    for row in _first_models(records):
        if row["arm"] in arms:
            by_key.setdefault((str(row["prompt_id"]), row["seed"]), dict.fromkeys(arms))[str(row["arm"])] = row
    seeds_of: dict[str, list[RecordValue]] = {}
    for prompt, seed in by_key:
        seeds_of.setdefault(prompt, []).append(seed)
    # Clips that more arms share are worth more to a listener than lonely ones.
    order = sorted(
        by_key,
        key=lambda key: (-sum(row is not None for row in by_key[key].values()), seeds_of[key[0]].index(key[1])),
    )
    room, playable = most, set()
    for key in order:
        size = sum(row is not None for row in by_key[key].values())
        if size <= room:
            playable.add(key)
            room -= size
    groups = []
    one_seed = len({seed for _, seed in by_key}) == 1
    for prompt, seeds in seeds_of.items():
        takes = [
            Take("" if one_seed else f"seed {seed}", list(arms), list(by_key[prompt, seed].values()))
            for seed in seeds
            if (prompt, seed) in playable
        ]
        if takes:
            groups.append(ListenGroup(prompt, captions.get(prompt, ""), takes))
    return groups


def with_reference(groups: Sequence[ListenGroup], music: Sequence[Record], count: int) -> list[ListenGroup]:
    """The groups with `count` clips of the reference beside every take, other ones from take to take, and of different
    recordings as far as there are any."""
    if not music or count < 1:
        return list(groups)
    made, first = [], 0
    music = _recordings_in_turn(music)
    for group in groups:
        takes = []
        for take in group.takes:
            own = [music[(first + number) % len(music)] for number in range(min(count, len(music)))]
            takes.append(replace(take, beside=own))
            first += len(own)
        made.append(replace(group, takes=takes))
    return made


def _recordings_in_turn(music: Sequence[Record]) -> list[Record]:
    """The clips with those of one recording (`unit`) as far apart as they can be: every recording's first, then every
    one's second."""
    seen: dict[RecordValue, int] = {}
    turns = []
    for row in music:
        unit = row.get("unit", row["path"])
        seen[unit] = seen.get(unit, -1) + 1
        turns.append(seen[unit])
    return [music[place] for place in sorted(range(len(music)), key=lambda place: turns[place])]


def _first_models(records: Sequence[Record]) -> list[Record]:
    """Rows of each arm's lowest training seed."""
    lowest: dict[RecordValue, int] = {}
    for row in records:
        seed = row.get("train_seed")
        if isinstance(seed, int):
            lowest[row["arm"]] = min(seed, lowest.get(row["arm"], seed))
    return [row for row in records if row.get("train_seed") == lowest.get(row["arm"])]


def _by_set(sets: Sets, rows: Sequence[Record]) -> list[ListenGroup]:
    groups = []
    for name in sets.names:
        own = [row for row in rows if row["arm"] == name]
        if own:
            groups.append(ListenGroup(name, "", [Take("", [name] * len(own), list(own))]))
    return groups


def _chosen(sets: Sets, ids: Sequence[str]) -> list[ListenGroup]:
    known = {str(row["id"]) for row in sets.records}
    wrong = [name for name in ids if name not in known]
    if wrong:
        raise UserError(
            f"no analysed clip has the id '{wrong[0]}'; ids stand in records.jsonl, for example "
            f"'{next(iter(sorted(known)))}'."
        )
    return _by_set(sets, [row for row in sets.records if str(row["id"]) in set(ids)])


def listening_words(sets: Sets, noun: str) -> str:
    """What the clips of a row share."""
    if not sets.paired:
        return "These clips are not matched with one another." if len(sets.names) > 1 else ""
    if noun == "arm":
        return (
            "In each row every arm was given the same words and the same random start, so what differs is the training."
        )
    return ""


def embedded_words(
    sets: Sets,
    rows: Sequence[Record],
    players: Sequence[Player],
    budget: int,
    *,
    noun: str = "set",
    chosen: bool = False,
) -> str:
    """Which clips can be heard, in what quality, and how to choose others."""
    if not rows:
        return "No clip is embedded." if noun == "arm" else "No clip is embedded (--listen 0)."
    size = sum(len(player.audio.uri) for player in players)
    seconds = sum(player.audio.seconds for player in players)
    rate = size * 0.75 * 8 / seconds / 1000 if seconds else 0.0
    encoding = next((player.audio.encoding for player in players if not player.audio.fault), "not there")
    cut = any(float(player.record.get("duration") or 0.0) > player.audio.seconds + 1.0 for player in players)
    playable = sets.records if chosen or not sets.paired else _first_models(sets.records)
    which = []
    if chosen:
        which.append(f"these are the clips asked for: {len(rows)} of {len(sets.records):,}")
    if len(playable) < len(sets.records):
        which.append(f"only the first training seed of each {noun} is played here")
    if len(rows) < len(playable) and not chosen:
        which.append(f"{len(rows)} of {len(playable):,} clips are on this page, evenly chosen, to keep it small")
    if which:
        said = "; ".join(which)
        others = "" if noun == "arm" else " Choose others with --clip ID (repeat it), or more with --listen N."
        said = f"{said[:1].upper()}{said[1:]}. The statistics use all {len(sets.records):,} clips.{others}"
    else:
        said = "All clips are here."
    return (
        f"{said} The audio is {encoding}, about {rate:.0f} kbit/s{', of long clips only the beginning' * cut}, and "
        f"{size / 1e6:.1f} MB in all (limit {budget / 1e6:.0f} MB): for listening, not for measuring."
    )
