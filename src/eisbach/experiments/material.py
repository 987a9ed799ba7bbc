"""The fine-tuning set of an experiment: performances of scores and flat material in one manifest, or a person's own
audio."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from eisbach import devices
from eisbach.data.manifest import MANIFEST_NAME, Manifest, ManifestRow, load_manifest, save_manifest
from eisbach.data.selection import merge
from eisbach.data.splits import hold_out_more
from eisbach.errors import UserError, one_line
from eisbach.executors import available_cpus
from eisbach.experiments.spec import ExperimentSpec, MaterialConfig, arm_training
from eisbach.experiments.stages import OpenStage, Stage
from eisbach.output_folder import share_folder
from eisbach.types import Skipped, SkipReport

if TYPE_CHECKING:
    from eisbach.codecs.base import Codec
    from eisbach.data.render import RenderSpec
    from eisbach.training.config import TrainConfig

# First guesses on two laptop cores; measured speeds replace them within seconds.
_SECONDS_PER_RENDERED_CLIP = 0.7
_SECONDS_PER_ENCODED_CLIP = 0.1
_CLIPS_WORTH_A_PROCESS = 8


def plan_material(spec: ExperimentSpec, root: Path, train_seed: int) -> tuple[Path | None, Path | None]:
    """Where the manifest and the latent cache of a training seed's own material go; None twice without material."""
    if spec.material is None:
        return None, None
    data = root / _set_name(spec.material, train_seed)
    return data / MANIFEST_NAME, data / "latents"


def _set_name(material: MaterialConfig, train_seed: int) -> str:
    return f"data/draw-{train_seed}" if material.redraw else "data"


def _sets(spec: ExperimentSpec) -> dict[str, tuple[int, MaterialConfig]]:
    """The sets to make, by their folder: the first training seed that trains on each, and what decides it."""
    sets: dict[str, tuple[int, MaterialConfig]] = {}
    if spec.material is not None:
        for seed in spec.train_seeds:
            sets.setdefault(_set_name(spec.material, seed), (seed, spec.material.of_draw(seed)))
    return sets


def material_stages(spec: ExperimentSpec, root: Path) -> list[Stage]:
    """The stages that make the set and its latents."""
    material = spec.material
    if material is None:
        return [Stage("encode", "encode", 100, _SECONDS_PER_ENCODED_CLIP, "encode the clips")]
    stages = []
    for place in _sets(spec):
        done = (root / place / MANIFEST_NAME).is_file()
        for part in _parts(material):
            label, seconds = f"render {part.name} clips", _SECONDS_PER_RENDERED_CLIP
            stages.append(Stage(f"render/{place}/{part.name}", "render", part.clips, seconds, label, done))
    clips = material.clips * len(_sets(spec))
    return [*stages, Stage("encode", "encode", clips, _SECONDS_PER_ENCODED_CLIP, "encode the clips")]


def build_material(spec: ExperimentSpec, root: Path, stage: OpenStage) -> None:
    """Makes the missing clips of each set in `root/data`, its manifest, and the latents of whatever the arms train on.

    Raises
    ------
    UserError
        The folder holds clips of other settings, or the scores or the sound font are not installed.
    """
    from eisbach.data.render import spec_values

    sets = _sets(spec)
    for place, (seed, material) in sets.items():
        data, rendered = root / place, _settings(material, _shared_codec(spec, root, seed))
        share_folder(data, spec.store, "sets", {**material.values(), "rendered": spec_values(rendered)})
        parts = []
        for part in _parts(material):
            with stage(f"render/{place}/{part.name}"):
                parts.append(_render(part, material, rendered, data / part.name))
        save_manifest(merge(parts, data))
    with stage("encode"):
        for seed, _ in sets.values() or [(spec.train_seeds[0], None)]:
            _encode(spec, root, seed)


@dataclass(frozen=True)
class Part:
    """Clips of a set that are rendered together: developing or flat, all or a group's."""

    name: str
    clips: int
    flat: bool
    group: str | None = None


def _parts(material: MaterialConfig) -> list[Part]:
    counts = {"developing": material.developing_clips, "flat": material.flat_clips}
    parts = []
    for name, clips in counts.items():
        if not material.groups:
            parts.append(Part(name, clips, name == "flat"))
            continue
        ends = [round(clips * share) for share in accumulate(group.share for group in material.groups.values())]
        for (first, last), group in zip(pairwise([0, *ends]), material.groups, strict=True):
            parts.append(Part(f"{name}-{group}", last - first, name == "flat", group))
    return [part for part in parts if part.clips]


def _render(part: Part, material: MaterialConfig, settings: RenderSpec, out: Path) -> Manifest:
    from eisbach.data.flat_material import KINDS, render_flat
    from eisbach.data.render import render

    if part.group is not None and material.groups:
        group = material.groups[part.group]
        # Of its own seed: clips of one number would else be of one score in every group.
        digest = hashlib.blake2b(f"{settings.seed},{part.group}".encode(), digest_size=4).digest()
        seed = int.from_bytes(digest, "little")
        settings = replace(settings, seed=seed, styles=group.styles, mode=group.mode)
    make = partial(render_flat, kinds=material.kinds or KINDS) if part.flat else render
    jobs = max(1, min(available_cpus(), part.clips // _CLIPS_WORTH_A_PROCESS))
    manifest = make(out, clips=part.clips, spec=settings, jobs=jobs, quiet=True)[0]
    if part.group is None:
        return manifest
    return manifest.with_rows([replace(row, labels={**row.labels, "group": part.group}) for row in manifest])


def _settings(material: MaterialConfig, codec: Codec | None) -> RenderSpec:
    """How its clips are rendered; the renderer's own version is part of it."""
    from eisbach.data.render import RenderSpec

    settings = RenderSpec(seed=material.seed, seconds=(material.duration,))
    if codec is None:
        return settings
    # As the codec hears it, so that what is trained on has the base's bandwidth and width.
    rate, channels = min(48000, max(8000, codec.sample_rate)), min(2, codec.audio_channels)
    return replace(settings, sample_rate=rate, channels=channels)


def _shared_training(spec: ExperimentSpec, root: Path, train_seed: int) -> TrainConfig:
    manifest, cache = plan_material(spec, root, train_seed)
    return arm_training(spec, spec.baseline, train_seed, out=str(root), manifest=_text(manifest), cache=_text(cache))


def _shared_codec(spec: ExperimentSpec, root: Path, train_seed: int) -> Codec | None:
    """The codec of the model that all arms start from; None for a model made from scratch, which has none yet."""
    from eisbach.backbones import load_backbone, load_codec_of

    model = _shared_training(spec, root, train_seed).model
    return load_codec_of(load_backbone(model)) if isinstance(model, str) else None


def _encode(spec: ExperimentSpec, root: Path, train_seed: int) -> None:
    """Fills the latent cache that all arms share, so that no arm's training waits for it."""
    from eisbach.codecs.base import place_codec
    from eisbach.data.latents import encode_manifest
    from eisbach.data.pre_encoded import is_pre_encoded

    training, codec = _shared_training(spec, root, train_seed), _shared_codec(spec, root, train_seed)
    if codec is None or training.data.cache is None:
        return  # without a shared cache each manifest keeps its own
    place_codec(codec, devices.place(training.device).device)
    for path in training.data.manifest:
        if is_pre_encoded(path):
            continue
        for crop in training.data.crop_seconds:
            rows = load_manifest(path)
            encode_manifest(
                rows, codec, training.data.cache, crop_seconds=crop.seconds, jobs=available_cpus(), quiet=True
            )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


@dataclass(frozen=True)
class OwnAudio:
    """A person's folder as training material.

    Attributes
    ----------
    manifest : Manifest
        Not written yet: the experiment's folder may turn out to be another's.
    training_clips : int
        Clips that train: not held out, and each once.
    developing_clips : int
        Those of them that are labelled as not flat.
    captioned : bool
        The clips have captions; otherwise the models train without text.
    skipped : tuple of Skipped
        Files that could not be used.
    captions : tuple of str
        Of the clips that train.
    held_out_seconds, all_seconds : tuple of float
        Lengths of the clips that are held out, and of all.
    """

    manifest: Manifest
    training_clips: int
    developing_clips: int
    captioned: bool
    skipped: tuple[Skipped, ...] = ()
    captions: tuple[str, ...] = ()
    held_out_seconds: tuple[float, ...] = ()
    all_seconds: tuple[float, ...] = ()


def adopt_folder(
    folder: Path,
    data: Path,
    *,
    caption_from: str | None = None,
    stretch: float = 0.0,
    quiet: bool = False,
    notify: Callable[[str], object] | None = None,
) -> OwnAudio:
    """What `folder` gives an experiment that keeps its manifest in `data`; nothing is written.

    A `manifest.jsonl` in the folder is used as it is. Without one the folder is read, with the captions of `.txt` and
    `.json` files beside the audio, or without any text when there is not one such file, and up to a fifth of it is held
    out to hold the models against.

    Parameters
    ----------
    stretch : float
        Seconds that a recording must last to be held out.
    caption_from : str or None
        As `eisbach data folder` takes it; None decides as above.
    notify : callable or None
        Is told, in a sentence each, of files that were left out and of missing captions.

    Raises
    ------
    UserError
        No such folder, no usable audio in it, the experiment's folder lies within it, or it has changed since models
        were trained on it.
    """
    from eisbach.data.audio_folder import read_folder
    from eisbach.data.selection import TrainingRule, choose_clips

    if data.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"the results in {data.parent} would lie within {folder} and be taken for its audio; choose an --out "
            "outside it."
        )
    skips = SkipReport()
    if (folder / MANIFEST_NAME).is_file():
        found = load_manifest(folder)
        found = found.with_rows(_as_before(found.rows, data))
    else:
        found, skips = read_folder(folder, caption_from=caption_from or "auto", save=False, quiet=quiet, notify=notify)
        found = found.with_rows(_as_before(hold_out_more(found.rows, stretch), data))
    manifest = Manifest(found.rows, data, found.audio_root)
    choice = choose_clips(manifest, TrainingRule())
    captioned = any(row.caption for row in manifest)
    if notify is not None:
        for item in skips.skipped:
            notify(f"{one_line(item.item)} is left out: {item.reason}.")
        if not captioned:
            notify(f"{folder} holds no captions (.txt or .json beside the audio), so the models train without text.")
        notify(f"{choice.sentence()}.")
    _refuse_changes(manifest, folder)
    return OwnAudio(
        manifest=manifest,
        training_clips=len(choice.train),
        developing_clips=sum(row.labels.get("flat") == "false" for row in choice.train),
        captioned=captioned,
        skipped=(*skips.skipped, *choice.left_out),
        captions=tuple(row.caption for row in choice.train),
        held_out_seconds=tuple({row.audio_hash: row.duration for row in choice.held_out}.values()),
        all_seconds=tuple({row.audio_hash: row.duration for row in manifest}.values()),
    )


def _as_before(rows: Sequence[ManifestRow], data: Path) -> list[ManifestRow]:
    """The rows, each in the split in which models of this experiment met it: what has trained is not held out later."""
    if not (data / MANIFEST_NAME).is_file() or not (data.parent / "arms").is_dir():
        return list(rows)
    splits = {row.id: row.split for row in load_manifest(data, check_files=False)}
    return [replace(row, split=splits.get(row.id, row.split)) for row in rows]


def _refuse_changes(manifest: Manifest, folder: Path) -> None:
    """Refuses audio or captions other than those that models in this experiment were trained on."""
    if not (manifest.root / MANIFEST_NAME).is_file() or not (manifest.root.parent / "arms").is_dir():
        return
    before, now = (
        {(row.id, row.caption, row.audio_hash, row.split) for row in rows}
        for rows in (load_manifest(manifest.root, check_files=False), manifest)
    )
    if before != now:
        raise UserError(
            f"{folder} is not what the models in {manifest.root.parent} were trained on ({len(now - before)} clips "
            f"are new or changed, {len(before - now)} are gone or changed); restore it, or give another folder with "
            "--out."
        )
