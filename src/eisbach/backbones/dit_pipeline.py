"""Published DiT weights: the folder of diffusers' `DiTPipeline` (transformer, vae, scheduler) as an image backbone.

The network is diffusers' own class, so that a folder gives what its pipeline computes; half of its outputs, the
variance that DiT's authors learned, is dropped, as the pipeline drops it. Its random dropping of classes in training is
switched off: dropping is the trainer's, from its own generator.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from eisbach.backbones.image_base import ImageBackbone, ImageConfig
from eisbach.backbones.pipeline_folder import INDEX, SchedulerTable, TablePipeline, read_index, read_table
from eisbach.codecs.weight_files import State, component_config, load_component
from eisbach.config import build_config
from eisbach.errors import CheckpointError, UserError
from eisbach.files import read_json

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
