"""One batch of clips: from noise, or from audio with noise on it, to waveforms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from eisbach.errors import UserError
from eisbach.generation.config import GenerateConfig, SamplingConfig
from eisbach.generation.playing import Player
from eisbach.generation.takes import Take, sampling_times, short_by, starting_noise

if TYPE_CHECKING:
    from eisbach.backbones.base import Backbone
    from eisbach.codecs.base import Codec
    from eisbach.types import Conditioning, Waveform


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
