"""What is probed: the model, the data and the objective, put together by the functions that training uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from eisbach import adapters
from eisbach.adapters.formats import peft as peft_format
from eisbach.codecs.base import place_codec
from eisbach.data.batches import LatentDataset
from eisbach.data.latents import sections_of
from eisbach.data.manifest import Manifest, ManifestRow
from eisbach.devices import Placement, place
from eisbach.diagnostics.probe.result import ProbeConfig
from eisbach.errors import ManifestError
from eisbach.training.assembly import build_objective, inject_adapter, load_model
from eisbach.training.data import (
    ConditioningCache,
    TrainingData,
    cache_folder,
    load_data,
    load_manifests,
    training_clips,
)
from eisbach.training.step import Objective
from eisbach.types import Conditioning, LatentBatch, SkipReport

if TYPE_CHECKING:
    from eisbach.backbones.base import Backbone


_MIN_SIMULATED = 16
"""Training batches that are simulated at least: enough for an interval of their spread."""

_POOL_STREAM = 7  # keeps the choice of clips apart from the draws of training


@dataclass(frozen=True)
class Crop:
    """One clip's crop, as the first epoch of training draws it.

    Attributes
    ----------
    row : ManifestRow
    number : int
        Place in the epoch's order; decides the noise.
    batch : LatentBatch
        Of one sample, padded to the crop's length and masked where the clip is shorter.
    start, seconds : float
        The section of the audio file that the latents stand for.
    """

    row: ManifestRow
    number: int
    batch: LatentBatch
    start: float
    seconds: float


@dataclass
class Subject:
    """Everything that a probe looks at.

    Attributes
    ----------
    manifest : Manifest
        The clips that the batches are drawn from.
    available : int
        Clips of the split before any were left out.
    crop_seconds : float
        Length of the crops in the rows: the most frequent of training.
    """

    config: ProbeConfig
    backbone: Backbone
    objective: Objective
    identity: str
    manifest: Manifest
    available: int
    data: TrainingData
    dataset: LatentDataset
    crop_seconds: float
    placement: Placement
    conditioning: ConditioningCache
    skips: SkipReport

    @property
    def accumulation(self) -> int:
        """Micro-batches of a global batch."""
        return self.config.train.accumulation

    @property
    def simulated_batches(self) -> int:
        """Global batches that are simulated without gradients."""
        return simulated_batches(self.config)

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.placement.device

    @property
    def bf16(self) -> bool:
        """Whether the network computes in bf16, as it would in training."""
        return self.placement.bf16

    def autocast(self) -> AbstractContextManager[Any]:
        """Training's precision."""
        return self.placement.autocast()

    def to_device(self, batch: LatentBatch) -> LatentBatch:
        """The batch with its tensors on the device."""
        mask = None if batch.mask is None else batch.mask.to(self.device)
        return replace(batch, latents=batch.latents.to(self.device), mask=mask)

    def predict(
        self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning, *inpainting: torch.Tensor
    ) -> torch.Tensor:
        """The network's output [shape=(B, C, T), float32], computed in training's precision.

        `inpainting` is the condition (B, 1 + C, T) of a recipe that trains inpainting.
        """
        with self.autocast():
            predict: Callable[..., torch.Tensor] = self.backbone.predict
            return predict(x_t, t, conditioning, *inpainting).float()

    def micro_batch(self, step: int, micro: int) -> tuple[LatentBatch, int]:
        """A micro-batch exactly as one process would draw it in training, and the index that seeds its noise."""
        index = step * self.accumulation + micro
        return self.to_device(self.data.batch(step, index, self.config.train.batch_size)), index

    def crops(self) -> list[Crop]:
        """The crops of the rows: those that training's first epoch draws of its first clips, in the manifest's
        order."""
        crops = []
        for number in range(min(self.config.clips, len(self.dataset))):
            clip, section, first = self.dataset.crop_at(number)
            row = self.dataset.cache.entries[clip].row
            batch = self.dataset.batch(number, 1)
            sections = sections_of(row.duration, self.crop_seconds)
            start = sections[section][0] + first / self.dataset.cache.latent_rate
            crops.append((clip, Crop(row, number, batch, start, float(batch.durations[0]))))
        return [crop for _, crop in sorted(crops, key=lambda item: item[0])]


def simulated_batches(config: ProbeConfig) -> int:
    """Global batches that are simulated without gradients."""
    return max(_MIN_SIMULATED, config.gradient_batches)


def load_subject(config: ProbeConfig, quiet: bool = False) -> Subject:
    """Loads the model and encodes the clips that are looked at.

    Raises
    ------
    ManifestError
        No clip, or fewer than a batch holds.
    ConfigError, UserError, CheckpointError
        A name, an option, a device, a model or an adapter that training would refuse too.
    """
    from eisbach.backbones import load_codec_of

    train = config.train
    placement = place(train.device, train.precision)
    manifest = load_manifests(train.data.manifest, quiet)
    rows = probed_rows(manifest, config)
    backbone = load_model(train)
    objective = build_objective(train, backbone)
    # Each prediction is judged by itself: what a training would remember of the clips is not known here. With a memory
    # weights average 1 over the clips, to which mean 1 over a batch comes nearest.
    if objective.weighting.memory is not None:
        judged = replace(objective.weighting, memory=None, gate=None, normalisation="mean1")
        objective = replace(objective, weighting=judged)
    identity = backbone.identity()
    pool = choose_pool(rows, config)
    codec = load_codec_of(backbone)
    place_codec(codec, placement.device)
    data = load_data(
        pool,
        codec,
        train.data.crop_seconds,
        cache_folder(train.data, manifest),
        train.seed,
        batch_size=train.batch_size,
        quiet=quiet,
    )
    datasets = [dataset for dataset in data.datasets if isinstance(dataset, LatentDataset)]  # all of them: it is audio
    main = int(data.shares.argmax())
    backbone.module.to(placement.device).eval()
    objective.weighting.to(placement.device)
    skips = SkipReport()
    for dataset in datasets:
        for item in dataset.cache.report.skipped:
            if item not in skips.skipped:
                skips.skipped.append(item)
    return Subject(
        config=config,
        backbone=backbone,
        objective=objective,
        identity=identity,
        manifest=pool,
        available=len(rows),
        data=data,
        dataset=datasets[main],
        crop_seconds=train.data.crop_seconds[main].seconds,
        placement=placement,
        conditioning=ConditioningCache(backbone, placement.device),
        skips=skips,
    )


def probed_rows(manifest: Manifest, config: ProbeConfig) -> Manifest:
    """The clips of the configured split.

    Raises
    ------
    ManifestError
        None, or fewer than a batch holds.
    """
    train = config.train
    if config.split == "train":
        return training_clips(manifest, train.data, train.batch_size).train
    split = None if config.split == "all" else config.split
    rows = manifest.select(split=split, labels=train.data.select)
    wanted = f"split '{config.split}'" + (f" and labels {dict(train.data.select)}" if train.data.select else "")
    if len(rows) < train.batch_size:
        raise ManifestError(
            f"{len(rows)} of the {len(manifest)} clips of {', '.join(train.data.manifest)} have {wanted}, and "
            f"batch_size is {train.batch_size}; change split or data.select, lower batch_size, or add clips."
        )
    return rows


def choose_pool(rows: Manifest, config: ProbeConfig) -> Manifest:
    """Enough clips for the rows and for one epoch of the simulated batches, chosen by seed; all of them where few.

    With all of them, the simulated batches are training's own first ones.
    """
    train = config.train
    wanted = max(config.clips, simulated_batches(config) * train.batch_size * train.accumulation)
    if wanted >= len(rows):
        return rows
    rng = np.random.default_rng([train.seed, _POOL_STREAM])
    chosen = set(rng.permutation(len(rows))[:wanted].tolist())
    return rows.with_rows(row for index, row in enumerate(rows) if index in chosen)


@contextmanager
def trained_weights(subject: Subject) -> Iterator[None]:
    """The trained adapter folded into the model, where there is one; the base's weights are restored bit for bit."""
    from eisbach.adapters import attach, detach

    if subject.config.adapter is None:
        yield
        return
    attach(subject.backbone, subject.config.adapter)
    try:
        yield
    finally:
        detach(subject.backbone)


# --- made ready to take gradients as training makes it, and put back afterwards


def starts_fresh(subject: Subject) -> bool:
    """Whether a new adapter is trained, whose B is zero."""
    return subject.config.train.adapter.type != "none" and not _has_peft_adapter(subject)


@contextmanager
def trainable(subject: Subject) -> Iterator[tuple[str, dict[str, nn.Parameter], bool]]:
    """(what trains, its parameters, whether it is a fresh adapter): the network made ready as training makes it.

    A trained adapter in peft's layout is continued, where the recipe trains an adapter too. Other trained weights are
    folded in, and the recipe starts from there. The network is as it was afterwards: layers, weights and what takes
    gradients.
    """
    from eisbach.adapters.inject import ATTACHED

    backbone, config = subject.backbone, subject.config
    module, kind = backbone.module, config.train.adapter.type
    required = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    training = module.training
    continued = kind != "none" and _has_peft_adapter(subject)
    originals = None
    if config.adapter is not None and not continued:
        adapters.attach(backbone, config.adapter)
        originals = ATTACHED.pop(module)  # the trained weights are what a further training would start from
    try:
        if kind == "none":
            module.requires_grad_(True)
        elif continued:
            folder = Path(str(config.adapter))
            chosen = peft_format.read_config(folder)
            chosen.inference_mode = False
            adapters.inject(backbone, chosen)
            peft_format.load_into(module, peft_format.read_weights(folder), folder)
            kind = "dora" if chosen.use_dora else "lora"
        else:
            inject_adapter(config.train, backbone)
        module.to(subject.device).train()
        yield (
            ("all" if kind == "none" else kind),
            adapters.trainable_parameters(module),
            kind != "none" and not continued,
        )
    finally:
        if kind != "none":
            adapters.remove_layers(module)
        if originals is not None:
            ATTACHED[module] = originals
            adapters.detach(backbone)
        module.zero_grad(set_to_none=True)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(required[name])
        module.train(training)


def has_dropout(subject: Subject) -> bool:
    """Whether the network draws random numbers of its own."""
    return any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in subject.backbone.module.modules())


def _has_peft_adapter(subject: Subject) -> bool:
    return subject.config.adapter is not None and (Path(subject.config.adapter) / peft_format.CONFIG).is_file()
