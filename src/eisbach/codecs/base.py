"""What a codec is: a deterministic map between audio and latents `(C, T)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from eisbach.types import Waveform

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Codec(Protocol):
    """Audio to latents and back, deterministic in both directions.

    Attributes
    ----------
    name : str
    sample_rate : int
        Hz; `encode` resamples whatever arrives, `decode` returns this rate.
    channels : int
        Latent channels C.
    samples_per_frame : int
        Audio samples that one latent frame covers.
    latent_rate : float
        Latent frames per second.
    """

    name: str
    sample_rate: int
    channels: int
    samples_per_frame: int
    latent_rate: float

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
