"""Records of analysed clips as sets to compare: how clips are matched, what the unit is, what so few of them can show."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eisbach.errors import UserError
from eisbach.experiments.folders import condition_notes
from eisbach.experiments.measures import known_metrics
from eisbach.report.structure.inputs import short_names
from eisbach.statistics.comparison import ArmSummary, Comparison, summarise_arm
from eisbach.statistics.metric_info import MetricInfo, choose_metrics
from eisbach.statistics.records import validate_records
from eisbach.statistics.results import Results, evaluate
from eisbach.structure.metrics import METRICS
from eisbach.types import Record

AUTO, NONE, NAME = "auto", "none", "name"
_DEFAULT_PAIR = ("prompt_id", "seed")
_GATHERED = 20_000_000  # values that the bootstrap of unmatched sets may hold at once
_POWER = 2.8  # z(0.975) + z(0.8): what a test at 5% finds four times out of five, in standard errors


@dataclass(frozen=True)
class Sets:
    """Sets of clips and what the statistics say about them.

    Attributes
    ----------
    names : list of str
        What the sets are called; the first is the reference.
    records : list of Record
        With `arm` (the set's name), `prompt_id`, `seed` and `train_seed` as the statistics read them; the analysis' own `id`,
        `group` and labels beside them.
    metrics, printed : list of MetricInfo
        What is compared; `printed` are the paper's own quantities that ground truth contradicts.
    summaries : dict of (set, metric) to ArmSummary
    spreads : dict of (set, metric) to float or None
        Standard deviation over clips; None for fewer than two.
    results : Results or None
        None for a single set.
    how : str
        One or two sentences on how clips were matched and what counts as one.
    notes : list of str
        What a reader must know before trusting a difference.
    """

    names: list[str]
    records: list[Record]
    metrics: list[MetricInfo]
    printed: list[MetricInfo]
    summaries: dict[tuple[str, str], ArmSummary]
    spreads: dict[tuple[str, str], float | None]
    results: Results | None
    how: str
    notes: list[str]

    @property
    def paired(self) -> bool:
        """Whether any set was matched with the reference clip by clip."""
        return self.results is not None and self.results.paired

    def comparison(self, name: str, metric: str) -> Comparison | None:
        """A set against the reference by one metric."""
        if self.results is None:
            return None
        return next((one for one in self.results.comparisons if (one.arm, one.metric) == (name, metric)), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values: the sets, their means, and every comparison with its interval, effect size and p."""
        means = {
            name: {
                info.name: {
                    "mean": _number(self.summaries[name, info.name].mean),
                    "sd": self.spreads[name, info.name],
                    "n": self.summaries[name, info.name].n_clips,
                }
                for info in (*self.metrics, *self.printed)
            }
            for name in self.names
        }
        printed = {info.name: METRICS[info.name].contradicted_by for info in self.printed}
        return {
            "sets": {name: sum(row["arm"] == name for row in self.records) for name in self.names},
            "reference": self.names[0],
            "matching": self.how,
            "notes": self.notes,
            "means": means,
            "contradicted_by_ground_truth": printed,
            "statistics": None if self.results is None else self.results.to_json(),
        }


def compare(
    records: Sequence[Record],
    *,
    pair: str = AUTO,
    baseline: str | None = None,
    metrics: Sequence[str] = (),
    primary: Sequence[str] = (),
    seed: int = 0,
) -> Sets:
    """The sets that records fall into by `group`, compared with the first of them (or with `baseline`).

    Parameters
    ----------
    records : sequence of Record
        Of `structure.analyze_files`, with the keys `id` and `group` and whatever labels the manifests had.
    pair : str
        'auto' matches by prompt_id and seed where both sets name them; 'none' by nothing; 'name' by the clips' ids; anything
        else is a comma-separated list of labels, the first of which is the unit of inference ('prompt_id,seed').
    baseline : str or None
        A set's name or group.
    metrics, primary : sequence of str
        As `metric_info.choose_metrics`.

    Raises
    ------
    UserError
        An unknown baseline or metric, or labels that the clips lack or that match nothing.
    """
    groups = list(dict.fromkeys(str(row["group"]) for row in records))
    names = short_names(groups)
    if baseline is not None:
        first = next((group for group in groups if baseline in (group, names[group])), None)
        if first is None:
            raise UserError(f"the baseline '{baseline}' is not among the sets {', '.join(names.values())}; name one.")
        groups = [first, *(group for group in groups if group != first)]
    order = [names[group] for group in groups]
    rows, unmatched, how = _matched(records, names, order, pair)
    checked = validate_records(rows, "the analysed clips")
    known = [
        info for info in known_metrics(checked) if info.name in METRICS or info.name in ("is_flat", "flat_probability")
    ]
    chosen = [
        replace(info, better=None) for info in choose_metrics(known, metrics, primary)
    ]  # a description takes no side
    printed = [info for info in chosen if info.name in METRICS and METRICS[info.name].as_printed]
    shown = [info for info in chosen if info not in printed]
    results = None
    if len(order) > 1:
        largest = max(Counter(str(row["arm"]) for row in checked).values())
        results = evaluate(
            checked, [*shown, *printed], order[0], arms=order, paired=len(unmatched) < len(order) - 1, unmatched=unmatched,
            seed=seed, n_resamples=min(9_999, max(999, _GATHERED // largest)),
        )  # fmt: skip
        summaries = results.summaries
    else:
        summaries = {(order[0], info.name): summarise_arm(checked, info.name, order[0], seed=seed) for info in chosen}
    spreads = {(name, info.name): _spread(checked, name, info.name) for name in order for info in chosen}
    notes = [*_power_notes(results), *condition_notes(checked), *_duplicate_notes(checked)]
    if not known:
        notes.insert(0, "No metric is defined for any of these clips: they need at least a few seconds of sound each.")
    return Sets(order, checked, shown, printed, summaries, spreads, results, how, notes)


def check_pairing(keys: Sequence[Mapping[str, Any]], pair: str, paths: Sequence[str]) -> None:
    """Refuses a `pair` that can match nothing, by the clips' keys (with `id` and `group`) alone, before they are analysed.

    Raises
    ------
    UserError
        As `compare`.
    """
    rows: list[Record] = [{**one, "path": path} for one, path in zip(keys, paths, strict=True)]
    groups = list(dict.fromkeys(str(row["group"]) for row in rows))
    names = short_names(groups)
    _matched(rows, names, [names[group] for group in groups], pair)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _spread(records: Sequence[Record], name: str, metric: str) -> float | None:
    values = [float(row[metric]) for row in records if row["arm"] == name and row.get(metric) is not None]  # type: ignore[arg-type]
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _matched(
    records: Sequence[Record], names: dict[str, str], order: Sequence[str], pair: str
) -> tuple[list[Record], list[str], str]:
    """Rows with the keys that the statistics match by, the sets that cannot be matched, and how in words."""
    by_set: dict[str, list[Record]] = {name: [] for name in order}
    for row in records:
        by_set[names[str(row["group"])]].append(row)
    columns = _columns(pair)
    keyed = {name: _keyed(name, rows, columns) for name, rows in by_set.items()} if columns else {}
    first = keyed.get(order[0])
    matched = [
        name
        for name in order[1:]
        if first is not None and (own := keyed.get(name)) is not None and _keys(own) & _keys(first)
    ]
    if columns and not matched and pair != AUTO and len(order) > 1:
        raise UserError(
            f"the sets share no values of {' and '.join(columns)} with '{order[0]}', so nothing can be matched by them; "
            "use --pair none, or labels that the manifests name."
        )
    rows: list[Record] = []
    for name, own in by_set.items():
        use = keyed.get(name) if matched and (name in matched or name == order[0]) else None
        rows += use if use is not None else _unkeyed(name, own)
    unmatched = [name for name in order[1:] if name not in matched]
    return rows, unmatched, _how(order, matched, unmatched, columns, rows)


def _columns(pair: str) -> tuple[str, ...]:
    if pair == NONE:
        return ()
    if pair == NAME:
        return ("id",)
    if pair == AUTO:
        return _DEFAULT_PAIR
    columns = tuple(part.strip() for part in pair.split(",") if part.strip())
    if not columns:
        raise UserError("--pair is empty; name labels as in prompt_id,seed, or one of auto, name and none.")
    return columns


def _keyed(name: str, rows: Sequence[Record], columns: Sequence[str]) -> list[Record] | None:
    """The set's rows with `prompt_id`, `seed` and `train_seed`; None when they lack a column or repeat a key."""
    if any(row.get(column) is None for row in rows for column in columns):
        return None
    keys = [tuple(str(row[column]) for column in columns) for row in rows]
    folders = [str(Path(str(row["path"])).parent) for row in rows]
    trained: list[Any] = [str(row.get("train_seed") or "") for row in rows]
    trained = [int(text) if text.isdigit() else None for text in trained]
    if len(set(zip(keys, trained, strict=True))) < len(rows):
        # The same prompts and seeds from several folders are those of several trained models.
        number = {folder: index for index, folder in enumerate(dict.fromkeys(folders))}
        trained = [number[folder] for folder in folders]
    if len(set(zip(keys, trained, strict=True))) < len(rows):
        return None
    return [
        {**row, "arm": name, "train_seed": model, "prompt_id": key[0], "seed": "/".join(key[1:]) or "0"}
        for row, key, model in zip(rows, keys, trained, strict=True)
    ]


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


def _keys(rows: Sequence[Record]) -> set[tuple[str, str]]:
    return {(str(row["prompt_id"]), str(row["seed"])) for row in rows}


def _how(
    order: Sequence[str],
    matched: Sequence[str],
    unmatched: Sequence[str],
    columns: Sequence[str],
    rows: Sequence[Record],
) -> str:
    if len(order) == 1:
        return "There is one set, so nothing is compared; intervals are of its mean, with every clip counting as one."
    if not matched:
        return "Nothing matches the clips of one set with those of another, so every clip counts as one."
    models = any(row.get("train_seed") is not None for row in rows)
    words = [{"prompt_id": "prompt", "id": "name"}.get(column, column) for column in columns]
    inside = f", its {' and '.join(words[1:])}s averaged" if len(words) > 1 else ""
    unit = "trained model (each folder of the same prompts and seeds is taken for one)" if models else words[0]
    text = (
        f"Clips were matched by {' and '.join(words)}, and what counts as one is the {unit}{'' if models else inside}."
    )
    if unmatched:
        text += f" {' and '.join(unmatched)} could not be matched: every clip of it counts as one."
    return text


def _duplicate_notes(records: Sequence[Record]) -> list[str]:
    """Recordings that count more than once: within a set they make intervals too narrow, across sets differences too small."""
    heard: dict[str, list[str]] = {}
    for row in records:
        heard.setdefault(str(row.get("audio_hash") or row["path"]), []).append(str(row["arm"]))
    within = sum(len(arms) - len(set(arms)) for arms in heard.values())
    across = sum(len(set(arms)) > 1 for arms in heard.values())
    notes = []
    if within:
        notes.append(
            f"{within} clip{'s repeat' if within > 1 else ' repeats'} another file of the same set byte for byte: intervals are too narrow by that."
        )
    if across:
        notes.append(
            f"{across} recording{'s are' if across > 1 else ' is'} in several sets byte for byte: there, nothing can differ."
        )
    return notes


def _power_notes(results: Results | None) -> list[str]:
    """What so few units cannot show, in words."""
    if results is None:
        return []
    notes = []
    for arm in dict.fromkeys(one.arm for one in results.comparisons):
        own = [one for one in results.comparisons if one.arm == arm and one.n_units]
        if not own:
            notes.append(f"{arm} shares no measured clip with {results.baseline}, so nothing can be said.")
            continue
        most = max(own, key=lambda one: one.n_units)
        if most.n_units < 2:
            notes.append(
                f"{arm} against {results.baseline} rests on a single {most.unit}: an example, which proves nothing."
            )
            continue
        if (most.p_floor or 0.0) >= 0.05:
            notes.append(
                f"With {most.n_units} {most.unit}s of {arm} the smallest possible p is {most.p_floor:.2g}: no difference can "
                "be called shown, however large it is."
            )
            continue
        primary = sum(info.primary for info in results.metrics)
        least = most.p_floor or 0.0
        if primary > 1 and least * primary >= 0.05:
            notes.append(
                f"With {most.n_units} {most.unit}s of {arm} the smallest possible p is {least:.2g}, and {least * primary:.2g} "
                f"once it is corrected for {primary} primary measures: none can be called shown. Name fewer with --primary before "
                "you look, or make more clips."
            )
            continue
        size = _POWER * math.sqrt((1.0 if most.paired else 2.0) / most.n_units)
        of = "of the differences between pairs" if most.paired else "of the clips"
        notes.append(
            f"{arm} against {results.baseline}: {most.n_units} {most.unit}s{'' if most.paired else ' on the smaller side'}. "
            f"A difference has to be about {size:.1f} standard deviations {of} to be found four times out of five, before "
            "any correction."
        )
    return notes
