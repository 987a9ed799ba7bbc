"""Trains on several sets, plays the same prompts and noise at every checkpoint, and scores every clip.

A clip's score is the mean of three numbers from 0 (good) to 1: its probability of being flat; the probability that its
texture is nearer to the clips that trained than to as many that did not (memorised); and its distance in texture to the
nearest of these others (`textures.py`). The others are developing clips of all sets, none of whose pieces trained.
Trainings are those of the barrier's studies over draws, with plain weights, on draws that no other study uses.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from eisbach.config import StrictModel, build_config, merge
from eisbach.data.manifest import Manifest, load_manifest
from eisbach.data.render import pieces_in
from eisbach.errors import UserError
from eisbach.executors import open_executor
from eisbach.experiments.material import build_material, plan_material
from eisbach.experiments.recipes import read_recipe
from eisbach.experiments.spec import ExperimentSpec, arm_training
from eisbach.files import read_jsonl, write_json
from eisbach.output_folder import Finished
from eisbach.progress import Progress
from eisbach.structure import Clip, analyze_files, read_details
from eisbach.structure.record_files import RECORDS
from eisbach.studies.stop_rule.textures import Neighbours
from eisbach.training.config import StopConfig, TrainConfig
from eisbach.types import SkipReport

RESULT = "stop_rule.json"
PARTS = ("flat", "memorised", "far")


class Settings(StrictModel):
    """How much is trained and played.

    Attributes
    ----------
    first_draw, draws : int
        Training sets: draws from this one on.
    seeds : int
        Trainings a set.
    every, checkpoints : int
        Steps between checkpoints, and how many.
    prompts, clip_seeds : int
        Clips a checkpoint: the first prompts of the recipe `draws`, and generation seeds from 0.
    played_seconds, num_inference_steps : float, int
        Length of these clips, and steps of their sampling.
    batch_size, clips, flat_share, seconds : int, int, float, float
        Of a training, and of its set: clips in all, how many of them are flat, and their length.
    """

    first_draw: int = Field(300, ge=0)
    draws: int = Field(8, ge=1)
    seeds: int = Field(2, ge=1)
    every: int = Field(20, ge=1)
    checkpoints: int = Field(10, ge=2)
    prompts: int = Field(8, ge=2, le=12)
    clip_seeds: int = Field(4, ge=2)
    played_seconds: float = Field(16.0, ge=8.0)
    num_inference_steps: int = Field(16, ge=1)
    batch_size: int = Field(8, ge=1)
    clips: int = Field(120, ge=20)
    flat_share: float = Field(0.7, ge=0, le=0.9)
    seconds: float = Field(16.0, ge=16.0)


QUICK: dict[str, Any] = {
    "first_draw": 301, "draws": 2, "seeds": 1, "every": 1, "checkpoints": 3, "prompts": 2, "clip_seeds": 2,
    "num_inference_steps": 2, "batch_size": 2, "clips": 20, "flat_share": 0.25,
}  # fmt: skip


def run(settings: Settings, out: Path, *, jobs: int = 1, quiet: bool = False) -> None:
    """Writes `stop_rule.json`: every training with its losses and the scores of its clips; what is there is kept."""
    spec = _spec(settings, out)
    done = Finished(out / "trainings.jsonl")
    draws = range(settings.first_draw, settings.first_draw + settings.draws)
    places = list(product(draws, range(settings.seeds)))
    todo = [(draw, seed) for draw, seed in places if f"{draw}/{seed}" not in done]
    with Progress(len(places), "stop_rule", unit=" trainings", done=len(places) - len(todo), quiet=quiet) as bar:
        if todo:
            build_material(spec, out, _stage)
            for draw in draws:
                _measure_set(_developing(_manifest(spec, out, draw)), out)
            for draw in draws:  # a set that cannot be scored is said before it trains
                _neighbours(spec, out, draw)
                _check_held_out(_manifest(spec, out, draw), draw)
        with open_executor(jobs, len(todo), network=True) as executor:
            threads = None if executor.here else executor.threads
            calls = [(settings, str(out), draw, seed, threads) for draw, seed in todo]
            for index, row in executor.each(_train_and_score, calls):
                draw, seed = todo[index]
                done.add(f"{draw}/{seed}", row)
                bar.advance()
    rows = [{"draw": draw, "seed": seed, **done.rows[f"{draw}/{seed}"]} for draw, seed in places]
    write_json(out / RESULT, {"every": settings.every, "trainings": rows})


def _train_and_score(settings: Settings, out: str, draw: int, seed: int, threads: int | None) -> dict[str, Any]:
    """One training: steps, held-out and training losses, and of each checkpoint what `stop:` measures of its clips, as
    they are played, their scores [seeds][prompts] and the means of their parts; `before` are those of step 0."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    root = Path(out)
    spec = _spec(settings, root)
    steps = [settings.every * number for number in range(1, settings.checkpoints + 1)]
    folder = _train(training(spec, root, draw, seed), [0, *steps])
    around = _neighbours(spec, root, draw)
    measure = StopConfig().measure
    flat, scores, parts = [], [], []
    for step in [0, *steps]:
        played = _demos(_demo_folder(folder, step))
        clips = [_parts(row, detail, around) for row, detail in played]
        table = np.array(clips).reshape(settings.prompts, settings.clip_seeds, len(PARTS))
        flat.append([row[measure] for row, _ in played])
        scores.append(np.round(table.mean(axis=2).T, 4).tolist())
        parts.append(dict(zip(PARTS, np.round(table.mean(axis=(0, 1)), 4).tolist(), strict=True)))
    rows = read_jsonl(folder / "metrics.jsonl")
    held = {row["step"]: row["held_out_loss"] for row in rows if row.get("held_out_loss") is not None}
    losses = {row["step"]: row["loss"] for row in rows if row.get("loss") is not None}
    return {
        "steps": steps,
        "held_out_loss": [held[step] for step in steps],
        "loss": [[step, losses[step]] for step in sorted(losses)],
        "flat": flat[1:],
        "scores": scores[1:],
        "parts": parts[1:],
        "before": parts[0],
    }


def _train(config: TrainConfig, steps: Sequence[int]) -> Path:
    """The folder of a training with the demos of all steps. One that failed does not end its training, and a finished
    training plays it no more: so that training is made once more, from its beginning.

    Raises
    ------
    UserError
        A demo failed both times.
    """
    from eisbach.training import train

    folder = train(config, quiet=True)
    if _without_demos(folder, steps):
        shutil.rmtree(folder)
        folder = train(config, quiet=True)
    missing = _without_demos(folder, steps)
    if missing:
        errors = {
            row["step"]: row["demos"].get("error") for row in read_jsonl(folder / "metrics.jsonl") if "demos" in row
        }
        reason = errors.get(missing[0]) or "no reason was logged"
        raise UserError(
            f"{folder} was trained twice, and the demos of step {missing[0]} could not be made ({reason}); see to "
            f"that, delete {folder}, and run the study again: the other trainings are kept."
        )
    return folder


def _without_demos(folder: Path, steps: Sequence[int]) -> list[int]:
    return [step for step in steps if not (_demo_folder(folder, step) / RECORDS).is_file()]


def _demo_folder(folder: Path, step: int) -> Path:
    return folder / "samples" / f"step-{step}"


def training(spec: ExperimentSpec, root: Path, draw: int, seed: int) -> TrainConfig:
    """The configuration of one training of a set."""
    manifest, cache = plan_material(spec, root, draw)
    place = root / "trainings" / f"draw-{draw}_seed-{seed}"
    config = arm_training(spec, spec.baseline, draw, out=str(place), manifest=str(manifest), cache=str(cache))
    values = config.model_dump(mode="json") | {"seed": 1000 * (seed + 1) + draw}
    return build_config(TrainConfig, values, "the study's training")


def _spec(settings: Settings, out: Path) -> ExperimentSpec:
    """The sets and the training, as the studies over draws have them."""
    shared = read_recipe("draws")
    shared.pop("quick")
    play = shared["generation"]
    last = settings.every * settings.checkpoints
    demos = {
        "every": settings.every,
        "prompts": play["prompts"][: settings.prompts],
        "seeds": list(range(settings.clip_seeds)),
        "duration": settings.played_seconds,
        **{key: play[key] for key in ("sampler", "guidance_scale")},
        "num_inference_steps": settings.num_inference_steps,
    }
    changes: dict[str, Any] = {
        "title": "When to stop", "out": str(out), "store": None, "train_seeds": _draws(settings), "notes": [],
        "material": {"clips": settings.clips, "flat_share": settings.flat_share, "duration": settings.seconds},
        "arms": {"plain": {"label": "plain"}, "base": {"label": "base", "trained": False}},
        "primary_metrics": {"is_flat": "lower"},
        "training": {
            "steps": last, "batch_size": settings.batch_size, "warmup_steps": min(10, last // 2), "demos": demos,
            "data": {"crop_seconds": settings.seconds}, "held_out": {"every": settings.every},
            "checkpoint": {"every": last}, "log_every": min(5, settings.every),
        },
    }  # fmt: skip
    return build_config(ExperimentSpec, merge(shared, changes), "the study's experiment")


def _draws(settings: Settings) -> list[int]:
    return list(range(settings.first_draw, settings.first_draw + settings.draws))


def _manifest(spec: ExperimentSpec, root: Path, draw: int) -> Manifest:
    manifest, _ = plan_material(spec, root, draw)
    assert manifest is not None
    return load_manifest(manifest)


def _developing(manifest: Manifest) -> Manifest:
    return manifest.select(labels={"flat": "false"})


@contextmanager
def _stage(key: str) -> Iterator[None]:
    """The study has one bar, over trainings."""
    yield


def _demos(folder: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """A step's records with their details, prompts outside, seeds inside."""
    details = read_details(folder)
    return [(row, details[str(row["path"])]) for row in read_jsonl(folder / RECORDS)]


def _parts(row: dict[str, Any], detail: dict[str, Any], around: Neighbours) -> list[float]:
    """A clip's three numbers; silence is flat, not memorised, and as far as can be."""
    if detail["embedding"] is None or row["flat_probability"] is None:
        return [1.0, 0.0, 1.0]
    texture = np.asarray(detail["embedding"], dtype=np.float64)
    return [float(row["flat_probability"]), around.memorised(texture), around.far(texture)]


def _check_held_out(manifest: Manifest, draw: int) -> None:
    """Nothing; a set that holds no clip out has no held-out loss to choose a checkpoint by."""
    if not len(manifest.select(split="held_out")):
        raise UserError(f"of draw {draw} no clip is held out, and a rival chooses by the held-out loss; raise clips.")


def _measure_set(manifest: Manifest, root: Path) -> None:
    clips = [Clip(manifest.audio_path(row)) for row in manifest]
    analyze_files(clips, out=_analysis(manifest, root), skips=SkipReport(), quiet=True)


def _analysis(manifest: Manifest, root: Path) -> Path:
    return root / "analysis_of_sets" / manifest.root.name


def _neighbours(spec: ExperimentSpec, root: Path, draw: int) -> Neighbours:
    """Textures of the developing clips that train in a draw, and of those of all draws none of whose pieces does, in
    flat material neither."""
    ours = _manifest(spec, root, draw).select(split="train")
    known = set(pieces_in(ours))
    trained = _textures(_developing(ours), root)
    others = []
    for other in spec.train_seeds:
        clips = _developing(_manifest(spec, root, other))
        strange = [row for row in clips if not known & set(pieces_in(clips.with_rows([row])))]
        others += _textures(clips.with_rows(strange), root)
    if not (trained and others):
        raise UserError(
            f"of draw {draw} {len(trained)} developing clips train, and {len(others)} of all draws have none of its "
            "pieces, and both are needed to be near to; raise clips or draws, or lower flat_share."
        )
    return Neighbours(np.array(trained), np.array(others))


def _textures(manifest: Manifest, root: Path) -> list[np.ndarray]:
    """Textures [shape=(64,), dB] of the clips that have one; silence has none."""
    details = read_details(_analysis(manifest, root))
    found = [details.get(str(manifest.audio_path(row)), {}).get("embedding") for row in manifest]
    return [np.asarray(texture, dtype=np.float64) for texture in found if texture is not None]
