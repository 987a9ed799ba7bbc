"""How far an experiment's clips are, by texture, from developing music that none of its models trained on, and from
what each trained on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from eisbach.data.manifest import Manifest, load_manifest
from eisbach.errors import UserError
from eisbach.executors import available_cpus
from eisbach.structure import Clip, analyze_files
from eisbach.structure.sets.distances import nearest
from eisbach.types import Record, SkipReport

HELD_OUT, TRAINED = "held_out_distance", "training_distance"
"""Columns: distance in dB to the nearest held-out developing clip of any draw, and to the nearest developing clip that
the model trained on. A clip without 2 s of sound has neither."""
_ANALYSIS = "analysis_of_sets"


def distance_columns(
    records: Iterable[Record], details: Mapping[str, str], manifests: Mapping[int, Path], root: Path
) -> list[Record]:
    """The records with the two columns.

    Parameters
    ----------
    records : of clips, with `train_seed`, and `path` relative to `root`
    details : mapping of str to str
        Each clip's line of ``details.jsonl``, by its path.
    manifests : mapping of int to Path
        The set of each training seed, whose clips say by their label `flat` whether they develop. A piece is held out
        in every set or in none, so the held-out clips of all sets are new to every model.

    Raises
    ------
    UserError
        No clip of some set develops and trains, or none of any set is held out.
    """
    sets = {seed: load_manifest(path).select(labels={"flat": "false"}) for seed, path in manifests.items()}
    held_out = np.concatenate([_textures(rows.select(split="held_out"), root) for rows in sets.values()])
    if not len(held_out):
        raise UserError("no developing clip is held out, so nothing is there to be near to; make the sets larger.")

    @cache
    def trained(seed: int) -> np.ndarray:
        rows = _textures(sets[seed].select(split="train"), root)
        if not len(rows):
            raise UserError(f"no clip of training seed {seed} develops and trains; raise the share of such clips.")
        return rows

    made = []
    for row in records:
        texture = _texture(details[str(root / str(row["path"]))])
        columns: Record = {HELD_OUT: None, TRAINED: None}
        if texture is not None:
            pairs = ((HELD_OUT, held_out), (TRAINED, trained(int(row["train_seed"] or 0))))
            columns = {name: float(nearest(texture[None], rows)[0][0]) for name, rows in pairs}
        made.append(row | columns)
    return made


def _textures(manifest: Manifest, root: Path) -> np.ndarray:
    """[shape=(clips, 64), dB]; measurements are kept in the experiment's folder."""
    details: dict[str, str] = {}
    clips = [Clip(manifest.audio_path(row)) for row in manifest]
    if clips:
        jobs = max(1, min(available_cpus(), len(clips) // 8))
        out = root / _ANALYSIS / manifest.root.name
        analyze_files(clips, jobs=jobs, out=out, details=details, skips=SkipReport(), quiet=True)
    rows = [texture for line in details.values() if (texture := _texture(line)) is not None]
    return np.array(rows).reshape(len(rows), -1) if rows else np.zeros((0, 64))


def _texture(line: str) -> np.ndarray | None:
    values = json.loads(line)["embedding"]
    return None if values is None else np.asarray(values, dtype=np.float64)
