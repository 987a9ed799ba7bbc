"""Generation: prompts × seeds, from the same noise whatever the model, to FLAC files and a manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from eisbach.config import check_values
from eisbach.devices import Placement, place
from eisbach.errors import AudioError, InterruptedRun, UserError
from eisbach.files import read_json, write_json
from eisbach.generation.config import DISTILLED, GenerateConfig, SamplingConfig
from eisbach.generation.prompts import Prompt
from eisbach.generation.sampling import curve_stamp, sampling_times, starting_noise
from eisbach.output_folder import refuse_other_settings, weights_identity
from eisbach.progress import Progress, in_threads
from eisbach.signals import stop_signal

if TYPE_CHECKING:
    from eisbach.backbones.base import Backbone
    from eisbach.codecs.base import Codec
    from eisbach.data.manifest import Manifest, ManifestRow
    from eisbach.types import Waveform

_TRIED_FRAMES = 64

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
    not from what is missing, so that a continued run makes the same samples, bit for bit, as an uninterrupted one with
    the same number of threads.

    Parameters
    ----------
    config : GenerateConfig
    quiet : bool
        No progress bar.
    notify : callable or None
        Is told, in a sentence, where it computes, and which words of a prompt the model has no meaning for.

    Raises
    ------
    UserError
        The folder holds generations of another model or of other settings, or the device is not there.
    CheckpointError
        The adapter is unreadable or was trained on another model.
    StorageError
        The disk is full or the folder is not writable; finished files stay.
    InterruptedRun
        Ctrl-C, SIGTERM or a closed terminal: finished clips stay, and the same call makes the others.

    Examples
    --------
    >>> from eisbach import GenerateConfig, generate
    >>> prompts = [{"id": "calm", "text": "a calm cello"}]
    >>> manifest = generate(GenerateConfig(prompts=prompts, num_inference_steps=1, out="takes"), quiet=True)
    >>> [(row.path, row.labels["prompt_id"]) for row in manifest]
    [('calm_seed-0.flac', 'calm')]
    """
    from eisbach.backbones import load_backbone, load_codec_of
    from eisbach.codecs.base import place_codec

    placement = place(config.device, config.precision)
    takes = plan_takes(config)
    backbone = load_backbone(config.model)
    config = settle_sampling(config, backbone)
    sampled_seconds(config, backbone)  # refuses what the model does not play, before anything is read
    sampling_times(config, backbone)  # refuses an unknown name or a missing curve early
    codec = load_codec_of(backbone)
    if notify is not None:
        for sentence in (f"{placement.sentence()}.", *unknown_words(config.prompts, backbone)):
            notify(sentence)
    stamp = _generation_stamp(config, backbone, codec) | placement.stamp()
    backbone.module.to(placement.device)
    place_codec(codec, placement.device)
    if config.adapter is not None:
        from eisbach.adapters import load_adapter

        load_adapter(backbone, config.adapter, strength=config.adapter_strength, any_base=config.any_base)
    stamp_path = Path(config.out) / STAMP
    _check_stamp(stamp_path, stamp)
    missing = {take.id for take in takes if not _is_finished(take.path, config.duration)}
    if missing:
        write_json(stamp_path, _merge_stamp(stamp_path, stamp))
    _make_missing(config, backbone, codec, placement, takes, missing, quiet)
    return _save_manifest(config, takes)


def _make_missing(
    config: GenerateConfig,
    backbone: Backbone,
    codec: Codec,
    placement: Placement,
    takes: list[Take],
    missing: set[str],
    quiet: bool,
) -> None:
    """Samples the batches of the whole plan in which a clip is missing, and writes those clips."""
    batches = [takes[start : start + config.batch_size] for start in range(0, len(takes), config.batch_size)]
    todo = [batch for batch in batches if any(take.id in missing for take in batch)]
    with stop_signal() as stop, _Meter(config, codec, len(batches), len(batches) - len(todo), quiet) as meter:
        for batch in todo:

            def look() -> None:
                if stop.is_set():
                    raise _stopped(takes, config.duration)

            def on_step(*_: object) -> None:
                meter.step()
                look()

            for take, waveform in _sample_batch(backbone, codec, config, placement, batch, missing, on_step):
                _write_take(take, waveform, config.duration)
            meter.decoded()
            if batch is not todo[-1]:
                look()


def _stopped(takes: list[Take], duration: float) -> InterruptedRun:
    """What is said of a stopped generation."""
    done = sum(_is_finished(take.path, duration) for take in takes)
    return InterruptedRun(
        f"{done} of {len(takes)} clips are finished and stay in {takes[0].path.parent}; the same command makes the "
        "others."
    )


class _Meter:
    """The bar of a generation. Decoding takes its share of it: as many steps as its time, tried on a few frames, is
    worth."""

    def __init__(self, config: GenerateConfig, codec: Codec, batches: int, done: int, quiet: bool) -> None:
        self._config, self._codec, self._quiet = config, codec, quiet
        self._batches, self._decoding, self._since = batches, 1, 0.0
        self._learnt = quiet
        self._steps = config.num_inference_steps
        self._bar = Progress(
            batches * (self._steps + 1),
            f"generate {config.arm}",
            unit=" steps",
            done=done * (self._steps + 1),
            quiet=quiet,
        )
        self._skipped = done

    def __enter__(self) -> _Meter:
        self._bar.__enter__()
        self._since = time.monotonic()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    def step(self) -> None:
        """Counts a sampling step; the first one that is measured says what decoding is worth."""
        if not self._learnt:
            self._learnt = True
            took = max(1e-6, time.monotonic() - self._since)
            self._decoding = max(1, round(self._decoding_seconds() / took))
            extra = self._decoding - 1
            self._bar.total += self._batches * extra
            self._bar.start_at(self._skipped * (self._steps + self._decoding))
        self._bar.advance()

    def decoded(self) -> None:
        """Counts the decoding of a batch."""
        self._bar.advance(self._decoding)

    def _decoding_seconds(self) -> float:
        """Estimated seconds to decode a batch."""
        import torch

        frames = sampled_frames(self._codec, self._config.duration)
        tried = min(_TRIED_FRAMES, frames)
        since = time.monotonic()
        with torch.no_grad():
            self._codec.decode(torch.zeros(1, self._codec.channels, tried))
        clips = min(self._config.batch_size, len(self._config.prompts) * len(self._config.seeds))
        return (time.monotonic() - since) * clips * frames / tried


def settle_sampling(config: GenerateConfig, backbone: Backbone) -> GenerateConfig:
    """The configuration with the sampling defaults of a distilled model, where the model is one; what was set
    stands."""
    if not backbone.distilled:
        return config
    return config.model_copy(
        update={key: value for key, value in DISTILLED.items() if key not in config.model_fields_set}
    )


def sampled_seconds(sampling: SamplingConfig, backbone: Backbone) -> float:
    """Seconds that are sampled for a clip: its duration and the headroom behind it, as far as the model reaches.

    Raises
    ------
    UserError
        The clip is longer than the model plays.
    """
    limit = backbone.max_seconds
    if sampling.duration > limit:
        raise UserError(
            f"a duration of {sampling.duration:g} s arrived, and the model '{backbone.name}' plays up to {limit:g} s; "
            "ask for a shorter clip."
        )
    headroom = backbone.headroom if sampling.headroom is None else sampling.headroom
    return min(sampling.duration + headroom, limit)


def sampled_frames(codec: Codec, seconds: float) -> int:
    """Latent frames that are sampled for a clip: what a codec counts in it, and one more where the clip would end too
    early to count as whole; what lies beyond its length is cut off."""
    frames = codec.frames_for(seconds)
    return frames + (seconds - frames / codec.latent_rate > 0.5 * _short_by(seconds))


def _short_by(seconds: float) -> float:
    """Seconds that a finished clip may lack: a codec's last frame may end before its length."""
    return min(1.0, 0.1 * seconds)


def unknown_words(prompts: Iterable[Prompt], backbone: Backbone) -> list[str]:
    """A sentence for each prompt with words that the model has no meaning for; none when it reads everything."""
    unknown = [(prompt.id, backbone.unknown_words(prompt.text)) for prompt in prompts]
    return [
        f"prompt '{name}': the model does not know {', '.join(words)}; these words change nothing."
        for name, words in unknown
        if words
    ]


def _sample_batch(
    backbone: Backbone,
    codec: Codec,
    config: GenerateConfig,
    placement: Placement,
    batch: list[Take],
    missing: set[str],
    on_step: Callable[..., object],
) -> Iterator[tuple[Take, Waveform]]:
    """Samples a whole batch; decodes and yields only its missing takes.

    The network alone computes under autocast: captions are read, and audio is decoded, in fp32.
    """
    import torch

    from eisbach.diffusion.guidance import Projection, guided
    from eisbach.diffusion.samplers import sample_ode, sample_pingpong

    frames = sampled_frames(codec, sampled_seconds(config, backbone))
    device = placement.device

    def noise_of(step: int) -> torch.Tensor:
        rows = [starting_noise(take.prompt.id, take.seed, backbone.latent_channels, frames, step) for take in batch]
        return torch.stack(rows).to(device)

    backbone.module.eval()
    with torch.no_grad():
        texts = [take.prompt.text for take in batch]
        conditioning = backbone.condition(texts, [config.duration] * len(batch)).to(device=device)
        null = backbone.null_condition(conditioning)
        projection = Projection(config.apg, backbone.path, backbone.target)
        network = placement.predict(backbone.predict)
        predict = guided(network, conditioning, null, config.guidance_scale, projection=projection)
        shared: dict[str, Any] = {
            "path": backbone.path,
            "target": backbone.target,
            "noise": noise_of(0),
            "times": sampling_times(config, backbone),
            "on_step": on_step,
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
    """True when the file is there, can be decoded, and is as long as asked (within a second, or a tenth of it)."""
    from eisbach.audio_file import AudioFile

    if not path.is_file():
        return False
    try:
        return abs(AudioFile(path).seconds() - duration) < _short_by(duration)
    except AudioError:
        return False


def _save_manifest(config: GenerateConfig, takes: list[Take]) -> Manifest:
    """Writes the manifest of everything in the folder and returns the rows that `config` asks for."""
    from eisbach.data.manifest import MANIFEST_NAME, Manifest, load_manifest, save_manifest

    root = Path(config.out)
    with in_threads(takes, lambda take: _row(config, take), jobs=4, title="hash", quiet=True) as results:
        rows = [row for _, row in results]
    asked = {row.id for row in rows}
    others = []
    if (root / MANIFEST_NAME).is_file():
        earlier = load_manifest(root, check_files=False)
        others = [row for row in earlier if row.id not in asked and earlier.audio_path(row).is_file()]
    save_manifest(Manifest([*rows, *others], root))
    return Manifest(rows, root)


def _row(config: GenerateConfig, take: Take) -> ManifestRow:
    from eisbach.audio import audio_hash
    from eisbach.audio_file import AudioFile
    from eisbach.data.manifest import ManifestRow

    labels = {"arm": config.arm, "prompt_id": take.prompt.id, "seed": str(take.seed)}
    return ManifestRow(
        id=take.id,
        path=take.path.name,
        caption=take.prompt.text,
        duration=round(AudioFile(take.path).seconds(), 6),
        labels=labels,
        audio_hash=audio_hash(take.path),
        split="held_out",  # generated audio must not slip into a training set unnoticed
    )


def _generation_stamp(config: GenerateConfig, backbone: Backbone, codec: Codec) -> dict[str, Any]:
    """What decides the audio: the weights and settings, and the words of each prompt. Batching is left out."""
    left_out = {"out", "prompts", "seeds", "batch_size", "model", "adapter", "any_base", "device", "precision"}
    settings = config.model_dump(mode="json", exclude=left_out)
    settings["headroom"] = backbone.headroom if config.headroom is None else config.headroom
    for key in ("headroom", "apg"):
        if not settings[key]:  # as before there were any: a folder of then goes on
            del settings[key]
    return {
        "model": config.model,
        "model_identity": backbone.identity(),
        "codec_identity": codec.identity(),
        "adapter": config.adapter,
        "adapter_identity": None if config.adapter is None else weights_identity(config.adapter),
        **settings,
        **curve_stamp(config.schedule_options),
        "seeds": list(config.seeds),
        "prompts": {prompt.id: prompt.text for prompt in config.prompts},
    }


_FREE = ("model", "adapter", "seeds", "prompts", "schedule_options.curve")
"""Paths may move, since what they lead to stands beside them; prompts and seeds may be added."""


class _Stamp(BaseModel, extra="allow"):
    """What a later generation into the same folder reads of `generation.json`."""

    seeds: list[int]
    prompts: dict[str, str]


def _read_stamp(path: Path) -> dict[str, Any]:
    what = "record of earlier generations"
    return check_values(_Stamp, read_json(path, what), f"the {what} {path}").model_dump()


def _check_stamp(path: Path, stamp: dict[str, Any]) -> None:
    """Refuses a folder whose audio came from another model or from other settings; without audio there is nothing to
    mix."""
    if not path.is_file() or not any(path.parent.glob("*.flac")):
        return
    old = _read_stamp(path)
    refuse_other_settings(path.parent, "generations", old, stamp, free=_FREE)
    for name, text in stamp["prompts"].items():
        before = old["prompts"].get(name, text)
        if before != text:
            raise UserError(
                f"{path.parent} holds generations for the prompt '{name}' with other words; "
                "give the new prompt another id, or choose another output folder."
            )


def _merge_stamp(path: Path, stamp: dict[str, Any]) -> dict[str, Any]:
    """The stamp of everything in the folder: earlier prompts and seeds stay listed."""
    if not path.is_file() or not any(path.parent.glob("*.flac")):
        return stamp
    old = _read_stamp(path)
    seeds = [*old["seeds"], *(seed for seed in stamp["seeds"] if seed not in old["seeds"])]
    return stamp | {"seeds": seeds, "prompts": old["prompts"] | stamp["prompts"]}
