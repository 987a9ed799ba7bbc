"""The UNet of ADM (Dhariwal & Nichol 2021, arXiv 2105.05233), on diffusers' `UNet2DModel`.

What makes it ADM's: residual blocks that resample, scale and shift by the embedding of time and class in every block,
attention with a fixed width of its heads on several resolutions, zero-initialised last layers of residual blocks,
attention and output. `resample: conv` with `scale_shift: false` is the UNet of DDPM and DDIM. The variance output
(`learn_sigma`) is left out: nothing here trains it.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from eisbach.backbones.image_base import ImageBackbone, ImageConfig, fill_size

SIZES: dict[str, dict[str, Any]] = {
    "celeba-64": {
        "channels": 128,
        "multipliers": [1, 2, 2, 2, 2],
        "blocks": 2,
        "attention": [16, 8],
        "dropout": 0.1,
        "resample": "conv",
    },
    "ddim-celeba-64": {
        "channels": 128,
        "multipliers": [1, 2, 2, 2, 4],
        "blocks": 2,
        "attention": [16],
        "dropout": 0.1,
        "head_width": None,
        "resample": "conv",
        "scale_shift": False,
    },
    "adm-64": {"channels": 192, "multipliers": [1, 2, 3, 4], "blocks": 3, "attention": [32, 16, 8], "dropout": 0.1},
}
"""Named shapes: for CelebA at 64 x 64, with ADM's default options (50 M parameters) and DDIM's (79 M); ADM's own for
ImageNet at 64 x 64."""


class UNetConfig(ImageConfig):
    """Shape of a UNet: a `size` (`SIZES`), or its fields; what is given beside a size overrides it.

    Attributes
    ----------
    channels : int
        Channels of the first resolution.
    multipliers : list of int
        Channels of each resolution over `channels`; every further one halves the image's side.
    blocks : int
        Residual blocks a resolution (one more on the way up).
    attention : list of int
        Sides, in latent pixels, of the resolutions that have attention; the middle always has it.
    head_width : int or None
        Channels of an attention head; None is a single head.
    groups : int
        Of every group norm.
    dropout : float
    resample : "resnet" or "conv"
        What halves and doubles the image's side.
    scale_shift : bool
        The embedding scales and shifts each block's second norm (ADM), or is added before it (DDPM).
    """

    size: str | None = None
    channels: int = Field(ge=1)
    multipliers: list[int] = Field(min_length=1)
    blocks: int = Field(2, ge=1, le=1024)
    attention: list[int] = Field(default_factory=list)
    head_width: int | None = Field(64, ge=1)
    groups: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    resample: Literal["resnet", "conv"] = "resnet"
    scale_shift: bool = True

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        filled = fill_size(values, SIZES)
        if isinstance(values, dict) and "head_width" in values:
            filled["head_width"] = values["head_width"]  # None means a single head here, not "as the size says"
        return filled

    @model_validator(mode="after")
    def _fits(self) -> Self:
        faults = []
        if any(multiplier < 1 for multiplier in self.multipliers):
            faults.append(f"multipliers {self.multipliers} must all be at least 1")
        halvings = len(self.multipliers) - 1
        if self.latent_size % 2**halvings:
            faults.append(
                f"latent_size {self.latent_size} cannot be halved {halvings} times: give fewer multipliers, or a size "
                f"that is a multiple of {2**halvings}"
            )
        sides = [self.latent_size // 2**level for level in range(len(self.multipliers))]
        if set(self.attention) - set(sides):
            faults.append(f"attention {self.attention} must name sides among {sides}")
        widths = [self.channels * multiplier for multiplier in self.multipliers]
        if any(width % self.groups for width in widths):
            faults.append(f"channels {widths} must be multiples of groups {self.groups}")
        attending = [width for width, side in zip(widths, sides, strict=True) if side in self.attention] + widths[-1:]
        if self.head_width is not None and any(width % self.head_width for width in attending):
            faults.append(
                f"channels {attending}, where there is attention, must be multiples of head_width {self.head_width}"
            )
        if faults:
            raise ValueError("; ".join(faults))
        return self


class ADMUNet(nn.Module):
    """diffusers' `UNet2DModel`, initialised as ADM's."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        sides = [config.latent_size // 2**level for level in range(len(config.multipliers))]
        plain = "Resnet{}sampleBlock2D" if config.resample == "resnet" else "{}Block2D"
        kinds = ["Attn{}Block2D" if side in config.attention else plain for side in sides]
        self.unet: Any = UNet2DModel(
            sample_size=config.latent_size,
            in_channels=config.latent_channels,
            out_channels=config.latent_channels,
            down_block_types=tuple(kind.format("Down") for kind in kinds),
            up_block_types=tuple(kind.format("Up") for kind in reversed(kinds)),
            block_out_channels=tuple(config.channels * multiplier for multiplier in config.multipliers),
            layers_per_block=config.blocks,
            downsample_type=config.resample,
            upsample_type=config.resample,
            dropout=config.dropout,
            attention_head_dim=config.head_width,
            norm_num_groups=config.groups,
            attn_norm_num_groups=config.groups,
            resnet_time_scale_shift="scale_shift" if config.scale_shift else "default",
            # One row more than classes: the learned null token.
            num_class_embeds=len(config.classes) + 1 if config.classes else None,
        )
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Zero for the last layer of every residual block and attention, and of the network (ADM's `zero_module`)."""
        from diffusers.models.attention_processor import Attention
        from diffusers.models.resnet import ResnetBlock2D

        last: list[Any] = [self.unet.conv_out]
        for module in self.unet.modules():
            if isinstance(module, ResnetBlock2D):
                last.append(module.conv2)
            elif isinstance(module, Attention):
                last.append(module.to_out[0])
        for layer in last:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x_t: torch.Tensor, time: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
        """The prediction [shape=(B, C, H, W)]; `time` [shape=(B,)], class `ids` [shape=(B,), int64] or None."""
        return self.unet(x_t, time, class_labels=ids, return_dict=False)[0]


class UNetBackbone(ImageBackbone):
    """`Backbone` of an ADM-style UNet."""

    name = "unet"
    config_class = UNetConfig
    adapter_targets = r".*attentions\.\d+\.(to_q|to_k|to_v|to_out\.0)"

    @classmethod
    def network(cls, config: UNetConfig) -> nn.Module:
        """An `ADMUNet` whose output is zero."""
        return ADMUNet(config)
