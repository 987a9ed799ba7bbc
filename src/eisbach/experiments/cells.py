"""The cells of an experiment, an arm trained with one seed and played: one by one, or in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eisbach.data.manifest import Manifest
from eisbach.executors import open_executor, send
from eisbach.experiments.spec import ExperimentSpec, arm_training
from eisbach.experiments.stages import OpenStage, OverallProgress, Stage
from eisbach.generation.config import GenerateConfig
from eisbach.generation.generate import generate
from eisbach.generation.takes import plan_takes
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

    def of_arm(self, arm: str) -> Cell:
        """The cell of another arm of the same draw."""
        return replace(self, arm=arm)

    def key(self, kind: str) -> str:
        """Name of one of this cell's stages."""
        return f"{kind}/{self.name}"


def _generate_config(spec: ExperimentSpec, cell: Cell) -> GenerateConfig:
    """What this cell plays: the same prompts, seeds and settings as every other cell."""
    play = spec.generation.model_dump(exclude={"prompts"})
    shared = {"device": spec.device, "precision": spec.precision}
    play |= {key: value for key, value in shared.items() if key not in spec.generation.model_fields_set}
    arm, training = spec.arms[cell.arm], training_of(spec, cell)
    whole = arm.trained and training.adapter.type == "none"  # then the run leaves a model, not an adapter
    adapter = None if whole or not arm.trained else str(adapter_of(spec, cell))
    interval = None if arm.plays is None else arm.plays.interval
    if adapter is None or interval is None:
        play |= {"adapter": adapter}
    else:
        play |= {"adapters": ({"file": adapter, "name": cell.arm, "interval": interval},)}
    return GenerateConfig(
        **play,
        out=str(cell.folder / "samples"),
        prompts=spec.generation.resolve_prompts(),
        model=str(Path(training.out) / "model") if whole else str(training.model),
        arm=cell.arm,
    )


def adapter_of(spec: ExperimentSpec, cell: Cell) -> Path:
    """Where the adapter lies that a cell plays: its training's, one made of two trained ones, or a checkpoint."""
    arm = spec.arms[cell.arm]
    if arm.swap is not None:
        return cell.folder / "adapter"
    run = Path(training_of(spec, cell).out)
    step = None if arm.plays is None else arm.plays.step
    return run / "adapter" if step is None else run / "checkpoints" / f"step-{step:06d}"


def training_of(spec: ExperimentSpec, cell: Cell) -> TrainConfig:
    """The training of a cell; of a swap, that of its directions; of a checkpoint, the one that keeps it."""
    plays = spec.arms[cell.arm].plays
    out = str((cell if plays is None else cell.of_arm(plays.arm)).folder / "train")
    return arm_training(spec, cell.arm, cell.train_seed, out=out, manifest=cell.manifest, cache=cell.cache)


def plan_stages(spec: ExperimentSpec, cell: Cell) -> list[Stage]:
    """The stages of a cell; what an earlier run finished is marked done."""
    training = training_of(spec, cell)
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
    return stages if spec.arms[cell.arm].trains else stages[1:]


def run_cell(spec: ExperimentSpec, cell: Cell, stage: OpenStage) -> list[Clip]:
    """Trains one cell, or makes its adapter of two trained ones, and plays it; finished work is kept. Returns its clips
    with their keys.

    Parameters
    ----------
    stage : callable
        `stage(key)` opens a stage of the overall progress bar.
    """
    arm, config = spec.arms[cell.arm], _generate_config(spec, cell)
    sources = [cell] if arm.swap is None else [cell.of_arm(arm.swap.direction), cell.of_arm(arm.swap.magnitude)]
    contents = [_content_of(spec, source) for source in sources] if arm.trained and spec.store is not None else []
    if contents:
        left_out = {"out", "adapter", "adapters", "model", "batch_size", "init", "noise", "keep"}
        played = config.model_dump(mode="json", exclude=left_out)
        trained = contents[0] if arm.swap is None else dict(zip(("direction", "magnitude"), contents, strict=True))
        played |= {} if arm.plays is None else arm.plays.model_dump(mode="json", exclude={"arm"}, exclude_none=True)
        share_folder(cell.folder / "samples", spec.store, "generations", {"trained": trained, "played": played})
    if arm.trains:
        with stage(cell.key("train")):
            train_cell(spec, cell, *contents)
    with stage(cell.key("generate")):
        if arm.swap is not None:
            from eisbach.adapters.mix import swap_magnitudes

            direction, magnitude = (source.folder / "train" / "adapter" for source in sources)
            swap_magnitudes(direction, magnitude, cell.folder / "adapter")
        manifest = generate(config, quiet=True)
    return _clips_of(cell, manifest, arm.trained)


def train_cell(spec: ExperimentSpec, cell: Cell, content: dict[str, Any] | None = None) -> None:
    """Trains one cell, where experiments with the same training (`content`, by which a store knows it) find it; a
    finished training is kept."""
    from eisbach.training import train

    if spec.store is not None:
        share_folder(cell.folder / "train", spec.store, "trainings", content or _content_of(spec, cell))
    train(training_of(spec, cell), quiet=True)


def _content_of(spec: ExperimentSpec, cell: Cell) -> dict[str, Any]:
    from eisbach.training.assembly import content_of

    return content_of(training_of(spec, cell))


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

    What is made of trained arms, swaps and checkpoints, comes after all trainings. The first cell that fails stops the
    ones that have not begun; what the others finish stays on disk.
    """
    clips: dict[Cell, list[Clip]] = {}
    made = [cell for cell in cells if spec.arms[cell.arm].trained and not spec.arms[cell.arm].trains]
    for wave in ([cell for cell in cells if cell not in made], made):
        with open_executor(spec.jobs, len(wave), network=True) as executor:
            if executor.here:
                clips |= {cell: run_cell(spec, cell, bar.stage) for cell in wave}
                continue
            calls = [(spec, cell, executor.threads) for cell in wave]
            for index, own in executor.each(_work, calls, listen=lambda message: bar.report(*message)):
                clips[wave[index]] = own
    return [clip for cell in cells for clip in clips[cell]]


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
