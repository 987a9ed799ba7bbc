"""DiT (Peebles & Xie 2023, arXiv 2212.09748): a transformer on patches, steered by adaptive layer norm that starts at
zero.

Built of diffusers' layers. diffusers' own `DiTTransformer2DModel` gives every block a time and class embedder of its
own (28 of them in XL, 75 M parameters more, which its converter fills with copies of one) and drops classes at random
in training from torch's global generator; here one embedder serves all blocks, as published, and dropping is the
trainer's. The variance output (`learn_sigma`) is left out: nothing here trains it. Published weights load through
`eisbach.backbones.dit`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import PatchEmbed, TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import AdaLayerNormZero
from pydantic import model_validator
from torch import nn

from eisbach.backbones.image_base import ImageBackbone, ImageConfig, ImageTransformerConfig, fill_size, from_patches
from eisbach.backbones.pipeline_folder import INDEX, SchedulerTable, TablePipeline, read_index, read_table
from eisbach.codecs.weight_files import State, component_config, load_component
from eisbach.config import build_config
from eisbach.errors import CheckpointError, UserError
from eisbach.files import read_json

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


# --- published weights: the folder of diffusers' `DiTPipeline` (transformer, vae, scheduler)


PIPELINE = "DiTPipeline"
_PARTS = ("transformer", "vae", "scheduler")
# Options of `Transformer2DModel`, the class that the published folders name, which mean nothing for a DiT when unset.
_UNSET = (
    *("attention_type", "caption_channels", "cross_attention_dim", "double_self_attention", "interpolation_scale"),
    *("num_vector_embeds", "only_cross_attention", "use_additional_conditions", "use_linear_projection"),
)
_POSITIONS = "pos_embed.pos_embed"  # sines and cosines, which older files hold too


class DiTPipelineBackbone(TablePipeline, ImageBackbone):
    """`Backbone` of a `DiTPipeline`; its path is the table of its scheduler.

    Classes go by the pipeline's `id2label`: the whole label ("tench, Tinca tinca") or one of its names, where no other
    class has the same. Without labels they are called "0", "1", and so on.
    """

    name = "dit-pipeline"
    network_part = "transformer"
    copied_parts = _PARTS[1:]
    config_class = ImageConfig
    adapter_targets = r"transformer_blocks\.\d+\.(attn1\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))"

    def __init__(
        self,
        config: ImageConfig,
        *,
        module: nn.Module,
        folder: Path,
        index: dict[str, Any],
        table: SchedulerTable,
    ) -> None:
        super().__init__(config, module=module)
        self.path, self.folder, self._files, self._table = table.path, folder, index, table
        single = Counter(name for label in config.classes for name in {part.strip() for part in label.split(",")})
        for number, label in enumerate(config.classes):
            for part in {part.strip() for part in label.split(",")}:
                if single[part] == 1 and part:
                    self._index.setdefault(part, number)

    @classmethod
    def network(cls, config: Any) -> nn.Module:
        """A pipeline's network is read with its folder; it cannot be made from a configuration."""
        raise UserError(
            "a DiTPipeline is read from its folder; to make a network from its sizes, create one of the kind 'dit'."
        )

    def network_time(self, t: torch.Tensor) -> torch.Tensor:
        """The scheduler's index of t [shape=(B,)]."""
        return self._table.path.t_to_timesteps(t)

    def _run(self, x_t: torch.Tensor, time: torch.Tensor, ids: torch.Tensor | None) -> torch.Tensor:
        output = self.module(x_t, timestep=time, class_labels=ids, return_dict=False)[0]
        return output[:, : self.latent_channels]

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The backbone of a folder in the layout of diffusers' `DiTPipeline`.

        Raises
        ------
        CheckpointError
            Another pipeline, a missing part, options that are not known, or weights that do not fit.
        """
        import diffusers

        folder = Path(folder)
        index = read_index(folder, PIPELINE, _PARTS)
        config = _transformer_config(folder / "transformer")
        source = f"the transformer in {folder}"
        module = load_component(
            folder / "transformer", diffusers.DiTTransformer2DModel, source, config, _without_positions
        )
        for part in module.modules():
            if isinstance(part, diffusers.models.embeddings.LabelEmbedding):
                part.dropout_prob = 0.0
        table = read_table(folder)
        values = {
            "latent_channels": config["in_channels"],
            "latent_size": config["sample_size"],
            "target": table.target,
            "codec": str(folder),
            "classes": _labels(index, config["num_embeds_ada_norm"], folder),
        }
        shape = build_config(ImageConfig, values, source)
        return cls(shape, module=module.eval(), folder=folder, index=index, table=table)


def _without_positions(state: State, expected: State) -> State:
    return {name: tensor for name, tensor in state.items() if name != _POSITIONS}


def _transformer_config(folder: Path) -> dict[str, Any]:
    """The transformer's options.

    Raises
    ------
    CheckpointError
        An option of another kind of transformer is set.
    """
    from diffusers import DiTTransformer2DModel

    given: Any = read_json(folder / "config.json", "configuration of DiTTransformer2DModel")
    unset = [name for name in _UNSET if not given.get(name) or (name, given[name]) == ("attention_type", "default")]
    config = component_config(folder, DiTTransformer2DModel, unset)
    channels = (config["in_channels"], config["out_channels"] or config["in_channels"])
    if channels[1] not in (channels[0], 2 * channels[0]):
        raise CheckpointError(
            f"the transformer in {folder} reads {channels[0]} channels and gives {channels[1]}; as many are expected, "
            "or twice as many with the variance."
        )
    return config


def _labels(index: dict[str, Any], number: int, folder: Path) -> list[str]:
    """A unique name for each class: of two classes with one label, each gets its number behind it."""
    given = index.get("id2label") or {}
    if not given:
        return [str(position) for position in range(number)]
    labels = {int(position): str(label).strip() for position, label in given.items()}
    if set(labels) != set(range(number)):
        raise CheckpointError(
            f"{folder / INDEX} names {len(labels)} classes in id2label and the transformer has {number}; one label for "
            f"each of 0 to {number - 1} is expected."
        )
    counts = Counter(labels.values())
    return [
        labels[position] if counts[labels[position]] == 1 and labels[position] else f"{labels[position]} ({position})"
        for position in range(number)
    ]


def load_dit_pipeline(folder: str | Path) -> DiTPipelineBackbone:
    """The backbone of a `DiTPipeline`'s folder; see `DiTPipelineBackbone.load`."""
    return DiTPipelineBackbone.load(folder)
