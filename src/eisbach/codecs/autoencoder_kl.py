"""AutoencoderKL (diffusers), the autoencoder of latent diffusion and of Stable Diffusion, as an image codec.

Its latents here are the mode of what the encoder gives, so that coding is deterministic (the authors' trainers draw
from the distribution instead), times its `scaling_factor`, after its `shift_factor` where it has one: about unit
variance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from eisbach.codecs.autoencoder import exact_identity, load_autoencoder
from eisbach.codecs.images import check_images, check_latents
from eisbach.codecs.weight_files import State

CLASS_NAME = "AutoencoderKL"
# Attention of autoencoders written before diffusers 0.14 has other names for the same four layers.
_OLD_ATTENTION = {"query.": "to_q.", "key.": "to_k.", "value.": "to_v.", "proj_attn.": "to_out.0."}


class AutoencoderKLCodec:
    """AutoencoderKL behind `ImageCodec`.

    Parameters
    ----------
    model : diffusers' AutoencoderKL, fp32
    config : dict
        Its options.
    batch : int, default 8
        Images coded at once.
    """

    name = "autoencoder-kl"

    def __init__(self, model: Any, config: dict[str, Any], *, batch: int = 8) -> None:
        self.model, self.config, self.batch = model.eval().requires_grad_(False), dict(config), batch
        self.image_channels, self.channels = int(config["in_channels"]), int(config["latent_channels"])
        self.downsampling = 2 ** (len(config["block_out_channels"]) - 1)
        self._scale, self._shift = float(config["scaling_factor"]), float(config.get("shift_factor") or 0.0)
        self._identity: str | None = None

    def identity(self) -> str:
        """A 16-digit hash of options and weights."""
        if self._identity is None:
            self._identity = exact_identity(self.name, self.config, self.model)
        return self._identity

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Latents [shape=(B, C, H / downsampling, W / downsampling), float32] of images in [-1, 1], on the images'
        device.

        Raises
        ------
        UserError
            Images of another shape, of a size that is no multiple of `downsampling`, or with values outside [-1, 1].
        """
        check_images(images, self.image_channels, self.downsampling)
        device = next(self.model.parameters()).device
        out = [
            (self.model.encode(part.to(device, torch.float32)).latent_dist.mode() - self._shift) * self._scale
            for part in images.split(self.batch)
        ]
        return torch.cat(out).to(images.device)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images [shape=(B, image_channels, H, W), float32, range=[-1, 1]] of latents, clamped, on the latents' device.

        Raises
        ------
        UserError
            Another number of channels, NaN or infinite values.
        """
        check_latents(latents, self.channels)
        device = next(self.model.parameters()).device
        out = [
            self.model.decode(part.to(device, torch.float32) / self._scale + self._shift).sample
            for part in latents.split(self.batch)
        ]
        return torch.cat(out).clamp(-1, 1).to(latents.device)

    def save(self, folder: str | Path) -> None:
        """Writes `config.json` and safetensors as diffusers does."""
        self.model.save_pretrained(str(folder), safe_serialization=True)

    @classmethod
    def load(cls, folder: str | Path) -> AutoencoderKLCodec:
        """The codec of a diffusers folder: of the autoencoder alone, or of a pipeline with it as `vae`.

        Raises
        ------
        CheckpointError
            No such autoencoder, truncated files, options that are not known, or weights that do not fit.
        """
        return cls(*load_autoencoder(folder, CLASS_NAME, _current))


def _current(state: State, expected: State) -> State:
    """Tensors of an old file under the names, and in the shapes, of today's layers: it holds attention as 1x1
    convolutions."""
    renamed = {_current_name(name): tensor for name, tensor in state.items()}
    for name, tensor in renamed.items():
        if name in expected and tensor.ndim == 4 and expected[name].ndim == 2:
            renamed[name] = tensor[:, :, 0, 0]
    return renamed


def _current_name(name: str) -> str:
    head, separator, tail = name.partition(".attentions.0.")
    for old, new in _OLD_ATTENTION.items():
        if separator and tail.startswith(old):
            return head + separator + new + tail.removeprefix(old)
    return name
