"""What the takes of a prompt share and what tells prompts apart, as columns of an experiment's records.

All of it is said of a prompt in one trained model: its takes get equal values, so that a model's mean over clips is its
mean over prompts, which is what `structure.sets` gives for the model's clips as a set.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from eisbach.experiments.hearing import heard_notes
from eisbach.experiments.reference import musicnn_rows
from eisbach.experiments.spec import TakeMeasure
from eisbach.structure.embeddings.notes import note_events
from eisbach.structure.sets.alignment import prompt_alignments
from eisbach.structure.sets.clips import SetClip, clip_of_detail
from eisbach.structure.sets.differentiation import prompt_iccs
from eisbach.structure.sets.onset_details import OnsetEvents, prompt_diversities
from eisbach.types import Record

ALIGNMENT, ALIGNMENT_PROMPTS = "boundary_alignment", "boundary_alignment_prompts"
COLUMNS: dict[TakeMeasure, tuple[str, ...]] = {
    "boundaries": (ALIGNMENT, ALIGNMENT_PROMPTS),
    "details": ("detail_diversity",),
    "notes": ("note_diversity",),
    "prompts": ("musicnn_icc", "texture_icc"),
}
"""By what `ExperimentSpec.between_takes` names. None where a prompt's takes have nothing to compare: fewer than two of
them with 2 s of sound, no boundary or too few onsets in any."""

_Values = dict[str, Mapping[object, float]]
_Item = TypeVar("_Item")


def take_columns(
    records: Sequence[Record],
    details: Mapping[str, str],
    measures: Sequence[TakeMeasure],
    root: Path,
    cache: Path,
) -> list[Record]:
    """The records with the columns of these measures.

    Parameters
    ----------
    records : of clips, with `arm`, `train_seed`, `prompt_id`, `audio_hash`, and `path` relative to `root`
    details : mapping of str to str
        Each clip's line of ``details.jsonl``, by its path.
    cache : Path
        Folder that keeps what networks hear in the clips.

    Raises
    ------
    UserError
        Notes are asked for and onnxruntime is not installed.
    """
    heard = heard_notes(records, root, cache) if "notes" in measures else {}
    notes = {key: note_events(found) for key, found in heard.items()}
    features = musicnn_rows(records, cache, root=root) if "prompts" in measures else {}
    models: dict[tuple[object, object], list[Record]] = {}
    for row in records:
        models.setdefault((row["arm"], row["train_seed"]), []).append(row)
    values = {}
    for model, own in models.items():
        clips = [clip for row in own if (clip := _clip(row, details, root)) is not None]
        made: _Values = {}
        if "boundaries" in measures:
            made |= _alignments(clips)
        if "details" in measures:
            made["detail_diversity"] = _diversities((clip.onsets, clip.prompt) for clip in clips)
        if "notes" in measures:
            pairs = [(notes[key], row["prompt_id"]) for row in own if (key := str(row["audio_hash"])) in notes]
            made["note_diversity"] = _diversities(pairs)
        if "prompts" in measures:
            rows = [(features[path], row["prompt_id"]) for row in own if (path := str(row["path"])) in features]
            made["musicnn_icc"] = _iccs(rows)
            made["texture_icc"] = _iccs([(clip.texture, clip.prompt) for clip in clips])
        values[model] = made
    return [
        row | {name: _plain(own.get(row["prompt_id"])) for name, own in values[row["arm"], row["train_seed"]].items()}
        for row in records
    ]


def _clip(row: Record, details: Mapping[str, str], root: Path) -> SetClip | None:
    path = str(root / str(row["path"]))
    return clip_of_detail(json.loads(details[path]), path, str(row["prompt_id"]), duration=float(row["duration"] or 0))


def _alignments(clips: Sequence[SetClip]) -> _Values:
    """Against circular shifts, and against takes of other prompts."""
    clips = _in_company(clips, [clip.prompt for clip in clips])
    prompts = [clip.prompt for clip in clips]
    made: _Values = {ALIGNMENT: {}, ALIGNMENT_PROMPTS: {}}
    several = len(set(prompts))
    for name, chance, least in ((ALIGNMENT, "shift", 1), (ALIGNMENT_PROMPTS, "prompts", 2)):
        if several >= least:
            made[name] = prompt_alignments(
                [clip.boundaries for clip in clips], [clip.duration for clip in clips], prompts, chance=chance
            )
    return made


def _diversities(pairs: Iterable[tuple[OnsetEvents, object]]) -> Mapping[object, float]:
    kept = list(pairs)
    kept = _in_company(kept, [prompt for _, prompt in kept])
    return prompt_diversities(*zip(*kept, strict=True)) if kept else {}


def _iccs(pairs: Sequence[tuple[np.ndarray, object]]) -> Mapping[object, float]:
    kept = _in_company(pairs, [prompt for _, prompt in pairs])
    if len({prompt for _, prompt in kept}) < 2:
        return {}
    return prompt_iccs(np.stack([row for row, _ in kept]), [prompt for _, prompt in kept])


def _in_company(items: Sequence[_Item], prompts: Sequence[object]) -> list[_Item]:
    """The items whose prompt has another one."""
    counts: dict[object, int] = {}
    for prompt in prompts:
        counts[prompt] = counts.get(prompt, 0) + 1
    return [item for item, prompt in zip(items, prompts, strict=True) if counts[prompt] > 1]


def _plain(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
