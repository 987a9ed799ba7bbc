"""Which clips a page of sets lets one hear, and what it says about those that it leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eisbach.errors import UserError
from eisbach.experiments.comparing import Sets
from eisbach.experiments.sets import sample_clips
from eisbach.report.players import plan_takes
from eisbach.report.structure.players import Player
from eisbach.structure.batch import Clip
from eisbach.types import Record


@dataclass(frozen=True)
class ListenTake:
    """Clips that stand side by side, each with the name of its set (None where a set lacks it)."""

    heading: str
    sets: list[str]
    clips: list[Record | None]


@dataclass(frozen=True)
class ListenGroup:
    """Takes under one heading: a prompt where sets are matched, a set where they are not."""

    heading: str
    text: str
    takes: list[ListenTake] = field(default_factory=list)


def plan_groups(sets: Sets, most: int, captions: Mapping[str, str], chosen: Sequence[str] = ()) -> list[ListenGroup]:
    """The clips to hear: at most `most`, or those whose ids are `chosen`.

    Matched sets stand prompt by prompt; otherwise each set gets an equal share, spread evenly over its clips.

    Raises
    ------
    UserError
        A chosen id that no clip has.
    """
    if chosen:
        return _chosen(sets, chosen)
    if most < 1:
        return []
    if sets.results is not None and sets.paired:
        groups, _ = plan_takes(
            sets.records, sets.names, captions, paired=True, unmatched=sets.results.unmatched_arms, max_clips=most
        )
        return [
            ListenGroup(
                group.heading,
                group.text,
                [ListenTake(take.heading, list(take.clips), list(take.clips.values())) for take in group.takes],
            )
            for group in groups
        ]
    clips = [
        Clip(Path(str(row["path"])), {"group": row["arm"], "index": index}) for index, row in enumerate(sets.records)
    ]
    taken = [sets.records[int(str(clip.keys["index"]))] for clip in sample_clips(clips, most)]
    return _by_set(sets, taken)


def _by_set(sets: Sets, rows: Sequence[Record]) -> list[ListenGroup]:
    groups = []
    for name in sets.names:
        own = [row for row in rows if row["arm"] == name]
        if own:
            groups.append(ListenGroup(name, "", [ListenTake("", [name] * len(own), list(own))]))
    return groups


def _chosen(sets: Sets, ids: Sequence[str]) -> list[ListenGroup]:
    known = {str(row["id"]) for row in sets.records}
    wrong = [one for one in ids if one not in known]
    if wrong:
        raise UserError(
            f"no analysed clip has the id '{wrong[0]}'; ids stand in records.jsonl, for example "
            f"'{next(iter(sorted(known)))}'."
        )
    return _by_set(sets, [row for row in sets.records if str(row["id"]) in set(ids)])


def embedded_words(sets: Sets, rows: Sequence[Record], players: Sequence[Player], budget: int, chosen: bool) -> str:
    """Which clips can be heard, in what quality, and how to choose others."""
    if not rows:
        return "No clip is embedded (--listen 0)."
    size = sum(len(player.audio.uri) for player in players)
    seconds = sum(player.audio.seconds for player in players)
    rate = size * 0.75 * 8 / seconds / 1000 if seconds else 0.0
    many = len(rows) < len(sets.records)
    which = (
        f"These are {'the clips asked for' if chosen else 'an even sample'}: {len(rows)} of {len(sets.records):,} "
        "clips; the statistics use "
        "all. Choose others with --clip ID (repeat it), or more with --listen N."
        if many
        else "All clips are here."
    )
    return (
        f"{which} The audio is mono, 22 kHz, about {rate:.0f} kbit/s, of long clips only the beginning, and "
        f"{size / 1e6:.1f} MB in all (limit "
        f"{budget / 1e6:.0f} MB): for listening, not for measuring."
    )
