"""The sets as wholes: distances between them, diversity across seeds and memorisation, as numbers and as tables for the page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eisbach.errors import UserError
from eisbach.report.structure.compare import Sets
from eisbach.report.structure.inputs import collect_clips, sample_clips
from eisbach.report.wording import format_p
from eisbach.structure.batch import Clip
from eisbach.structure.sets import SET_METRICS, SetClip, SetComparison, SetRow, clip_of_detail, compare_sets, read_clips
from eisbach.types import Record, SkipReport

if TYPE_CHECKING:
    import numpy as np

    from eisbach.structure.embeddings import Embedding

TEXTURE = "texture"
MOST_CLIPS = 200
"""Clips of each set that distances are measured on; an even sample of larger sets."""
_COPIES_SHOWN = 10


@dataclass(frozen=True)
class SetTable:
    """A plain table about the sets as wholes: headings, rows of text, and a sentence on how to read it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass
class Wholes:
    """What was measured: plain values for JSON, tables for people, and what they must know of them."""

    values: list[dict[str, Any]] = field(default_factory=list)
    tables: list[SetTable] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def measure_sets(
    sets: Sets,
    *,
    prompts: Mapping[str, str] | None = None,
    details: Mapping[str, str] | None = None,
    embeddings: Sequence[Embedding] = (),
    training: Path | None = None,
    held_out: Path | None = None,
    seed: int = 0,
    jobs: int = 1,
    skips: SkipReport | None = None,
    quiet: bool = True,
) -> Wholes:
    """Every set against the reference as a whole, and memorisation where training audio is named.

    Parameters
    ----------
    prompts : mapping of str to str
        The prompt of each file (by path), for what only shows across seeds.
    details : mapping of str to str
        Each file's line of ``details.jsonl`` (by path): with it no audio is read again, but for memorisation.
    embeddings : sequence of Embedding
        Models (`structure.embeddings.load_embedding`) whose embeddings are compared beside the texture's.
    training, held_out : path or None
        Folders or manifests; both or neither.

    Raises
    ------
    UserError
        Training audio without held-out audio, or training audio that cannot be read.
    """
    made = Wholes()
    skips = SkipReport() if skips is None else skips
    described = {}
    for name in sets.names:
        chosen = _sample(sets, name)
        count = sum(row["arm"] == name for row in sets.records)
        if len(chosen) < count:
            made.notes.append(
                f"{name}: an even sample of {len(chosen)} of its {count:,} clips stands for the set here."
            )
        try:
            if details is not None and training is None:
                described[name] = _of_details(chosen, name, prompts or {}, details, made)
            else:
                described[name] = _described(chosen, name, prompts or {}, jobs, skips, quiet)
        except UserError as error:
            made.notes.append(f"{name} could not be measured as a whole: {error}")
    vectors = _embedded(embeddings, described, made, quiet)
    extra: dict[str, Any] = {}
    if training is not None and held_out is not None:
        extra["training"] = read_clips(
            _files(training), jobs=jobs, skips=skips, quiet=quiet, description="training audio"
        )
        extra["held_out"] = read_clips(
            _files(held_out), jobs=jobs, skips=skips, quiet=quiet, description="held-out audio"
        )
    elif (training is None) != (held_out is None):
        raise UserError("memorisation needs --training and --held-out: without unseen clips, genre looks like copying.")
    found = [one for one in _compared(sets.names, described, vectors, extra, seed, made) if one is not None]
    made.values = [one.to_dict() for one in found]
    made.tables = _tables(sets.names, found, made.notes)
    made.notes = _once(
        made.notes, [name for name, clips in described.items() if all(one.prompt is None for one in clips)]
    )
    return made


def _once(notes: Sequence[str], unprompted: Sequence[str]) -> list[str]:
    """One sentence for each set without prompts, in place of one a measure that needs them."""
    kept = [note for note in notes if not any(note.startswith(f"{name}: no ") for name in unprompted)]
    said = [
        f"{name}: its clips name no prompts, so what varies across seeds and prompts is not measured."
        for name in unprompted
    ]
    return [*kept, *said]


def _sample(sets: Sets, name: str) -> list[Record]:
    rows = {str(row["path"]): row for row in sets.records if row["arm"] == name}
    clips = [Clip(Path(path), {"group": name}) for path in rows]
    return [rows[str(clip.path)] for clip in sample_clips(clips, MOST_CLIPS)]


def _of_details(
    rows: Sequence[Record], name: str, prompts: Mapping[str, str], details: Mapping[str, str], made: Wholes
) -> list[SetClip]:
    """What the analysis has found already; clips with less than 2 s of sound are left out, and counted."""
    found = []
    for row in rows:
        path = str(row["path"])
        duration = float(row["duration"] or 0.0)
        found.append(clip_of_detail(json.loads(details[path]), path, prompts.get(path) or None, duration=duration))
    clips = [clip for clip in found if clip is not None]
    if not clips:
        raise UserError(f"none of its {len(rows)} clips holds 2 s of sound.")
    if len(clips) < len(rows):
        made.notes.append(
            f"{name}: {len(rows) - len(clips)} of {len(rows)} clips hold less than 2 s of sound and have no part in the distances."
        )
    return clips


def _described(
    rows: Sequence[Record], name: str, prompts: Mapping[str, str], jobs: int, skips: SkipReport, quiet: bool
) -> list[SetClip]:
    paths = [str(row["path"]) for row in rows]
    own = SkipReport()
    clips = read_clips(
        paths, [prompts.get(path) or None for path in paths], jobs=jobs, skips=own, quiet=quiet, description=f"measure {name}"
    )  # fmt: skip
    known = {item.item for item in skips.skipped}
    skips.skipped.extend(item for item in own.skipped if item.item not in known)
    return clips


def _files(path: Path) -> list[str]:
    return [str(clip.path) for clip in collect_clips([path])]


def _embedded(
    embeddings: Sequence[Embedding], described: Mapping[str, Sequence[SetClip]], made: Wholes, quiet: bool
) -> dict[str, dict[str, np.ndarray]]:
    """For each model the rows of every set, in the order of its clips; a model that refuses a clip is left out, and said."""
    vectors = {}
    for model in embeddings:
        from eisbach.structure.embeddings import embed_files

        try:
            vectors[model.name] = {
                name: embed_files(model, [clip.name for clip in clips], quiet=quiet)
                for name, clips in described.items()
            }
        except UserError as error:
            made.notes.append(f"no distances on {model.name}: {error}")
    return vectors


def _compared(
    names: Sequence[str],
    described: Mapping[str, list[SetClip]],
    vectors: Mapping[str, Mapping[str, np.ndarray]],
    extra: Mapping[str, Any],
    seed: int,
    made: Wholes,
) -> list[SetComparison | None]:
    """The reference with each other set, or a set by itself where there is nothing to compare it with."""

    def one(first: str, second: str | None) -> SetComparison | None:
        if first not in described or (second is not None and second not in described):
            return None
        rows = {model: (by_set[first], None if second is None else by_set[second]) for model, by_set in vectors.items()}
        try:
            return compare_sets(
                described[first], None if second is None else described[second], names=(first, second or ""), embeddings=rows,
                seed=seed, **extra,
            )  # fmt: skip
        except UserError as error:
            made.notes.append(f"{first if second is None else f'{second} against {first}'}: {error}")
            return None

    found = [one(names[0], other) for other in names[1:]] if len(names) > 1 else []
    missing = [name for name in names if not any(part is not None and name in part.names for part in found)]
    return [*found, *(one(name, None) for name in missing)]


def _tables(names: Sequence[str], found: Sequence[SetComparison], notes: list[str]) -> list[SetTable]:
    rows: dict[tuple[str, str, str], SetRow] = {}
    for part in found:
        notes += [note for note in part.notes if note not in notes]
        for row in part.rows:
            rows.setdefault((row.metric, row.sets, row.embedding), row)
    tables = []
    inside = [
        row for row in rows.values() if row.sets in names and SET_METRICS[row.metric].needs != "training and held-out"
    ]
    copied = [
        row for row in rows.values() if row.sets in names and SET_METRICS[row.metric].needs == "training and held-out"
    ]
    between = [row for row in rows.values() if row.sets not in names]
    if between:
        tables.append(
            SetTable(
                "Distances between the sets",
                ["Distance", "Sets", "Value (95% interval)", "If nothing differed", "p", "A higher value means"],
                [
                    [_label(row), row.sets, _value(row), _shown(row.reference), _p(row.p_value), row.higher_means]
                    for row in between
                ],
                "Between the clips’ embeddings. For Fréchet and kernel distances the value is read beside what it is when the clips’ sets are "
                "exchanged at random: small sets are never at distance 0. A is the set that is named first, B the other.",
            )
        )
    for title, lines in (("Within each set", inside), ("Memorisation", copied)):
        if lines:
            tables.append(
                SetTable(title, ["Measure", *names, "No effect reads", "A higher value means"], _by_set(lines, names))
            )
    suspects = [
        [name, Path(str(row["clip"])).name, Path(str(row["nearest_training"])).name, _p(row["p_clip"]), _p(row["p_excerpt"]),
         f"{row['copied_share']:.0%}"]
        for part in found
        for name, memorised in part.memorisation.items()
        for row in sorted(memorised.rows(), key=lambda row: min(row["p_clip"], row["p_excerpt"]))[:_COPIES_SHOWN]
    ]  # fmt: skip
    if suspects:
        tables.append(
            SetTable(
                "The clips nearest to training audio",
                ["Set", "Clip", "Nearest training clip", "p (clip)", "p (excerpt)", "Share copied"],
                list({tuple(row): row for row in suspects}.values()),
                f"The {_COPIES_SHOWN} most suspicious of each set. p: the share of unseen clips that are as close to the training audio.",
            )
        )
    return tables


def _p(value: float | None) -> str:
    """`format_p` for a column that is headed p."""
    return format_p(value).removeprefix("p = ").removeprefix("p ")


def _by_set(rows: Sequence[SetRow], names: Sequence[str]) -> list[list[str]]:
    lines: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        line = lines.setdefault(
            (row.metric, row.embedding), [_label(row), *["–"] * len(names), _shown(row.reference), row.higher_means]
        )
        line[1 + names.index(row.sets)] = _value(row)
    return list(lines.values())


def _label(row: SetRow) -> str:
    label = f"{row.label} ({row.unit})" if row.unit else row.label
    return label if row.embedding in ("", TEXTURE) else f"{label}, {row.embedding}"


def _value(row: SetRow) -> str:
    if not math.isfinite(row.value):
        return "–"
    if not math.isfinite(row.low):
        return _shown(row.value)
    return f"{_shown(row.value)} ({_shown(row.low)} to {_shown(row.high)})"


def _shown(value: float | None) -> str:
    """Three figures that count, with a true minus sign; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 or size == 0 else 3
    text = f"{value:.{digits}f}"
    return text.replace("-", "\u2212") if any(digit in text for digit in "123456789") else text.lstrip("-")
