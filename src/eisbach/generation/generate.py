"""Generation: prompts × seeds, from the same noise whatever the model, to FLAC files and a manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eisbach.devices import place
from eisbach.errors import InterruptedRun, UserError
from eisbach.files import write_json
from eisbach.generation.config import DISTILLED, GenerateConfig, SamplingConfig
from eisbach.generation.playing import Player, play_adapters, settle_adapters
from eisbach.generation.prompts import Prompt
from eisbach.generation.source import read_source, settle_duration
from eisbach.generation.takes import (
    STAMP,
    Take,
    check_stamp,
    finished_seconds,
    generation_stamp,
    merge_stamp,
    plan_takes,
    sampling_times,
    save_manifest,
    short_by,
    starting_noise,
    write_take,
)
from eisbach.interruption import stop_signal
from eisbach.progress import Progress

if TYPE_CHECKING:
    from eisbach.backbones.base import Backbone
    from eisbach.codecs.base import Codec
    from eisbach.data.manifest import Manifest
    from eisbach.types import Conditioning, Waveform


_TRIED_FRAMES = 64


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
    KeyboardInterrupt
        The same, after the last clip: the same call finishes the folder.

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
    config = settle_adapters(config)
    takes = plan_takes(config)
    backbone = load_backbone(config.model)
    config = settle_duration(settle_sampling(config, backbone), backbone)
    seconds = sampled_seconds(config, backbone)  # refuses what the model does not play, before anything is read
    sampling_times(config, backbone, config.start)  # refuses an unknown name or a missing curve early
    codec = load_codec_of(backbone)
    if notify is not None:
        for sentence in (f"{placement.sentence()}.", *unknown_words(config.prompts, backbone)):
            notify(sentence)
    stamp = generation_stamp(config, backbone, codec) | placement.stamp()
    backbone.module.to(placement.device)
    place_codec(codec, placement.device)
    source = read_source(config, backbone, codec, sampled_frames(codec, seconds))
    player = Player(backbone, codec, placement, play_adapters(backbone, config), source)
    stamp_path = Path(config.out) / STAMP
    check_stamp(stamp_path, stamp)
    lengths = _finished(takes, config.duration)
    missing = {take.id for take in takes} - lengths.keys()
    if missing:
        write_json(stamp_path, merge_stamp(stamp_path, stamp))
    lengths |= _make_missing(config, player, takes, missing, quiet)
    return save_manifest(config, takes, lengths)


def _finished(takes: list[Take], duration: float) -> dict[str, float]:
    """Seconds of the clips that are there, by id."""
    found = {take.id: finished_seconds(take.path, duration) for take in takes}
    return {name: seconds for name, seconds in found.items() if seconds is not None}


def _make_missing(
    config: GenerateConfig, player: Player, takes: list[Take], missing: set[str], quiet: bool
) -> dict[str, float]:
    """Samples the batches of the whole plan in which a clip is missing, and writes those clips: their seconds by id."""
    lengths: dict[str, float] = {}
    batches = [takes[start : start + config.batch_size] for start in range(0, len(takes), config.batch_size)]
    todo = [batch for batch in batches if any(take.id in missing for take in batch)]
    with stop_signal() as stop, _Meter(config, player.codec, len(batches), len(batches) - len(todo), quiet) as meter:
        for batch in todo:

            def look() -> None:
                if stop.is_set():
                    raise _stopped(takes, config.duration)

            def on_step(*_: object) -> None:
                meter.step()
                look()

            for take, waveform in sample_batch(player, config, batch, on_step, missing=missing):
                lengths[take.id] = write_take(take, waveform, config.duration)
            meter.decoded()
            if batch is not todo[-1]:
                look()
    return lengths


def _stopped(takes: list[Take], duration: float) -> InterruptedRun:
    """What is said of a stopped generation."""
    done = len(_finished(takes, duration))
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


def unknown_words(prompts: Iterable[Prompt], backbone: Backbone) -> list[str]:
    """A sentence for each prompt with words that the model has no meaning for; none when it reads everything."""
    unknown = [(prompt.id, backbone.unknown_words(prompt.text)) for prompt in prompts]
    return [
        f"prompt '{name}': the model does not know {', '.join(words)}; these words change nothing."
        for name, words in unknown
        if words
    ]


# --- one batch of clips: from noise, or from audio with noise on it, to waveforms


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
    return frames + (seconds - frames / codec.latent_rate > 0.5 * short_by(seconds))


def sample_batch(
    player: Player,
    config: GenerateConfig,
    batch: list[Take],
    on_step: Callable[..., object],
    *,
    missing: set[str] | None = None,
    conditioning: Conditioning | None = None,
) -> Iterator[tuple[Take, Waveform]]:
    """Samples a whole batch; decodes and yields only its missing takes, or all.

    The network alone computes under autocast: captions are read, and audio is decoded, in fp32. `conditioning` is what
    the batch's captions became before, a row each, for a model whose text encoder has been let go.
    """
    import torch

    from eisbach.diffusion.guidance import Projection, guided
    from eisbach.diffusion.samplers import sample_ode, sample_pingpong

    backbone, codec, source = player.backbone, player.codec, player.source
    frames = sampled_frames(codec, sampled_seconds(config, backbone))
    device = player.placement.device

    def noise_of(step: int) -> torch.Tensor:
        rows = [starting_noise(take.prompt.id, take.seed, backbone.latent_channels, frames, step) for take in batch]
        return torch.stack(rows).to(device)

    backbone.module.eval()
    with torch.no_grad():
        if conditioning is None:
            texts = [take.prompt.text for take in batch]
            conditioning = backbone.condition(texts, [config.duration] * len(batch))
        conditioning = conditioning.to(device=device)
        null = backbone.null_condition(conditioning)
        projection = Projection(config.apg, backbone.path, backbone.target)
        network = player.network() if source is None else source.condition(player.network())
        predict = guided(network, conditioning, null, config.guidance_scale, projection=projection)
        shared: dict[str, Any] = {
            "path": backbone.path,
            "target": backbone.target,
            "noise": noise_of(0),
            "times": sampling_times(config, backbone, config.start),
            "init": None if source is None or config.start == 1 else source.init(len(batch)),
            "on_step": on_step,
        }
        if config.sampler == "pingpong":
            latents = sample_pingpong(predict, fresh_noise=noise_of, **shared)
        else:
            latents = sample_ode(predict, method=config.sampler, **shared)
    latents = latents.float().cpu()
    if source is not None and source.keep:
        latents = source.restore(latents)
    # Decoding the missing ones alone would round differently than decoding them with the rest of their batch.
    for take, waveform in zip(batch, codec.decode(latents), strict=True):
        if missing is None or take.id in missing:
            yield take, waveform if source is None else source.paste(waveform)
