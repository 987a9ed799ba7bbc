"""What a codec is: a deterministic map between audio and latents `(C, T)`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from eisbach.audio import resample, to_mono
from eisbach.errors import AudioError, UserError
from eisbach.types import Waveform

if TYPE_CHECKING:
    import torch

    from eisbach.codecs.images import ImageCodec


@runtime_checkable
class Codec(Protocol):
    """Audio to latents and back, deterministic in both directions.

    Attributes
    ----------
    name : str
    sample_rate : int
        Hz; `encode` resamples whatever arrives, `decode` returns this rate.
    audio_channels : int
        Channels of the audio that it codes: 1 mixes whatever arrives to mono.
    channels : int
        Latent channels C.
    samples_per_frame : int
        Audio samples that one latent frame covers.
    latent_rate : float
        Latent frames per second.
    model : torch.nn.Module or None
        Its network; None when it has none.
    """

    name: str
    sample_rate: int
    audio_channels: int
    channels: int
    samples_per_frame: int
    latent_rate: float
    model: torch.nn.Module | None

    def identity(self) -> str:
        """A short hash of everything that changes latents: cached latents are keyed by it."""
        ...

    def frames_for(self, seconds: float) -> int:
        """The number of latent frames that hold `seconds` of audio (at least 1)."""
        ...

    def encode(self, waveform: Waveform) -> torch.Tensor:
        """Latents [shape=(C, T), float32] of a waveform."""
        ...

    def decode(self, latents: torch.Tensor) -> list[Waveform]:
        """Waveforms of latents [shape=(C, T) or (B, C, T)], one an item."""
        ...


def heard(waveform: Waveform, sample_rate: int, audio_channels: int, *, mixes: bool = False) -> Waveform:
    """What a codec is given of a waveform: at its rate, mixed to mono for one channel, mono doubled for more.

    More than two channels are mixed to mono where the codec `mixes`, as the embedded ones do.

    Raises
    ------
    AudioError
        NaN or infinite samples, or a number of channels that has no such way.
    """
    mono = audio_channels == 1 or (mixes and waveform.channels > 2)
    made = resample(to_mono(waveform) if mono else waveform, sample_rate)
    if not np.isfinite(made.samples).all():
        raise AudioError("the waveform holds NaN or infinite samples; re-export the audio it came from.")
    if made.channels == 1 < audio_channels:
        made = Waveform(np.repeat(made.samples, audio_channels, axis=0), sample_rate)
    if made.channels != audio_channels:
        raise AudioError(
            f"the waveform has {made.channels} channels and this codec codes {audio_channels}; mix it down first."
        )
    return made


def place_codec(codec: Codec | ImageCodec, device: torch.device) -> None:
    """Moves a codec's network, where it has one, to a device; `encode` and `decode` go on taking and giving what they
    did."""
    if codec.model is not None:
        codec.model.to(device)


def frames_in(seconds: float, latent_rate: float) -> int:
    """Latent frames that `seconds` of audio hold, rounded down, at least 1; `UserError` for NaN and infinity."""
    if not math.isfinite(seconds):
        raise UserError(f"{seconds} seconds of audio have no number of frames; give a finite length.")
    return max(1, int(seconds * latent_rate + 1e-6))


def batch_of_latents(latents: torch.Tensor, channels: int) -> torch.Tensor:
    """Latents [shape=(C, T) or (B, C, T)] as a batch (B, C, T).

    Raises
    ------
    UserError
        Another number of channels, no frames, or NaN or infinite values.
    """
    batch = latents[None] if latents.ndim == 2 else latents
    if batch.ndim != 3 or batch.shape[1] != channels or batch.shape[2] == 0:
        raise UserError(
            f"latents of shape {tuple(latents.shape)} do not fit this codec: ({channels}, T) with T at least 1 is "
            "expected."
        )
    if not bool(batch.isfinite().all()):
        raise UserError("the latents hold NaN or infinite values; the model that made them is broken.")
    return batch
