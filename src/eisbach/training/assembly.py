"""Model, data, weighting and adapter of a run, put together from its configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eisbach import adapters
from eisbach.codecs.base import place_codec
from eisbach.config import build_config, read_yaml
from eisbach.data.batches import LatentDataset
from eisbach.data.selection import unheard_words
from eisbach.errors import ConfigError, UserError
from eisbach.files import walk_files
from eisbach.training.config import TrainConfig
from eisbach.training.data import (
    TrainingData,
    cache_folder,
    given_weights,
    load_data,
    load_manifests,
    manifest_hash,
    training_clips,
    weigh_by_labels,
)
from eisbach.training.demos import Demos
from eisbach.training.devices import checkpoint_activations, frozen_dtype, quantised_format
from eisbach.training.image_data import ImageMaterial
from eisbach.training.noising import InpaintingMasks, pad_with_silence
from eisbach.training.run_folder import RunFolder, note, recipe_hash
from eisbach.training.step import HeldOut, Objective
from eisbach.training.stopping import StopJudge
from eisbach.training.trainer import Trainer

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from eisbach.adapters.quantised import QuantisedFormat
    from eisbach.backbones.base import Backbone
    from eisbach.data.manifest import Manifest

_FEW_READINGS = 2.0  # the trainings that speak for a memory read a clip five times; fewer than two is another thing
_FIXED_SEED = 0  # the held-out crops are the same for every training seed


class _Material(Protocol):
    """What a run trains on, found and checked before the model is loaded."""

    def content_hash(self) -> str:
        """A hash of what trains: checkpoints are stamped with it."""
        ...

    def load(
        self, config: TrainConfig, backbone: Backbone, device: torch.device, quiet: bool
    ) -> tuple[TrainingData, HeldOut | None]:
        """The batches that train and what the held-out loss is measured on, encoded on `device` where they are not
        yet."""
        ...


@dataclass(frozen=True)
class AudioMaterial:
    """`_Material` of manifests: all clips, those that train, and those that are held out."""

    manifest: Manifest
    rows: Manifest
    held_out: Manifest

    @classmethod
    def open(cls, config: TrainConfig, quiet: bool) -> AudioMaterial:
        """The clips of a configuration; `ManifestError` where they cannot be used."""
        manifest = load_manifests(config.data.manifest, quiet)
        choice = training_clips(manifest, config.data, config.batch_size)
        note(f"{choice.sentence()}.", quiet)
        return cls(manifest, weigh_by_labels(choice.train, config.data.weights or ()), choice.held_out)

    def content_hash(self) -> str:
        """A hash of the clips that train."""
        return manifest_hash(self.rows)

    def load(
        self, config: TrainConfig, backbone: Backbone, device: torch.device, quiet: bool
    ) -> tuple[TrainingData, HeldOut | None]:
        """The batches of the clips; `UserError` for a model of images."""
        from eisbach.backbones import load_codec_of

        if backbone.modality != "audio":
            raise ConfigError(
                f"the model {backbone.name} makes images and data.manifest names audio; name data.images."
            )
        cache, codec = cache_folder(config.data, self.manifest), load_codec_of(backbone)
        place_codec(codec, device)
        data = load_data(
            self.rows, codec, config.data.crop_seconds, cache, config.seed, batch_size=config.batch_size, quiet=quiet
        )
        held_out = _load_held_out(config, self.held_out, codec, cache, quiet)
        if config.objective.silence_extension > 0:
            pad_with_silence((dataset for dataset in data.datasets if isinstance(dataset, LatentDataset)), codec)
        return data, held_out


def open_material(config: TrainConfig, quiet: bool) -> _Material:
    """The clips or images that a configuration trains on, found and checked."""
    return AudioMaterial.open(config, quiet) if config.data.images is None else ImageMaterial.open(config)


def origin_of_finished(config: TrainConfig, folder: RunFolder) -> dict[str, Any]:
    """What a finished run is compared by: its data where they are still there, its model where it goes by another
    path."""
    before = build_config(TrainConfig, read_yaml(folder.config), str(folder.config))
    origin: dict[str, Any] = {}
    try:
        origin["manifest_hash"] = open_material(config, quiet=True).content_hash()
    except UserError:
        if before.data != config.data:
            raise
    if before.model != config.model or _is_newer(config.model, folder.result):
        origin["base_identity"] = load_model(config).identity()
    return origin


def _is_newer(model: str | dict[str, Any], result: Path) -> bool:
    """Whether something was written into a model's folder after a run was finished: only then is loading it worth the
    wait."""
    if not (isinstance(model, str) and Path(model).is_dir()):
        return False
    written = result.stat().st_mtime
    return any(file.stat().st_mtime >= written for file in walk_files(Path(model)) if file.is_file())


@dataclass(frozen=True)
class Assembly:
    """A run put together: what trains, what its held-out loss is measured on, what it plays meanwhile, and what judges
    that (the last two in the main process)."""

    trainer: Trainer
    held_out: HeldOut | None
    demos: Demos | None
    judge: StopJudge | None


def assemble(config: TrainConfig, accelerator: Accelerator, quiet: bool) -> Assembly:
    """Loads the model and the data and puts the adapter in."""
    material = open_material(config, quiet)
    backbone = load_model(config)
    objective = build_objective(config, backbone)
    origin: dict[str, Any] = {
        "base_identity": backbone.identity(),
        "recipe_hash": recipe_hash(config),
        "manifest_hash": material.content_hash(),
    }
    adapter = None
    if config.adapter.type == "none":
        backbone.module.requires_grad_(True)
    else:
        adapter = inject_adapter(config, backbone, frozen_dtype(config, accelerator), quantised_format(config))
    if config.gradient_checkpointing:
        checkpoint_activations(backbone.module)
    with accelerator.main_process_first():  # one process encodes, the others find the cache
        data, held_out = material.load(config, backbone, accelerator.device, quiet)
    given = given_weights(data)
    if given is not None:
        objective = replace(objective, weighting=replace(objective.weighting, given=given))
    _say_readings(config, objective, data, accelerator.num_processes, quiet)
    if config.objective.pairing != "independent" and config.batch_size == 1:
        note("objective.pairing does nothing in batches of 1.", quiet)
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
    demos = _build_demos(config, backbone, origin, quiet)  # before the captions' encoder is let go
    captions = [caption for dataset in data.datasets for caption in dataset.captions]
    _say_unheard(captions, backbone, quiet)
    if held_out is not None:
        captions += [caption for batch in held_out.batches for caption in batch.captions]
    trainer.conditioning.fill(captions, quiet=quiet)
    judge = None if config.stop is None or demos is None else StopJudge(config.stop, demos)
    main = accelerator.is_main_process
    return Assembly(trainer, held_out, demos if main else None, judge if main else None)


def _build_demos(config: TrainConfig, backbone: Backbone, origin: dict[str, Any], quiet: bool) -> Demos | None:
    """The demos of a recipe, with a note on words that the model does not know; None without."""
    if config.demos is None:
        return None
    demos = Demos(config.demos, backbone, Path(config.out), origin)
    for sentence in demos.unknown:
        note(sentence, quiet)
    return demos


def _say_unheard(captions: Sequence[str], backbone: Backbone, quiet: bool) -> None:
    """Notes the words of captions that the model does not know."""
    unheard = unheard_words(captions, backbone.unknown_words)
    if unheard is not None:
        note(f"{unheard}.", quiet)


def _say_readings(config: TrainConfig, objective: Objective, data: TrainingData, processes: int, quiet: bool) -> None:
    """Notes that a memory of clips will hardly read any: those weigh 1, as in plain training."""
    memory, barrier = objective.weighting.memory, objective.weighting.sample
    if memory is None:
        return
    import torch

    share = 0.0
    for dataset, often in zip(data.datasets, (data.shares / data.shares.sum()).tolist(), strict=True):
        frames = math.prod(dataset.batch(0, 1).latents.shape[2:])
        if frames >= getattr(barrier, "window_frames", 0) * 2:  # no barrier judges a crop of less than two windows
            share += often * float(objective.density.cdf(torch.tensor([memory.below]), num_frames=frames))
    samples = config.steps * config.batch_size * config.accumulation * processes
    if (readings := share * samples / max(1, data.clips)) >= _FEW_READINGS:
        return
    advice = "train longer, or leave the memory out: each step is judged by itself then."
    if not share:
        advice = "the crops are too short to be judged: make data.crop_seconds longer, or take sample: none."
    note(
        f"the memory will read the form of a clip {readings:.1f} times on average ({samples} samples of {data.clips} "
        f"clips, {share:.0%} of them at t < {memory.below:g}), and a clip that was not read counts as in plain "
        f"training; {advice}",
        quiet,
    )


def load_model(config: TrainConfig) -> Backbone:
    """The model that training starts from.

    Raises
    ------
    UserError
        No such model, or a distilled one.
    """
    from eisbach.backbones import create_backbone, load_backbone

    if isinstance(config.model, str):
        backbone = load_backbone(config.model)
        if backbone.distilled:
            raise UserError(
                f"the model '{config.model}' is distilled: it samples in a few steps, and training it as a flow would "
                "undo "
                "that; train the base model, and play the adapter on either."
            )
        return backbone
    values = dict(config.model["create"])
    kind = {"kind": values.pop("kind")} if "kind" in values else {}
    return create_backbone(values, **kind, seed=config.seed)


def build_objective(config: TrainConfig, backbone: Backbone) -> Objective:
    """The path, target, noise levels and weighting of a configuration.

    Raises
    ------
    ConfigError, UserError
        A name or an option does not exist; the sentence lists what does.
    """
    import torch

    from eisbach.diffusion.noise_levels import get_density, refuse_path
    from eisbach.weighting import build_weighting

    chosen, levels, path = config.weighting, config.noise_levels, backbone.path
    refuse_path(levels.density or backbone.density, levels.options)
    density = get_density(levels.density or backbone.density, path=path, **levels.options)
    weighting = build_weighting(
        chosen.sample,
        chosen.noise_level,
        reduction=chosen.reduction,
        normalisation=chosen.normalisation,
        strength=chosen.strength,
        latent_rate=backbone.latent_rate,
        path=path,
        density=density,
        **chosen.options,
    )
    if weighting.noise_level is not None:
        # A scheme that is undefined for this model says so here, before anything is encoded.
        weighting.noise_level(path, backbone.target, torch.tensor([0.5]), num_frames=256)
    return Objective(
        path=path,
        target=backbone.target,
        density=density,
        weighting=weighting,
        condition_dropout=config.condition_dropout,
        null_condition=backbone.null_condition,
        latent_rate=backbone.latent_rate,
        inpainting=_inpainting_masks(config, backbone),
        pairing=config.objective.pairing,
        silence_extension=config.objective.silence_extension * backbone.latent_rate,
    )


def _inpainting_masks(config: TrainConfig, backbone: Backbone) -> InpaintingMasks | None:
    """What draws the inpainting masks of a configuration; None without.

    Raises
    ------
    ConfigError
        The model has no inpainting condition.
    """
    chosen = config.objective.inpainting
    if chosen is None:
        return None
    if not backbone.inpainting:
        raise ConfigError(
            f"objective.inpainting is set and the model '{backbone.name}' has no inpainting condition; leave it out, "
            "or train "
            "a Stable Audio 3 model."
        )
    return InpaintingMasks(**chosen.model_dump())


def inject_adapter(
    config: TrainConfig,
    backbone: Backbone,
    frozen: torch.dtype | None = None,
    quantised: QuantisedFormat | None = None,
) -> Any:
    """Puts the adapter of a configuration into the model and returns peft's configuration of it.

    `frozen` is the dtype that frozen parameters are stored in and `quantised` the format of frozen linear layers; None
    leaves them as they are.
    """
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
    adapters.inject(
        backbone,
        adapter,
        seed=config.seed,
        norm_gradient=chosen.norm_gradient or "detached",
        frozen_dtype=frozen,
        quantised=quantised,
    )
    return adapter


def _load_held_out(config: TrainConfig, held_out: Manifest, codec: Any, cache: Path, quiet: bool) -> HeldOut | None:
    """What the held-out loss is measured on; None (and a note) when nothing is held out."""
    chosen = config.held_out
    if chosen.every == 0:
        return None
    rows = held_out.select(labels=chosen.select)
    if len(rows) == 0:
        note("no clip is held out, so the held-out loss is not measured.", quiet)
        return None
    crop = max(config.data.crop_seconds, key=lambda item: item.share)
    data: TrainingData = load_data(rows, codec, [crop], cache, _FIXED_SEED, quiet=quiet)
    return HeldOut.of(data, chosen.noise_levels, chosen.batches, config.batch_size)


def content_of(config: TrainConfig) -> dict[str, Any]:
    """What decides the result of a run, as plain values without a path: equal ones train equal models.

    Raises
    ------
    UserError
        The model or the data cannot be read.
    """
    return {
        "recipe": recipe_hash(config),
        "steps": config.steps,
        "checkpoints": config.checkpoint.model_dump(),
        "log_samples": config.log_samples and config.log_samples.model_dump(),
        "set": open_material(config, quiet=True).content_hash(),
        "model": load_model(config).identity(),
        **({} if config.demos is None else {"demos": config.demos.content()}),
        **({} if config.stop is None else {"stop": config.stop.model_dump(mode="json")}),
    }
