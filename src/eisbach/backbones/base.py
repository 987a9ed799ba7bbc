"""What a backbone is: a network with its path, its target and its conditioning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from eisbach.types import Conditioning

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Backbone(Protocol):
    """A diffusion network that declares what it predicts and what it needs.

    Attributes
    ----------
    name : str
    path : str
        Noising path: "linear", "vp", "gvp" or "edm".
    target : str
        What `predict` returns: "eps", "x0", "v" or "u".
    latent_channels : int
    latent_rate : float
        Latent frames per second.
    codec : str
        Name of the codec its latents come from (`eisbach.codecs.load_codec`). A backbone whose codec is part of its own
        checkpoint also has a method `load_codec() -> Codec`, which `eisbach.backbones.load_codec_of` prefers.
    module : torch.nn.Module
        What adapters go into and what full training updates.
    adapter_targets : str
        Regular expression over module names: where adapters go unless a recipe says otherwise.
    density : str
        Training density of noise levels unless a recipe says otherwise.
    schedule : str
        Sampling schedule unless a command says otherwise.
    """

    name: str
    path: str
    target: str
    latent_channels: int
    latent_rate: float
    codec: str
    module: torch.nn.Module
    adapter_targets: str
    density: str
    schedule: str

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
