"""Tidy rows of results: one row a generated clip, with its keys and one column a metric.

Keys are `arm` (str), `train_seed` (int or None), `prompt_id` (str), `seed` (int or str) and `path` (POSIX, relative to
the folder that holds the records where possible). Every other column is a value: a metric (number, bool or None) or
a note (str). None means that the value is not defined for that clip; NaN is read as None, infinity is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from eisbach.errors import UserError
from eisbach.files import atomic_write, read_jsonl, write_jsonl
from eisbach.statistics.effect_size import Direction
from eisbach.types import Record, RecordValue

_KEYS = ("arm", "train_seed", "prompt_id", "seed", "path")
"""The columns that say which clip a row is about, in the order in which they are written."""

_REQUIRED = ("arm", "prompt_id", "seed", "path")
_SHOWN_FAULTS = 5
_PLAIN = frozenset({str, int, bool, type(None)})
"""What nearly every value is: recognised by identity, because records of a large study hold a million of them."""


class RecordError(UserError):
    """Records that cannot be used; the message names the rows and columns at fault."""


def validate_records(rows: Iterable[Mapping[str, Any]], source: str = "the records") -> list[Record]:
    """The rows, checked, with all columns present in every row (None where a row lacks one) and keys first.

    Parameters
    ----------
    rows : iterable of mapping
        At least `arm`, `prompt_id`, `seed` and `path`; `train_seed` is None where it is missing.
    source : str
        What the rows are called in an error message.

    Raises
    ------
    RecordError
        A missing or ill-typed key, an infinite value, a value that is not a plain scalar, a column that mixes
        text with numbers, or two rows with the same arm, train_seed, prompt_id and seed. Faults are listed together.
    """
    faults: list[str] = []
    cleaned: list[Record] = []
    columns: dict[str, None] = dict.fromkeys(_KEYS)
    first_seen: dict[tuple[RecordValue, ...], int] = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            faults.append(f"row {number} is a {type(row).__name__}, not a mapping")
            continue
        values = {str(key): _plain(value) for key, value in row.items()}
        faults += [f"row {number} {fault}" for fault in _row_faults(values)]
        identity = (values.get("arm"), values.get("train_seed"), values.get("prompt_id"), values.get("seed"))
        if not all(isinstance(part, str | int | float | None) for part in identity):
            continue  # a fault of the row, said above
        if identity in first_seen:
            faults.append(
                f"row {number} repeats row {first_seen[identity]} (arm {identity[0]!r}, train_seed {identity[1]!r}, "
                f"prompt_id {identity[2]!r}, seed {identity[3]!r})"
            )
        first_seen.setdefault(identity, number)
        columns.update(dict.fromkeys(values))
        cleaned.append(values)
    faults += _column_faults(cleaned, list(columns))
    if faults:
        more = f"; and {len(faults) - _SHOWN_FAULTS} more" if len(faults) > _SHOWN_FAULTS else ""
        raise RecordError(
            f"{source} cannot be used: {'; '.join(faults[:_SHOWN_FAULTS])}{more}; each row needs arm, prompt_id, seed, "
            "path and plain values, once a clip."
        )
    return [{column: row.get(column) for column in columns} for row in cleaned]


def _plain(value: Any) -> Any:
    """Numpy scalars as Python's own; NaN as None; everything else untouched."""
    kind = type(value)
    if kind is float:
        return None if value != value else value
    if kind in _PLAIN or isinstance(value, str):
        return value
    if type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return None if math.isnan(float(value)) else float(value)
    return value


def _row_faults(row: Mapping[str, Any]) -> list[str]:
    faults = [f"lacks '{key}'" for key in _REQUIRED if row.get(key) is None]
    for key in ("arm", "prompt_id", "path"):
        value = row.get(key)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            faults.append(f"has {key} = {value!r}, which must be text that is not empty")
    if isinstance(row.get("seed"), bool) or not isinstance(row.get("seed"), int | str | None):
        faults.append(f"has seed = {row['seed']!r}, which must be a whole number or text")
    if isinstance(row.get("train_seed"), bool) or not isinstance(row.get("train_seed"), int | None):
        faults.append(f"has train_seed = {row['train_seed']!r}, which must be a whole number or None")
    for key, value in row.items():
        kind = type(value)
        if kind is not float and kind not in _PLAIN and not isinstance(value, str | int | float):
            faults.append(f"has {key} of type {type(value).__name__}, which is not text, number, bool or None")
        elif kind is float and math.isinf(value):
            faults.append(f"has {key} = {value}, which is infinite")
    return faults


def _column_faults(rows: Sequence[Record], columns: Sequence[str]) -> list[str]:
    faults = []
    for column in columns:
        kinds = {_kind(kind) for kind in {type(row.get(column)) for row in rows} - {type(None)}}
        if len(kinds) > 1 and column != "seed":
            faults.append(f"column '{column}' mixes {' and '.join(sorted(kinds))}")
    return faults


def _kind(kind: type) -> str:
    if issubclass(kind, bool):
        return "true/false"
    return "text" if issubclass(kind, str) else "numbers"


def save_records(rows: Iterable[Mapping[str, Any]], folder: str | Path, name: str = "records") -> list[Path]:
    """Writes `folder/name.jsonl` and `folder/name.parquet`, each atomically; returns both paths.

    Raises
    ------
    RecordError
        As `validate_records`.
    StorageError
        The disk is full or the folder cannot be written.
    """
    checked = validate_records(rows)
    folder = Path(folder)
    jsonl, parquet = folder / f"{name}.jsonl", folder / f"{name}.parquet"
    write_jsonl(jsonl, checked)
    atomic_write(parquet, lambda partial: _write_parquet(partial, checked))
    return [jsonl, parquet]


def _write_parquet(path: Path, rows: Sequence[Record]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = list(rows[0]) if rows else list(_KEYS)
    mixed_seed = len({type(row["seed"]) for row in rows}) > 1
    arrays = {}
    for column in columns:
        values: list[Any] = [row[column] for row in rows]
        if column == "seed" and mixed_seed:
            values = [str(value) for value in values]
        if any(isinstance(value, float) for value in values):
            values = [None if value is None else float(value) for value in values]
        arrays[column] = pa.array(values, type=pa.string() if not rows else None)
    pq.write_table(pa.table(arrays), str(path))


def load_records(path: str | Path) -> list[Record]:
    """The checked rows of a `.jsonl` or `.parquet` file, or of the folder that holds `records.jsonl` or `.parquet`.

    Raises
    ------
    RecordError
        The file is missing, is of another kind, is truncated or holds rows that `validate_records` refuses.
    """
    path = Path(path)
    if path.is_dir():
        files = [path / name for name in ("records.jsonl", "records.parquet") if (path / name).is_file()]
        if not files:
            raise RecordError(
                f"the folder {path} holds neither records.jsonl nor records.parquet; run an experiment first."
            )
        path = files[0]
    if path.suffix == ".jsonl":
        return validate_records(read_jsonl(path, "records file"), str(path))
    if path.suffix != ".parquet":
        raise RecordError(f"{path} ends in '{path.suffix}'; records are read from .jsonl or .parquet files.")
    return validate_records(_read_parquet(path), str(path))


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise RecordError(f"the records file {path} does not exist; check the path.")
    try:
        rows: list[dict[str, Any]] = pq.ParquetFile(str(path)).read().to_pylist()
        return rows
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are not UTF-8
        raise RecordError(
            f"the records file {path} is truncated or not Parquet ({' '.join(str(error).split())[:120]}); "
            "write it again or use the .jsonl file beside it."
        ) from error


def value_columns(rows: Sequence[Record]) -> list[str]:
    """The columns that hold numbers or true/false in at least one row: the metrics, in their own order."""
    columns: dict[str, None] = {}
    for row in rows:
        for column, value in row.items():
            if column not in _KEYS and value is not None and not isinstance(value, str):
                columns.setdefault(column, None)
    return list(columns)


def arms_of(rows: Sequence[Record]) -> list[str]:
    """The names of the arms, in order of first appearance."""
    return list(dict.fromkeys(str(row["arm"]) for row in rows))


# --- what a reader must know of a measure before its numbers mean anything


@dataclass(frozen=True)
class MetricInfo:
    """How one column of the records is read.

    Attributes
    ----------
    name : str
        Column.
    label : str
        What people see, lower case.
    unit : str
        'dB', 's', …; empty when it has none.
    better : 'higher', 'lower', 'nearer' or None
        The direction that was declared as wanted; 'nearer' wants small distances to a reference; None describes.
    primary : bool
        Declared before looking: corrected by Holm; everything else is exploratory.
    meaning : str
        One sentence for somebody who has not seen the formula.
    outcome : str
        For a share: what happened to the clips that count, as in '9% of the pieces *came out flat*'.
    share : bool
        The values are true/false, shown as percentages.
    margin : float or None
        Differences smaller than this count as none (for the equivalence test); None takes half a standard deviation
        of the baseline's clips.
    contradicted_by : str
        What speaks against a measure that is shown as a paper prints it; empty for all others.
    """

    name: str
    label: str
    unit: str = ""
    better: Direction = None
    primary: bool = False
    meaning: str = ""
    outcome: str = ""
    share: bool = False
    margin: float | None = None
    contradicted_by: str = ""


def choose_metrics(
    infos: Sequence[MetricInfo],
    names: Sequence[str] = (),
    primary: Sequence[str] | Mapping[str, Direction] = (),
) -> list[MetricInfo]:
    """The metrics named (all when none is), with `primary` declared in place of the defaults when it is given.

    A mapping as `primary` also declares which direction is wanted.

    Raises
    ------
    UserError
        A name that is not among `infos`, or a primary metric that was not chosen.
    """
    known = {info.name: info for info in infos}
    wrong = [name for name in (*names, *primary) if name not in known]
    if wrong:
        raise UserError(
            f"no clip has a value for the metric {', '.join(repr(name) for name in wrong)}; the measured ones are: "
            f"{', '.join(known) or 'none'}."
        )
    chosen = [known[name] for name in dict.fromkeys(names)] if names else list(infos)
    left_out = [name for name in primary if name not in {info.name for info in chosen}]
    if left_out:
        raise UserError(
            f"the primary metric {', '.join(left_out)} is not among the metrics asked for; add it to --metrics."
        )
    if primary:
        chosen = [replace(info, primary=info.name in primary) for info in chosen]
        order = list(primary)
        chosen.sort(key=lambda info: order.index(info.name) if info.primary else len(order))
    if isinstance(primary, Mapping):
        chosen = [replace(info, better=primary.get(info.name, info.better)) for info in chosen]
    return chosen
