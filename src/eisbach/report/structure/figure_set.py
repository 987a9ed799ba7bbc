"""Which clips go into which figure: one figure as asked for, or the paper's whole set from any folder of audio."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eisbach.errors import AudioError, StorageError, UserError
from eisbach.experiments.sets import short_names
from eisbach.files import write_text
from eisbach.progress import Progress
from eisbach.report.figures import View, features_of
from eisbach.report.fonts import drawable
from eisbach.report.structure.draw import MOST_GROUPS
from eisbach.report.structure.figures import KINDS
from eisbach.report.structure.style import FORMATS, PictureClip, format_of
from eisbach.structure.batch import Clip, sample_clips
from eisbach.structure.features import Features
from eisbach.types import Skipped

_STEP_LABELS = ("step", "steps", "checkpoint")
"""Labels of a manifest that say after how many steps of training a clip was made."""
_PLAIN = "plain"
_SET_MOST = 4  # clips of a figure of the set unless asked otherwise: as many as the paper shows
_POOL_MOST = 32  # clips that the pooled figures of the set take


@dataclass(frozen=True)
class Drawing:
    """A figure still to be made.

    Attributes
    ----------
    kind : str
    clips : list of PictureClip
        Their sources are paths.
    out : Path
    note : str
        What a reader must know of the choice of clips; empty when all were taken.
    """

    kind: str
    clips: list[PictureClip]
    out: Path
    note: str = ""

    def plan(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kind": self.kind,
            "out": str(self.out),
            "clips": [{"label": shown.label, "group": shown.group, "path": str(shown.source)} for shown in self.clips],
            "note": self.note,
            "caption": KINDS[self.kind].caption,
        }


@dataclass
class Drawn:
    """What became of drawings: the files written, and what was left out."""

    written: list[Path] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def one_figure(
    kind: str, clips: Sequence[Clip], out: Path, *, labels: Sequence[str] | None = None, most: int | None = None
) -> Drawing:
    """The drawing of one figure.

    Raises
    ------
    UserError
        An unknown kind, an ending that is not written, more clips than the figure holds (unless `most` asks for a
        sample), or another number of labels than of clips.
    """
    if kind not in KINDS:
        raise UserError(f"there is no figure '{kind}'; choose one of {', '.join(KINDS)}.")
    format_of(out)
    spec = KINDS[kind]
    chosen = list(clips) if most is None else sample_clips(clips, min(most, spec.most))
    room = spec.exactly or spec.most
    if len(chosen) > room:
        raise UserError(
            f"the figure '{kind}' holds {room} clips, and {len(chosen)} were given; name fewer, or add --most {room} "
            "for an "
            "even sample."
        )
    pictured = _pictured(chosen, pools=spec.pools)
    if labels:
        if len(labels) != len(pictured):
            raise UserError(f"{len(pictured)} clips came with {len(labels)} labels; repeat --label once for each clip.")
        pictured = [replace(shown, label=label) for shown, label in zip(pictured, labels, strict=True)]
        if spec.pools and len({shown.group for shown in pictured}) == len(pictured):
            pictured = [replace(shown, group=shown.label) for shown in pictured]
    return Drawing(kind, pictured, out, _sampled(len(chosen), len(clips)))


def _sampled(taken: int, given: int) -> str:
    return "" if taken == given else f"an even sample of {taken} of {given} clips"


def _pictured(clips: Sequence[Clip], *, pools: bool) -> list[PictureClip]:
    """Clips with titles that tell them apart and, where clips are pooled, the groups that they are pooled by."""
    names = short_names(list(dict.fromkeys(str(clip.keys["group"]) for clip in clips)))
    ids = [str(clip.keys["id"]) for clip in clips]
    groups = [names[str(clip.keys["group"])] for clip in clips]
    titles = ids
    if len(set(titles)) < len(titles) and len(set(groups)) > 1:
        titles = [f"{group}: {name}" for group, name in zip(groups, ids, strict=True)]
    if len(set(titles)) < len(titles):
        places = short_names([str(clip.path) for clip in clips])
        titles = [places[str(clip.path)] for clip in clips]
    if pools and len(set(groups)) == 1:
        prompts = [str(clip.keys.get("prompt_id") or "") for clip in clips]
        if all(prompts) and len(set(prompts)) <= MOST_GROUPS:
            groups = prompts
        elif len(clips) <= MOST_GROUPS:
            groups = titles
    return [PictureClip(title, clip.path, group) for title, clip, group in zip(titles, clips, groups, strict=True)]


def paper_set(
    clips: Sequence[Clip], folder: Path, *, form: str = "png", baseline: str | None = None, most: int | None = None
) -> list[Drawing]:
    """The paper's figures, and block scales, scape plots and motifs, from any clips.

    One clip a prompt (or an even sample where there are no prompts) stands for each group. With several groups the
    first that is not the baseline is shown in Figures 1-4, and every one beside the baseline in Figures 6-8; Figure 5
    has a row a step of training where the labels name steps, else a row a group.

    Raises
    ------
    UserError
        An unknown format or baseline, or a picture's name in the place of the folder.
    """
    if form not in FORMATS:
        raise UserError(f"figures are written as {', '.join(FORMATS)}, not '{form}'; choose one of them.")
    if folder.suffix.lower().lstrip(".") in FORMATS:
        raise UserError(f"--out is '{folder}', and 'all' writes many pictures; give a folder.")
    by_group: dict[str, list[Clip]] = {}
    for clip in clips:
        by_group.setdefault(str(clip.keys["group"]), []).append(clip)
    names = short_names(list(by_group))
    base = _baseline(names, baseline)
    shown = next((group for group in by_group if group != base), base)
    room = most or _SET_MOST
    few = _one_a_prompt(by_group[shown], room)
    about = names[shown] if len(by_group) > 1 else ""

    def drawing(kind: str, chosen: Sequence[Clip], stem: str, note: str = "") -> Drawing:
        return Drawing(kind, _pictured(chosen, pools=KINDS[kind].pools), folder / f"{stem}.{form}", note)

    def standing_for_all(kind: str) -> Drawing:
        chosen, there = few[: KINDS[kind].most], len(by_group[shown])
        said = f"{len(chosen)} of {there} clips" + (f" of {about}" if about else "")
        return drawing(kind, chosen, kind, said if about or len(chosen) < there else "")

    made = [standing_for_all(kind) for kind in ("mel", "ssm", "trajectory")]
    pooled = sample_clips(clips, _POOL_MOST)
    if len(by_group) <= MOST_GROUPS:
        made += [drawing(kind, pooled, kind, _sampled(len(pooled), len(clips))) for kind in ("spectrum", "blocks")]
    else:
        made += [standing_for_all(kind) for kind in ("spectrum", "blocks")]
    made += [standing_for_all(kind) for kind in ("scape", "motifs")]
    rows, why = _rows(clips, by_group)
    if len(rows) > 1:
        made.append(drawing("steps", rows, "steps", why))
    others = [group for group in by_group if group != base]
    stems = [f"baseline-{name}" for name in _file_names([names[group] for group in others])]
    for group, stem in zip(others, ["baseline"] if len(others) == 1 else stems, strict=True):
        pair = _matched(by_group[base], by_group[group])
        two = [
            PictureClip(f"{names[member]}: {clip.keys['id']}", clip.path, names[member])
            for member, clip in zip((base, group), pair, strict=True)
        ]
        made.append(Drawing("baseline", two, folder / f"{stem}.{form}", f"{names[base]} (left) beside {names[group]}"))
    return made


def _baseline(names: dict[str, str], wanted: str | None) -> str:
    if wanted is None:
        return next((group for group, name in names.items() if _PLAIN in (group, name)), next(iter(names)))
    found = [group for group, name in names.items() if wanted in (group, name)]
    if not found:
        raise UserError(
            f"the baseline '{wanted}' is not among the groups {', '.join(names.values())}; name one of them."
        )
    return found[0]


def _one_a_prompt(clips: Sequence[Clip], most: int) -> list[Clip]:
    first: dict[str, Clip] = {}
    for index, clip in enumerate(clips):
        first.setdefault(str(clip.keys.get("prompt_id") or index), clip)
    return sample_clips(list(first.values()), most)


def _rows(clips: Sequence[Clip], by_group: dict[str, list[Clip]]) -> tuple[list[Clip], str]:
    """The rows of Figure 5: one prompt and seed at several steps, else in several groups."""
    for label in _STEP_LABELS:
        if len({clip.keys.get(label) for clip in clips} - {None}) > 1:
            members = [clip for clip in clips if clip.keys.get(label) is not None]
            same = [clip for clip in members if _take(clip) == _take(members[0])]
            by_step = {str(clip.keys[label]): clip for clip in reversed(same)}
            ordered = sorted(by_step, key=lambda text: (len(text), text))[: KINDS["steps"].most]
            return [by_step[step] for step in ordered], f"a row a {label}: {', '.join(ordered)}"
    groups = list(by_group)[: KINDS["steps"].most]
    rows = [by_group[groups[0]][0]]
    rows += [_matched(rows, by_group[group])[1] for group in groups[1:]]
    return rows, "a row a group: no label says after how many steps a clip was made"


def _take(clip: Clip) -> tuple[Any, Any]:
    return clip.keys.get("prompt_id"), clip.keys.get("seed")


def _matched(first: Sequence[Clip], second: Sequence[Clip]) -> tuple[Clip, Clip]:
    """The first two clips of one prompt and seed; where nothing matches, the first of each."""
    partner = {_take(clip): clip for clip in reversed(second) if _take(clip) != (None, None)}
    for clip in first:
        if _take(clip) in partner:
            return clip, partner[_take(clip)]
    return first[0], second[0]


def _file_names(names: Sequence[str]) -> list[str]:
    """What files of these names are called: letters and digits, short, and no two alike on any file system."""
    taken: set[str] = set()
    made = []
    for name in names:
        plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in name).encode()[:80].decode(errors="ignore")
        numbered = (plain if number == 1 else f"{plain}-{number}" for number in itertools.count(1))
        unique = next(candidate for candidate in numbered if candidate.casefold() not in taken)
        taken.add(unique.casefold())
        made.append(unique)
    return made


def write_captions(drawings: Sequence[Drawing], folder: Path) -> Path:
    """Writes `folder/captions.md`, a paragraph a figure, and returns its path.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written.
    """
    path = folder / "captions.md"
    said = [
        f"**{shown.out.name}** {KINDS[shown.kind].caption}{f' Shown: {shown.note}.' if shown.note else ''}\n"
        for shown in drawings
    ]
    write_text(path, drawable("\n".join(said)))
    return path


def draw(drawings: Sequence[Drawing], *, view: View = "texture", quiet: bool = True) -> Drawn:
    """Makes the figures; every file is read once.

    With several drawings a file that cannot be read and a figure that cannot be drawn are left out and reported; a
    single drawing raises.

    Raises
    ------
    UserError
        A single figure that cannot be drawn, or none of several.
    StorageError
        The disk is full or the folder cannot be written.
    """
    cache: dict[str, Features] = {}
    done = Drawn()
    alone = len(drawings) == 1
    paths = list(dict.fromkeys(str(shown.source) for drawing in drawings for shown in drawing.clips))
    with Progress(len(paths) + len(drawings), "draw", quiet=quiet) as bar:
        for path in paths:
            try:
                cache[path] = features_of(path)
            except AudioError as error:
                if alone:
                    raise
                done.skipped.append(Skipped(path, str(error)))
            bar.advance(note=Path(path).name)
        for drawing in drawings:
            kept = [
                replace(shown, source=cache[str(shown.source)]) for shown in drawing.clips if str(shown.source) in cache
            ]
            try:
                if not kept:
                    raise UserError("none of its files can be read.")
                KINDS[drawing.kind].draw(kept, out=drawing.out, view=view)
                done.written.append(drawing.out)
            except StorageError:
                raise
            except UserError as error:
                if alone:
                    raise
                done.skipped.append(Skipped(str(drawing.out), str(error)))
            bar.advance(note=drawing.kind)
    if not done.written:
        reasons = "; ".join(item.reason for item in done.skipped[:3])
        raise UserError(f"no figure could be drawn: {reasons}")
    return done
