"""The section 'Your music' of an experiment on a person's audio: what it is, what a weighting favours, what the codec
leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eisbach.experiments.own_material import shown_clips
from eisbach.report.comparison.players import Player, clock, make_players
from eisbach.types import Record

_BUDGET = 2_000_000  # bytes of base64 for the clips that are weighed, and for the two of the codec
_HEARD_SECONDS = 30.0  # of a weighed clip: six of them at 32 kHz
_KINDS = {
    "still": "still: a held sound or a pad",
    "loop": "a loop",
    "texture": "a texture without events",
    "shuffled": "joins that do not follow from one another",
}


def material_section(material: Mapping[str, Any] | None, root: Path) -> dict[str, Any] | None:
    """What the template shows of `experiments.own_material.describe_material`; None without a material."""
    if material is None:
        return None
    favoured, passed_over = shown_clips(material)
    codec = material["through_codec"]

    def players(paths: Sequence[str], seconds: float) -> list[Player]:
        records: list[Record] = [{"path": path, "duration": 0.0} for path in paths]
        return make_players(records, budget=_BUDGET, root=root, pictures=False, seconds=seconds)

    shown = [*favoured, *passed_over]
    heard = players([clip["path"] for clip in shown], _HEARD_SECONDS)
    weighed = [_weighed(clip, player) for clip, player in zip(shown, heard, strict=True)]
    # on their own, in the page's best encoding: a narrower one would hide what the codec does
    pair = [] if codec is None else players([codec["path"], codec["decoded"]], codec["seconds"])
    return {
        "facts": _facts(material),
        "favoured": weighed[: len(favoured)],
        "passed_over": weighed[len(favoured) :],
        "looked_at": material["looked_at"],
        "codec": None if codec is None else {
            "name": codec["name"], "rate": f"{codec['sample_rate'] / 1000:g} kHz", "original": pair[0],
            "decoded": pair[1],
        },
    }  # fmt: skip


def _facts(material: Mapping[str, Any]) -> list[tuple[str, str]]:
    shortest, median, longest = material["seconds"]
    looked_at, flat = material["looked_at"], material["flat"]
    kinds = [f"{count} {_KINDS.get(kind, kind)}" for kind, count in material["kinds"].items() if kind != "none"]
    judged = f"{flat} of {looked_at}{f' ({_listed(kinds)})' if kinds else ''}"
    facts = [
        ("Clips", f"{material['clips']}: {material['train']} train, {material['held_out']} are held out"),
        ("Length", f"{clock(shortest)} to {clock(longest)}, half are longer than {clock(median)}; "
         f"{material['minutes']:.0f} minutes in all"),
        ("Judged flat", f"{judged}. For drones, ambient and trance that may be the aim."),
    ]  # fmt: skip
    styles = _listed([f"{tag} ({count})" for tag, count in material["styles"].items()])
    return [*facts, ("Sounds like", f"{styles}, by an automatic tagger")] if styles else facts


def _weighed(clip: Mapping[str, Any], player: Player) -> dict[str, Any]:
    flat = clip["flat_probability"]
    said = [f"counts {clip['weight']:.2f} times the mean"]
    said += [] if flat is None else [f"probability of being flat {flat:.2f}"]
    said += [", ".join(clip["tags"])] if clip["tags"] else []
    said += [f"heard here: the first {clock(player.seconds)}"] if player.seconds >= _HEARD_SECONDS else []
    return {"name": clip["name"], "said": "; ".join(said), "player": player}


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts)
