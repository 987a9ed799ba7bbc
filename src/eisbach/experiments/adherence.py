"""Whether a clip follows the words of its prompt, as networks hear it that nobody here made: columns of the records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from eisbach.data.captions import HIGH_FROM, LOW_BELOW
from eisbach.experiments.hearing import heard_notes, heard_tags
from eisbach.generation.prompts import Prompt
from eisbach.structure.embeddings.musicnn import TAGS
from eisbach.structure.embeddings.notes import Notes
from eisbach.types import Record

RANK, LIFT, REGISTER = "tag_rank", "tag_lift", "register_distance"
"""Columns; None where a prompt names no tag or no register, or where nothing is heard.

*tag_rank*: where the prompt's tags stand among the fifty of musicnn, by their probability in the clip: the mean share
of the other tags that are less probable, 0-1 (0.5 = chance). *tag_lift*: that less the rank of the same tags in the
model's clips of prompts that do not ask for them, so that a model which sounds of harps whatever it is asked gains
nothing. *register_distance*: semitones from the register that the prompt names (as the captions that the model was
trained on name it: low under MIDI 53, high from 71) to the clip's median pitch, notes weighed by their length; 0 inside
it.
"""

_WORDS = {
    "quick": "fast", "allegro": "fast", "lively": "fast", "adagio": "slow", "string": "strings", "hushed": "quiet"
}  # fmt: skip
"""Words of prompts that mean a tag of another name; a tag's own name always means it."""
_GROUPS = {"choir": ("choir", "choral")}
_REGISTERS = {
    "low": (r"low register", r"\bdeep\b", r"\blow strings\b"),
    "high": (r"high register", r"\bbright and high\b"),
    "middle": (r"middle register", r"\bmid-range\b"),
}
_BANDS = {"low": (-np.inf, LOW_BELOW), "middle": (LOW_BELOW, HIGH_FROM), "high": (HIGH_FROM, np.inf)}


def tags_of(text: str) -> tuple[str, ...]:
    """The tags of musicnn that a prompt asks for.

    >>> tags_of("Solemn sacred polyphony with choir and church organ, very slow")
    ('slow', 'choir', 'choral')
    """
    left = text.lower()
    words = set(re.findall(r"[a-z]+", left))
    asked = set()
    for tag in sorted(TAGS, key=len, reverse=True):  # "no vocals" asks for no "vocals"
        left, found = re.subn(rf"\b{tag}\b", ";", left)
        asked |= {tag} if found else set()
    asked |= {tag for word, tag in _WORDS.items() if word in words}
    for word, group in _GROUPS.items():
        asked |= set(group) if word in words else set()
    return tuple(tag for tag in TAGS if tag in asked)


def register_of(text: str) -> str | None:
    """low, middle or high; None where a prompt names none, or two."""
    lower = text.lower()
    named = [name for name, patterns in _REGISTERS.items() if any(re.search(pattern, lower) for pattern in patterns)]
    return named[0] if len(named) == 1 else None


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
    texts = {prompt.id: prompt.text for prompt in prompts}
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
        columns: Record = {RANK: None, LIFT: None, REGISTER: None}
        if key in ranks and asked[prompt]:
            columns[RANK] = float(ranks[key][asked[prompt]].mean())
            columns[LIFT] = _lift(ranks[key], asked[prompt], models[row["arm"], row["train_seed"]], asked)
        register = register_of(texts[prompt])
        if register is not None and key in notes:
            columns[REGISTER] = _distance(notes[key], register)
        made.append(row | columns)
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
    low, high = _BANDS[register]
    return float(max(0.0, low - pitch, pitch - high))
