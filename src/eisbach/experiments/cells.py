"""The cells of an experiment, an arm trained with one seed and played: one by one, or in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eisbach.data.manifest import Manifest
from eisbach.executors import open_executor, send
from eisbach.experiments.spec import ExperimentSpec, arm_training
from eisbach.experiments.stages import OpenStage, OverallProgress, Stage
from eisbach.generation.config import GenerateConfig
from eisbach.generation.generate import generate, plan_takes
from eisbach.output_folder import share_folder
from eisbach.progress import Progress, redirect_progress
from eisbach.structure import Clip
from eisbach.training.config import TrainConfig

# First guesses of speed on two laptop cores with the embedded model; measured speeds replace them within seconds.
_SECONDS_PER_TRAINED_CLIP = 0.03
_SECONDS_PER_SAMPLED_STEP = 0.02
_SECONDS_PER_DECODED_CLIP = 0.8


@dataclass(frozen=True)
class Cell:
    """Where one arm and training seed live.

    Attributes
    ----------
    arm : str
    train_seed : int
    root : Path
        The experiment's folder.
    manifest, cache : str or None
        The fine-tuning set and its latents when the experiment made them.
    """

    arm: str
    train_seed: int
    root: Path
    manifest: str | None = None
    cache: str | None = None

    @property
    def name(self) -> str:
        """`plain/seed-0`."""
        return f"{self.arm}/seed-{self.train_seed}"

    @property
    def folder(self) -> Path:
        """Everything of this cell."""
        return self.root / "arms" / self.arm / f"seed-{self.train_seed}"

    def key(self, kind: str) -> str:
        """Name of one of this cell's stages."""
        return f"{kind}/{self.name}"


def _generate_config(spec: ExperimentSpec, cell: Cell) -> GenerateConfig:
    """What this cell plays: the same prompts, seeds and settings as every other cell."""
    play = spec.generation.model_dump(exclude={"prompts"})
    shared = {"device": spec.device, "precision": spec.precision}
    play |= {key: value for key, value in shared.items() if key not in spec.generation.model_fields_set}
    training = _training(spec, cell)
    run = cell.folder / "train"
    trained = spec.arms[cell.arm].trained
    whole = trained and training.adapter.type == "none"  # then the run leaves a model, not an adapter
    return GenerateConfig(
        **play,
        out=str(cell.folder / "samples"),
        prompts=spec.generation.resolve_prompts(),
        model=str(run / "model") if whole else str(training.model),
        adapter=None if whole or not trained else str(run / "adapter"),
        arm=cell.arm,
    )


def _training(spec: ExperimentSpec, cell: Cell) -> TrainConfig:
    out = str(cell.folder / "train")
    return arm_training(spec, cell.arm, cell.train_seed, out=out, manifest=cell.manifest, cache=cell.cache)


def plan_stages(spec: ExperimentSpec, cell: Cell) -> list[Stage]:
    """The stages of a cell; what an earlier run finished is marked done."""
    training = _training(spec, cell)
    takes = plan_takes(_generate_config(spec, cell))
    play = spec.generation
    label = f"{spec.arms[cell.arm].label}, seed {cell.train_seed}"
    step_cost = training.batch_size * training.accumulation * _SECONDS_PER_TRAINED_CLIP
    clip_cost = play.num_inference_steps * _SECONDS_PER_SAMPLED_STEP * (2 if play.sampler == "heun" else 1)
    trained = (cell.folder / "train" / "result.json").is_file()
    played = all(take.path.is_file() for take in takes)
    stages = [Stage(cell.key("train"), "train", training.steps, step_cost, f"train {label}", trained)]
    stages.append(
        Stage(
            cell.key("generate"), "generate", len(takes), clip_cost + _SECONDS_PER_DECODED_CLIP, f"play {label}", played
        )
    )
    return stages if spec.arms[cell.arm].trained else stages[1:]


def run_cell(spec: ExperimentSpec, cell: Cell, stage: OpenStage) -> list[Clip]:
    """Trains one cell and plays it; finished work is kept. Returns its clips with their keys.

    Parameters
    ----------
    stage : callable
        `stage(key)` opens a stage of the overall progress bar.
    """
    from eisbach.training import train

    training, config = _training(spec, cell), _generate_config(spec, cell)
    trained = spec.arms[cell.arm].trained
    if spec.store is not None and trained:
        _share(spec, cell, training, config)
    if trained:
        with stage(cell.key("train")):
            train(training, quiet=True)
    with stage(cell.key("generate")):
        manifest = generate(config, quiet=True)
    return _clips_of(cell, manifest, trained)


def _share(spec: ExperimentSpec, cell: Cell, training: TrainConfig, config: GenerateConfig) -> None:
    """Puts the cell's training and its generations where experiments with the same ones find them."""
    from eisbach.training.run_folder import content_of

    trained = content_of(training)
    share_folder(cell.folder / "train", spec.store, "trainings", trained)
    played = config.model_dump(mode="json", exclude={"out", "adapter", "model", "batch_size"})
    share_folder(cell.folder / "samples", spec.store, "generations", {"trained": trained, "played": played})


def _clips_of(cell: Cell, manifest: Manifest, trained: bool) -> list[Clip]:
    """What a cell played, with the keys of its records; what was not trained has no training seed."""
    return [
        Clip(
            manifest.audio_path(row),
            {
                "arm": cell.arm,
                "train_seed": cell.train_seed if trained else None,
                "prompt_id": row.labels["prompt_id"],
                "seed": int(row.labels["seed"]),
            },
        )
        for row in manifest
    ]


def run_cells(spec: ExperimentSpec, cells: list[Cell], bar: OverallProgress) -> list[Clip]:
    """The clips of all cells, in the order of `cells`; at most `spec.jobs` run at once, or what a cluster holds.

    The first cell that fails stops the ones that have not begun; what the others finish stays on disk.
    """
    with open_executor(spec.jobs, len(cells), network=True) as executor:
        if executor.here:
            return [clip for cell in cells for clip in run_cell(spec, cell, bar.stage)]
        calls = [(spec, cell, executor.threads) for cell in cells]
        clips = dict(executor.each(_work, calls, listen=lambda message: bar.report(*message)))
    return [clip for index in range(len(cells)) for clip in clips[index]]


def _work(spec: ExperimentSpec, cell: Cell, threads: int) -> list[Clip]:
    """Runs in the worker: one cell, its bars sent to the parent."""
    import torch

    torch.set_num_threads(threads)

    @contextmanager
    def stage(key: str) -> Iterator[None]:
        kind = key.split("/", 1)[0]

        def listen(inner: Progress) -> None:
            if inner.total > 0 and inner.description.split(" ")[0] == kind:
                note = f"{inner.description} {inner.done}/{inner.total}{inner.unit}"
                send((key, inner.done / inner.total, note))

        with redirect_progress(listen):
            yield
        send((key, 1.0, key))

    return run_cell(spec, cell, stage)
