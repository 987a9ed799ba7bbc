"""Which clips a page of sets lets one hear, in what company, and what it says about those that it leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from eisbach.errors import UserError
from eisbach.experiments.comparing import Sets
from eisbach.report.comparison.players import Player
from eisbach.structure.batch import Clip, sample_clips
from eisbach.types import Record, RecordValue


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
    for row in first_models(records):
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
    """The groups with `count` clips of the reference beside every take, other ones from take to take."""
    if not music or count < 1:
        return list(groups)
    made, first = [], 0
    for group in groups:
        takes = []
        for take in group.takes:
            own = [music[(first + number) % len(music)] for number in range(min(count, len(music)))]
            takes.append(replace(take, beside=own))
            first += len(own)
        made.append(replace(group, takes=takes))
    return made


def first_models(records: Sequence[Record]) -> list[Record]:
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
    playable = sets.records if chosen or not sets.paired else first_models(sets.records)
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
