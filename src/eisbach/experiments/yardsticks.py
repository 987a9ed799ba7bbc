"""What each model is held against beside its own clips: held-out clips of the experiment's sets, by their labels.

One row a model and yardstick, in `models.jsonl`: how far what it plays lies from those clips as a set, its loss on
them, and how much its training weighed clips like them. A piece is held out in every draw's set or in none, so the
held-out clips of all sets are new to every model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from eisbach.data.manifest import Manifest, load_manifest
from eisbach.data.selection import merged
from eisbach.errors import UserError
from eisbach.executors import available_cpus
from eisbach.experiments.cells import Cell, adapter_of, training_of
from eisbach.experiments.reference import musicnn_rows, texture_rows
from eisbach.experiments.spec import ExperimentSpec, Yardstick
from eisbach.files import read_json, read_jsonl, write_json, write_jsonl
from eisbach.output_folder import weights_identity
from eisbach.structure import Clip, analyze_files
from eisbach.structure.sets.distances import frechet_distance, kernel_distance, nearest
from eisbach.training.config import TrainConfig
from eisbach.training.run_folder import RunFolder
from eisbach.types import LatentBatch, Record, SkipReport

MODELS_FILE = "models.jsonl"
"""A row a model (the untrained base is one without a draw) and yardstick: `arm`, `train_seed`, `yardstick`, `clips`
(played), `held_out_clips`, `texture_frechet`, `texture_kernel`, `musicnn_frechet`, `musicnn_kernel`, `held_out_loss`
where it is asked for, and `mean_weight` of the clips with the yardstick's labels that trained, where it was logged."""

_FOLDER = "yardsticks"
_MOST = 96  # held-out clips of a yardstick: an even sample of more
_LEAST = 2
Rows = Mapping[str, np.ndarray]


def write_yardsticks(spec: ExperimentSpec, cells: Sequence[Cell], records: Sequence[Record], played: Mapping[str, Rows],
                     root: Path) -> list[Record]:  # fmt: skip
    """The rows of `models.jsonl`, written.

    Parameters
    ----------
    records : of all clips, as `records.parquet` holds them
    played : mapping of str to mapping of str to row
        By embedding, what it hears in the clips, by their path in the records.

    Raises
    ------
    UserError
        Fewer than two held-out clips have a yardstick's labels.
    """
    made: list[Record] = []
    for name, yardstick in spec.yardsticks.items():
        held_out = held_out_clips(cells, yardstick, name)
        theirs = _heard(held_out, root / _FOLDER / name)
        for cell in cells:
            seed = cell.train_seed if spec.arms[cell.arm].trained else None
            row: Record = {"arm": cell.arm, "train_seed": seed, "yardstick": name}
            paths = [
                str(record["path"])
                for record in records
                if (record["arm"], record["train_seed"]) == (cell.arm, seed)
                and (not yardstick.prompts or record["prompt_id"] in yardstick.prompts)
            ]
            row |= {"clips": len(paths), "held_out_clips": len(held_out)}
            for embedding, reference in theirs.items():
                own = [played[embedding][path] for path in paths if path in played[embedding]]
                row |= _distances(embedding, own, list(reference.values()))
            plays = spec.arms[cell.arm].plays
            if spec.held_out_loss and (plays is None or plays.interval is None):  # it has no one adapter for all levels
                row["held_out_loss"] = _loss(spec, cell, held_out, root)
            if (weight := _mean_weight(spec, cell, yardstick)) is not None:
                row["mean_weight"] = weight
            made.append(row)
    write_jsonl(root / MODELS_FILE, made)
    return made


def held_out_clips(cells: Sequence[Cell], yardstick: Yardstick, name: str) -> Manifest:
    """The held-out clips of all sets with the yardstick's labels, each sound once; an even sample of many."""
    folders = dict.fromkeys(cell.manifest for cell in cells if cell.manifest is not None)
    whole = merged([load_manifest(path) for path in folders])
    once = {row.audio_hash: row for row in whole.select(split="held_out", labels=yardstick.labels)}
    rows = list(once.values())
    if len(rows) < _LEAST:
        wanted = ", ".join(f"{key}: {value}" for key, value in yardstick.labels.items())
        raise UserError(
            f"the yardstick '{name}' needs held-out clips with the labels {{{wanted}}} and the sets hold {len(rows)}, "
            f"of at least {_LEAST}; raise material.clips, or change its labels."
        )
    places = np.linspace(0, len(rows) - 1, min(_MOST, len(rows))).round().astype(int)
    return whole.with_rows([rows[place] for place in places])


def _heard(held_out: Manifest, folder: Path) -> dict[str, Rows]:
    """What embeddings hear in the held-out clips; measurements are kept in `folder`."""
    details: dict[str, str] = {}
    clips = [Clip(held_out.audio_path(row), {"id": row.id, "group": "yardstick"}) for row in held_out]
    jobs = max(1, min(available_cpus(), len(clips) // 8))
    records = analyze_files(clips, jobs=jobs, out=folder, details=details, skips=SkipReport(), quiet=True)
    return {"texture": texture_rows(details), "musicnn": musicnn_rows(records, folder)}


def _distances(embedding: str, own: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> Record:
    """Fréchet distance of small sets (shrunk covariances) and kernel distance; None where a side has under two rows."""
    if len(own) < _LEAST or len(theirs) < _LEAST:
        return {f"{embedding}_frechet": None, f"{embedding}_kernel": None}
    from scipy.spatial.distance import pdist

    pair = np.stack(own), np.stack(theirs)
    width = float(np.median(pdist(pair[1]))) or None  # of the yardstick alone: equal for every model
    return {
        f"{embedding}_frechet": float(frechet_distance(*pair, shrink=True)),
        f"{embedding}_kernel": float(kernel_distance(*pair, bandwidth=width)),
    }


def _loss(spec: ExperimentSpec, cell: Cell, held_out: Manifest, root: Path) -> float:
    """The model's held-out loss; kept by what decides it, so that a run that goes on measures what is new."""
    from eisbach.training.assembly import load_model
    from eisbach.training.data import manifest_hash

    file = root / _FOLDER / "losses.json"
    known: dict[str, float] = read_json(file, "held-out losses") if file.is_file() else {}
    training, trained = training_of(spec, cell), spec.arms[cell.arm].trained
    whole = trained and training.adapter.type == "none"  # then the run leaves a model
    adapter = adapter_of(spec, cell) if trained and not whole else None
    if whole:
        training = training.model_copy(update={"model": str(Path(training.out) / "model")})
    identity = load_model(training).identity() if adapter is None else weights_identity(adapter)
    key = f"{identity} {manifest_hash(held_out)}"
    if key not in known:
        known[key] = held_out_loss(training, adapter, held_out, root / _FOLDER / "latents")
        write_json(file, known)
    return known[key]


def _mean_weight(spec: ExperimentSpec, cell: Cell, yardstick: Yardstick) -> float | None:
    """Of the training's samples whose clips have the yardstick's labels; None without `log_samples`."""
    if not spec.arms[cell.arm].trained or cell.manifest is None:
        return None
    training, plays = training_of(spec, cell), spec.arms[cell.arm].plays
    log = RunFolder(Path(training.out)).sample_log
    if not log.is_file():
        return None
    last = training.steps if plays is None or plays.step is None else plays.step
    ids = {row.id for row in load_manifest(cell.manifest).select(labels=yardstick.labels)}
    weights = [float(row["weight"]) for row in read_jsonl(log) if row["id"] in ids and row["step"] <= last]
    return float(np.mean(weights)) if weights else None


# --- how far clips are, by texture, from developing music that no model trained on, and from what each did


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


# --- the held-out loss of a finished training on clips that are chosen afterwards


NOISE_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
_FIXED_SEED = 0
_MOST_AT_ONCE = 16


def held_out_loss(config: TrainConfig, adapter: str | Path | None, rows: Manifest, cache: Path) -> float:
    """Mean unweighted loss of the model with its adapter on clips, over five noise levels and noise that is the same
    for every model.

    Parameters
    ----------
    config : TrainConfig
        Of the training: model, crop and device.
    adapter : str, Path or None
        None for the model as it is.
    rows : Manifest
        At least one clip; a remainder that fills no batch is left out.
    cache : Path
        Folder of the clips' latents; what is missing is encoded.
    """
    from eisbach.adapters import load_adapter
    from eisbach.backbones import load_codec_of
    from eisbach.codecs.base import place_codec
    from eisbach.devices import place
    from eisbach.training.assembly import build_objective, load_model
    from eisbach.training.data import ConditioningCache, load_data
    from eisbach.training.step import HeldOut

    device = place(config.device, config.precision).device
    backbone = load_model(config)
    codec = load_codec_of(backbone)
    place_codec(codec, device)
    crop = max(config.data.crop_seconds, key=lambda item: item.share)
    data = load_data(rows, codec, [crop], cache, _FIXED_SEED, quiet=True)
    batches = -(-data.clips // _MOST_AT_ONCE)
    held_out = HeldOut.of(data, NOISE_LEVELS, batches, data.clips // batches)
    if adapter is not None:
        load_adapter(backbone, adapter)
    backbone.module.to(device).eval()
    conditioning = ConditioningCache(backbone, device)
    objective = build_objective(config, backbone)

    def to_device(batch: LatentBatch) -> LatentBatch:
        mask = None if batch.mask is None else batch.mask.to(device)
        return replace(batch, latents=batch.latents.to(device), mask=mask)

    losses = held_out.losses(backbone.predict, objective, conditioning, to_device)
    return float(losses["held_out_loss"])  # type: ignore[arg-type]
