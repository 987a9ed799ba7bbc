"""Pixels as they are: the codec of models that work on images themselves."""

from __future__ import annotations

import torch

from eisbach.codecs.image_base import check_images, check_latents
from eisbach.errors import UserError


class PixelCodec:
    """`ImageCodec` that changes nothing: latents are the image in [-1, 1].

    Parameters
    ----------
    channels : int, default 3
        3 for colour, 1 for grey.
    """

    name = "pixels"
    downsampling = 1

    def __init__(self, channels: int = 3) -> None:
        if channels not in (1, 3):
            raise UserError(f"pixels with {channels} channels arrived; images have 3 (colour) or 1 (grey).")
        self.channels = self.image_channels = channels

    def identity(self) -> str:
        """The name and the number of channels: there are no weights."""
        return f"{self.name}-{self.channels}"

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """The images [shape=(B, C, H, W), float32].

        Raises
        ------
        UserError
            Another number of channels, or values that are not in [-1, 1].
        """
        check_images(images, self.channels, 1)
        return images.float()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The same values, clamped to [-1, 1]: a sampler's result may lie a little outside.

        Raises
        ------
        UserError
            Another number of channels, NaN or infinite values.
        """
        check_latents(latents, self.channels)
        return latents.float().clamp(-1, 1)
