"""`train`: from a configuration to a run folder with the adapter or model that people play; the same call again
continues it."""

from __future__ import annotations

import gc
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eisbach.devices import Placement
from eisbach.errors import InterruptedRun
from eisbach.files import write_json
from eisbach.output_folder import exclusive
from eisbach.progress import Progress
from eisbach.signals import stop_signal
from eisbach.training.assembly import assemble, origin_of_finished
from eisbach.training.checkpoint import newest_checkpoint, prune
from eisbach.training.config import TrainConfig
from eisbach.training.devices import build_accelerator, out_of_memory_explained
from eisbach.training.logging import Board, MetricsFile
from eisbach.training.publish import publish
from eisbach.training.run_folder import RunFolder, check_origin, check_settings, describe_run, note
from eisbach.training.step import HeldOut
from eisbach.training.trainer import Trainer

if TYPE_CHECKING:
    from accelerate import Accelerator


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
    OutOfMemory
        The device or the machine has less memory than the recipe needs; says how much, and what to change.
    NonFiniteLossError
        The loss was not finite; the last good checkpoint stays.
    InterruptedRun
        Ctrl-C, SIGTERM or a closed terminal (SIGHUP): a checkpoint was saved and the same call continues.

    Examples
    --------
    With a folder ``music`` that holds audio and its manifest.jsonl:

    >>> from eisbach import TrainConfig, train
    >>> recipe = {"data": {"manifest": "music", "crop_seconds": 4}, "batch_size": 2, "steps": 2, "out": "run"}
    >>> folder = train(TrainConfig(**recipe), quiet=True)
    >>> sorted(path.name for path in (folder / "adapter").glob("*.safetensors"))
    ['adapter_model.safetensors']
    """
    folder = RunFolder(Path(config.out))
    check_settings(folder, config)
    result = folder.finished()
    if result is not None and result["steps"] >= config.steps:
        check_origin(folder, result["stamp"], origin_of_finished(config, folder))
        note(f"{folder.root} is finished ({config.steps} steps); nothing to do.", quiet)
        return folder.root
    accelerator = build_accelerator(config)
    quiet = quiet or not accelerator.is_main_process
    alone = exclusive(folder.root) if accelerator.is_main_process else nullcontext()
    with alone, out_of_memory_explained(config, accelerator.device):
        _train(config, folder, accelerator, quiet)
    if accelerator.num_processes > 1:
        # The data-parallel wrapper's threads must end before the process group does, or a process may abort as it
        # leaves.
        gc.collect()
        accelerator.wait_for_everyone()
        accelerator.end_training()
    return folder.root


def _train(config: TrainConfig, folder: RunFolder, accelerator: Accelerator, quiet: bool) -> None:
    trainer, held_out = assemble(config, accelerator, quiet)
    note(f"{Placement(accelerator.device, accelerator.mixed_precision == 'bf16').sentence()}.", quiet)
    accelerator.wait_for_everyone()
    checkpoint = newest_checkpoint(folder.checkpoints)
    if checkpoint is not None:
        trainer.resume(checkpoint)
        note(f"continuing {folder.root} from step {trainer.step}.", quiet)
    metrics = MetricsFile(folder.metrics)
    if accelerator.is_main_process:
        prune(folder.checkpoints, config.checkpoint.keep, config.checkpoint.steps)
        describe_run(folder, config)
        for log in (metrics, MetricsFile(folder.sample_log)):
            log.truncate_after(trainer.step if checkpoint is not None else -1)
    events = folder.root / "tensorboard" if config.tensorboard and accelerator.is_main_process else None
    board = Board(events, trainer.step)
    try:
        _run(trainer, held_out, folder, metrics, board, quiet)
    finally:
        trainer.close()
        board.close()
    if accelerator.is_main_process:
        result = publish(trainer, folder)
        write_json(folder.result, result)
        note(f"{folder.root} is finished: {config.steps} steps, {result['path']}/ written.", quiet)
    accelerator.wait_for_everyone()


def _run(
    trainer: Trainer, held_out: HeldOut | None, folder: RunFolder, metrics: MetricsFile, board: Board, quiet: bool
) -> None:
    config, last = trainer.config, trainer.config.steps
    recorder = _Recorder(trainer, held_out, metrics, board)
    bar = Progress(last, "train", unit=" steps", done=trainer.step, quiet=quiet)
    with trainer.writer, stop_signal() as stop, bar:
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
            due = step % config.checkpoint.every == 0 or step in config.checkpoint.steps or step == last
            if stopped or due:
                trainer.save(folder.checkpoints)
            trainer.writer.check()
            bar.advance(note=recorder.note)
            if stopped and step < last:
                trainer.writer.wait()
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
