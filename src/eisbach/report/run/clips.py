"""What a run trains on, as its page shows it: which clips weigh most and least, and whether words tell them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from eisbach.files import JsonError, parse_json

SHOWN = 3
"""Clips at each end."""
_LEAST_LOOKS = 2  # at a clip, before its weight says anything: it depends on the noise level too
_TAIL = 2_000_000  # bytes of the log that are read: its newest rows


@dataclass(frozen=True)
class WeighedClip:
    """A training clip with its mean weight over the newest logged samples.

    Attributes
    ----------
    id, caption : str
    path : Path
    weight : float
        1 counts like every clip of a plain training.
    looks : int
        Samples behind it.
    """

    id: str
    caption: str
    path: Path
    weight: float
    looks: int


def weighed_clips(folder: Path, config: Mapping[str, Any]) -> list[WeighedClip]:
    """The clips that weigh most and those that weigh least, heaviest first; none without `log_samples` or the set."""
    weights: dict[str, list[float]] = {}
    for row in _newest_rows(folder / "sample_log.jsonl"):
        clip, weight = row.get("id"), row.get("weight")
        if isinstance(clip, str) and isinstance(weight, int | float):
            weights.setdefault(clip, []).append(float(weight))
    rows = {row_id: (path, caption) for row_id, path, caption in _training_clips(config)}
    known = [
        WeighedClip(clip, rows[clip][1], rows[clip][0], sum(values) / len(values), len(values))
        for clip, values in weights.items()
        if clip in rows and len(values) >= _LEAST_LOOKS
    ]
    ordered = sorted(known, key=lambda clip: (-clip.weight, clip.id))
    return ordered if len(ordered) <= 2 * SHOWN else ordered[:SHOWN] + ordered[-SHOWN:]


def caption_notes(config: Mapping[str, Any]) -> list[str]:
    """Whether the words of a set can teach anything."""
    captions = {caption.strip() for _, _, caption in _training_clips(config)}
    if captions == {""}:
        return [
            "No clip has a caption: what you write as a prompt will change little beyond what the model knew before."
        ]
    if len(captions) == 1:
        return ["All clips have one caption, so training teaches the model nothing about words."]
    return []


def _newest_rows(log: Path) -> list[dict[str, Any]]:
    """The rows in the last part of a log; the first of them may be cut, and the last one half written."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = parse_json(line.decode("utf-8")) if line.strip() else None
        except (JsonError, UnicodeDecodeError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _training_clips(config: Mapping[str, Any]) -> list[tuple[str, Path, str]]:
    """Id, path and caption of the clips that train; none where the set is not at hand."""
    group = config.get("data")
    sources = group.get("manifest") if isinstance(group, Mapping) else None
    places = [Path(source) for source in ([sources] if isinstance(sources, str) else sources or [])]
    files = [place / "manifest.jsonl" if place.is_dir() else place for place in places]
    try:
        return [clip for file in files for clip in _clips_of(str(file), file.stat().st_mtime_ns)]
    except OSError:
        return []


@lru_cache(maxsize=16)
def _clips_of(manifest: str, changed: int) -> list[tuple[str, Path, str]]:
    """Read once as long as the file does not change: the page is asked for every few seconds."""
    from eisbach.data.manifest import load_manifest
    from eisbach.errors import UserError

    try:
        rows = load_manifest(manifest, check_files=False)
    except (UserError, OSError):
        return []
    return [(row.id, rows.audio_path(row), row.caption) for row in rows if row.split == "train"]
