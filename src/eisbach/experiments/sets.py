"""Files, folders and manifests as sets of clips: the one reader behind `analyze`, `figure` and memorisation."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from eisbach.audio import AUDIO_SUFFIXES, list_audio
from eisbach.data.manifest import MANIFEST_NAME, load_manifest
from eisbach.errors import UserError, counted, one_line
from eisbach.structure.batch import Clip

_SHOWN_LEFT_OUT = 5
FOLDER, ARGUMENT = "folder", "argument"
"""Words that `by` understands beside the names of labels."""


@dataclass(frozen=True)
class ClipSets:
    """Clips with the set that each belongs to.

    Attributes
    ----------
    clips : list of Clip
        Each file once, with `id`, `group` (its set) and the labels of its manifest as keys.
    names : dict of str to str
        By path: what each clip is called within its folder or manifest, without the ending. Clips of several sets that
        are called alike may be matched.
    side_by_side : bool
        The sets were named one by one, so that equal names in them mean something.
    """

    clips: list[Clip]
    names: dict[str, str] = field(repr=False)
    side_by_side: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """How many clips each set has, in order."""
        return dict(Counter(str(clip.keys["group"]) for clip in self.clips))


def collect_sets(paths: Sequence[str | Path], by: str | None = None) -> ClipSets:
    """The clips that paths name, as sets.

    A folder that holds a ``manifest.jsonl`` is read through it; any other folder is searched for audio, subfolders
    included. ``NAME=PATH`` gives a path's clips the set NAME; several paths of one NAME are one set.

    Parameters
    ----------
    by : str or None
        What makes a set: the name of a manifest's label, 'folder' (the file's own folder) or 'argument' (the path given
        here). None takes the arm where a manifest names arms; otherwise the argument when several folders or manifests
        are given, and the file's folder when there is one.

    Raises
    ------
    UserError
        A path that does not exist, a folder without audio, a manifest that cannot be read, a label that clips lack, or
        a path whose files all belong to other sets already.
    """
    if not paths:
        raise UserError("there is nothing to read; give at least one audio file, folder or manifest.")
    arguments = [_Argument(str(path)) for path in paths]
    many = sum(argument.is_set for argument in arguments) > 1
    clips: dict[str, Clip] = {}
    names: dict[str, str] = {}
    for argument in arguments:
        grouped = _grouped(argument.clips(), argument, by, many)
        _refuse_same_files(grouped, clips, argument)
        for clip in grouped:
            clips.setdefault(str(clip.path), clip)
        in_folder = many or argument.name or by == ARGUMENT or argument.manifest is not None
        for path, name in argument.names(grouped, whole=bool(in_folder)).items():
            names.setdefault(path, name)
    return ClipSets(list(clips.values()), names, many and by in (None, ARGUMENT))


def collect_clips(paths: Sequence[str | Path], by: str | None = None) -> list[Clip]:
    """The clips of `collect_sets`."""
    return collect_sets(paths, by).clips


def _refuse_same_files(grouped: Sequence[Clip], clips: dict[str, Clip], argument: _Argument) -> None:
    """A set would vanish without a word when all its files are another's."""
    taken = [clips[str(clip.path)] for clip in grouped if str(clip.path) in clips]
    if len(taken) < len(grouped):
        return
    other = next((a for a, b in zip(taken, grouped, strict=True) if a.keys["group"] != b.keys["group"]), None)
    if other is not None:
        raise UserError(
            f"the sets '{other.keys['group']}' and '{grouped[0].keys['group']}' hold the very same files; "
            f"name {argument.path} once, or another folder."
        )


class _Argument:
    """One path of a command line, perhaps with a name before it."""

    def __init__(self, text: str) -> None:
        self.name, self.path = "", Path(text)
        head, separator, rest = text.partition("=")
        if separator and not self.path.exists():  # a folder may have '=' in its name
            if not head.strip() or not rest.strip():
                raise UserError(f"'{text}' must look like PATH or NAME=PATH.")
            self.name, self.path = head.strip(), Path(rest)
        if not self.path.exists():
            raise UserError(f"{self.path} does not exist; give an audio file, a folder or a manifest.jsonl.")
        inside = self.path / MANIFEST_NAME
        self.manifest = (
            self.path if self.path.suffix == ".jsonl" else inside if self.path.is_dir() and inside.is_file() else None
        )

    @property
    def is_set(self) -> bool:
        """Whether it stands for several clips."""
        return self.manifest is not None or self.path.is_dir()

    def clips(self) -> list[Clip]:
        """The clips, with `id` and the labels of a manifest as keys, not yet grouped."""
        if self.manifest is not None:
            manifest = load_manifest(self.manifest, check_files=False)  # a missing file is reported like a broken one
            return [
                Clip(
                    manifest.audio_path(row),
                    {"id": row.id, "group": "", "caption": row.caption, "split": row.split, **row.labels},
                )
                for row in manifest
            ]
        files = find_audio(self.path) if self.path.is_dir() else [self.path]
        return [Clip(file, {"id": file.stem, "group": ""}) for file in files]

    def names(self, clips: Sequence[Clip], *, whole: bool) -> dict[str, str]:
        """By path, what each clip is called: below this argument when it is a `whole` set, else in its own folder."""
        root = self.manifest.parent if self.manifest is not None else self.path
        calls = {}
        for clip in clips:
            inside = whole and self.is_set and clip.path.is_relative_to(root)
            calls[str(clip.path)] = clip.path.relative_to(root if inside else clip.path.parent)
        stems = Counter(call.with_suffix("") for call in calls.values())
        return {
            path: (call.with_suffix("") if not whole or stems[call.with_suffix("")] == 1 else call).as_posix()
            for path, call in calls.items()
        }


def _grouped(clips: Sequence[Clip], argument: _Argument, by: str | None, many: bool) -> list[Clip]:
    if by not in (None, FOLDER, ARGUMENT):
        return [_with_group(clip, _label(clip, str(by))) for clip in clips]
    arms = {str(clip.keys.get("arm") or "") for clip in clips}
    place = str(argument.manifest.parent if argument.path.suffix == ".jsonl" and argument.manifest else argument.path)
    result = []
    for clip in clips:
        arm = str(clip.keys.get("arm") or "")
        if by == FOLDER or (by is None and not arm and not (many or argument.name) and argument.manifest is None):
            group = str(clip.path.parent)
        elif by == ARGUMENT:
            group = argument.name or place
        elif argument.name:
            group = argument.name if len(arms) == 1 else f"{argument.name}/{arm}"
        elif arm:
            group = arm
        else:
            group = place if argument.is_set else str(clip.path.parent)
        result.append(_with_group(clip, group))
    return result


def _with_group(clip: Clip, group: str) -> Clip:
    return replace(clip, keys={**clip.keys, "group": group})


def _label(clip: Clip, name: str) -> str:
    value = clip.keys.get(name)
    if value is None:
        known = ", ".join(key for key in clip.keys if key not in ("group", "caption")) or "none"
        raise UserError(
            f"{clip.path} has no label '{name}' to group by; its labels are: {known} (or use 'folder' or 'argument')."
        )
    return str(value)


def short_names(groups: Sequence[str]) -> dict[str, str]:
    """What to call each group on a page: a folder by those of its last parts that tell it from the others."""
    parts = {
        group: [part for part in group.replace(os.sep, "/").split("/") if part not in ("", ".")] for group in groups
    }
    tails = {}
    for group, own in parts.items():
        others = [other for other in groups if other != group]
        count = next((n for n in range(1, len(own)) if all(parts[o][-n:] != own[-n:] for o in others)), len(own))
        tails[group] = own[-count:] if own else [group or "clips"]
    while all(len(tail) > 1 for tail in tails.values()) and len({tail[-1] for tail in tails.values()}) == 1:
        tails = {group: tail[:-1] for group, tail in tails.items()}  # a/samples and b/samples are a and b
    return {group: "/".join(tail) for group, tail in tails.items()}


def find_audio(folder: str | Path) -> list[Path]:
    """The audio files in a folder and its subfolders, sorted; hidden files and folders are left out.

    Audio that is not read (other formats, links to folders or to nothing, names that are not UTF-8) is named in a
    warning.

    Raises
    ------
    UserError
        There are none.
    """
    if not Path(folder).is_dir():
        raise UserError(f"{folder} holds no audio files: it is no folder; choose another.")
    listing = list_audio(folder)
    if listing.left_out:
        named = "; ".join(f"{item.item}: {item.reason}" for item in listing.left_out[:_SHOWN_LEFT_OUT])
        more = len(listing.left_out) - _SHOWN_LEFT_OUT
        tail = f"; and {more} more" if more > 0 else ""
        warnings.warn(
            one_line(f"{counted(len(listing.left_out), 'file')} in {folder} left out ({named}{tail})."), stacklevel=2
        )
    if not listing.files:
        raise UserError(f"{folder} holds no audio files ({', '.join(AUDIO_SUFFIXES[:4])}, ...); choose another folder.")
    return listing.files
