"""From paths of audio to the numbers of their sets: read, cut, measured, compared, and written into a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from eisbach.devices import place
from eisbach.errors import UserError
from eisbach.experiments.comparing import AUTO, compare_sets, match_sets, sets_of
from eisbach.experiments.cutting import check_cut, cut_sets
from eisbach.experiments.measures import check_measures
from eisbach.experiments.reference import (
    GROUP,
    Reference,
    check_reference,
    collect_reference,
    musicnn_rows,
    read_reference,
    texture_rows,
)
from eisbach.experiments.sets import ClipSets, collect_clips, collect_sets
from eisbach.files import write_json, write_jsonl, write_text
from eisbach.statistics.sets import Sets
from eisbach.structure import analyze_files
from eisbach.structure.record_files import write_tables
from eisbach.structure.sets.whole import WholeSets, measure_sets
from eisbach.types import Record, SkipReport

if TYPE_CHECKING:
    from eisbach.structure.embeddings import Embedding
    from eisbach.structure.embeddings.notes import Notes
    from eisbach.structure.sets.onset_details import OnsetEvents

_STATISTICS = "comparison.json"
"""The one file of statistics of an analysis; `comparison.csv` holds the same rows for a spreadsheet."""
_COPY_COLUMNS = (
    "memorised_nearest_training", "memorised_p_clip", "memorised_p_excerpt", "memorised_share", "memorised_excerpts",
)  # fmt: skip


@dataclass(frozen=True)
class AnalysisPlan:
    """What is to be analysed and compared, with every name in it checked.

    Attributes
    ----------
    sets : ClipSets
    out : Path or None
        Folder of the analysis; None keeps nothing.
    pair, baseline, oracle, metrics, primary, seed
        As `comparing.compare_sets` takes them.
    embeddings : tuple of Embedding
        Compared beside the texture's; musicnn also adds the columns of its tags and, where clips have captions, of how
        they follow them.
    training, held_out : Path or None
        Audio for memorisation.
    notes : bool
        Also transcribe every clip, for `note_motifs` and what takes share of their notes.
    seconds : float or None
        Cut every clip to this length; None leaves them whole.
    start : 'start', 'middle' or 'loudest'
        Which stretch a cut keeps.
    jobs : int
    reference : ClipSets or None
        Music that the sets are held against.
    device : str
        Where the embeddings' networks compute, as `devices.place` reads it; one that is named ("auto" does not) also
        computes the spectra (`structure.analyze_files`).
    names : dict of str to str
        What each set is called, by its group in the records; the reference first.
    """

    sets: ClipSets
    out: Path | None = None
    pair: str = AUTO
    baseline: str | None = None
    oracle: str | None = None
    metrics: tuple[str, ...] = ()
    primary: Mapping[str, Literal["higher", "lower"] | None] = field(default_factory=dict)
    embeddings: tuple[Embedding, ...] = ()
    notes: bool = False
    training: Path | None = None
    held_out: Path | None = None
    seconds: float | None = None
    start: str = "start"
    jobs: int = 1
    device: str = "auto"
    seed: int = 0
    reference: ClipSets | None = None
    names: dict[str, str] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """What decides the result, as plain values: for a look before the work, and for the page."""
        return {
            "clips": [str(clip.path) for clip in self.sets.clips],
            "sets": self.sets.sizes,
            "out": self.out and str(self.out),
            "pair": self.pair,
            "baseline": self.baseline,
            "oracle": self.oracle,
            "metrics": list(self.metrics) or "all",
            "primary": dict(self.primary) or "default",
            "embeddings": ["texture", *(model.name for model in self.embeddings)],
            "notes": self.notes,
            "training": self.training and str(self.training),
            "held_out": self.held_out and str(self.held_out),
            "reference": self.reference and len(self.reference.clips),
            "seconds": self.seconds,
            "from": self.start if self.seconds is not None else None,
            "jobs": self.jobs,
            "device": self.device,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class AnalysedSets:
    """What an analysis found; `report.structure.analysis` makes the page of it.

    Attributes
    ----------
    plan : AnalysisPlan
    records : list of Record
        One a clip, as in `records.jsonl`.
    sets : Sets
        The statistics.
    whole : WholeSets
        Distances between the sets and memorisation.
    skips : SkipReport
        Files that were left out, with the reason.
    captions : dict of str to str
        Words of each prompt.
    reference : Reference or None
    """

    plan: AnalysisPlan
    records: list[Record]
    sets: Sets
    whole: WholeSets
    skips: SkipReport
    captions: dict[str, str] = field(default_factory=dict)
    reference: Reference | None = None

    def to_json(self) -> dict[str, Any]:
        """Every number of the page, as in `comparison.json`."""
        return {
            **self.sets.to_json(),
            "sets_as_wholes": self.whole.to_json(),
            "set_notes": self.whole.notes,
            "skipped": [{"item": item.item, "reason": item.reason} for item in self.skips.skipped],
        }


def plan_analysis(
    paths: Sequence[str | Path], *, by: str | None = None, reference: Sequence[str | Path] = (), **options: Any
) -> AnalysisPlan:
    """The plan for paths, refused at once where a name in it can match nothing; `options` are `AnalysisPlan`'s.

    Raises
    ------
    UserError
        As `sets.collect_sets`; an unknown set, metric, label or device; training audio without held-out audio; a cut
        that has no folder to go to.
    """
    if options.get("notes"):
        from eisbach.structure.embeddings.notes import check_notes

        check_notes()
    check_measures([*options.get("metrics", ()), *options.get("primary", ())])
    music = collect_reference(reference) if reference else None
    plan = AnalysisPlan(collect_sets(paths, by), reference=music, **options)
    if plan.device != "auto":  # which is always there; to look for it costs the seconds that torch takes to import
        place(plan.device)
    if music is not None:
        check_reference(plan.sets, music)
    if (plan.held_out is None) != (plan.training is None):
        raise UserError("memorisation needs --training and --held-out: without unseen clips, genre looks like copying.")
    if plan.seconds is not None:
        check_cut(plan.seconds, plan.start)
        if plan.out is None:
            raise UserError("--seconds needs a folder to put the cut clips in; add --out FOLDER.")
    left_out = [name for name in plan.primary if plan.metrics and name not in plan.metrics]
    if left_out:
        raise UserError(f"the primary metric {', '.join(left_out)} is not among --metrics; add it to --metrics.")
    rows: list[Record] = [{**clip.keys, "path": str(clip.path)} for clip in plan.sets.clips]
    by_set = sets_of(rows, plan.baseline, oracle=plan.oracle)
    match_sets(by_set, plan.pair, names=plan.sets.names, side_by_side=plan.sets.side_by_side)
    return replace(plan, names={str(own[0]["group"]): name for name, own in by_set.items()})


def analyze_sets(plan: AnalysisPlan, *, quiet: bool = False) -> AnalysedSets:
    """Measures every clip of the plan and compares its sets; with `plan.out` all of it is written there.

    A killed run continues: finished clips are kept as they come.

    Raises
    ------
    UserError
        No file of some set can be analysed.
    StorageError
        The folder cannot be written.
    """
    skips = SkipReport()
    sets = plan.sets
    if plan.seconds is not None and plan.out is not None:
        sets = cut_sets(sets, plan.seconds, plan.start, plan.out / "cut", skips=skips, quiet=quiet)
    details: dict[str, str] = {}
    records = analyze_files(
        sets.clips, jobs=plan.jobs, out=plan.out, skips=skips, quiet=quiet, details=details,
        device=None if plan.device in ("auto", "cpu") else plan.device,
    )  # fmt: skip
    _refuse_lost_sets(plan.sets, records, skips)
    reference, rows = _reference(plan, records, details, skips, quiet)
    notes = _add_notes(records, plan, skips, quiet) if plan.notes else None
    listener = next((model for model in plan.embeddings if model.name == "musicnn"), None)
    if listener is not None:
        _add_tags(records, plan, listener, notes, quiet)
    keys = {str(clip.path): clip.keys for clip in sets.clips}
    whole = measure_sets(
        {name: [row for row in records if row["group"] == group] for group, name in plan.names.items()},
        prompts={path: str(own.get("prompt_id") or "") for path, own in keys.items()}, details=details,
        embeddings=plan.embeddings, note_events=None if notes is None else _note_events(notes),
        training=_files(plan.training), held_out=_files(plan.held_out), seed=plan.seed,
        jobs=plan.jobs, skips=skips, quiet=quiet,
    )  # fmt: skip
    compared = compare_sets(
        records, pair=plan.pair, baseline=next(iter(plan.names), plan.baseline), oracle=plan.oracle,
        metrics=plan.metrics, primary=plan.primary, names=sets.names, side_by_side=sets.side_by_side, seed=plan.seed,
        reference=reference, rows=rows,
    )  # fmt: skip
    if plan.training is not None:
        records = _with_copies(records, whole)
    if plan.out is not None and (plan.training is not None or notes is not None or listener is not None):
        write_tables(records, plan.out)
    captions = {str(own.get("prompt_id") or ""): str(own.get("caption") or "") for own in keys.values()}
    analysed = AnalysedSets(plan, records, compared, whole, skips, captions, reference)
    if plan.out is not None:
        write_text(plan.out / "comparison.csv", compared.to_csv())
        write_json(plan.out / _STATISTICS, analysed.to_json())
    return analysed


def _with_copies(records: Sequence[Record], whole: WholeSets) -> list[Record]:
    """The records with what memorisation found: the nearest training clip, how unusual that is, and the copied
    excerpts as JSON (where each begins in both, its length in seconds, its transposition)."""
    rows = {str(row["clip"]): row for part in whole.comparisons for own in part.memorisation.values()
            for row in own.rows()}  # fmt: skip
    made = []
    for record in records:
        row = rows.get(str(record["path"]))
        found: Record = dict.fromkeys(_COPY_COLUMNS)
        if row is not None:
            found |= {f"memorised_{name}": row[name] for name in ("nearest_training", "p_clip", "p_excerpt")}
            found |= {"memorised_share": row["copied_share"], "memorised_excerpts": json.dumps(row["excerpts"])}
        made.append({**record, **found})
    return made


def _reference(
    plan: AnalysisPlan, records: Sequence[Record], details: Mapping[str, str], skips: SkipReport, quiet: bool
) -> tuple[Reference | None, dict[str, dict[str, np.ndarray]]]:
    """The measured reference, and the rows of the sets' clips by embedding."""
    if plan.reference is None:
        return None, {}
    folder = None if plan.out is None else plan.out / GROUP
    music = read_reference(
        plan.reference, "the reference", seconds=plan.seconds, start=plan.start, out=folder, jobs=plan.jobs,
        skips=skips, quiet=quiet,
    )  # fmt: skip
    music.rows["musicnn"] = musicnn_rows(music.records, folder, quiet=quiet)
    return music, {"texture": texture_rows(details), "musicnn": musicnn_rows(records, plan.out, quiet=quiet)}


def _add_notes(records: list[Record], plan: AnalysisPlan, skips: SkipReport, quiet: bool) -> dict[str, Notes]:
    """Puts the notes' columns into the records, and the notes themselves, which come back by path, into
    ``notes.jsonl``."""
    from eisbach.structure.embeddings.notes import COLUMNS, notes_of_files

    found = notes_of_files([str(row["path"]) for row in records], skips=skips, quiet=quiet)
    for row in records:
        own = found.get(str(row["path"]))
        row.update(own[0] if own is not None else dict.fromkeys(COLUMNS))
    if plan.out is not None:
        rows = [
            {"path": path, **columns, "onset": notes.onset.round(3).tolist(),
             "duration": notes.duration.round(3).tolist(), "pitch": notes.pitch.tolist(),
             "strength": notes.strength.round(3).tolist()}
            for path, (columns, notes) in found.items()
        ]  # fmt: skip
        write_jsonl(plan.out / "notes.jsonl", rows)
    return {path: notes for path, (_, notes) in found.items()}


def _note_events(notes: Mapping[str, Notes]) -> dict[str, OnsetEvents]:
    from eisbach.structure.embeddings.notes import note_events

    return {path: note_events(own) for path, own in notes.items()}


def _add_tags(
    records: list[Record], plan: AnalysisPlan, listener: Any, notes: Mapping[str, Notes] | None, quiet: bool
) -> None:
    """Puts the probabilities of musicnn's tags into the records, how much of what it hears changes and, where captions
    say what was asked for, how each clip follows them; a set stands for a model."""
    from eisbach.experiments.hearing import CHANGE, change_column, followed, heard_tags
    from eisbach.structure.embeddings.musicnn import TAG_COLUMNS

    heard = heard_tags(records, Path(), plan.out, listener=listener, quiet=quiet)
    for row in records:
        own = heard.get(str(row["audio_hash"]))
        row.update(dict.fromkeys(TAG_COLUMNS) if own is None else zip(TAG_COLUMNS, own.tolist(), strict=True))
    for row, made in zip(
        records, change_column(records, Path(), plan.out, listener=listener, quiet=quiet), strict=True
    ):
        row[CHANGE] = made[CHANGE]
    captions = {text: text for row in records if (text := str(row.get("caption") or ""))}
    if not captions:
        return
    asked: list[Record] = [
        {"arm": row["group"], "train_seed": row.get("train_seed"), "prompt_id": str(row.get("caption") or ""),
         "audio_hash": row["audio_hash"]}
        for row in records
    ]  # fmt: skip
    by_hash = notes and {str(row["audio_hash"]): notes[path] for row in records if (path := str(row["path"])) in notes}
    for row, columns in zip(records, followed(asked, {"": "", **captions}, heard, by_hash), strict=True):
        row.update(columns)


def _files(path: Path | None) -> list[str] | None:
    return None if path is None else [str(clip.path) for clip in collect_clips([path])]


def _refuse_lost_sets(sets: ClipSets, records: Sequence[Record], skips: SkipReport) -> None:
    """A set of which nothing could be measured must not vanish from a comparison."""
    measured = {str(row["group"]) for row in records}
    reasons = {item.item: item.reason for item in skips.skipped}
    for group, count in sets.sizes.items():
        if group in measured:
            continue
        lost = [str(clip.path) for clip in sets.clips if clip.keys["group"] == group]
        why = "; ".join([reasons[path] for path in lost if path in reasons][:3])
        which = f" of the set '{group}'" if len(sets.sizes) > 1 else ""
        raise UserError(f"none of the {count} files{which} could be analysed: {why}")
