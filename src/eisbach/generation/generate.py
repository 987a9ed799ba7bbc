"""Generation: prompts × seeds, from the same noise whatever the model, to FLAC files and a manifest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eisbach.errors import UserError
from eisbach.files import read_json, write_json
from eisbach.generation.config import GenerateConfig
from eisbach.generation.noise import starting_noise
from eisbach.generation.prompts import Prompt
from eisbach.progress import Progress

if TYPE_CHECKING:
    import torch

    from eisbach.backbones.base import Backbone
    from eisbach.data.manifest import Manifest
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


def generate(config: GenerateConfig, *, quiet: bool = False) -> Manifest:
    """Makes what is missing of `config` and returns the manifest of all of it.

    Finished files are kept, so that the same command continues a stopped one. Batches are cut from the whole plan and
    not from what is missing, so that a continued run makes the same samples, bit for bit, as an uninterrupted one.

    Raises
    ------
    UserError
        The folder holds generations of another model or of other settings.
    CheckpointError
        The adapter is unreadable or was trained on another model.
    StorageError
        The disk is full or the folder is not writable; finished files stay.
    """
    from eisbach.backbones import load_backbone

    takes = plan_takes(config)
    backbone = load_backbone(config.model)
    if config.adapter is not None:
        from eisbach.adapters import load_adapter

        load_adapter(backbone, config.adapter, strength=config.adapter_strength)
    stamp = generation_stamp(config, backbone)
    _check_stamp(Path(config.out) / STAMP, stamp)
    missing = {take.id for take in takes if not _is_finished(take.path, config.duration)}
    write_json(Path(config.out) / STAMP, _merge_stamp(Path(config.out) / STAMP, stamp))
    with Progress(len(takes), f"generate {config.arm}", done=len(takes) - len(missing), quiet=quiet) as bar:
        for start in range(0, len(takes), config.batch_size):
            batch = takes[start : start + config.batch_size]
            if not any(take.id in missing for take in batch):
                continue
            for take, waveform in _sample_batch(backbone, config, batch, missing, bar):
                _write_take(take, waveform, config.duration)
    return _save_manifest(config, takes)


def _sample_batch(
    backbone: Backbone, config: GenerateConfig, batch: list[Take], missing: set[str], bar: Progress
) -> Iterator[tuple[Take, Waveform]]:
    """Samples a whole batch; decodes and yields only its missing takes."""
    import torch

    from eisbach.diffusion.guidance import guided
    from eisbach.diffusion.samplers import sample_ode
    from eisbach.diffusion.schedules import get_schedule

    frames = backbone.codec.frames_for(config.duration)
    device = next(backbone.module.parameters()).device
    noise = torch.stack([starting_noise(take.prompt.id, take.seed, backbone.latent_channels, frames) for take in batch])
    backbone.module.eval()
    with torch.inference_mode():
        durations = torch.full((len(batch),), config.duration)
        conditioning = backbone.condition([take.prompt.text for take in batch], durations).to(device=device)
        null = backbone.null_condition(conditioning)
        latents = sample_ode(
            guided(backbone.predict, conditioning, null, config.guidance_scale),
            path=backbone.path,
            target=backbone.target,
            noise=noise.to(device),
            times=get_schedule(config.schedule or backbone.schedule, config.num_inference_steps),
            method=config.sampler,
            on_step=lambda *_: bar.advance(),
        )
    keep = [index for index, take in enumerate(batch) if take.id in missing]
    _check_latents(latents, batch)
    for index, waveform in zip(keep, backbone.codec.decode(latents[keep].float().cpu()), strict=True):
        yield batch[index], waveform


def _check_latents(latents: torch.Tensor, batch: list[Take]) -> None:
    """Refuses NaN rather than writing it as audio."""
    import torch

    finite = torch.isfinite(latents).flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = ", ".join(take.id for take, good in zip(batch, finite.tolist(), strict=True) if not good)
        raise UserError(
            f"the model gave NaN or infinite values for {bad}; check that training was stable, "
            "or lower guidance_scale or adapter_strength."
        )


def _write_take(take: Take, waveform: Waveform, duration: float) -> None:
    """Writes exactly `duration` seconds: the codec's last frame may reach beyond them."""
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


def generation_stamp(config: GenerateConfig, backbone: Backbone) -> dict[str, Any]:
    """What decides the audio: the weights and settings, and the words of each prompt. Batching is left out."""
    settings = config.model_dump(mode="json", exclude={"out", "prompts", "seeds", "batch_size", "model", "adapter"})
    return {
        "model": config.model,
        "model_identity": backbone.identity(),
        "codec_identity": backbone.codec.identity,
        "adapter": config.adapter,
        **settings,
        "seeds": list(config.seeds),
        "prompts": {prompt.id: prompt.text for prompt in config.prompts},
    }


_FREE = ("model", "adapter", "seeds", "prompts")  # paths may move, and prompts and seeds may be added


def _check_stamp(path: Path, stamp: dict[str, Any]) -> None:
    """Refuses a folder whose audio came from another model or from other settings."""
    if not path.is_file():
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
    if not path.is_file():
        return stamp
    old = read_json(path, "record of earlier generations")
    seeds = [*old["seeds"], *(seed for seed in stamp["seeds"] if seed not in old["seeds"])]
    return stamp | {"seeds": seeds, "prompts": old["prompts"] | stamp["prompts"]}
