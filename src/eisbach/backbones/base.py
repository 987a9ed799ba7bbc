"""What a backbone is: a network with its path, its target and its conditioning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from eisbach.errors import UserError
from eisbach.types import Conditioning

if TYPE_CHECKING:
    import torch

    from eisbach.codecs.base import Codec
    from eisbach.diffusion.paths import Path as NoisingPath


@runtime_checkable
class Backbone(Protocol):
    """A diffusion network that declares what it predicts and what it needs.

    Attributes
    ----------
    name : str
    path : eisbach.diffusion.paths.Path
        How data and noise are mixed at each noise level; names become paths where a configuration is read.
    target : str
        What `predict` returns: "eps", "x0", "v" or "u".
    latent_channels : int
    latent_rate : float
        Latent frames per second.
    codec : str
        Name of the codec its latents come from (`eisbach.codecs.load_codec`).
    module : torch.nn.Module
        What adapters go into and what full training updates.
    adapter_targets : str
        Regular expression over module names: where adapters go unless a recipe says otherwise.
    density : str
        Training density of noise levels unless a recipe says otherwise.
    schedule : str
        Sampling schedule unless a command says otherwise.
    latent_size : int or None
        Rows and columns of latent pixels of an image model; None for audio, whose length is free.
    distilled : bool, default False
        A model of few steps, which is for playing: training it as a flow undoes the distillation.
    inpainting : bool, default False
        Whether `predict` takes a fourth argument `inpainting` [shape=(B, 1 + C, T)]: the mask of what is known, and
        the known.
    max_seconds : float, default 120
        How long a clip the model plays at most.
    headroom : float, default 0
        Seconds that are sampled beyond a clip's end and cut off, unless a command says otherwise.
    retimes : bool, default False
        Whether `with_durations` gives rows other durations without reading their captions again.

    A backbone inherits from this class, for what most of them have in common.
    """

    name: str
    path: NoisingPath
    target: str
    latent_channels: int
    latent_rate: float
    codec: str
    module: torch.nn.Module
    adapter_targets: str
    density: str
    schedule: str
    latent_size: int | None = None
    distilled: bool = False
    inpainting: bool = False
    max_seconds: float = 120.0
    headroom: float = 0.0
    retimes: bool = False

    @property
    def modality(self) -> str:
        """ "audio" or "image"."""
        return "audio" if self.latent_size is None else "image"

    @property
    def latent_shape(self) -> tuple[int, ...] | None:
        """(C, H, W) that an image network was trained on; None for audio."""
        size = self.latent_size
        return None if size is None else (self.latent_channels, size, size)

    def load_codec(self) -> Codec | None:
        """The codec that is part of the model's own checkpoint; None where `codec` names one that stands alone."""
        return None

    def unknown_words(self, caption: str) -> list[str]:
        """The words of a caption that mean nothing to the model; none where it reads everything."""
        return []

    def text_length(self, caption: str) -> tuple[int, int] | None:
        """Tokens (or words) of a caption, and how many of them the model reads; None where it reads everything."""
        return None

    def with_durations(self, conditioning: Conditioning, durations: Sequence[float]) -> Conditioning:
        """The same captions with other durations, where `retimes` is true."""
        raise UserError(f"the model '{self.name}' reads durations with its captions; condition it anew.")

    def release_text_encoder(self) -> None:
        """Drops the text encoder from memory, where there is one; a later `condition` reads it again."""
        return

    def condition(self, captions: Sequence[str], durations: Sequence[float]) -> Conditioning:
        """Cacheable conditioning of captions and durations in seconds, one row each."""
        ...

    def null_condition(self, conditioning: Conditioning) -> Conditioning:
        """The unconditional counterpart for guidance and conditioning dropout: no text, the same durations."""
        ...

    def predict(self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The network's output [shape=(B, C, T)] at x_t [shape=(B, C, T)] and t [shape=(B,)]."""
        ...

    def identity(self) -> str:
        """A short hash of configuration and weights: adapters are stamped with it."""
        ...

    def save(self, folder: str | Path) -> None:
        """Writes the backbone so that `load_backbone(folder)` gives an equal one."""
        ...
