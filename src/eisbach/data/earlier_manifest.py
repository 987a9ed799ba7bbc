"""What a person set in a folder's manifest, kept when the manifest is made again.

Clips are told by their audio's hash, so a file may have moved. Labels, weights, an id and a split that were set by hand
stay. Captions are read anew wherever the folder has any; one that stands in the manifest alone stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from eisbach.data.manifest import MANIFEST_NAME, ManifestRow, load_manifest
from eisbach.data.splits import afford_held_out, assign_split
from eisbach.errors import ManifestError, counted, one_line

_SHOWN = 3


@dataclass(frozen=True)
class EarlierManifest:
    """The rows of a manifest that is made again.

    Attributes
    ----------
    rows : dict of str to ManifestRow
        By the hash of their audio.
    splits : dict of str to str
        The splits that were set by hand: others than the rule gives.
    """

    rows: Mapping[str, ManifestRow] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)

    def caption(self, audio_hash: str) -> str:
        """The caption of before; "" where there was none."""
        row = self.rows.get(audio_hash)
        return "" if row is None else row.caption

    def fill(self, new: ManifestRow) -> ManifestRow:
        """A new row with what was set in the row of before and is not given anew."""
        row = self.rows.get(new.audio_hash)
        if row is None:
            return new
        given = new.weight is not None
        return replace(
            new,
            id=new.id if row.id == row.path else row.id,
            labels={**row.labels, **new.labels},
            weight=new.weight if given else row.weight,
            weight_above=new.weight_above if given else row.weight_above,
        )

    def set_splits(self, rows: Sequence[ManifestRow]) -> list[ManifestRow]:
        """The rows with the splits that were set by hand."""
        return [replace(row, split=self.splits.get(row.audio_hash, row.split)) for row in rows]  # type: ignore[arg-type]

    def sentences(self, rows: Sequence[ManifestRow]) -> list[str]:
        """What was kept in these rows, made of those of before, and what was not; nothing where nothing was set."""
        pairs = [(self.rows[row.audio_hash], row) for row in rows if row.audio_hash in self.rows]
        counts = {
            "labels": sum(bool(before.labels) and before.labels.items() <= now.labels.items() for before, now in pairs),
            "weights": sum(before.weight is not None and before.weight == now.weight for before, now in pairs),
            "splits": sum(now.audio_hash in self.splits for _, now in pairs),
            "ids": sum(before.id != before.path for before, _ in pairs),
        }
        kept = [f"the {name} of {counted(count, 'clip')}" for name, count in counts.items() if count]
        said = [f"kept from the manifest of before: {', '.join(kept)}; --fresh starts anew"] if kept else []
        changed = [one_line(now.id) for before, now in pairs if before.caption and before.caption != now.caption]
        if changed:
            said.append(f"another caption than before in {counted(len(changed), 'clip')}: {_named(changed)}")
        there = {row.audio_hash for row in rows}
        gone = [one_line(row.id) for digest, row in self.rows.items() if digest not in there and _is_set(row)]
        if gone:
            said.append(f"with their audio, which changed or is gone, went labels or weights of {_named(gone)}")
        return said


def _is_set(row: ManifestRow) -> bool:
    return bool(row.labels) or row.weight is not None


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


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
    except ManifestError as error:
        raise ManifestError(
            f"{str(error).rstrip('.')}; mend it, or add --fresh to make it without its labels and weights."
        ) from error
    usual = afford_held_out([replace(row, split=assign_split(row.audio_hash, row.labels)) for row in before])
    splits = {row.audio_hash: row.split for row, rule in zip(before, usual, strict=True) if row.split != rule.split}
    rows: dict[str, ManifestRow] = {}
    for row in before:
        rows.setdefault(row.audio_hash, row)
    return EarlierManifest(rows, splits)
