"""What networks that nobody here made hear in an experiment's clips, kept by the audio's hash as it is heard."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from eisbach.audio import read_audio
from eisbach.errors import AudioError
from eisbach.experiments.prompt_words import BANDS, register_of, tags_of
from eisbach.experiments.reference import listeners, musicnn_rows
from eisbach.experiments.spec import TakeMeasure
from eisbach.generation.prompts import Prompt
from eisbach.output_folder import Finished
from eisbach.progress import in_threads
from eisbach.structure.embeddings.base import MAX_SECONDS
from eisbach.structure.embeddings.musicnn import TAGS, MusicnnEmbedding
from eisbach.structure.embeddings.notes import Notes, check_notes, note_events, transcribe
from eisbach.structure.sets.alignment import prompt_alignments
from eisbach.structure.sets.clips import SetClip, clip_of_detail
from eisbach.structure.sets.differentiation import prompt_iccs
from eisbach.structure.sets.onset_details import OnsetEvents, prompt_diversities
from eisbach.types import Record, Waveform

_NOTES = "notes-2.jsonl"  # notes.jsonl: with notes in the noise of pauses
_TAGS = "tags-2.jsonl"  # tags.jsonl: heard with a clip's end in a window of its own
CHANGE, _CHANGES = "heard_change", "changes-2.jsonl"  # changes.jsonl: at one level a clip, not a window


def heard_notes(records: Sequence[Record], root: Path, cache: Path) -> dict[str, Notes]:
    """The notes of each clip by its audio's hash; clips in which nothing can be heard have none.

    Parameters
    ----------
    records : with `audio_hash`, and `path` relative to `root`
    cache : Path
        Folder that keeps what was heard, so that a stopped run goes on where it was.

    Raises
    ------
    UserError
        onnxruntime is not installed.
    """
    check_notes()
    heard = _heard(records, root, Finished(cache / _NOTES), "notes", _notes, listeners())
    return {key: _read_notes(value) for key, value in heard.items()}


def heard_tags(
    records: Sequence[Record],
    root: Path,
    cache: Path | None,
    *,
    listener: MusicnnEmbedding | None = None,
    quiet: bool = True,
) -> dict[str, np.ndarray]:
    """The probability of each of `musicnn.TAGS` in each clip, [shape=(50,)], as `heard_notes`.

    Parameters
    ----------
    cache : Path or None
        None keeps nothing.
    listener : MusicnnEmbedding or None
        The network; None loads it on the CPU.
    """
    import torch

    network = listener or MusicnnEmbedding()

    def tags(waveform: Waveform) -> list[float]:
        return [float(f"{value:.6g}") for value in network.tags([waveform])[0]]

    kept = None if cache is None else Finished(cache / _TAGS)
    heard = _heard(records, root, kept, "tags", tags, listeners(torch.get_num_threads()), quiet)
    return {key: np.array(value) for key, value in heard.items() if len(value) == len(TAGS)}


def change_column(
    records: Sequence[Record], root: Path, cache: Path | None, *, listener: Any = None, quiet: bool = True
) -> list[Record]:
    """The records with `CHANGE`: how much what musicnn hears changes over a clip (`MusicnnEmbedding.change`), None of
    silence and of under 6 s. Arguments as of `heard_tags`."""
    import torch

    network = listener or MusicnnEmbedding()

    def change(waveform: Waveform) -> float | None:
        value = float(network.change([waveform])[0])
        return None if math.isnan(value) else float(f"{value:.6g}")

    kept = None if cache is None else Finished(cache / _CHANGES)
    heard = _heard(records, root, kept, "changes", change, listeners(torch.get_num_threads()), quiet)
    return [row | {CHANGE: heard.get(str(row["audio_hash"]))} for row in records]


def _heard(
    records: Sequence[Record],
    root: Path,
    kept: Finished | None,
    name: str,
    hear: Callable[[Waveform], Any],
    jobs: int,
    quiet: bool = True,
) -> dict[str, Any]:
    """`hear` of every clip, or what was kept of it; None is kept of silence and is left out here."""
    places = {str(row["audio_hash"]): root / str(row["path"]) for row in records}
    rows: dict[str, Any] = {} if kept is None else kept.rows
    todo = [(key, path) for key, path in places.items() if key not in rows]

    def listen(item: tuple[str, Path]) -> Any:
        try:
            return hear(read_audio(item[1], duration=MAX_SECONDS))
        except AudioError:
            return None

    with in_threads(todo, listen, jobs=jobs, title=name, quiet=quiet) as results:
        for (key, _), heard in results:
            if kept is None:
                rows[key] = heard
            else:
                kept.add(key, heard)
    return {key: rows[key] for key in places if rows[key] is not None}


def _notes(waveform: Waveform) -> dict[str, list[float]]:
    notes = transcribe(waveform)
    return {
        "onset": notes.onset.round(3).tolist(), "duration": notes.duration.round(3).tolist(),
        "pitch": notes.pitch.tolist(), "strength": notes.strength.round(3).tolist(),
    }  # fmt: skip


def _read_notes(value: dict[str, list[float]]) -> Notes:
    numbers = {name: np.array(value[name], dtype=np.float64) for name in ("onset", "duration", "strength")}
    return Notes(**numbers, pitch=np.array(value["pitch"], dtype=int))


# --- what the takes of a prompt share, and what tells prompts apart


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


# --- whether a clip follows the words of its prompt


RANK, LIFT, REGISTER = "tag_rank", "tag_lift", "register_distance"
"""Columns; None where a prompt names no tag or no register, or where nothing is heard.

*tag_rank*: where the prompt's tags stand among the fifty of musicnn, by their probability in the clip: the mean share
of the other tags that are less probable, 0-1 (0.5 = chance). *tag_lift*: that less the rank of the same tags in the
model's clips of prompts that do not ask for them, so that a model which sounds of harps whatever it is asked gains
nothing. *register_distance*: semitones from the register that the prompt names (as the captions that the model was
trained on name it: low under MIDI 53, high from 71) to the clip's median pitch, notes weighed by their length; 0 inside
it.
"""


def adherence_columns(records: Sequence[Record], prompts: Sequence[Prompt], root: Path, cache: Path) -> list[Record]:
    """The records with the columns.

    Parameters
    ----------
    records : of clips, with `arm`, `train_seed`, `prompt_id`, `audio_hash`, and `path` relative to `root`
    prompts : sequence of Prompt
        What was asked for, by the ids of the records.
    cache : Path
        Folder that keeps what the networks hear.

    Raises
    ------
    UserError
        onnxruntime is not installed.
    """
    tags, notes = heard_tags(records, root, cache), heard_notes(records, root, cache)
    columns = followed(records, {prompt.id: prompt.text for prompt in prompts}, tags, notes)
    return [row | own for row, own in zip(records, columns, strict=True)]


def followed(
    records: Sequence[Record],
    texts: Mapping[str, str],
    tags: Mapping[str, np.ndarray],
    notes: Mapping[str, Notes] | None,
) -> list[Record]:
    """How each clip follows the words of its prompt: `RANK`, `LIFT` and, where notes were heard, `REGISTER`.

    Parameters
    ----------
    records : of clips, with `arm`, `train_seed`, `prompt_id` and `audio_hash`
    texts : mapping of str to str
        The words of each prompt, by the records' `prompt_id`.
    tags : mapping of str to np.ndarray [shape=(50,)]
        Of `heard_tags`, by the audio's hash.
    notes : mapping of str to Notes, or None
        Of `heard_notes`, likewise; None makes no column of the register.
    """
    asked = {name: [TAGS.index(tag) for tag in tags_of(text)] for name, text in texts.items()}
    ranks = {key: ranks_of(values) for key, values in tags.items()}
    models: dict[tuple[object, object], list[tuple[str, np.ndarray]]] = {}
    for row in records:
        if str(row["audio_hash"]) in ranks:
            own = models.setdefault((row["arm"], row["train_seed"]), [])
            own.append((str(row["prompt_id"]), ranks[str(row["audio_hash"])]))
    made = []
    for row in records:
        key, prompt = str(row["audio_hash"]), str(row["prompt_id"])
        columns: Record = {RANK: None, LIFT: None}
        if key in ranks and asked[prompt]:
            columns[RANK] = float(ranks[key][asked[prompt]].mean())
            columns[LIFT] = _lift(ranks[key], asked[prompt], models[row["arm"], row["train_seed"]], asked)
        if notes is not None:
            register = register_of(texts[prompt])
            heard = notes.get(key)
            columns[REGISTER] = None if register is None or heard is None else _distance(heard, register)
        made.append(columns)
    return made


def ranks_of(probabilities: np.ndarray) -> np.ndarray:
    """The share of the other tags that each tag is more probable than, ties half, [shape=(tags,)]."""
    wins = (probabilities[:, None] > probabilities) + 0.5 * (probabilities[:, None] == probabilities)
    ranks: np.ndarray = (wins.sum(axis=1) - 0.5) / (len(probabilities) - 1)
    return ranks


def _lift(
    own: np.ndarray,
    tags: Sequence[int],
    model: Sequence[tuple[str, np.ndarray]],
    asked: Mapping[str, Sequence[int]],
) -> float | None:
    """Mean over the tags of the rank here less that in the model's clips of prompts without the tag."""
    lifts = []
    for tag in tags:
        others = [ranks[tag] for prompt, ranks in model if tag not in asked[prompt]]
        if others:
            lifts.append(float(own[tag] - np.mean(others)))
    return float(np.mean(lifts)) if lifts else None


def _distance(notes: Notes, register: str) -> float | None:
    """Semitones from the register to the median pitch; None without notes."""
    if not len(notes.pitch):
        return None
    order = np.argsort(notes.pitch, kind="stable")
    lengths = np.cumsum(np.maximum(notes.duration[order], 1e-3))
    pitch = float(notes.pitch[order][np.searchsorted(lengths, 0.5 * lengths[-1])])
    low, high = BANDS[register]
    return float(max(0.0, low - pitch, pitch - high))
