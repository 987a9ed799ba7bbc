"""DiT (Peebles & Xie 2023, arXiv 2212.09748): a transformer on patches, steered by adaptive layer norm that starts at
zero.

Built of diffusers' layers. diffusers' own `DiTTransformer2DModel` gives every block a time and class embedder of its
own (28 of them in XL, 75 M parameters more, which its converter fills with copies of one) and drops classes at random
in training from torch's global generator; here one embedder serves all blocks, as published, and dropping is the
trainer's. The variance output (`learn_sigma`) is left out: nothing here trains it. Published weights load through
`eisbach.backbones.dit_pipeline`.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import PatchEmbed, TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import AdaLayerNormZero
from pydantic import model_validator
from torch import nn

from eisbach.backbones.image_base import ImageBackbone, ImageTransformerConfig, fill_size, from_patches

SIZES: dict[str, dict[str, Any]] = {
    "S": {"depth": 12, "width": 384, "heads": 6},
    "B": {"depth": 12, "width": 768, "heads": 12},
    "L": {"depth": 24, "width": 1024, "heads": 16},
    "XL": {"depth": 28, "width": 1152, "heads": 16},
}
"""The paper's Table 1."""

_FREQUENCIES = 256  # width of the time embedding's sines and cosines


class DiTConfig(ImageTransformerConfig):
    """Shape of a DiT: `size` (S, B, L or XL), or `width`, `depth` and `heads`; what is given beside a size overrides
    it."""

    size: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        return fill_size(values, SIZES)


class _DiTBlock(nn.Module):
    """Attention and feed-forward, each shifted, scaled and gated by what the time and the class become."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = AdaLayerNormZero(width)
        self.attn = Attention(query_dim=width, heads=heads, dim_head=width // heads, bias=True)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.ff = FeedForward(width, inner_dim=int(width * mlp_ratio), activation_fn="gelu-approximate")

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Tokens [shape=(B, N, D)] after the block; `embedding` [shape=(B, D)]."""
        normed, gate_attn, shift, scale, gate_ff = self.norm1(x, emb=embedding)
        x = x + gate_attn[:, None] * self.attn(normed)
        return x + gate_ff[:, None] * self.ff(self.norm2(x) * (1 + scale[:, None]) + shift[:, None])


class DiT(ModelMixin, ConfigMixin):
    """The network: patches, blocks, a modulated linear layer back to patches."""

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
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.patch, self.channels = patch, latent_channels
        # One row more than classes: the learned null token.
        self.classes = nn.Embedding(num_classes + 1, width) if num_classes else None
        self.patches = PatchEmbed(latent_size, latent_size, patch, latent_channels, width)
        self.time_features = Timesteps(_FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(_FREQUENCIES, width)
        self.blocks = nn.ModuleList(_DiTBlock(width, heads, mlp_ratio) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation_out = nn.Linear(width, 2 * width)
        self.proj_out = nn.Linear(width, patch * patch * latent_channels)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """As the authors' code: Xavier for linear layers (the patch embedding too), 0.02 for embeddings, zero for what
        gates."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patches.proj.weight.view(self.patches.proj.out_channels, -1))
        nn.init.zeros_(self.patches.proj.bias)
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, std=0.02)
        nn.init.normal_(self.time.linear_1.weight, std=0.02)
        nn.init.normal_(self.time.linear_2.weight, std=0.02)
        gates: list[Any] = [module.linear for module in self.modules() if isinstance(module, AdaLayerNormZero)]
        for layer in (*gates, self.modulation_out, self.proj_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x_t: torch.Tensor, time: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
        """The prediction [shape=(B, C, H, W)]; `time` [shape=(B,)], class `ids` [shape=(B,), int64] or None."""
        x = self.patches(x_t).to(x_t.dtype)  # under autocast, what the blocks add up stays in fp32
        embedding = self.time(self.time_features(time).to(x.dtype))
        if self.classes is not None:
            embedding = embedding + self.classes(ids)
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, embedding)
            else:
                x = block(x, embedding)
        shift, scale = self.modulation_out(nn.functional.silu(embedding)).chunk(2, dim=1)
        x = self.proj_out(self.norm_out(x) * (1 + scale[:, None]) + shift[:, None])
        return from_patches(x, self.patch, self.channels)


class DiTBackbone(ImageBackbone):
    """`Backbone` of a DiT."""

    name = "dit"
    config_class = DiTConfig
    adapter_targets = r"blocks\.\d+\.(attn\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))"

    @classmethod
    def network(cls, config: DiTConfig) -> nn.Module:
        """A `DiT` whose output is zero."""
        return DiT(**config.network_options())
