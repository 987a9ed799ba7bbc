"""What a person set in a folder's manifest, kept when the manifest is made again.

Clips are told by their audio's hash, so a file may have moved. Labels, weights, an id and a split that were set by hand
stay, and so do further rows of one file. Captions are read anew wherever the folder has any; one that stands in the
manifest alone stays, also where the audio under an unchanged name changed. What does not stay is said.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from eisbach.data.label_names import is_measured
from eisbach.data.manifest import MANIFEST_NAME, ManifestRow, Split, load_manifest
from eisbach.data.splits import afford_held_out, assign_split
from eisbach.errors import ManifestError, UserError, counted, one_line

_SHOWN = 3
_LEAST = 5  # clips, from which on a manifest that is made anew holds one out


@dataclass(frozen=True)
class EarlierManifest:
    """The rows of a manifest that is made again.

    Attributes
    ----------
    rows : dict of str to ManifestRow
        By the hash of their audio: the first of each file, or the one that is called by its path.
    further : dict of str to tuple of ManifestRow
        Other rows of the same audio, by its hash: one recording may train with several captions.
    splits : dict of str to str
        The splits that were set by hand, by id: others than the rule gives.
    words : bool
        Whether its captions are taken up; not where a person says where captions come from.
    """

    rows: Mapping[str, ManifestRow] = field(default_factory=dict)
    further: Mapping[str, tuple[ManifestRow, ...]] = field(default_factory=dict)
    splits: Mapping[str, Split] = field(default_factory=dict)
    words: bool = True

    def caption(self, path: str, audio_hash: str, here: Collection[str]) -> str:
        """The caption of before; "" where there was none.

        Parameters
        ----------
        path, audio_hash : str
            Of the clip as it is now.
        here : collection of str
            The hashes of all audio that is there now: a row whose audio moved away says nothing of what took its place.
        """
        row = self.rows.get(audio_hash) if self.words else None
        if row is None and self.words:
            replaced = self._by_path.get(_composed(path), [])
            row = next((row for row in replaced if row.audio_hash not in here), None)
        return "" if row is None else row.caption

    @cached_property
    def _by_path(self) -> dict[str, list[ManifestRow]]:
        """The rows that are called by their path."""
        found: dict[str, list[ManifestRow]] = {}
        for row in self.rows.values():
            if _is_named_by_path(row):
                found.setdefault(_composed(row.path), []).append(row)
        return found

    def fill(self, new: ManifestRow, cleared: Collection[str] = ()) -> list[ManifestRow]:
        """A new row with what was set in the row of before and is not given anew, and the further rows of its audio.

        Parameters
        ----------
        new : ManifestRow
        cleared : collection of str
            Labels and weights that a table takes back: it has their column, and an empty cell.
        """
        more = self.further.get(new.audio_hash, ()) if self.words else ()
        again = [replace(self._filled(row, new, cleared), id=row.id, caption=row.caption) for row in more]
        return [self._filled(self.rows.get(new.audio_hash), new, cleared), *again]

    @staticmethod
    def _filled(row: ManifestRow | None, new: ManifestRow, cleared: Collection[str]) -> ManifestRow:
        if row is None:
            return new
        given = new.weight is not None or "weight" in cleared
        above = given or new.weight_above is not None or "weight_above" in cleared
        kept = {name: value for name, value in row.labels.items() if name not in cleared and not is_measured(name)}
        return replace(
            new,
            id=new.id if _is_named_by_path(row) else row.id,
            labels={**kept, **new.labels},
            weight=new.weight if given else row.weight,
            weight_above=new.weight_above if above else row.weight_above,
        )

    def set_splits(self, rows: Sequence[ManifestRow]) -> list[ManifestRow]:
        """The rows in the splits in which they were: what has trained is not held out later. A piece stays whole: all
        of it lies where a person put a clip of it (held out, where on both sides), else where all of it was; one that
        was on both sides by chance is held out where there is room, and what was not there is dealt by the rule."""
        pairs = self._pairs(rows)
        sides: dict[str, set[Split]] = {}
        put: dict[str, Split] = {}
        for old, row in pairs:
            key = _piece(row)
            sides.setdefault(key, set()).add(old.split)
            if old.id in self.splits and put.get(key) != "held_out":
                put[key] = self.splits[old.id]
        known = {key: next(iter(of)) for key, of in sides.items() if len(of) == 1} | put
        both: dict[str, Split] = {key: "held_out" for key, of in sides.items() if len(of) == 2}
        made = [replace(row, split=(both | known).get(_piece(row), row.split)) for row in rows]
        return afford_held_out(made, {row.id for row in made if _piece(row) in known})

    def _pairs(self, rows: Sequence[ManifestRow]) -> list[tuple[ManifestRow, ManifestRow]]:
        """(row of before, row that was made of it)."""
        pairs = []
        for row in rows:
            first = self.rows.get(row.audio_hash)
            old = next((old for old in self.further.get(row.audio_hash, ()) if old.id == row.id), first)
            pairs += [] if old is None else [(old, row)]
        return pairs

    def sentences(self, rows: Sequence[ManifestRow]) -> list[str]:
        """What was kept in these rows, made of those of before, and what was not; nothing where nothing was set."""
        pairs = self._pairs(rows)
        counts = {
            "labels": sum(bool(old.labels) and old.labels.items() <= now.labels.items() for old, now in pairs),
            "weights": sum(old.weight is not None and old.weight == now.weight for old, now in pairs),
            "splits": sum(old.id in self.splits for old, _ in pairs),
            "ids": sum(not _is_named_by_path(old) for old, _ in pairs),
        }
        kept = [f"the {name} of {counted(count, 'clip')}" for name, count in counts.items() if count]
        said = [f"kept from the manifest of before: {', '.join(kept)}; --fresh starts anew"] if kept else []
        made = {old.id for old, _ in pairs}
        gone = [row for row in (*self.rows.values(), *sum(self.further.values(), ())) if row.id not in made]
        there = {_composed(row.path): row for row in reversed(rows)}
        replaced = [(old, there[path]) for old in gone if old.caption and (path := _composed(old.path)) in there]
        changed = [now for old, now in pairs if old.caption and old.caption != now.caption]
        changed += [now for old, now in replaced if now.caption and old.caption != now.caption]
        if changed:
            said.append(f"another caption than before in {counted(len(changed), 'clip')}: {_named(changed)}")
        if still := [now for old, now in replaced if old.caption == now.caption]:
            said.append(f"the audio changed and the words did not in {counted(len(still), 'clip')}: {_named(still)}")
        worded = {old.id for old, now in replaced if now.caption}
        if len(rows) >= _LEAST and all(row.split == "train" for row in rows):
            said.append("nothing is held out, as before; --fresh deals the clips anew, or set a split in the manifest")
        return [*said, *_lost_labels(pairs), *self._lost_rows(gone, worded), *self._moved(pairs)]

    def _lost_rows(self, gone: Sequence[ManifestRow], worded: Collection[str]) -> list[str]:
        """What went with rows of before that have no row now; `worded` are ids of those whose file has words."""
        said = []
        more = {row.id for rows in self.further.values() for row in rows} if not self.words else set()
        if second := [row for row in gone if row.id in more]:
            said.append(f"of audio with several captions one row stays with --caption-from: without {_named(second)}")
        gone = [row for row in gone if row.id not in more]
        lost = {
            "labels": [row for row in gone if row.labels],
            "weights": [row for row in gone if row.weight is not None],
            "words": [row for row in gone if row.caption and row.id not in worded],
            "an id": [row for row in gone if not _is_named_by_path(row)],
            "a split": [row for row in gone if row.id in self.splits],
        }
        if any(lost.values()):
            what = ", ".join(name for name, of in lost.items() if of)
            touched = {row.id for of in lost.values() for row in of}
            of = _named([row for row in gone if row.id in touched])
            said.append(f"with their audio, which changed or is gone, went {what} of {of}")
        return said

    def _moved(self, pairs: Sequence[tuple[ManifestRow, ManifestRow]]) -> list[str]:
        """Clips that follow another clip of their piece, which a person put on the other side."""
        pieces = {now.labels.get("piece") for old, now in pairs if old.id in self.splits} - {None}
        moved = [now for old, now in pairs if now.labels.get("piece") in pieces and old.split != now.split]
        return [f"a piece is on one side, so another split than before has {_named(moved)}"] if moved else []


def _lost_labels(pairs: Sequence[tuple[ManifestRow, ManifestRow]]) -> list[str]:
    """Labels and weights of before that have another value now, or none."""
    taken = sorted({name for before, _ in pairs for name in before.labels if is_measured(name)})
    said = []
    if taken:
        said.append(f"the labels {', '.join(taken)} are not kept: records of clips have columns of these names")
    changed = [
        now
        for before, now in pairs
        if any(now.labels.get(name) != value and not is_measured(name) for name, value in before.labels.items())
    ]
    if changed:
        said.append(f"another label than before in {counted(len(changed), 'clip')}: {_named(changed)}")
    weighed = [now for old, now in pairs if old.weight is not None and _weight(old) != _weight(now)]
    if weighed:
        said.append(f"another weight than before in {counted(len(weighed), 'clip')}: {_named(weighed)}")
    return said


def _weight(row: ManifestRow) -> tuple[float | None, float | None]:
    return row.weight, row.weight_above


def _piece(row: ManifestRow) -> str:
    """What stays on one side: the piece of a clip, or its audio."""
    return row.labels.get("piece") or row.audio_hash


def _is_named_by_path(row: ManifestRow) -> bool:
    """Whether nobody gave the row an id; the disk may compose the accents of the path in its own way."""
    return _composed(row.id) == _composed(row.path)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _named(rows: Sequence[ManifestRow]) -> str:
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return ", ".join(one_line(row.id) for row in rows[:_SHOWN]) + more


def check_ids(rows: Sequence[ManifestRow], manifest: Path) -> None:
    """
    Raises
    ------
    ManifestError
        An id that was set by hand is that of another clip, such as the path of a file that is new.
    """
    twice = [name for name, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise ManifestError(
            f"{manifest} has a clip with the id '{twice[0]}', which is now the name of another file too; give that "
            "clip another id there, rename the file, or add --fresh to make the manifest without its ids and labels."
        )


def read_earlier(folder: str | Path) -> EarlierManifest:
    """The manifest that a folder holds, to be made again; an empty one where it holds none, or an empty file.

    Raises
    ------
    ManifestError
        It is malformed, so that what was set in it would be lost.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file() or not path.stat().st_size:
        return EarlierManifest()
    try:
        before = load_manifest(path, check_files=False).rows
    except UserError as error:  # of its note beside it (manifest.audio.json) too
        raise ManifestError(
            f"{str(error).rstrip('.')}; mend it, or add --fresh to make it without its labels and weights."
        ) from error
    rows: dict[str, ManifestRow] = {}
    further: dict[str, tuple[ManifestRow, ...]] = {}
    for row in sorted(before, key=lambda row: not _is_named_by_path(row)):
        first = rows.setdefault(row.audio_hash, row)
        # a second file of the same bytes, called by its path, is no further row: the folder says what becomes of it
        if first is not row and (row.path == first.path or not _is_named_by_path(row)):
            further[row.audio_hash] = (*further.get(row.audio_hash, ()), row)
    return EarlierManifest(rows, further, _splits_by_hand(before))


def _splits_by_hand(rows: Sequence[ManifestRow]) -> dict[str, Split]:
    """The splits, by id, that a rule does not explain.

    A manifest may have been made before its pieces were marked, so the rule without them counts as well: the one that
    explains more does. One in which nothing is held out and the hash holds nothing out was made when a small folder
    need not hold anything out.
    """
    unmarked = [
        replace(row, labels={name: value for name, value in row.labels.items() if name != "piece"}) for row in rows
    ]
    found = []
    for variant in (rows, unmarked):
        hashed = [replace(row, split=assign_split(row.audio_hash, row.labels)) for row in variant]
        if all(row.split == "train" for row in (*rows, *hashed)):
            return {}
        usual = afford_held_out(hashed)
        found.append({row.id: row.split for row, rule in zip(rows, usual, strict=True) if row.split != rule.split})
    return min(found, key=len)
