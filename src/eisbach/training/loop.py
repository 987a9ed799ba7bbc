"""`train`: from a configuration to a run folder with the adapter or model that people play; the same call again
continues it."""

from __future__ import annotations

import gc
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eisbach.devices import Placement
from eisbach.errors import CheckpointError, InterruptedRun
from eisbach.files import write_json
from eisbach.interruption import stop_signal
from eisbach.output_folder import exclusive
from eisbach.progress import Progress
from eisbach.training.assembly import Assembly, assemble, origin_of_finished
from eisbach.training.checkpoint import newest_checkpoint, open_checkpoint, prune
from eisbach.training.config import TrainConfig
from eisbach.training.devices import build_accelerator, out_of_memory_explained
from eisbach.training.logging import MetricsFile
from eisbach.training.publish import publish
from eisbach.training.run_folder import RunFolder, check_origin, check_settings, describe_run, note
from eisbach.training.stopping import Standing
from eisbach.training.trackers import Trackers, check_trackers
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
    check_trackers(config.trackers)
    result = folder.finished()
    stopped = config.stop is not None and result is not None and result["stop"].get("stopped", False)
    if result is not None and (stopped or result["steps"] >= config.steps):
        check_origin(folder, result["stamp"], origin_of_finished(config, folder))
        note(f"{folder.root} is finished ({result['steps']} steps); nothing to do.", quiet)
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
    run = assemble(config, accelerator, quiet)
    trainer = run.trainer
    note(f"{Placement(accelerator.device, accelerator.mixed_precision == 'bf16').sentence()}.", quiet)
    accelerator.wait_for_everyone()
    checkpoint = newest_checkpoint(folder.checkpoints)
    if checkpoint is not None:
        trainer.resume(checkpoint)
        note(f"continuing {folder.root} from step {trainer.step}.", quiet)
    metrics = MetricsFile(folder.metrics)
    if accelerator.is_main_process:
        _keep_best(run)
        prune(folder.checkpoints, config.checkpoint.keep, [*config.checkpoint.steps, *trainer.kept])
        describe_run(folder, config)
        for log in (metrics, MetricsFile(folder.sample_log)):
            log.truncate_after(trainer.step if checkpoint is not None else -1)
        if run.demos is not None:
            run.demos.drop_strangers()
    trackers = Trackers(config if accelerator.is_main_process else None, trainer.step, quiet)
    try:
        _run(run, folder, metrics, trackers, quiet)
    finally:
        trainer.close()
        trackers.close()
    if accelerator.is_main_process:
        reached, outcome = trainer.step, _return_to_best(run, folder, quiet)
        result = publish(trainer, folder) | {"steps": reached} | outcome
        write_json(folder.result, result)
        note(f"{folder.root} is finished: {reached} steps, {result['path']}/ written.", quiet)
    accelerator.wait_for_everyone()


def _run(run: Assembly, folder: RunFolder, metrics: MetricsFile, trackers: Trackers, quiet: bool) -> None:
    trainer = run.trainer
    config, last = trainer.config, trainer.config.steps
    recorder = _Recorder(run, metrics, trackers, quiet)
    bar = Progress(last, "train", unit=" steps", done=trainer.step, quiet=quiet)
    with trainer.writer, stop_signal() as stop, bar:
        if trainer.step == 0:
            recorder.record(log=False, evaluate=True)
        recorder.play_demos(stop)  # of a run that was stopped before it had played them, too
        enough = _agreed(trainer, recorder.enough, ask=config.stop is not None)
        while trainer.step < last and not enough:
            trainer.take_step()
            step = trainer.step
            log = step % config.log_every == 0 or step == last
            recorder.record(
                log=log, evaluate=bool(config.held_out.every) and (step % config.held_out.every == 0 or step == last)
            )
            played = config.demos is not None and config.demos.due(step, last)
            due = config.checkpoint.due(step, last)
            due = due or (played and config.stop is not None)  # any of them may turn out the best
            if due:
                trainer.save(folder.checkpoints)
            recorder.play_demos(stop)
            ask = log or played or trainer.accelerator.num_processes == 1
            stopped = _agreed(trainer, stop.is_set(), ask)
            if stopped and not due:
                trainer.save(folder.checkpoints)
            trainer.writer.check()
            bar.advance(note=recorder.note)
            if stopped:
                trainer.writer.wait()
                raise InterruptedRun(
                    f"{folder.root} was saved at step {step} of {last}; the same command continues it."
                )
            enough = _agreed(trainer, recorder.enough, ask=played and config.stop is not None)


def _keep_best(run: Assembly) -> Standing | None:
    """Keeps the checkpoint of the best demos so far from being pruned; None where nothing judges them."""
    standing = None if run.judge is None else run.judge.standing(run.trainer.step)
    if standing is not None:
        run.trainer.kept = {standing.best}
    return standing


def _return_to_best(run: Assembly, folder: RunFolder, quiet: bool) -> dict[str, Any]:
    """Takes the weights of the best demos for those that are shipped; what `result.json` says of it."""
    standing = _keep_best(run)
    if standing is None:
        return {}
    if standing.stop:
        note(f"{standing.sentence()}.", quiet)
    place = folder.checkpoints / f"step-{standing.best:06d}"
    try:
        run.trainer.resume(open_checkpoint(place))
    except CheckpointError as error:
        note(f"the last weights are shipped, for those of the best demos are not there: {error}.", quiet)
    return {"stop": {**standing.row(), "stopped": standing.stop, "shipped": run.trainer.step}}


def _agreed(trainer: Trainer, wanted: bool, ask: bool) -> bool:
    """Whether any process was told to stop; processes must leave the loop at the same step."""
    if not ask or trainer.accelerator.num_processes == 1:
        return wanted and ask
    import torch

    flag = torch.tensor(float(wanted), device=trainer.device)
    return bool(trainer.accelerator.reduce(flag, reduction="sum") > 0)


class _Recorder:
    """Writes one row for each step that logs or evaluates."""

    def __init__(self, run: Assembly, metrics: MetricsFile, trackers: Trackers, quiet: bool) -> None:
        self._run, self.trainer, self.held_out, self.demos = run, run.trainer, run.held_out, run.demos
        self.metrics, self.trackers, self._quiet = metrics, trackers, quiet
        self.note, self.enough = "", False
        self._since, self._step = time.monotonic(), self.trainer.step
        rows = [] if self.demos is None else metrics.rows()
        self._played = {row["step"] for row in rows if "demos" in row}

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
            self.trackers.add(row)
        if log:
            self._since, self._step = time.monotonic(), trainer.step

    def play_demos(self, stop: threading.Event) -> None:
        """Plays this step's demos where they are due and not played yet, and writes their row."""
        trainer, step = self.trainer, self.trainer.step
        if self.demos is None or not self.demos.chosen.due(step, trainer.config.steps):
            return
        if step in self._played:
            self._judge()
            return
        started = time.monotonic()
        row = self.demos.play(trainer, stop)
        self._since += time.monotonic() - started
        if row is None:
            return
        if "error" in row["demos"]:
            reason = row["demos"]["error"]
            note(f"the demos of step {step} could not be made ({reason}); the training goes on.", self._quiet)
        self._played.add(step)
        standing = self._judge()
        if standing is not None:
            row["stop"] = standing.row()
        self.metrics.append(row)
        self.trackers.add(row)
        if "error" not in row["demos"]:
            self.trackers.add_demos(step, self.demos.folder(step))

    def _judge(self) -> Standing | None:
        """Where the run stands by its demos: whether it is `enough`, and which checkpoint stays."""
        standing = _keep_best(self._run)
        self.enough = standing is not None and standing.stop
        return standing
