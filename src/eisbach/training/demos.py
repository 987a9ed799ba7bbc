"""Demos while training: the same prompts from the same noise every so many steps, with the weights of that step.

A demo reads the training and leaves no trace in it: it draws from generators of its own, puts the network back as it
found it, and what goes wrong in it is said and logged while the training goes on. `samples/step-N/` appears whole or
not at all, so a run that was killed in the middle of a demo plays it when it continues.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from eisbach.codecs.base import place_codec
from eisbach.devices import Placement
from eisbach.errors import ConfigError, EisbachError, UserError, one_line
from eisbach.files import read_journal, read_json, write_json
from eisbach.generation.config import GenerateConfig
from eisbach.generation.generate import sample_batch, sampled_seconds, unknown_words
from eisbach.generation.playing import Player
from eisbach.generation.takes import STAMP, Take, plan_takes, sampling_times, save_manifest, write_take
from eisbach.output_folder import curve_stamp
from eisbach.structure.batch import measure_file
from eisbach.structure.metrics import METRICS
from eisbach.structure.record_files import RECORDS, MeasuredClip, write_analysis
from eisbach.training.publish import replace_folder
from eisbach.types import Conditioning, Record

if TYPE_CHECKING:
    from eisbach.backbones.base import Backbone
    from eisbach.codecs.base import Codec
    from eisbach.training.config_demos import DemosConfig
    from eisbach.training.trainer import Trainer

MEASURES = ("is_flat", "flat_probability", *(name for name, metric in METRICS.items() if metric.primary))
"""Columns of a demo's records whose means over its clips are logged."""


class _Stopped(Exception):
    """The run was told to stop while a demo played."""


class Demos:
    """The demos of one run; the main process plays them.

    Made before the captions of the training are read, since a large text encoder is let go after that: what the prompts
    became is kept.

    Raises
    ------
    UserError
        Prompts, a duration or a schedule that this model cannot play.
    ConfigError
        The model makes images.
    """

    def __init__(self, chosen: DemosConfig, backbone: Backbone, root: Path, origin: dict[str, Any]) -> None:
        from eisbach.backbones import load_codec_of

        if backbone.modality != "audio":
            raise ConfigError(f"demos play audio and the model {backbone.name} makes images; leave demos out.")
        self.chosen, self.root = chosen, root / "samples"
        self._config = GenerateConfig(
            **chosen.model_dump(exclude={"every", "prompts", "device", "precision"}),
            prompts=chosen.resolve_prompts(),
            out=str(self.root),
        )
        sampled_seconds(self._config, backbone)
        sampling_times(self._config, backbone)
        self.unknown = unknown_words(self._config.prompts, backbone)
        self._codec: Codec = load_codec_of(backbone)
        self._stamp = {"training": origin, **chosen.content(), **curve_stamp(chosen.schedule_options)}
        del self._stamp["every"], self._stamp["batch_size"]
        self._batches = [self._captions(backbone, batch) for batch in self._cut(self._takes(self.root, 0))]

    @property
    def size(self) -> tuple[int, int]:
        """(prompts, seeds)."""
        return len(self._config.prompts), len(self._config.seeds)

    def played(self, last: int) -> list[int]:
        """Steps up to `last` whose demos are there, as this recipe plays them."""
        steps = [int(name) for path in self.root.glob("step-*") if (name := path.name.removeprefix("step-")).isdigit()]
        return [step for step in sorted(steps) if step <= last and self._is_there(step)]

    def records(self, step: int) -> list[Record]:
        """What was measured of a step's demos, prompts outside, seeds inside."""
        return read_journal(self.folder(step) / RECORDS, "records of demos")

    def _is_there(self, step: int) -> bool:
        return _stamp_of(self.folder(step)) == {**self._stamp, "step": step}

    def folder(self, step: int) -> Path:
        """Where a step's demos lie."""
        return self.root / f"step-{step}"

    def drop_strangers(self) -> None:
        """Removes demos of another recipe, data set or model than this run's, and what a killed demo left.

        A run folder in which nothing was saved takes another recipe; its demos would stand beside those of this one.
        Folders that no training wrote stay, and so do demos of this run from before its prompts were changed.
        """
        for partial in self.root.glob(".step-*"):
            shutil.rmtree(partial, ignore_errors=True)
        for folder in self.root.glob("step-*"):
            stamp = _stamp_of(folder)
            if stamp is not None and stamp["training"] != self._stamp["training"]:
                shutil.rmtree(folder, ignore_errors=True)

    def play(self, trainer: Trainer, stop: threading.Event) -> dict[str, Any] | None:
        """Plays the weights of this moment and returns the row of the log: the means of `MEASURES`, or `error`.

        None when the run was told to stop meanwhile: nothing is left behind, and the continued run plays them.
        """
        folder = self.folder(trainer.step)
        row: dict[str, Any] = {"step": trainer.step}
        try:
            if not self._is_there(trainer.step):
                if _stamp_of(folder) is not None:
                    shutil.rmtree(folder)
                elif folder.exists():
                    raise UserError(f"{folder} holds something that no demo wrote; move it elsewhere.")
                replace_folder(folder, lambda partial: self._write(trainer, partial, folder, stop))
            return row | {"demos": _means(self.records(trainer.step))}
        except _Stopped:
            return None
        except Exception as error:  # the training is worth more than a demo of it
            reason = str(error) if isinstance(error, EisbachError) else f"{type(error).__name__}: {error}"
            return row | {"demos": {"error": one_line(reason)}}

    def _write(self, trainer: Trainer, partial: Path, folder: Path, stop: threading.Event) -> None:
        """Everything of a step's folder, into `partial`, which becomes `folder`."""
        takes = self._takes(partial, trainer.step)
        lengths = self._play(trainer, takes, stop)
        config = self._config.model_copy(update={"out": str(partial), "arm": f"step-{trainer.step}"})
        save_manifest(config, takes, lengths)
        measured = []
        for take in takes:
            if stop.is_set():
                raise _Stopped
            measured.append(_moved(measure_file(take.path), folder / take.path.name))
        records: list[Record] = []
        for take, clip in zip(takes, measured, strict=True):
            key: Record = {"arm": config.arm, "step": trainer.step, "prompt_id": take.prompt.id, "seed": take.seed}
            records.append(key | clip.record)
        write_analysis(partial, records, measured)
        write_json(partial / STAMP, {**self._stamp, "step": trainer.step})

    def _play(self, trainer: Trainer, takes: list[Take], stop: threading.Event) -> dict[str, float]:
        """Writes the takes, and gives their seconds by id."""
        lengths: dict[str, float] = {}
        placement = Placement(trainer.device, trainer.accelerator.mixed_precision == "bf16")
        player = Player(trainer.backbone, self._codec, placement)

        def on_step(*_: object) -> None:
            if stop.is_set():
                raise _Stopped

        with self._at_rest(trainer):
            for batch, captions in zip(self._cut(takes), self._batches, strict=True):
                for take, waveform in sample_batch(player, self._config, batch, on_step, conditioning=captions):
                    lengths[take.id] = write_take(take, waveform, self._config.duration)
        return lengths

    @contextmanager
    def _at_rest(self, trainer: Trainer) -> Iterator[None]:
        """The network that would be shipped now, its codec beside it; afterwards everything is as it was."""
        module, device = trainer.backbone.module, trainer.device
        devices = [device] if device.type == "cuda" else []
        module.eval()
        place_codec(self._codec, device)
        try:
            with trainer.averaged(), torch.random.fork_rng(devices):
                yield
        finally:
            module.train()
            place_codec(self._codec, torch.device("cpu"))

    def _takes(self, folder: Path, step: int) -> list[Take]:
        return plan_takes(self._config.model_copy(update={"out": str(folder), "arm": f"step-{step}"}))

    def _cut(self, takes: list[Take]) -> list[list[Take]]:
        size = self._config.batch_size
        return [takes[start : start + size] for start in range(0, len(takes), size)]

    @torch.no_grad()
    def _captions(self, backbone: Backbone, batch: list[Take]) -> Conditioning:
        texts = [take.prompt.text for take in batch]
        return backbone.condition(texts, [self._config.duration] * len(batch)).to(torch.device("cpu"))


def _stamp_of(folder: Path) -> dict[str, Any] | None:
    """The stamp of a demo folder; None where there is none, or somebody else's."""
    try:
        stamp = read_json(folder / STAMP, "record of demos") if (folder / STAMP).is_file() else None
    except UserError:
        return None
    return stamp if isinstance(stamp, dict) and "training" in stamp and "step" in stamp else None


def _moved(clip: MeasuredClip, path: Path) -> MeasuredClip:
    """The measurement of a file that will lie at `path`."""
    detail = (
        None if clip.detail is None else json.dumps({**json.loads(clip.detail), "path": str(path)}, ensure_ascii=False)
    )
    return MeasuredClip({**clip.record, "path": str(path)}, detail, clip.stamp)


def _means(records: list[Record]) -> dict[str, Any]:
    """The number of clips and the means of `MEASURES` over those where each is defined."""
    means: dict[str, Any] = {"clips": len(records)}
    for name in MEASURES:
        values = [float(value) for row in records if isinstance(value := row.get(name), bool | int | float)]
        means[name] = sum(values) / len(values) if values else None
    return means
