"""Tables of a person's own audio: what metadata.jsonl, metadata.csv and captions.csv say of each recording.

A table has a column of file names, and may have one of captions. Every further column is a label, except `weight` and
`weight_above`, which are the manifest's own; what the manifest finds out itself (`split`, ...) and what records of
clips call a measurement (`sample_rate`, ...) is not read.
"""

from __future__ import annotations

import csv
import difflib
import io
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eisbach.audio_file import is_file
from eisbach.data.label_names import is_taken
from eisbach.data.manifest import ManifestRow, row_faults
from eisbach.errors import UserError, one_line
from eisbach.files import read_jsonl, read_text, walk_files

TABLES = ("metadata.jsonl", "metadata.csv", "captions.csv")
"""Names of tables: Hugging Face's AudioFolder, or any CSV with a column of file names."""
CAPTION_COLUMNS = ("caption", "prompt", "text", "description", "transcription")
_FILE_COLUMNS = ("file_name", "filename", "file", "path", "audio")
_WEIGHT_COLUMNS = ("weight", "weight_above")
_FOUND_OUT = ("id", "duration", "audio_hash", "split", "labels")
"""Columns that are no labels: a manifest has keys of these names, which are read from the audio."""
_MOST_FIELD = 1 << 16  # characters of one cell of a table
_ALIKE = 0.82  # difflib's ratio, from which a column's name is taken for a misspelt one
_SHOWN = 10


@dataclass(frozen=True)
class TableRow:
    """What the tables say of one recording.

    Attributes
    ----------
    caption : str or None
        None where no table has a column of captions for it.
    labels : dict of str to str
        By the column's name in lower case; empty cells are left out, and true and false are lower case.
    weight, weight_above : float or None
        As `ManifestRow` has them.
    cleared : frozenset of str
        Labels and weights whose cell is there and empty: they are taken back.
    """

    caption: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    weight: float | None = None
    weight_above: float | None = None
    cleared: frozenset[str] = frozenset()


@dataclass(frozen=True)
class FolderTables:
    """Every table of a folder.

    Attributes
    ----------
    rows : dict of Path to TableRow
        By the audio's path, its accents composed.
    notes : tuple of str
        What was not read, and why.
    wordless : tuple of str
        Of each table without a column of captions, which columns it has and what to do.
    """

    rows: dict[Path, TableRow] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    wordless: tuple[str, ...] = ()

    def row(self, audio: Path) -> TableRow:
        """What is said of a recording; an empty row where nothing is."""
        return self.rows.get(composed(audio), TableRow())

    @property
    def captions(self) -> int:
        """How many recordings have a caption in a table."""
        return sum(row.caption is not None for row in self.rows.values())

    def labels_sentence(self) -> str | None:
        """Which labels the tables give, and to how many recordings; None where there are none."""
        counts: dict[str, int] = {}
        for row in self.rows.values():
            for name in row.labels:
                counts[name] = counts.get(name, 0) + 1
        if not counts:
            return None
        return "labels in a table: " + _names([f"{name} ({count})" for name, count in counts.items()])


def composed(path: Path) -> Path:
    """The path in one spelling of its accents."""
    return Path(unicodedata.normalize("NFC", str(path)))


def read_tables(folder: Path, *, strict: bool = True) -> FolderTables:
    """The tables in a folder and below it; each names files from where it lies.

    Parameters
    ----------
    folder : Path
    strict : bool
        Refuse a table that cannot be understood; otherwise it is left out with a note, which is right where captions
        come from elsewhere.

    Raises
    ------
    UserError
        A table that cannot be understood, or one file with two captions, weights or values of a label.
    """
    rows: dict[Path, TableRow] = {}
    notes: list[str] = []
    wordless: list[str] = []
    for path in sorted(path for path in walk_files(folder) if path.name in TABLES and is_file(path)):
        try:
            table = _read_table(path)
            added = table.rows
            both = {audio: _joined(rows[audio], row, audio, path) for audio, row in added.items() if audio in rows}
        except UserError as error:
            if strict:
                raise
            notes.append(f"a table is not read: {str(error).rstrip('.')}")
            continue
        rows |= added | both
        notes += table.notes
        wordless += table.wordless
    return FolderTables(rows, tuple(notes), tuple(wordless))


def _read_table(path: Path) -> FolderTables:
    """One table's rows."""
    values: Sequence[Mapping[str, Any]] = (
        read_jsonl(path, "table of captions") if path.suffix == ".jsonl" else _csv_rows(path)
    )
    columns = _columns(values, path)
    further = [name for name in columns if name and name not in (*_FILE_COLUMNS, *CAPTION_COLUMNS)]
    captioned = not further or any(name in columns for name in CAPTION_COLUMNS)
    # a misspelt column of captions would stay as a label in the manifest when it is spelt right
    near = {} if captioned else {name: _near_caption(name) for name in further if not is_taken(name)}
    misspelt = {name: column for name, column in near.items() if column is not None}
    ignored = {name for name in further if name in _FOUND_OUT or is_taken(name)}
    labels = [name for name in further if name not in ignored and name not in misspelt]
    rows: dict[Path, TableRow] = {}
    for number, row in enumerate(values, 1):
        place = f"{path}, row {number},"
        cells = {_name(key): value for key, value in row.items()}
        audio = composed(path.parent / _cell(cells, row, _FILE_COLUMNS, place))
        caption = _cell(cells, row, CAPTION_COLUMNS, place).strip() if captioned else None
        given: dict[str, str] = {}
        cleared: set[str] = set()
        for name in labels:
            text = _label(cells.get(name))
            if text is None:
                ignored.add(name)
            elif text and name not in _WEIGHT_COLUMNS:
                given[name] = text
            elif not text and name in cells:
                cleared.add(name)
        weights = {name: _weight(cells, name, place) for name in _WEIGHT_COLUMNS}
        faults = row_faults(ManifestRow(audio.name, "-", caption or "", 1.0, given, "0" * 64, "train", **weights))
        if faults:
            raise UserError(f"{place.removesuffix(',')}: {faults[0]}.")
        made = TableRow(caption, given, **weights, cleared=frozenset(cleared))
        rows[audio] = _joined(rows[audio], made, audio, path) if audio in rows else made
    notes = [f"of {path} the columns {_names(sorted(ignored))} are not read: they are no labels"] if ignored else []
    if captioned:
        return FolderTables(rows, tuple(notes))
    mend = "; ".join(f"name '{one_line(name)}' {column}" for name, column in misspelt.items())
    has = f"{path} has no column of captions (it has: {_names(columns)})"
    wordless = f"{has}; {mend or f'name the column of words {CAPTION_COLUMNS[0]}'}"
    return FolderTables(rows, tuple([wordless, *notes] if misspelt else notes), (wordless,))


def _columns(values: Sequence[Mapping[str, Any]], path: Path) -> list[str]:
    """The names of all columns, in lower case."""
    columns: dict[str, None] = {}
    for row in values:
        written: dict[str, str] = {}
        for key in map(str, row):
            if (other := written.setdefault(_name(key), key)) != key:
                raise UserError(f"{path} has the columns {other} and {key}, which are one name; rename one of them.")
        columns |= dict.fromkeys(written)
    return list(columns)


def _near_caption(name: str) -> str | None:
    """The column of captions that a name is nearly."""
    return next(iter(difflib.get_close_matches(name, CAPTION_COLUMNS, 1, _ALIKE)), None)


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(one_line, names[:_SHOWN])) + more


def _joined(first: TableRow, second: TableRow, audio: Path, path: Path) -> TableRow:
    """What two rows say of one recording, where they do not contradict each other."""
    if None not in (first.caption, second.caption) and first.caption != second.caption:
        raise UserError(f"{path} gives {one_line(audio.name)} a second, different caption; keep one.")
    for name, value in second.labels.items():
        if first.labels.get(name, value) != value:
            raise UserError(f"{path} gives {one_line(audio.name)} a second, different {one_line(name)}; keep one.")
    for name in _WEIGHT_COLUMNS:
        one, other = getattr(first, name), getattr(second, name)
        if None not in (one, other) and one != other:
            raise UserError(f"{path} gives {one_line(audio.name)} a second, different {name}; keep one.")
    joined = replace(
        second,
        caption=first.caption if second.caption is None else second.caption,
        labels=first.labels | second.labels,
        weight=first.weight if second.weight is None else second.weight,
        weight_above=first.weight_above if second.weight_above is None else second.weight_above,
    )
    given = {*joined.labels, *(name for name in _WEIGHT_COLUMNS if getattr(joined, name) is not None)}
    return replace(joined, cleared=(first.cleared | second.cleared) - given)


def _csv_rows(path: Path) -> list[dict[str, str]]:
    text = read_text(path, "table of captions")
    before = csv.field_size_limit(_MOST_FIELD)
    try:
        head = text.partition("\n")[0]
        separator = max(",;\t", key=head.count)
        reader = csv.DictReader(io.StringIO(text), delimiter=separator)
        names = reader.fieldnames or ()
        if twice := next((name for name in names if name and list(names).count(name) > 1), None):
            raise UserError(f"{path} has the column {one_line(twice)} twice; keep one of them.")
        rows = []
        for row in reader:
            if any(cell.strip() for cell in row.pop(None, ())):  # type: ignore[call-overload]
                raise UserError(
                    f"{path}, line {reader.line_num}, has more cells than the head has columns; put text that holds "
                    f"a '{separator}' in double quotes."
                )
            rows.append({str(key): value or "" for key, value in row.items()})
        return rows
    except csv.Error as error:
        raise UserError(f"{path} is no table ({error}); write a CSV with the columns file_name and caption.") from error
    finally:
        csv.field_size_limit(before)


def _name(column: object) -> str:
    return str(column).strip().lower()


def _cell(cells: Mapping[str, Any], row: Mapping[str, Any], columns: Sequence[str], place: str) -> str:
    """The text of the first column of these names that the row has."""
    column = next((name for name in columns if name in cells), None)
    if column is None or not isinstance(cells[column], str):
        have = one_line(", ".join(map(str, row)))
        raise UserError(f"{place.removesuffix(',')} has no text under {' or '.join(columns)} (it has: {have[:100]}).")
    return str(cells[column])


def _label(value: object) -> str | None:
    """A label as text: "" where there is none, and None where it is a list or a group."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        return None
    text = str(value).strip()
    return text.lower() if text.lower() in ("true", "false") else text  # spreadsheets write TRUE


def _weight(cells: Mapping[str, Any], name: str, place: str) -> float | None:
    text = _label(cells.get(name))
    if not text:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{place} has {name} '{one_line(text)}'; write a number, such as 0.5.") from error
