"""Which clips of two sets belong together: by labels, by name, or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eisbach.errors import UserError
from eisbach.types import Record

AUTO, PROMPT, NAME, NONE = "auto", "prompt", "name", "none"
_PROMPT_COLUMNS = ("prompt_id", "seed")
_NAME_COLUMN = " name"  # never a label: labels have no blanks at their ends
_LEAST_OVERLAP = 0.5  # share of clips with an equal name from which equal names are no chance


@dataclass(frozen=True)
class Matching:
    """Records laid out for the statistics.

    Attributes
    ----------
    rows : list of Record
        With `arm` (the set's name), `train_seed`, `prompt_id` and `seed`.
    unmatched : list of str
        Sets whose clips could not be matched with the first set's.
    how : str
        One or two sentences on how clips were matched and what counts as one.
    by : 'prompt', 'name', 'none' or str
        What matched them; other labels are joined by commas.
    """

    rows: list[Record]
    unmatched: list[str]
    how: str
    by: str


def match_sets(
    sets: Mapping[str, Sequence[Record]],
    pair: str = AUTO,
    *,
    names: Mapping[str, str] | None = None,
    side_by_side: bool = False,
) -> Matching:
    """The clips of every set keyed so that those of the first set and their partners stand side by side.

    'auto' matches by prompt and seed where manifests name them; else by name, where sets were named `side_by_side` and
    a set shares at least half of its clips' names (or of the first set's, if those are fewer) with the first: a few
    names in common are chance. A set that finds no partners stays unmatched while the others are matched.

    Parameters
    ----------
    sets : mapping of str to sequence of Record
        The first one is what the others are compared with. Rows have `id`, `path` and whatever labels there are.
    pair : str
        'auto'; 'prompt' (prompt_id and seed); 'name'; 'none'; or a comma-separated list of labels, the first of which
        is the unit of inference.
    names : mapping of str to str or None
        What each clip is called, by path (`ClipSets.names`); None takes the ids.

    Raises
    ------
    UserError
        Labels that are missing or match nothing.
    """
    order = list(sets)
    for columns, least in _ways(pair, side_by_side):
        keyed = {name: _keyed(name, _named(rows, columns, names), columns) for name, rows in sets.items()}
        first = keyed[order[0]]
        matched = [
            name
            for name in order[1:]
            if first is not None and (own := keyed[name]) is not None and 0.0 < _overlap(own, first) >= least
        ]
        if matched:
            rows = [
                row
                for name, own in sets.items()
                for row in ((keyed[name] if name in (*matched, order[0]) else None) or _unkeyed(name, own))
            ]
            unmatched = [name for name in order[1:] if name not in matched]
            return Matching(rows, unmatched, _how(unmatched, columns, rows), _by(columns))
    if pair not in (AUTO, NONE) and len(order) > 1:
        columns = _ways(pair, side_by_side)[0][0]
        raise UserError(
            f"the sets share no values of {' and '.join(_words(columns))} with '{order[0]}', so nothing can be "
            "matched by "
            "them; use --pair none, or labels that the manifests name."
        )
    how = (
        "Nothing matches the clips of one set with those of another, so every clip counts as one."
        if len(order) > 1
        else "There is one set, so nothing is compared; intervals are of its mean, with every clip counting as one."
    )
    return Matching([row for name, own in sets.items() for row in _unkeyed(name, own)], order[1:], how, NONE)


def _ways(pair: str, side_by_side: bool) -> list[tuple[tuple[str, ...], float]]:
    """The labels to try, in order, and the least overlap that each needs."""
    if pair == NONE:
        return []
    if pair == AUTO:
        return [(_PROMPT_COLUMNS, 0.0), *([((_NAME_COLUMN,), _LEAST_OVERLAP)] if side_by_side else [])]
    if pair in (PROMPT, NAME):
        return [(_PROMPT_COLUMNS if pair == PROMPT else (_NAME_COLUMN,), 0.0)]
    columns = tuple(part.strip() for part in pair.split(",") if part.strip())
    if not columns:
        raise UserError("--pair is empty; name labels as in prompt_id,seed, or one of auto, prompt, name and none.")
    return [(columns, 0.0)]


def _named(rows: Sequence[Record], columns: Sequence[str], names: Mapping[str, str] | None) -> Sequence[Record]:
    if _NAME_COLUMN not in columns:
        return rows
    return [{**row, _NAME_COLUMN: row["id"] if names is None else names[str(row["path"])]} for row in rows]


def _keyed(name: str, rows: Sequence[Record], columns: Sequence[str]) -> list[Record] | None:
    """The set's rows with `prompt_id`, `seed` and `train_seed`; None when they lack a column or repeat a key."""
    if any(row.get(column) is None for row in rows for column in columns):
        return None
    keys = [tuple(str(row[column]) for column in columns) for row in rows]
    folders = [str(Path(str(row["path"])).parent) for row in rows]
    labels = [str(row.get("train_seed") or "") for row in rows]
    trained: list[int | None] = [int(text) if text.isdigit() else None for text in labels]
    if len(set(zip(keys, trained, strict=True))) < len(rows):
        # The same prompts and seeds from several folders are those of several trained models.
        number = {folder: index for index, folder in enumerate(dict.fromkeys(folders))}
        trained = [number[folder] for folder in folders]
    if len(set(zip(keys, trained, strict=True))) < len(rows):
        return None
    keyed = []
    for row, key, model in zip(rows, keys, trained, strict=True):
        kept: dict[str, Any] = {column: value for column, value in row.items() if column != _NAME_COLUMN}
        kept |= {"arm": name, "train_seed": model, "prompt_id": key[0], "seed": "/".join(key[1:]) or "0"}
        keyed.append(kept)
    return keyed


def _unkeyed(name: str, rows: Sequence[Record]) -> list[Record]:
    """Every clip as a unit of its own."""
    ids = Counter(str(row["id"]) for row in rows)
    return [
        {
            **row,
            "arm": name,
            "train_seed": None,
            "prompt_id": str(row["id"]) if ids[str(row["id"])] == 1 else str(row["path"]),
            "seed": "0",
        }
        for row in rows
    ]


def _overlap(own: Sequence[Record], first: Sequence[Record]) -> float:
    """Share of the clips that have a partner, of the smaller side's."""
    mine, theirs = ({(row["prompt_id"], row["seed"]) for row in rows} for rows in (own, first))
    return len(mine & theirs) / max(1, min(len(mine), len(theirs)))


def _by(columns: Sequence[str]) -> str:
    known = {_PROMPT_COLUMNS: PROMPT, (_NAME_COLUMN,): NAME}
    return known.get(tuple(columns), ",".join(columns))


def _words(columns: Sequence[str]) -> list[str]:
    return [{"prompt_id": "prompt", "id": "name"}.get(column, column.strip()) for column in columns]


def _how(unmatched: Sequence[str], columns: Sequence[str], rows: Sequence[Record]) -> str:
    models = any(row.get("train_seed") is not None for row in rows)
    words = _words(columns)
    inside = f", its {' and '.join(words[1:])}s averaged" if len(words) > 1 else ""
    unit = "trained model (each folder of the same prompts and seeds is taken for one)" if models else words[0]
    text = (
        f"Clips were matched by {' and '.join(words)}, and what counts as one is the {unit}{'' if models else inside}."
    )
    if unmatched:
        text += f" {' and '.join(unmatched)} could not be matched: every clip of it counts as one."
    return text
