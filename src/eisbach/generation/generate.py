"""Generation: prompts × seeds, from the same noise whatever the model, to FLAC files and a manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eisbach.errors import UserError
from eisbach.files import read_json, write_json
from eisbach.generation.config import DISTILLED, GenerateConfig
from eisbach.generation.noise import starting_noise
from eisbach.generation.prompts import Prompt
from eisbach.generation.times import curve_stamp, sampling_times
from eisbach.progress import Progress

if TYPE_CHECKING:
    from eisbach.backbones.base import Backbone
    from eisbach.codecs.base import Codec
    from eisbach.data.manifest import Manifest, ManifestRow
    from eisbach.types import Waveform

STAMP = "generation.json"
"""File beside the manifest that says which model and settings made the audio."""


@dataclass(frozen=True)
class Take:
    """One clip to make: a prompt, a seed, and where its file goes."""

    prompt: Prompt
    seed: int
    path: Path

    @property
    def id(self) -> str:
        """Name of the clip, unique in its folder."""
        return self.path.stem


def plan_takes(config: GenerateConfig) -> list[Take]:
    """Every clip that the configuration asks for, prompts outside, seeds inside."""
    out = Path(config.out)
    return [
        Take(prompt, seed, out / f"{prompt.id}_seed-{seed}.flac") for prompt in config.prompts for seed in config.seeds
    ]


def generate(config: GenerateConfig, *, quiet: bool = False, notify: Callable[[str], object] | None = None) -> Manifest:
    """Makes what is missing of `config` and returns the manifest of all of it.

    Finished files are kept, so that the same command continues a stopped one. Batches are cut from the whole plan and
    not from what is missing, so that a continued run makes the same samples, bit for bit, as an uninterrupted one with the
    same number of threads.

    Parameters
    ----------
    config : GenerateConfig
    quiet : bool
        No progress bar.
    notify : callable or None
        Is told, in a sentence, which words of a prompt the model has no meaning for.

    Raises
    ------
    UserError
        The folder holds generations of another model or of other settings.
    CheckpointError
        The adapter is unreadable or was trained on another model.
    StorageError
        The disk is full or the folder is not writable; finished files stay.
    """
    from eisbach.backbones import load_backbone, load_codec_of

    takes = plan_takes(config)
    backbone = load_backbone(config.model)
    config = settle_sampling(config, backbone)
    sampling_times(config, backbone)  # refuses an unknown name or a missing curve early
    codec = load_codec_of(backbone)
    if notify is not None:
        for sentence in unknown_words(config.prompts, backbone):
            notify(sentence)
    stamp = generation_stamp(config, backbone, codec)
    if config.adapter is not None:
        from eisbach.adapters import load_adapter

        load_adapter(backbone, config.adapter, strength=config.adapter_strength, any_base=config.any_base)
    stamp_path = Path(config.out) / STAMP
    _check_stamp(stamp_path, stamp)
    missing = {take.id for take in takes if not _is_finished(take.path, config.duration)}
    batches = [takes[start : start + config.batch_size] for start in range(0, len(takes), config.batch_size)]
    todo = [batch for batch in batches if any(take.id in missing for take in batch)]
    if todo:
        write_json(stamp_path, _merge_stamp(stamp_path, stamp))
    steps = config.num_inference_steps + 1  # decoding and writing counts as one more step
    skipped = (len(batches) - len(todo)) * steps
    with Progress(len(batches) * steps, f"generate {config.arm}", unit=" steps", done=skipped, quiet=quiet) as bar:
        for batch in todo:
            for take, waveform in _sample_batch(backbone, codec, config, batch, missing, bar):
                _write_take(take, waveform, config.duration)
            bar.advance()
    return _save_manifest(config, takes)


def settle_sampling(config: GenerateConfig, backbone: Backbone) -> GenerateConfig:
    """The configuration with the sampling defaults of a distilled model, where the model is one; what was set stands."""
    if not getattr(backbone, "distilled", False):
        return config
    return config.model_copy(
        update={key: value for key, value in DISTILLED.items() if key not in config.model_fields_set}
    )


def unknown_words(prompts: Iterable[Prompt], backbone: Backbone) -> list[str]:
    """A sentence for each prompt with words that the model has no meaning for; none when it reads everything."""
    ask: Callable[[str], list[str]] | None = getattr(backbone, "unknown_words", None)
    if ask is None:
        return []
    found = [(prompt.id, ask(prompt.text)) for prompt in prompts]
    return [
        f"prompt '{name}': the model does not know {', '.join(words)}; these words change nothing."
        for name, words in found
        if words
    ]


def _sample_batch(
    backbone: Backbone, codec: Codec, config: GenerateConfig, batch: list[Take], missing: set[str], bar: Progress
) -> Iterator[tuple[Take, Waveform]]:
    """Samples a whole batch; decodes and yields only its missing takes."""
    import torch

    from eisbach.diffusion.guidance import guided
    from eisbach.diffusion.samplers import sample_ode, sample_pingpong

    frames = codec.frames_for(config.duration)
    device = next(backbone.module.parameters()).device

    def noise_of(step: int) -> torch.Tensor:
        rows = [starting_noise(take.prompt.id, take.seed, backbone.latent_channels, frames, step) for take in batch]
        return torch.stack(rows).to(device)

    backbone.module.eval()
    with torch.no_grad():
        texts = [take.prompt.text for take in batch]
        conditioning = backbone.condition(texts, [config.duration] * len(batch)).to(device=device)
        null = backbone.null_condition(conditioning)
        predict = guided(backbone.predict, conditioning, null, config.guidance_scale)
        shared: dict[str, Any] = {
            "path": backbone.path,
            "target": backbone.target,
            "noise": noise_of(0),
            "times": sampling_times(config, backbone),
            "on_step": lambda *_: bar.advance(),
        }
        if config.sampler == "pingpong":
            latents = sample_pingpong(predict, fresh_noise=noise_of, **shared)
        else:
            latents = sample_ode(predict, method=config.sampler, **shared)
    # Decoding the missing ones alone would round differently than decoding them with the rest of their batch.
    for take, waveform in zip(batch, codec.decode(latents.float().cpu()), strict=True):
        if take.id in missing:
            yield take, waveform


def _write_take(take: Take, waveform: Waveform, duration: float) -> None:
    """Writes at most `duration` seconds: a codec's last frame may reach beyond them, or end just before."""
    from eisbach.audio import write_audio
    from eisbach.types import Waveform as Wave

    count = round(duration * waveform.sample_rate)
    write_audio(take.path, Wave(waveform.samples[:, :count], waveform.sample_rate))


def _is_finished(path: Path, duration: float) -> bool:
    """True when the file is there, opens, and is as long as asked (within a codec frame's second)."""
    import soundfile as sf

    if not path.is_file():
        return False
    try:
        return abs(sf.info(str(path)).duration - duration) < 1.0
    except (sf.LibsndfileError, RuntimeError):
        return False


def _save_manifest(config: GenerateConfig, takes: list[Take]) -> Manifest:
    """Writes the manifest of everything in the folder and returns the rows that `config` asks for."""
    from eisbach.data.manifest import MANIFEST_NAME, Manifest, hash_files, load_manifest, save_manifest

    root = Path(config.out)
    hashes = hash_files([take.path for take in takes])
    rows = [_row(config, take, hashes[take.path]) for take in takes]
    asked = {row.id for row in rows}
    kept = []
    if (root / MANIFEST_NAME).is_file():
        earlier = load_manifest(root, check_files=False)
        kept = [row for row in earlier if row.id not in asked and earlier.audio_path(row).is_file()]
    save_manifest(Manifest([*rows, *kept], root))
    return Manifest(rows, root)


def _row(config: GenerateConfig, take: Take, audio_hash: str) -> ManifestRow:
    import soundfile as sf

    from eisbach.data.manifest import ManifestRow

    labels = {"arm": config.arm, "prompt_id": take.prompt.id, "seed": str(take.seed)}
    return ManifestRow(
        id=take.id,
        path=take.path.name,
        caption=take.prompt.text,
        duration=round(sf.info(str(take.path)).duration, 6),
        labels=labels,
        audio_hash=audio_hash,
        split="held_out",  # generated audio must not slip into a training set unnoticed
    )


def generation_stamp(config: GenerateConfig, backbone: Backbone, codec: Codec) -> dict[str, Any]:
    """What decides the audio: the weights and settings, and the words of each prompt. Batching is left out."""
    left_out = {"out", "prompts", "seeds", "batch_size", "model", "adapter", "any_base"}
    settings = config.model_dump(mode="json", exclude=left_out)
    return {
        "model": config.model,
        "model_identity": backbone.identity(),
        "codec_identity": codec.identity(),
        "adapter": config.adapter,
        "adapter_identity": None if config.adapter is None else _weights_hash(Path(config.adapter)),
        **settings,
        **curve_stamp(config.schedule_options),
        "seeds": list(config.seeds),
        "prompts": {prompt.id: prompt.text for prompt in config.prompts},
    }


def _weights_hash(path: Path) -> str:
    """SHA-256 over the safetensors files of a folder and the folders in it, in the order of their names, or of one file."""
    from eisbach.audio import audio_hash

    if path.is_file():
        return audio_hash(path)
    files = sorted([*path.glob("*.safetensors"), *path.glob("*/*.safetensors")])
    text = "".join(f"{file.relative_to(path).as_posix()}:{audio_hash(file)};" for file in files)
    return hashlib.sha256(text.encode()).hexdigest()


_FREE = ("model", "adapter", "seeds", "prompts")  # paths may move, and prompts and seeds may be added


def _check_stamp(path: Path, stamp: dict[str, Any]) -> None:
    """Refuses a folder whose audio came from another model or from other settings; without audio there is nothing to mix."""
    if not path.is_file() or not any(path.parent.glob("*.flac")):
        return
    old = read_json(path, "record of earlier generations")
    for key, value in stamp.items():
        if key not in _FREE and old.get(key) != value:
            raise UserError(
                f"{path.parent} holds generations with {key} {old.get(key)!r}, and now {key} is {value!r}; "
                "choose another output folder, or delete that one."
            )
    for name, text in stamp["prompts"].items():
        before = old.get("prompts", {}).get(name, text)
        if before != text:
            raise UserError(
                f"{path.parent} holds generations for the prompt '{name}' with other words; "
                "give the new prompt another id, or choose another output folder."
            )


def _merge_stamp(path: Path, stamp: dict[str, Any]) -> dict[str, Any]:
    """The stamp of everything in the folder: earlier prompts and seeds stay listed."""
    if not path.is_file() or not any(path.parent.glob("*.flac")):
        return stamp
    old = read_json(path, "record of earlier generations")
    seeds = [*old["seeds"], *(seed for seed in stamp["seeds"] if seed not in old["seeds"])]
    return stamp | {"seeds": seeds, "prompts": old["prompts"] | stamp["prompts"]}
