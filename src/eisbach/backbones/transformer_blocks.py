"""Parts that the image transformers share: how images become tokens and tokens images, and the fields of their
shape."""

from __future__ import annotations

from typing import Any, Self

import torch
from pydantic import Field, model_validator

from eisbach.backbones.image_base import ImageConfig


class ImageTransformerConfig(ImageConfig):
    """Shape of a transformer on patches.

    Attributes
    ----------
    patch : int
        Latent pixels on a side of a patch; must divide `latent_size`.
    width, depth, heads : int
        Hidden dimension, number of blocks, attention heads; filled in from `size` where it is given.
    mlp_ratio : float
        Hidden dimension of the feed-forward layers over `width`.
    """

    patch: int = Field(2, ge=1)
    width: int = Field(ge=8)
    depth: int = Field(ge=1, le=1024)
    heads: int = Field(ge=1, le=1024)
    mlp_ratio: float = Field(4.0, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        faults = []
        if self.latent_size % self.patch:
            faults.append(
                f"latent_size {self.latent_size} is no multiple of patch {self.patch}: choose a patch that divides it"
            )
        if self.width % self.heads:
            faults.append(f"width {self.width} is no multiple of heads {self.heads}: choose heads that divide it")
        if self.width % 4:
            faults.append(f"width {self.width} is no multiple of 4, which sines and cosines on two axes need")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def network_options(self) -> dict[str, Any]:
        """The options that every such network has."""
        names = ("latent_channels", "latent_size", "patch", "width", "depth", "heads", "mlp_ratio")
        return {**{name: getattr(self, name) for name in names}, "num_classes": len(self.classes)}


def from_patches(tokens: torch.Tensor, patch: int, channels: int) -> torch.Tensor:
    """Images [shape=(B, C, H, W)] of tokens [shape=(B, N, patch * patch * C)] in row order; channels vary fastest in a
    token."""
    side = round(tokens.shape[1] ** 0.5)
    grid = tokens.reshape(-1, side, side, patch, patch, channels)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, side * patch, side * patch)
