"""What an image codec is, a deterministic map between images and latents (`(B, 3, H, W)` and `(B, C, h, w)`), and
pixels as they are: the codec of models that work on images themselves."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch

from eisbach.errors import UserError


@runtime_checkable
class ImageCodec(Protocol):
    """Images to latents and back, deterministic in both directions.

    Attributes
    ----------
    name : str
    image_channels : int
        Channels of an image: 3, or 1 for grey ones.
    channels : int
        Latent channels C.
    downsampling : int
        Image pixels that one latent pixel covers on each axis.
    model : torch.nn.Module or None
        Its network; None when it has none.
    """

    name: str
    model: Any
    image_channels: int
    channels: int
    downsampling: int

    def identity(self) -> str:
        """A short hash of everything that changes latents: cached latents are keyed by it."""
        ...

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Latents [shape=(B, C, H / downsampling, W / downsampling), float32] of images in [-1, 1]."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images [shape=(B, image_channels, H, W), float32, range=[-1, 1]] of latents."""
        ...


def check_images(images: torch.Tensor, channels: int, downsampling: int) -> None:
    """Nothing, when `images` [shape=(B, channels, H, W)] can be coded; otherwise a `UserError`.

    Raises
    ------
    UserError
        Another shape, sides that are no multiple of `downsampling`, values outside [-1, 1], NaN or infinite values.
    """
    if images.ndim != 4 or images.shape[1] != channels or 0 in images.shape[2:]:
        raise UserError(
            f"images of shape {tuple(images.shape)} do not fit this codec: (images, {channels}, height, width) is "
            "expected."
        )
    if images.shape[2] % downsampling or images.shape[3] % downsampling:
        raise UserError(
            f"images of {images.shape[2]}x{images.shape[3]} pixels arrived and this codec makes one latent pixel of "
            f"{downsampling}x{downsampling}; crop or resize them to multiples of {downsampling}."
        )
    if images.numel() == 0:
        return
    low, high = images.amin().item(), images.amax().item()
    if not (low >= -1.001 and high <= 1.001):  # NaN fails both
        raise UserError(
            f"image values from {low:g} to {high:g} arrived; they must lie in [-1, 1] (bytes / 127.5 - 1) and be "
            "finite."
        )


def check_latents(latents: torch.Tensor, channels: int) -> None:
    """Nothing, when `latents` are finite and (B, channels, h, w); otherwise a `UserError`."""
    if latents.ndim != 4 or latents.shape[1] != channels or 0 in latents.shape[2:]:
        raise UserError(
            f"latents of shape {tuple(latents.shape)} do not fit this codec: (images, {channels}, height, width) is "
            "expected."
        )
    if not bool(latents.isfinite().all()):
        raise UserError("the latents hold NaN or infinite values; the model that made them is broken.")


class PixelCodec:
    """`ImageCodec` that changes nothing: latents are the image in [-1, 1].

    Parameters
    ----------
    channels : int, default 3
        3 for colour, 1 for grey.
    """

    name = "pixels"
    downsampling = 1
    model = None

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
