"""The sets as wholes: distances between them, diversity across seeds, and memorisation, in numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eisbach.errors import UserError
from eisbach.structure.batch import Clip, sample_clips
from eisbach.structure.sets.clips import SetClip, clip_of_detail, read_clips
from eisbach.structure.sets.compare import SetComparison, compare_sets
from eisbach.types import Record, SkipReport

if TYPE_CHECKING:
    import numpy as np

    from eisbach.structure.embeddings import Embedding
    from eisbach.structure.sets.onset_details import OnsetEvents

_MOST_CLIPS = 200  # of each set that distances are measured on; an even sample of larger sets


@dataclass
class WholeSets:
    """What was measured of sets as wholes.

    Attributes
    ----------
    comparisons : list of SetComparison
        The reference beside each other set; a set by itself where there is nothing to set it beside.
    notes : list of str
        What a reader must know of them.
    """

    comparisons: list[SetComparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> list[dict[str, Any]]:
        """Plain values."""
        return [each.to_dict() for each in self.comparisons]


def measure_sets(
    sets: Mapping[str, Sequence[Record]],
    *,
    prompts: Mapping[str, str] | None = None,
    details: Mapping[str, str] | None = None,
    embeddings: Sequence[Embedding] = (),
    note_events: Mapping[str, OnsetEvents] | None = None,
    training: Sequence[str] | None = None,
    held_out: Sequence[str] | None = None,
    seed: int = 0,
    jobs: int = 1,
    skips: SkipReport | None = None,
    quiet: bool = True,
) -> WholeSets:
    """Every set against the reference as a whole, and memorisation where training audio is named.

    Parameters
    ----------
    sets : mapping of str to sequence of Record
        The records of each set (`path`, `duration`); the first is the reference.
    prompts : mapping of str to str
        The prompt of each file (by path), for what only shows across seeds.
    details : mapping of str to str
        Each file's line of ``details.jsonl`` (by path): with it no audio is read again, but for memorisation.
    embeddings : sequence of Embedding
        Models (`structure.embeddings.load_embedding`) whose embeddings are compared beside the texture's.
    note_events : mapping of str to OnsetEvents or None
        The notes of each file (by path; `embeddings.notes.note_events`) for what takes of a prompt share of them.
    training, held_out : sequence of str or None
        Audio files; both or neither.

    Raises
    ------
    UserError
        Training audio without held-out audio, or training audio that cannot be read.
    """
    made = WholeSets()
    skips = SkipReport() if skips is None else skips
    described = {}
    for name, rows in sets.items():
        chosen = _sample(rows)
        if len(chosen) < len(rows):
            made.notes.append(
                f"{name}: an even sample of {len(chosen)} of its {len(rows):,} clips stands for the set here."
            )
        try:
            if details is not None and training is None:
                described[name] = _of_details(chosen, name, prompts or {}, details, made)
            else:
                described[name] = _described(chosen, name, prompts or {}, jobs, skips, quiet)
        except UserError as error:
            made.notes.append(f"{name} could not be measured as a whole: {error}")
    if note_events is not None:
        described = {
            name: [replace(clip, notes=note_events.get(clip.name)) for clip in clips]
            for name, clips in described.items()
        }
    vectors = _embedded(embeddings, described, made, quiet)
    extra: dict[str, Any] = {}
    if training is not None and held_out is not None:
        extra["training"] = read_clips(
            list(training), jobs=jobs, skips=skips, quiet=quiet, description="training audio"
        )
        extra["held_out"] = read_clips(
            list(held_out), jobs=jobs, skips=skips, quiet=quiet, description="held-out audio"
        )
    elif (training is None) != (held_out is None):
        raise UserError("memorisation needs --training and --held-out: without unseen clips, genre looks like copying.")
    made.comparisons = _compared(list(sets), described, vectors, extra, seed, made)
    notes = [*made.notes, *(note for each in made.comparisons for note in each.notes)]
    unprompted = [name for name, clips in described.items() if all(clip.prompt is None for clip in clips)]
    made.notes = _said_once(list(dict.fromkeys(notes)), unprompted)
    return made


def _said_once(notes: Sequence[str], unprompted: Sequence[str]) -> list[str]:
    """One sentence for each set without prompts, in place of one a measure that needs them."""
    others = [note for note in notes if not any(note.startswith(f"{name}: no ") for name in unprompted)]
    return others + [
        f"{name}: its clips name no prompts, so what varies across seeds and prompts is not measured."
        for name in unprompted
    ]


def _sample(records: Sequence[Record]) -> list[Record]:
    rows = {str(row["path"]): row for row in records}
    return [rows[str(clip.path)] for clip in sample_clips([Clip(Path(path)) for path in rows], _MOST_CLIPS)]


def _of_details(
    rows: Sequence[Record], name: str, prompts: Mapping[str, str], details: Mapping[str, str], made: WholeSets
) -> list[SetClip]:
    """What the analysis has found already; clips with less than 2 s of sound are left out, and counted."""
    clips = []
    for row in rows:
        path = str(row["path"])
        duration = float(row["duration"] or 0.0)
        clip = clip_of_detail(json.loads(details[path]), path, prompts.get(path) or None, duration=duration)
        clips += [clip] if clip is not None else []
    if not clips:
        raise UserError(f"none of its {len(rows)} clips holds 2 s of sound.")
    if len(clips) < len(rows):
        made.notes.append(
            f"{name}: {len(rows) - len(clips)} of {len(rows)} clips hold less than 2 s of sound and have no part in "
            "the "
            "distances."
        )
    return clips


def _described(
    rows: Sequence[Record], name: str, prompts: Mapping[str, str], jobs: int, skips: SkipReport, quiet: bool
) -> list[SetClip]:
    paths = [str(row["path"]) for row in rows]
    own = SkipReport()
    clips = read_clips(
        paths, [prompts.get(path) or None for path in paths], jobs=jobs, skips=own, quiet=quiet,
        description=f"measure {name}"
    )  # fmt: skip
    known = {item.item for item in skips.skipped}
    skips.skipped.extend(item for item in own.skipped if item.item not in known)
    return clips


def _embedded(
    embeddings: Sequence[Embedding], described: Mapping[str, Sequence[SetClip]], made: WholeSets, quiet: bool
) -> dict[str, dict[str, np.ndarray]]:
    """For each model the rows of every set, in its clips' order; a model that refuses a clip is left out, and said."""
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
    made: WholeSets,
) -> list[SetComparison]:
    """The reference with each other set, or a set by itself where there is nothing to compare it with."""

    def beside(first: str, second: str | None) -> SetComparison | None:
        if first not in described or (second is not None and second not in described):
            return None
        rows = {model: (by_set[first], None if second is None else by_set[second]) for model, by_set in vectors.items()}
        try:
            return compare_sets(
                described[first], None if second is None else described[second], names=(first, second or ""),
                embeddings=rows,
                seed=seed, **extra,
            )  # fmt: skip
        except UserError as error:
            made.notes.append(f"{first if second is None else f'{second} against {first}'}: {error}")
            return None

    pairs = [part for other in names[1:] if (part := beside(names[0], other)) is not None]
    missing = [name for name in names if not any(name in part.names for part in pairs)]
    return [*pairs, *(part for name in missing if (part := beside(name, None)) is not None)]
