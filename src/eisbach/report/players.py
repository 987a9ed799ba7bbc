"""Which clips a page lets one hear, and in what company: the same prompt and seed in every arm, side by side."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eisbach.types import Record, RecordValue

MAX_CLIPS = 80


@dataclass(frozen=True)
class Picture:
    """A picture of one clip.

    Attributes
    ----------
    title : str
        Shown under it.
    alt : str
        What it shows, for someone who cannot see it.
    data : bytes
        The file's content.
    mime : str
        'image/png', 'image/webp' or 'image/svg+xml'.
    """

    title: str
    alt: str
    data: bytes
    mime: str = "image/png"


PictureMaker = Callable[[Path], Sequence[Picture]]


@dataclass(frozen=True)
class Take:
    """The clips that belong together: one prompt and seed in every arm (None where an arm lacks it).

    The heading is empty where one seed is all there is.
    """

    heading: str
    clips: dict[str, Record | None]


@dataclass(frozen=True)
class PromptGroup:
    """All takes of one prompt."""

    heading: str
    text: str
    takes: list[Take] = field(default_factory=list)


def plan_takes(
    records: Sequence[Record],
    arms: Sequence[str],
    prompts: Mapping[str, str],
    *,
    paired: bool = True,
    unmatched: Collection[str] = (),
    max_clips: int = MAX_CLIPS,
) -> tuple[list[PromptGroup], str]:
    """Groups of takes for at most `max_clips` clips, and a sentence on what was left out (empty when nothing was).

    With several training seeds the lowest one is played. When there are too many clips, the first seed of every
    prompt comes before the second of any, so that every prompt is heard as long as there is room.
    """
    if not paired:
        return _unpaired(records, arms, max_clips)
    if unmatched:
        lonely = [row for row in records if row["arm"] in unmatched]
        matched = [row for row in records if row["arm"] not in unmatched]
        first, left = plan_takes(matched, [arm for arm in arms if arm not in unmatched], prompts, max_clips=max_clips)
        second, also_left = _unpaired(lonely, [arm for arm in arms if arm in unmatched], max(4, max_clips // 4))
        return first + second, " ".join(part for part in (left, also_left) if part)
    shown = _first_model(records)
    by_key: dict[tuple[str, RecordValue], dict[str, Record | None]] = {}
    for row in shown:
        by_key.setdefault((str(row["prompt_id"]), row["seed"]), dict.fromkeys(arms))[str(row["arm"])] = row
    seeds_of: dict[str, list[RecordValue]] = {}
    for prompt, seed in by_key:
        seeds_of.setdefault(prompt, []).append(seed)
    # Clips that more arms share are worth more to a listener than lonely ones.
    order = sorted(
        by_key,
        key=lambda key: (-sum(row is not None for row in by_key[key].values()), seeds_of[key[0]].index(key[1])),
    )
    room, chosen = max_clips, set()
    for key in order:
        size = sum(row is not None for row in by_key[key].values())
        if size <= room:
            chosen.add(key)
            room -= size
    groups = []
    one_seed = len({seed for _, seed in by_key}) == 1
    for prompt, seeds in seeds_of.items():
        takes = [
            Take("" if one_seed else f"seed {seed}", by_key[prompt, seed]) for seed in seeds if (prompt, seed) in chosen
        ]
        if takes:
            groups.append(PromptGroup(prompt, prompts.get(prompt, ""), takes))
    return groups, _left_out(records, shown, sum(row is not None for key in chosen for row in by_key[key].values()))


def _first_model(records: Sequence[Record]) -> list[Record]:
    """Rows of each arm's lowest training seed."""
    lowest: dict[RecordValue, int] = {}
    for row in records:
        seed = row.get("train_seed")
        if isinstance(seed, int):
            lowest[row["arm"]] = min(seed, lowest.get(row["arm"], seed))
    return [row for row in records if row.get("train_seed") == lowest.get(row["arm"])]


def _left_out(records: Sequence[Record], shown: Sequence[Record], embedded: int) -> str:
    parts = []
    if len(shown) < len(records):
        parts.append("only the first training seed of each arm is played here")
    if embedded < len(shown):
        parts.append(f"{embedded} of its {len(shown)} clips are on this page, to keep it small")
    if not parts:
        return ""
    return f"{'; '.join(parts)[:1].upper()}{'; '.join(parts)[1:]}. The statistics use all {len(records)} clips."


def _unpaired(records: Sequence[Record], arms: Sequence[str], max_clips: int) -> tuple[list[PromptGroup], str]:
    by_arm = {arm: [row for row in records if row["arm"] == arm] for arm in arms}
    rows = min(max(len(clips) for clips in by_arm.values()), max(1, max_clips // max(1, len(arms))))
    takes = [
        Take(
            f"clip {index + 1} of each",
            {arm: clips[index] if index < len(clips) else None for arm, clips in by_arm.items()},
        )
        for index in range(rows)
    ]
    embedded = sum(row is not None for take in takes for row in take.clips.values())
    return [PromptGroup("Clips that are not matched, in the order of their names", "", takes)], _left_out(
        records, records, embedded
    )
