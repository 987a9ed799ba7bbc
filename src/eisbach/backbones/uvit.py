"""U-ViT (Bao et al. 2023, arXiv 2209.12152): a transformer on patches with long skip connections; time and class are
tokens.

Built of diffusers' layers (`UVit2DModel` in diffusers is another network, that of aMUSEd). As the authors' code: no
bias on queries, keys and values, learned positions, the time's sines and cosines as a token without layers of its own,
and a 3x3 convolution before the output that the H model leaves out ("Convolution" in Table 5 of Elucidated
Representation Diffusion).
"""

from __future__ import annotations

from typing import Any, Self

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import Timesteps
from diffusers.models.modeling_utils import ModelMixin
from pydantic import model_validator
from torch import nn

from eisbach.backbones.image_base import ImageBackbone, ImageTransformerConfig, fill_size, from_patches

SIZES: dict[str, dict[str, Any]] = {
    "S": {"depth": 13, "width": 512, "heads": 8, "convolution": True},
    "M": {"depth": 17, "width": 768, "heads": 12, "convolution": True},
    "L": {"depth": 21, "width": 1024, "heads": 16, "convolution": True},
    "H": {"depth": 29, "width": 1152, "heads": 16, "convolution": False},
}
"""The paper's Table 1; `convolution` from the authors' configurations."""


class UViTConfig(ImageTransformerConfig):
    """Shape of a U-ViT: `size` (S, M, L or H), or `width`, `depth` and `heads`; what is given beside a size overrides
    it.

    Attributes
    ----------
    depth : int, odd
        Blocks: as many before the middle one as after it.
    convolution : bool
        A 3x3 convolution before the output.
    """

    size: str | None = None
    convolution: bool = True

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        return fill_size(values, SIZES)

    @model_validator(mode="after")
    def _has_a_middle(self) -> Self:
        if self.depth % 2 == 0:
            raise ValueError(
                f"depth {self.depth} is even, and the blocks of a U-ViT mirror each other around one: add one"
            )
        return self


class _UViTBlock(nn.Module):
    """Attention and feed-forward; after the middle, first the merge with the block it mirrors."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, skip: bool) -> None:
        super().__init__()
        self.skip = nn.Linear(2 * width, width) if skip else None
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(query_dim=width, heads=heads, dim_head=width // heads, bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.ff = FeedForward(width, inner_dim=int(width * mlp_ratio), activation_fn="gelu")

    def forward(self, x: torch.Tensor, mirrored: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens [shape=(B, N, D)] after the block; `mirrored`, of the same shape, where there is a skip connection."""
        if self.skip is not None and mirrored is not None:
            # under autocast, what the blocks add up stays in fp32
            x = self.skip(torch.cat([x, mirrored], dim=-1)).to(x.dtype)
        x = x + self.attn(self.norm1(x))
        return x + self.ff(self.norm2(x))


class UViT(ModelMixin, ConfigMixin):
    """The network: tokens for class, time and patches, mirrored blocks, a linear layer and a convolution back to the
    image."""

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        latent_channels: int,
        latent_size: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        convolution: bool = True,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.patch, self.channels = patch, latent_channels
        self.patches = nn.Conv2d(latent_channels, width, kernel_size=patch, stride=patch)
        self.time_features = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        # One row more than classes: the learned null token.
        self.classes = nn.Embedding(num_classes + 1, width) if num_classes else None
        self.extras = 1 if self.classes is None else 2
        self.positions = nn.Parameter(torch.zeros(1, self.extras + (latent_size // patch) ** 2, width))
        half = depth // 2
        self.in_blocks = nn.ModuleList(_UViTBlock(width, heads, mlp_ratio, skip=False) for _ in range(half))
        self.mid_block = _UViTBlock(width, heads, mlp_ratio, skip=False)
        self.out_blocks = nn.ModuleList(_UViTBlock(width, heads, mlp_ratio, skip=True) for _ in range(half))
        self.norm_out = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, patch * patch * latent_channels)
        self.conv_out = nn.Conv2d(latent_channels, latent_channels, 3, padding=1) if convolution else nn.Identity()
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """As the authors' code: truncated normal, 0.02, for positions and linear layers; torch's own for the rest."""
        nn.init.trunc_normal_(self.positions, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x_t: torch.Tensor, time: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
        """The prediction [shape=(B, C, H, W)]; `time` [shape=(B,)], class `ids` [shape=(B,), int64] or None."""
        patches = self.patches(x_t).flatten(2).transpose(1, 2)
        tokens = [self.time_features(time).to(patches.dtype)[:, None], patches]
        if self.classes is not None:
            tokens.insert(0, self.classes(ids)[:, None])
        x = torch.cat(tokens, dim=1) + self.positions
        skips = []
        for block in self.in_blocks:
            x = self._run(block, x)
            skips.append(x)
        x = self._run(self.mid_block, x)
        for block in self.out_blocks:
            x = self._run(block, x, skips.pop())
        x = self.proj_out(self.norm_out(x))[:, self.extras :]
        return self.conv_out(from_patches(x, self.patch, self.channels))

    def _run(self, block: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, *inputs)
        return block(*inputs)


class UViTBackbone(ImageBackbone):
    """`Backbone` of a U-ViT."""

    name = "uvit"
    config_class = UViTConfig
    adapter_targets = (
        r"(in_blocks\.\d+|mid_block|out_blocks\.\d+)\.(skip|attn\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))"
    )

    @classmethod
    def network(cls, config: UViTConfig) -> nn.Module:
        """A `UViT`."""
        return UViT(**config.network_options(), convolution=config.convolution)
