"""`train`: from a configuration to a run folder, and the same call again continues it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from eisbach import adapters
from eisbach.errors import ConfigError, InterruptedRun
from eisbach.files import write_json
from eisbach.progress import Progress
from eisbach.training.checkpoint import clean_leftovers, newest_checkpoint
from eisbach.training.config import TrainConfig
from eisbach.training.data import TrainingData, cache_folder, load_data, load_manifests, manifest_hash, training_rows
from eisbach.training.held_out import HeldOut
from eisbach.training.logging import Board, MetricsFile
from eisbach.training.publish import publish
from eisbach.training.run_folder import RunFolder, describe_run, open_run, recipe_hash
from eisbach.training.step import Objective
from eisbach.training.trainer import Trainer

if TYPE_CHECKING:
    from accelerate import Accelerator

    from eisbach.backbones.base import Backbone
    from eisbach.data.manifest import Manifest

_FIXED_SEED = 0  # the held-out crops are the same for every training seed


def train(config: TrainConfig, *, quiet: bool = False) -> Path:
    """Trains, or continues, or finds finished, the run of a configuration, and returns its folder.

    Afterwards the folder holds `adapter/` (or `model/` with adapter.type none), `metrics.jsonl`, `checkpoints/` and
    `result.json`. Progress and notes go to standard error.

    Parameters
    ----------
    config : TrainConfig
    quiet : bool, default False
        Write nothing to standard error.

    Raises
    ------
    ConfigError
        The folder holds a run of another configuration, or a name in the configuration does not exist.
    ManifestError, AudioError
        The data cannot be used.
    CheckpointError
        The newest checkpoint is damaged or of another run.
    StorageError
        The disk is full; what was saved is intact.
    NonFiniteLossError
        The loss was not finite; the last good checkpoint stays.
    InterruptedRun
        Ctrl-C or SIGTERM: a checkpoint was saved and the same call continues.
    """
    folder = open_run(config)
    if folder.finished_steps() >= config.steps:
        _note(f"{folder.root} is finished ({config.steps} steps); nothing to do.", quiet)
        return folder.root
    accelerator = build_accelerator(config)
    quiet = quiet or not accelerator.is_main_process
    trainer, held_out = assemble(config, accelerator, quiet)
    clean_leftovers(folder.checkpoints)
    checkpoint = newest_checkpoint(folder.checkpoints)
    if checkpoint is not None:
        trainer.resume(checkpoint)
        _note(f"continuing {folder.root} from step {trainer.step}.", quiet)
    metrics = MetricsFile(folder.metrics)
    if accelerator.is_main_process:
        describe_run(folder, config)
        metrics.truncate_after(trainer.step if checkpoint is not None else -1)
    board = Board(
        folder.root / "tensorboard" if config.tensorboard and accelerator.is_main_process else None, trainer.step
    )
    try:
        _run(trainer, held_out, folder, metrics, board, quiet)
    finally:
        board.close()
    if accelerator.is_main_process:
        result = publish(trainer, folder)
        write_json(folder.result, result)
        _note(f"{folder.root} is finished: {config.steps} steps, {result['path']}/ written.", quiet)
    accelerator.wait_for_everyone()
    return folder.root


def build_accelerator(config: TrainConfig) -> Accelerator:
    """accelerate's view of the device, the precision and the processes.

    Raises
    ------
    ConfigError
        A launch mode that shards the model, which checkpoints here do not cover.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    precision = "bf16" if uses_bf16(config.precision, PartialState().device.type) else "no"
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()  # an earlier run in this process had another precision
    # Layers without a gradient in some step (an unused embedding) must not make the other processes wait.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=handlers)
    simple = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in simple:
        raise ConfigError(
            f"accelerate was launched with {accelerator.distributed_type.value}, and training supports one process or "
            "data-parallel processes (MULTI_CPU, MULTI_GPU); change the launch options."
        )
    return accelerator


def uses_bf16(precision: str, device_type: str) -> bool:
    """Whether to compute in bf16: as asked, or with "auto" where a GPU has it in hardware (Ampere and later)."""
    if precision != "auto":
        return precision == "bf16"
    import torch

    return device_type == "cuda" and torch.cuda.get_device_capability() >= (8, 0)


def assemble(config: TrainConfig, accelerator: Accelerator, quiet: bool) -> tuple[Trainer, HeldOut | None]:
    """Loads the model and the data and puts the adapter in."""
    from eisbach.codecs import load_codec

    manifest = load_manifests(config.data.manifest)
    rows = training_rows(manifest, config.data, config.batch_size)
    backbone = load_model(config)
    objective = build_objective(config, backbone)
    origin: dict[str, Any] = {
        "base_identity": backbone.identity(),
        "recipe_hash": recipe_hash(config),
        "manifest_hash": manifest_hash(rows),
    }
    adapter = None
    if config.adapter.type == "none":
        backbone.module.requires_grad_(True)
    else:
        adapter = _inject(config, backbone)
    cache = cache_folder(config.data, manifest)
    codec = load_codec(backbone.codec)
    with accelerator.main_process_first():  # one process encodes, the others find the cache
        data = load_data(rows, codec, config.data.crop_seconds, cache, config.seed, quiet=quiet)
        held_out = _held_out(config, manifest, codec, cache, quiet)
    trainer = Trainer(
        config=config,
        accelerator=accelerator,
        backbone=backbone,
        objective=objective,
        data=data,
        parameters=adapters.trainable_parameters(backbone.module),
        adapter=adapter,
        origin=origin,
    )
    return trainer, held_out


def load_model(config: TrainConfig) -> Backbone:
    """The model that training starts from."""
    from eisbach.backbones import create_backbone, load_backbone

    if isinstance(config.model, str):
        return load_backbone(config.model)
    return create_backbone(config.model["create"])


def build_objective(config: TrainConfig, backbone: Backbone) -> Objective:
    """The path, target, noise levels and weighting of a configuration.

    Raises
    ------
    ConfigError, UserError
        A name or an option does not exist; the sentence lists what does.
    """
    from eisbach.diffusion.noise_levels import get_density
    from eisbach.diffusion.paths import get_path
    from eisbach.weighting import build_weighting

    chosen = config.weighting
    weighting = build_weighting(
        chosen.sample,
        chosen.noise_level,
        reduction=chosen.reduction,
        normalisation=chosen.normalisation,
        strength=chosen.strength,
        latent_rate=backbone.latent_rate,
        **chosen.options,
    )
    levels = config.noise_levels
    return Objective(
        path=get_path(backbone.path),
        target=backbone.target,
        density=get_density(levels.density or backbone.density, **levels.options),
        weighting=weighting,
        condition_dropout=config.condition_dropout,
        null_condition=backbone.null_condition,
    )


def _inject(config: TrainConfig, backbone: Backbone) -> Any:
    chosen = config.adapter
    adapter = adapters.adapter_config(
        backbone,
        kind=chosen.type,
        rank=chosen.rank or 1,
        alpha=chosen.alpha or 1.0,
        dropout=chosen.dropout or 0.0,
        targets=chosen.targets,
        exclude=chosen.exclude or (),
    )
    adapters.inject(backbone, adapter, seed=config.seed)
    return adapter


def _held_out(config: TrainConfig, manifest: Manifest, codec: Any, cache: Path, quiet: bool) -> HeldOut | None:
    chosen = config.held_out
    if chosen.every == 0:
        return None
    rows = manifest.select(split="held_out", labels=chosen.select)
    if len(rows) == 0:
        _note("no clip is held out, so the held-out loss is not measured.", quiet)
        return None
    crop = max(config.data.crop_seconds, key=lambda item: item.share)
    data: TrainingData = load_data(rows, codec, [crop], cache, _FIXED_SEED, quiet=quiet)
    return HeldOut.of(data, chosen.noise_levels, chosen.batches, config.batch_size)


def _run(
    trainer: Trainer, held_out: HeldOut | None, folder: RunFolder, metrics: MetricsFile, board: Board, quiet: bool
) -> None:
    config, last = trainer.config, trainer.config.steps
    recorder = _Recorder(trainer, held_out, metrics, board)
    with stop_signal() as stop, Progress(last, "train", unit=" steps", done=trainer.step, quiet=quiet) as bar:
        if trainer.step == 0:
            recorder.record(log=False, evaluate=True)
        while trainer.step < last:
            trainer.take_step()
            step = trainer.step
            log = step % config.log_every == 0 or step == last
            recorder.record(
                log=log, evaluate=bool(config.held_out.every) and (step % config.held_out.every == 0 or step == last)
            )
            stopped = _agreed(trainer, stop.is_set(), ask=log or trainer.accelerator.num_processes == 1)
            if stopped or step % config.checkpoint.every == 0 or step == last:
                trainer.save(folder.checkpoints)
            bar.advance(note=recorder.note)
            if stopped and step < last:
                raise InterruptedRun(
                    f"{folder.root} was saved at step {step} of {last}; the same command continues it."
                )


def _agreed(trainer: Trainer, wanted: bool, ask: bool) -> bool:
    """Whether any process was told to stop; processes must leave the loop at the same step."""
    if not ask or trainer.accelerator.num_processes == 1:
        return wanted and ask
    import torch

    flag = torch.tensor(float(wanted), device=trainer.device)
    return bool(trainer.accelerator.reduce(flag, reduction="sum") > 0)


class _Recorder:
    """Writes one row for each step that logs or evaluates."""

    def __init__(self, trainer: Trainer, held_out: HeldOut | None, metrics: MetricsFile, board: Board) -> None:
        self.trainer, self.held_out, self.metrics, self.board = trainer, held_out, metrics, board
        self.note = ""
        self._since, self._step = time.monotonic(), trainer.step

    def record(self, *, log: bool, evaluate: bool) -> None:
        """Measures what is due, writes it, and starts the next window."""
        trainer = self.trainer
        row: dict[str, Any] = {"step": trainer.step}
        if log:
            trainer.guard.check()
            row |= trainer.window_means()
            row["lr"] = trainer.learning_rate(trainer.step - 1)
            elapsed = time.monotonic() - self._since
            row["steps_per_second"] = (trainer.step - self._step) / elapsed if elapsed > 0 else None
            trainer.window.reset()
            self.note = f"loss {row['loss']:.4f}"
        if evaluate and self.held_out is not None and trainer.accelerator.is_main_process:
            started = time.monotonic()
            row |= trainer.evaluate(self.held_out)
            self._since += time.monotonic() - started  # steps per second are about training
        if len(row) > 1 and trainer.accelerator.is_main_process:
            self.metrics.append(row)
            self.board.add(row)
        if log:
            self._since, self._step = time.monotonic(), trainer.step


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets; a second one stops at once. Outside the main thread it is never set."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            signal.signal(number, before[number] or signal.SIG_DFL)
            os.kill(os.getpid(), number)
        event.set()

    for number in before:
        signal.signal(number, stop)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _note(message: str, quiet: bool) -> None:
    if not quiet:
        print(f"eisbach train: {message}", file=sys.stderr)
