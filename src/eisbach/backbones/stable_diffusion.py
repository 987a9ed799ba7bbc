"""Stable Diffusion 1.x and 2.x: the folder of diffusers' `StableDiffusionPipeline` as a caption-conditional image
backbone.

The network is diffusers' `UNet2DConditionModel`, shown the scheduler's index of t; the path is the scheduler's table
(`DiscretePath`) and the target what its `prediction_type` says. A caption is CLIP's last hidden state over all 77
tokens, padding included and without a mask, as the pipeline computes it; no caption is that of the empty text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eisbach import pretrained
from eisbach.backbones.base import Backbone
from eisbach.backbones.pipeline_folder import SchedulerTable, TablePipeline, read_index, read_table
from eisbach.backbones.text_encoder import LongTexts, token_counts
from eisbach.codecs.weight_files import build_empty, component_config, load_component, load_exactly
from eisbach.diffusion.discrete_path import DiscretePath
from eisbach.errors import CheckpointError, UserError
from eisbach.tensor_files import has_weights, read_weights
from eisbach.types import Conditioning

PIPELINE = "StableDiffusionPipeline"
_PARTS = ("unet", "text_encoder", "tokenizer", "vae", "scheduler")
_POSITIONS = "text_model.embeddings.position_ids"  # a buffer that older files hold


class _ClipText:
    """CLIP's text encoder with its tokenizer, read when first needed.

    Parameters
    ----------
    folder : Path
        The pipeline's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts: tuple[Any, Any] | None = None
        self._long_texts = LongTexts()
        if not has_weights(folder / "text_encoder"):
            raise CheckpointError(f"{folder / 'text_encoder'} holds no model.safetensors; fetch the model again.")
        for part in ("text_encoder", "tokenizer"):
            pretrained.refuse_code(folder / part)

    def release(self) -> None:
        """Drops the encoder from memory; the next use reads it again."""
        self._parts = None

    def _read(self) -> tuple[Any, Any]:
        import transformers

        config = pretrained.text_config(self.folder / "text_encoder", {"clip_text_model": "CLIPTextConfig"})
        tokenizer = pretrained.tokenizer(self.folder / "tokenizer", "CLIPTokenizer")
        model: Any = build_empty(lambda: transformers.CLIPTextModel(config), f"the text encoder in {self.folder}")
        expected = model.state_dict().keys()
        state = {
            name: tensor for name, tensor in read_weights(self.folder / "text_encoder").items() if name != _POSITIONS
        }
        if not any(name.startswith("text_model.") for name in expected):  # newer transformers drop the prefix
            state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
        load_exactly(model, state, f"the text encoder in {self.folder}")
        return model.eval().requires_grad_(False), tokenizer

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], device: torch.device) -> torch.Tensor:
        """Last hidden states [shape=(B, S, D)], S the tokenizer's length; a longer text loses its end, and a
        warning names each once."""
        if self._parts is None:
            self._parts = self._read()
        model, tokenizer = self._parts
        limit = int(tokenizer.model_max_length)
        counts = token_counts(tokenizer, texts)
        self._long_texts.warn(texts, counts, limit)
        batch = tokenizer(list(texts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        mask = batch["attention_mask"].to(device) if getattr(model.config, "use_attention_mask", None) else None
        states: torch.Tensor = model.to(device)(batch["input_ids"].to(device), attention_mask=mask)[0]
        return states.float()


class StableDiffusionBackbone(TablePipeline, Backbone):
    """`Backbone` of a `StableDiffusionPipeline`.

    A `Conditioning` holds CLIP's states [shape=(B, 77, D)] and a `global_embed` of zeros [shape=(B, 1)]. `latent_rate`
    is 1: durations mean nothing for images.
    """

    name = "stable-diffusion"
    network_part = "unet"
    copied_parts = _PARTS[1:]
    optional_parts = ("feature_extractor",)
    latent_rate = 1.0
    density = "uniform"
    schedule = "uniform"
    adapter_targets = r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"

    def __init__(
        self,
        folder: Path,
        index: dict[str, Any],
        module: nn.Module,
        text_encoder: _ClipText,
        table: SchedulerTable,
    ) -> None:
        self.folder, self._files, self._table = folder, index, table
        self.module, self.text_encoder = module, text_encoder
        self.path: DiscretePath = table.path
        self.target = table.target
        self.codec = str(folder)
        config: Any = module.config
        self.latent_channels = int(config.in_channels)
        self.latent_size = int(config.sample_size)
        self._null: torch.Tensor | None = None

    def condition(self, captions: Sequence[str], durations: Sequence[float] = ()) -> Conditioning:
        """CLIP's states of each caption, one row each; `durations` are not looked at."""
        device = next(self.module.parameters()).device
        return Conditioning(self.text_encoder(captions, device), torch.zeros(len(captions), 1, device=device))

    def null_condition(self, conditioning: Conditioning) -> Conditioning:
        """The states of the empty text in every row."""
        if self._null is None:
            self._null = self.text_encoder([""], conditioning.tokens.device)
        null = self._null.to(conditioning.tokens).expand(len(conditioning), -1, -1)
        return Conditioning(null, conditioning.global_embed)

    def predict(self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The network's output [shape=(B, C, H, W)] at x_t [shape=(B, C, H, W)] and t [shape=(B,)].

        Raises
        ------
        UserError
            Latents with another number of channels.
        """
        if x_t.dim() != 4 or x_t.shape[1] != self.latent_channels:
            raise UserError(
                f"latents of {tuple(x_t.shape)} arrived and this model reads (B, {self.latent_channels}, H, W); encode "
                "images with its own autoencoder."
            )
        return self.module(
            x_t, self.path.t_to_timesteps(t), encoder_hidden_states=conditioning.tokens, return_dict=False
        )[0]


def load_stable_diffusion(folder: str | Path) -> StableDiffusionBackbone:
    """The backbone of a folder in the layout of diffusers' `StableDiffusionPipeline`.

    Raises
    ------
    CheckpointError
        Another pipeline, a missing part, weights that do not fit, an inpainting or class-conditional network, or a
        scheduler that is no discrete variance-preserving one.
    """
    import diffusers

    folder = Path(folder)
    index = read_index(folder, PIPELINE, _PARTS)
    config = component_config(folder / "unet", diffusers.UNet2DConditionModel)
    if config["in_channels"] != config["out_channels"]:
        raise CheckpointError(
            f"the network in {folder / 'unet'} reads {config['in_channels']} channels and gives "
            f"{config['out_channels']}; an inpainting model is another thing: take the plain one."
        )
    if config["class_embed_type"] is not None or config["addition_embed_type"] is not None:
        raise CheckpointError(
            f"the network in {folder / 'unet'} is conditioned on more than a caption; only plain Stable Diffusion is "
            "read."
        )
    module = load_component(folder / "unet", diffusers.UNet2DConditionModel, f"the network in {folder}", config)
    table = read_table(folder)
    return StableDiffusionBackbone(folder, index, module.eval(), _ClipText(folder), table)
