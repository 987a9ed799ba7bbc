"""Audio that a generation starts from: encoded, and the seconds of it that stay.

Sampling starts at a noise level t from ``alpha(t) latents + sigma(t) noise``, as Stability's `init_audio` with its
`init_noise_level` does. Kept seconds are shown to a model that knows inpainting as the latents that it need not make;
in the finished clip they are the recording itself, sample by sample, with a short fade at each edge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eisbach.audio import read_audio
from eisbach.errors import UserError
from eisbach.generation.config import GenerateConfig

if TYPE_CHECKING:
    import torch

    from eisbach.backbones.base import Backbone
    from eisbach.codecs.base import Codec
    from eisbach.types import Waveform

_FADE = 0.02  # seconds between what is kept and what is made
_SHORT = 0.05  # seconds that audio may lack at its end: less than a frame of most codecs


@dataclass(frozen=True)
class Source:
    """Audio to start from, as a codec and a model see it.

    Attributes
    ----------
    waveform : Waveform
        At the codec's rate and channels, as long as the clip.
    latents : torch.Tensor [shape=(C, T), float32]
    known : torch.Tensor [shape=(T,), bool]
        Frames that are kept.
    keep : tuple of (start, end) in seconds
    """

    waveform: Waveform
    latents: torch.Tensor
    known: torch.Tensor
    keep: tuple[tuple[float, float], ...]

    def init(self, rows: int) -> torch.Tensor:
        """The latents once a row [shape=(B, C, T)]."""
        return self.latents.expand(rows, -1, -1)

    def condition(self, predict: Callable[..., Any]) -> Callable[..., Any]:
        """`predict` that shows the network what is kept; itself, where nothing is."""
        import torch

        if not self.keep:
            return predict
        shown = torch.cat([self.known[None].to(self.latents), self.latents * self.known])

        def predict_rest(x_t: torch.Tensor, t: torch.Tensor, conditioning: Any) -> torch.Tensor:
            output: torch.Tensor = predict(x_t, t, conditioning, shown.to(x_t).expand(len(x_t), -1, -1))
            return output

        return predict_rest

    def restore(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [shape=(B, C, T)] with the kept frames as they came."""
        import torch

        return torch.where(self.known.to(latents.device), self.latents.to(latents), latents)

    def paste(self, made: Waveform) -> Waveform:
        """What was made, with the kept seconds of the recording in it."""
        from eisbach.types import Waveform as Wave

        rate, length = made.sample_rate, min(made.samples.shape[1], self.waveform.samples.shape[1])
        share = np.zeros(made.samples.shape[1], np.float32)  # of the recording
        for start, end in self.keep:
            first, last = round(start * rate), min(round(end * rate), length)
            fade = min(round(_FADE * rate), (last - first) // 4)
            share[first:last] = 1.0
            ramp = (np.arange(fade, dtype=np.float32) + 1) / (fade + 1)
            if first > 0:
                share[first : first + fade] = ramp
            if last < made.samples.shape[1]:
                share[last - fade : last] = ramp[::-1]
        mixed = made.samples.copy()
        mixed[:, :length] += share[:length] * (self.waveform.samples[:, :length] - made.samples[:, :length])
        return Wave(np.ascontiguousarray(mixed), rate)


def settle_duration(config: GenerateConfig, backbone: Backbone) -> GenerateConfig:
    """The configuration with the length of `init` as the clip's, unless a length was given.

    Raises
    ------
    AudioError
        The file cannot be read.
    UserError
        It is longer than the model plays.
    """
    from eisbach.audio_file import AudioFile

    if config.init is None or "duration" in config.model_fields_set:
        return config
    seconds = AudioFile(config.init).seconds()
    if seconds > backbone.max_seconds:
        raise UserError(
            f"{config.init} lasts {seconds:.1f} s, and the model '{backbone.name}' plays up to "
            f"{backbone.max_seconds:g} s; say with a duration how much of its beginning to use."
        )
    if seconds < 1:
        raise UserError(f"{config.init} lasts {seconds:.2f} s; give a second of audio at least.")
    return config.model_copy(update={"duration": round(seconds, 3)})


def read_source(config: GenerateConfig, backbone: Backbone, codec: Codec, frames: int) -> Source | None:
    """The audio that a configuration starts from; None where it starts from noise.

    Raises
    ------
    AudioError
        The file cannot be read, or is silent.
    UserError
        It is too short for the clip or for what is to be kept, or the model knows no inpainting.
    """
    from eisbach.codecs.base import heard
    from eisbach.types import Waveform as Wave

    if config.init is None:
        return None
    if config.keep and not backbone.inpainting:
        raise UserError(
            f"the model '{backbone.name}' knows no inpainting, so it cannot keep seconds of {config.init}; leave out "
            "keep and give a noise below 1, or take Stable Audio 3."
        )
    reach = frames * codec.samples_per_frame
    waveform = read_audio(config.init, duration=reach / codec.sample_rate)
    _check_lengths(config, waveform.duration)
    told = heard(waveform, codec.sample_rate, codec.audio_channels, mixes=True)
    padded = np.zeros((told.channels, reach), np.float32)  # beyond the recording there is silence
    length = min(reach, told.samples.shape[1])
    padded[:, :length] = told.samples[:, :length]
    latents = codec.encode(Wave(padded, codec.sample_rate)).float().cpu()
    latents = _fitted(latents, frames)
    known = _known_frames(config, frames, codec.latent_rate)
    clip = Wave(padded[:, : round(config.duration * codec.sample_rate)], codec.sample_rate)
    return Source(clip, latents, known, config.keep)


def _check_lengths(config: GenerateConfig, seconds: float) -> None:
    """Refuses what cannot be meant of audio that lasts `seconds` (as much of it as is looked at)."""
    asked, last = config.duration, max((end for _, end in config.keep), default=0.0)
    if last > min(asked, seconds) + _SHORT:
        raise UserError(
            f"keep reaches to {last:g} s, and the clip has {min(asked, seconds):.2f} s of {config.init}; keep what is "
            "there."
        )
    if sum(end - start for start, end in config.keep) >= asked - _SHORT:
        raise UserError(f"keep covers the whole clip of {asked:g} s, so nothing is left to make; keep less of it.")
    if seconds < asked - _SHORT and config.start < 1:
        raise UserError(
            f"{config.init} lasts {seconds:.2f} s and {asked:g} s are asked for; ask for its length, or go on from it "
            "with keep and noise 1, where the model knows inpainting."
        )


def _known_frames(config: GenerateConfig, frames: int, rate: float) -> torch.Tensor:
    """Frames of which at least half is kept."""
    import torch

    known = torch.zeros(frames, dtype=torch.bool)
    for start, end in config.keep:
        first, last = round(start * rate), round(end * rate)
        if last <= first:
            raise UserError(
                f"{start:g} to {end:g} s is less than a frame of the model ({1 / rate:.2f} s); keep a longer part."
            )
        known[first:last] = True
    return known


def _fitted(latents: torch.Tensor, frames: int) -> torch.Tensor:
    """Latents with exactly so many frames: a codec may count one more or less of the same audio."""
    import torch

    missing = frames - latents.shape[-1]
    if missing <= 0:
        return latents[:, :frames]
    return torch.cat([latents, latents[:, -1:].expand(-1, missing)], dim=1)
