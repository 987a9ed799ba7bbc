"""What networks that nobody here made hear in an experiment's clips, kept by the audio's hash as it is heard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.audio import read_audio
from eisbach.errors import AudioError
from eisbach.output_folder import Finished
from eisbach.progress import Progress
from eisbach.structure.embeddings.base import MAX_SECONDS
from eisbach.structure.embeddings.musicnn import TAGS, MusicnnEmbedding
from eisbach.structure.embeddings.notes import Notes, check_notes, transcribe
from eisbach.types import Record, Waveform

_NOTES, _TAGS = "notes.jsonl", "tags.jsonl"


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
    heard = _heard(records, root, Finished(cache / _NOTES), "notes", _notes)
    return {key: _read_notes(value) for key, value in heard.items()}


def heard_tags(records: Sequence[Record], root: Path, cache: Path) -> dict[str, np.ndarray]:
    """The probability of each of `musicnn.TAGS` in each clip, [shape=(50,)], as `heard_notes`."""
    listener = MusicnnEmbedding()

    def tags(waveform: Waveform) -> list[float]:
        return [float(f"{value:.6g}") for value in listener.tags([waveform])[0]]

    heard = _heard(records, root, Finished(cache / _TAGS), "tags", tags)
    return {key: np.array(value) for key, value in heard.items() if len(value) == len(TAGS)}


def _heard(
    records: Sequence[Record], root: Path, kept: Finished, name: str, hear: Callable[[Waveform], Any]
) -> dict[str, Any]:
    """`hear` of every clip, or what was kept of it; None is kept of silence and is left out here."""
    places = {str(row["audio_hash"]): root / str(row["path"]) for row in records}
    with Progress(len(places), name, quiet=True) as bar:
        for key, path in places.items():
            if key not in kept:
                try:
                    kept.add(key, hear(read_audio(path, duration=MAX_SECONDS)))
                except AudioError:
                    kept.add(key, None)
            bar.advance()
    return {key: kept.rows[key] for key in places if kept.rows[key] is not None}


def _notes(waveform: Waveform) -> dict[str, list[float]]:
    notes = transcribe(waveform)
    return {
        "onset": notes.onset.round(3).tolist(), "duration": notes.duration.round(3).tolist(),
        "pitch": notes.pitch.tolist(), "strength": notes.strength.round(3).tolist(),
    }  # fmt: skip


def _read_notes(value: dict[str, list[float]]) -> Notes:
    numbers = {name: np.array(value[name], dtype=np.float64) for name in ("onset", "duration", "strength")}
    return Notes(**numbers, pitch=np.array(value["pitch"], dtype=int))
