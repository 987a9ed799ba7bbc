"""What trains: the one answer that the doctor, `data folder`, the demo and training give and print; and manifests put
together."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from eisbach.data.manifest import Manifest, ManifestRow, fault_list
from eisbach.errors import ManifestError, one_line
from eisbach.types import Skipped

_SHOWN = 3


@dataclass(frozen=True)
class TrainingRule:
    """What of a recipe decides which clips train.

    Attributes
    ----------
    crops : tuple of (seconds, least seconds or None)
        Length of each crop, and the length below which a clip is left out of it.
    split : "train" or "all"
    select : mapping of str to str
        Labels that a clip must have.
    batch_size : int
        A set with fewer clips is refused.
    """

    crops: tuple[tuple[float, float | None], ...] = ((30.0, None),)
    split: str = "train"
    select: Mapping[str, str] = field(default_factory=dict)
    batch_size: int = 1

    @property
    def crop_seconds(self) -> float:
        """The longest crop."""
        return max(seconds for seconds, _ in self.crops)


@dataclass(frozen=True)
class TrainingChoice:
    """Which clips of a manifest train.

    Attributes
    ----------
    manifest : Manifest
        All clips.
    train, held_out : Manifest
    left_out : tuple of Skipped
        Clips of the right split and labels that do not train, and why.
    rule : TrainingRule
    """

    manifest: Manifest
    train: Manifest
    held_out: Manifest
    left_out: tuple[Skipped, ...]
    rule: TrainingRule

    def sentence(self) -> str:
        """How many train, are held out and are left out."""
        total = len(self.manifest)
        parts = [f"{len(self.train)} train"]
        held = len(self.held_out)
        parts.append(f"{held} held out" if held else "none held out")
        other = total - len(self.train) - held - len(self.left_out)
        if other:
            parts.append(f"{other} of other labels")
        if self.left_out:
            named = "; ".join(f"{one_line(item.item)}: {item.reason}" for item in self.left_out[:_SHOWN])
            more = f"; and {len(self.left_out) - _SHOWN} more" if len(self.left_out) > _SHOWN else ""
            parts.append(f"{len(self.left_out)} left out ({named}{more})")
        silent = sum(not row.caption.strip() for row in self.train)
        if silent:
            parts.append(f"{'all' if silent == len(self.train) else silent} without a caption")
        return f"{total} clip{'s' if total != 1 else ''}: {', '.join(parts)}"

    def fault(self) -> str | None:
        """Why training refuses the set, in one sentence; None when it trains."""
        rule, count = self.rule, len(self.train)
        wanted = f"split '{rule.split}'" + (f" and labels {dict(rule.select)}" if rule.select else "")
        if count == 0:
            return missing_label(self.manifest, rule.select) or (
                f"none of the {len(self.manifest)} clips of {self.manifest.root} has {wanted} and can train; change "
                "data.select or data.split, or add clips."
            )
        if count < rule.batch_size:
            return (
                f"the training set has {count} clip{'s' if count > 1 else ''} ({wanted}) and batch_size is "
                f"{rule.batch_size}; set batch_size to at most {count}, or add clips."
            )
        return None


def missing_label(manifest: Manifest, select: Mapping[str, str]) -> str | None:
    """The sentence that names a label, or a value of one, that no clip has; None where each is somewhere."""
    for name, value in select.items():
        values = Counter(row.labels[name] for row in manifest if name in row.labels)
        if not values:
            return (
                f"no clip of {manifest.root} has the label {one_line(name)}; mark clips first (a column "
                f"{one_line(name)} in metadata.csv, see docs/data.md), or take it out of the recipe."
            )
        if value not in values:
            held = ", ".join(f"'{one_line(held)}' ({count})" for held, count in values.most_common(_SHOWN))
            return (
                f"no clip of {manifest.root} has {one_line(name)}: '{one_line(value)}'; the clips have {held}: take "
                "one of these, or mark clips first (docs/data.md)."
            )
    return None


def choose_clips(manifest: Manifest, rule: TrainingRule) -> TrainingChoice:
    """Which clips of a manifest train under a rule.

    A clip trains when its split and labels are those of the rule, when it is long enough for one of the crops, and when
    no clip before it has the same bytes and the same caption. What sounds in a training clip is never held out.
    """
    wanted = manifest.select(split=None if rule.split == "all" else rule.split, labels=rule.select)
    left_out: list[Skipped] = []
    train: list[ManifestRow] = []
    first: dict[tuple[str, str], str] = {}
    least = [seconds for _, seconds in rule.crops]
    for row in wanted:
        key = (row.audio_hash, row.caption)
        if row.audio_hash and key in first:
            left_out.append(Skipped(row.id, f"has the same bytes as {first[key]}"))
        elif not row.path.endswith(".npy") and all(value is not None and row.duration < value for value in least):
            left_out.append(Skipped(row.id, f"{row.duration:.1f} s is shorter than min_seconds"))
        else:
            first[key] = row.id
            train.append(row)
    trained = {row.audio_hash for row in train if row.audio_hash}
    held_out = []
    for row in manifest.select(split="held_out") if rule.split != "all" else ():
        if row.audio_hash in trained:
            left_out.append(Skipped(row.id, "is held out and has the same bytes as a clip that trains"))
        else:
            held_out.append(row)
    return TrainingChoice(manifest, manifest.with_rows(train), manifest.with_rows(held_out), tuple(left_out), rule)


def unheard_words(captions: Iterable[str], unknown_words: Callable[[str], Sequence[str]]) -> str | None:
    """A sentence about the words that a model does not know; None when it knows every word.

    Parameters
    ----------
    captions : iterable of str
    unknown_words : callable
        The words of a caption that the model does not know.
    """
    total, touched = 0, 0
    words: Counter[str] = Counter()
    for caption in captions:
        total += 1
        unknown = unknown_words(caption)
        touched += bool(unknown)
        words.update(set(unknown))
    if not words:
        return None
    named = ", ".join(f"'{one_line(word)}'" for word, _ in words.most_common(_SHOWN))
    more = f" and {len(words) - _SHOWN} more words" if len(words) > _SHOWN else ""
    return f"the model does not know {named}{more}, in {touched} of {total} captions; these words change nothing"


def cut_captions(
    captions: Iterable[tuple[str, str]], text_length: Callable[[str], tuple[int, int] | None]
) -> str | None:
    """A sentence that names every caption of which a model reads only the beginning; None where there is none.

    Parameters
    ----------
    captions : iterable of (sample, caption)
    text_length : callable
        Tokens of a caption and how many the model reads, or None where it reads everything.
    """
    total, most, cut = 0, 0, []
    for sample, caption in captions:
        total += 1
        length = text_length(caption)
        if length is not None and length[0] > length[1]:
            most = length[1]
            cut.append(f"'{one_line(sample)}' has {length[0]}")
    if not cut:
        return None
    return (
        f"the model reads {most} tokens of a caption, and {len(cut)} of {total} captions are longer and lose their "
        f"end: {', '.join(cut)}"
    )


def merge(manifests: Sequence[Manifest], root: str | Path, audio_root: str | Path | None = None) -> Manifest:
    """One manifest in the folder `root` that names the clips of all of them, below `audio_root` (None: `root`); nothing
    is copied.

    Ids that collide get the name of their source folder in front (`folder/id`) and a number if that is taken too.

    Raises
    ------
    ManifestError
        Audio that does not lie under that folder, because manifests may not point outside it.
    """
    base = Path(root if audio_root is None else audio_root).resolve()
    rows: list[ManifestRow] = []
    used: set[str] = set()
    faults: list[str] = []
    for manifest in manifests:
        folder = manifest.audio_root.resolve()
        for row in manifest:
            target = folder / row.path
            if not target.is_relative_to(base):
                faults.append(f"'{target}' is outside it")
                continue
            new_id, number = row.id, 2
            if new_id in used:
                new_id = f"{folder.name}/{row.id}"
            while new_id in used:
                new_id = f"{folder.name}/{row.id}-{number}"
                number += 1
            used.add(new_id)
            rows.append(replace(row, id=new_id, path=target.relative_to(base).as_posix()))
    if faults:
        raise ManifestError(f"the folder {base} cannot hold the merged manifest: it {fault_list(faults)}")
    return Manifest(rows, root, audio_root)


def merged(manifests: Sequence[Manifest]) -> Manifest:
    """`merge` in the deepest folder that holds every manifest; a single manifest as it is."""
    if len(manifests) == 1:
        return manifests[0]
    roots, audio = (
        os.path.commonpath([str(getattr(manifest, name).resolve()) for manifest in manifests])
        for name in ("root", "audio_root")
    )
    return merge(manifests, roots, audio)
