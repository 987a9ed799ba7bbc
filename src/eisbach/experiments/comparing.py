"""Records of analysed clips as sets to compare: what differs, by how much, and what so few clips can show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from eisbach.errors import UserError
from eisbach.experiments.measures import (
    HEARD,
    condition_notes,
    duplicate_notes,
    known_metrics,
    length_faults,
    power_notes,
)
from eisbach.experiments.reference import Reference, beside_reference
from eisbach.experiments.sets import short_names
from eisbach.statistics.comparison import withhold
from eisbach.statistics.records import MetricInfo, choose_metrics, validate_records
from eisbach.statistics.results import Results, evaluate, summarise_arm
from eisbach.statistics.sets import Sets, spread
from eisbach.structure.metrics import METRICS
from eisbach.types import Record

AUTO, PROMPT, NAME, NONE = "auto", "prompt", "name", "none"
"""What clips are matched by."""
_GATHERED = 20_000_000  # values that the bootstrap of unmatched sets may hold at once


def compare_sets(
    records: Sequence[Record],
    *,
    pair: str = AUTO,
    baseline: str | None = None,
    oracle: str | None = None,
    metrics: Sequence[str] = (),
    primary: Sequence[str] | Mapping[str, Literal["higher", "lower"] | None] = (),
    names: Mapping[str, str] | None = None,
    side_by_side: bool = False,
    reference: Reference | None = None,
    rows: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    seed: int = 0,
) -> Sets:
    """The sets that records fall into by `group`, compared with the first of them (or with `baseline`).

    Sets whose clips differ in length get numbers and no verdict (`Sets.refused` says why): most measures grow with it.

    Parameters
    ----------
    records : sequence of Record
        Of `structure.analyze_files`, with the keys `id` and `group` and whatever labels the manifests had.
    pair, names, side_by_side
        How clips are matched, as `match_sets` takes them.
    baseline, oracle : str or None
        A set's name or group: what the others are compared with, and the oracle whose gain is the yardstick of the
        recovered shares.
    metrics : sequence of str
        What to compare; all unless named.
    primary : sequence of str, or mapping to 'higher', 'lower' or None
        What decides, declared before looking. A direction makes the verdict 'better' or 'worse'; without one it is
        'higher' or 'lower', because a description takes no side.
    reference, rows : Reference or None, mapping or None
        Music that the sets are held against, and the rows of their clips by embedding and path.

    Raises
    ------
    UserError
        An unknown baseline, oracle or metric, or labels that the clips lack or that match nothing.

    Examples
    --------
    >>> rows = [
    ...     {"id": f"p{n}", "group": group, "path": f"{group}/{n}.flac", "prompt_id": f"p{n}", "seed": "0",
    ...      "duration": 30.0, "block_strength": 0.1 + 0.01 * n + gain + 0.001 * (n % 3)}
    ...     for group, gain in (("plain", 0.0), ("barrier", 0.05))
    ...     for n in range(8)
    ... ]
    >>> sets = compare_sets(rows, baseline="plain", metrics=["block_strength"])
    >>> found = sets.comparison("barrier", "block_strength")
    >>> round(found.difference, 3), found.verdict, sets.by
    (0.05, 'higher', 'prompt')
    """
    by_set = sets_of(records, baseline, oracle=oracle)
    order = list(by_set)
    oracle = None if oracle is None else _named_set("--oracle", oracle, by_set)
    matching = match_sets(by_set, pair, names=names, side_by_side=side_by_side)
    checked = validate_records(matching.rows, "the analysed clips")
    known = _described(checked)
    chosen = choose_metrics(known, metrics, primary)
    printed = [info for info in chosen if info.contradicted_by]
    shown = [info for info in chosen if info not in printed]
    refused = length_faults(checked, order, matching.unmatched)
    results = _evaluated(checked, [*shown, *printed], order, oracle, matching, seed) if len(order) > 1 else None
    results = results and _withheld(results, refused)
    summaries = results.summaries if results is not None else {
        (order[0], info.name): summarise_arm(checked, info.name, order[0], seed=seed) for info in chosen
    }  # fmt: skip
    spreads = {(name, info.name): spread(checked, name, info.name) for name in order for info in chosen}
    notes = [*power_notes(results, refused), *condition_notes(checked, lengths=not refused), *duplicate_notes(checked)]
    if not known:
        notes.insert(0, "No metric is defined for any of these clips: they need at least a few seconds of sound each.")
    near = None if reference is None else beside_reference(
        checked, reference, shown, order, rows=rows, unmatched=matching.unmatched, refused=refused, seed=seed
    )  # fmt: skip
    notes = [*(near.notes if near is not None else ()), *notes]
    return Sets(
        order, checked, shown, printed, summaries, spreads, results, matching.how, notes, matching.by, refused, near
    )


def sets_of(
    records: Sequence[Record], baseline: str | None = None, *, oracle: str | None = None
) -> dict[str, list[Record]]:
    """The records by the short name of their set, the baseline's first.

    Raises
    ------
    UserError
        No set is called like the baseline or the oracle, or they are the same.
    """
    short = short_names(list(dict.fromkeys(str(row["group"]) for row in records)))
    by_set: dict[str, list[Record]] = {name: [] for name in short.values()}
    for row in records:
        by_set[short[str(row["group"])]].append(row)
    first = next(iter(by_set)) if baseline is None else _named_set("--baseline", baseline, by_set)
    if oracle is not None and _named_set("--oracle", oracle, by_set) == first:
        raise UserError(f"--oracle and the baseline are both '{first}'; they must be different sets.")
    return {first: by_set[first], **by_set}


def _named_set(role: str, name: str, by_set: Mapping[str, Sequence[Record]]) -> str:
    """The set that a person's word means: its short name or its group."""
    for known, rows in by_set.items():
        if name in (known, str(rows[0]["group"])):
            return known
    raise UserError(f"{role} is '{name}', which is not among the sets {', '.join(by_set)}; name one of them.")


def _described(rows: list[Record]) -> list[MetricInfo]:
    """The measures of structure, notes and flatness that the rows hold, without a direction."""
    known = (*METRICS, *HEARD, "is_flat", "flat_probability")
    return [replace(info, better=None) for info in known_metrics(rows) if info.name in known]


def _evaluated(
    rows: list[Record], metrics: list[MetricInfo], order: list[str], oracle: str | None, matching: Matching, seed: int
) -> Results:
    largest = max(Counter(str(row["arm"]) for row in rows).values())
    return evaluate(
        rows, metrics, order[0], arms=order, oracle=oracle, unmatched=matching.unmatched, seed=seed,
        paired=len(matching.unmatched) < len(order) - 1, n_resamples=min(9_999, max(999, _GATHERED // largest)),
    )  # fmt: skip


def _withheld(results: Results, refused: Mapping[str, str]) -> Results:
    """The results without verdicts on sets that cannot be compared; their numbers stay, recovered shares of them go."""
    return replace(
        results,
        comparisons=withhold(results.comparisons, refused),
        checkpoint_comparisons=withhold(results.checkpoint_comparisons, refused),
        recovered=[share for share in results.recovered if not {share.arm, share.oracle} & refused.keys()],
    )


# --- which clips of two sets belong together: by labels, by name, or not at all

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
