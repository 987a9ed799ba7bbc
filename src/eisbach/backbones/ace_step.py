"""ACE-Step 1.5: diffusers' transformer with its condition encoder and Qwen3's tokens, text to music.

Flow matching on the straight line: x_t = (1 - t) x0 + t noise and the output is noise - x0, which here is the target
"u" on the path "linear"; the network takes t itself, in [0, 1] (its embedding multiplies by 1000), and the mean-flow
time r = t. diffusers' pipeline steps x + (t' - t) output from t = 1 to t' = 0, which says the same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from eisbach.backbones.pipeline_folder import (
    PipelineBackbone,
    PipelineTextEncoder,
    check_durations,
    frame_rate,
    read_index,
    read_scheduler,
)
from eisbach.backbones.text_encoder import token_counts, token_mask
from eisbach.codecs.weight_files import load_component
from eisbach.diffusion.paths import LinearPath
from eisbach.types import Conditioning

PIPELINE = "AceStepPipeline"
_PARTS = ("transformer", "condition_encoder", "text_encoder", "tokenizer", "vae", "scheduler")
_TEXT_TOKENS, _LYRIC_TOKENS = 256, 2048  # what diffusers' pipeline reads of each
_TIMBRE_SECONDS = 30


class _AceStepModel(nn.Module):
    """The transformer, with what stands for "no source audio" beside the noisy latents: what adapters go into.

    Parameters
    ----------
    transformer : diffusers' AceStepTransformer1DModel
    silence : torch.Tensor [shape=(1, N, C)]
        Latents of silence, repeated where a clip is longer.
    """

    silence: torch.Tensor

    def __init__(self, transformer: nn.Module, silence: torch.Tensor) -> None:
        super().__init__()
        self.transformer = transformer
        self.register_buffer("silence", silence, persistent=False)
        self._mask: torch.Tensor | None = None
        for block in cast(Any, transformer).layers:
            block.register_forward_pre_hook(self._give_mask, with_kwargs=True)

    def _give_mask(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # diffusers' transformer always passes None here; with gradient checkpointing it passes it by position, and
        # `_with_mask` has put the mask there, so that it is at hand again when the block is computed a second time.
        if "encoder_attention_mask" in kwargs:
            kwargs["encoder_attention_mask"] = self._mask
        return args, kwargs

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Velocity [shape=(B, C, T)].

        Parameters
        ----------
        x_t : torch.Tensor [shape=(B, C, T)]
        t : torch.Tensor [shape=(B,)]
        tokens : torch.Tensor [shape=(B, S, D)]
        mask : torch.Tensor [shape=(B, S), bool]
            True on real tokens; others are not attended to, so a row's output does not depend on the rest of its batch.
        """
        transformer: Any = self.transformer
        frames = x_t.shape[2]
        repeats = -(-frames // self.silence.shape[1])
        source = self.silence.to(x_t.dtype).repeat(1, repeats, 1)[:, :frames].expand(x_t.shape[0], -1, -1)
        context = torch.cat([source, torch.ones_like(source)], dim=-1)  # nothing is given, all frames are to be made
        weight_dtype = transformer.condition_embedder.weight.dtype
        tokens = tokens.to(weight_dtype)
        self._mask = torch.zeros(mask.shape, dtype=tokens.dtype, device=mask.device).masked_fill(~mask, -torch.inf)
        self._mask = self._mask[:, None, None]
        checkpointing = getattr(transformer, "_gradient_checkpointing_func", None)
        if transformer.gradient_checkpointing and checkpointing is not None:
            transformer._gradient_checkpointing_func = functools.partial(_with_mask, checkpointing, self._mask)
        try:
            velocity = transformer(
                hidden_states=x_t.transpose(1, 2),
                timestep=t,
                timestep_r=t,
                encoder_hidden_states=tokens,
                context_latents=context,
                return_dict=False,
            )[0]
        finally:
            self._mask = None
            if checkpointing is not None:
                transformer._gradient_checkpointing_func = checkpointing
        return velocity.transpose(1, 2)


def _with_mask(checkpointing: Any, mask: torch.Tensor, block: nn.Module, *arguments: Any) -> Any:
    return checkpointing(block, *arguments[:-1], mask)


class AceStepBackbone(PipelineBackbone):
    """`Backbone` of ACE-Step 1.5: linear path, velocity u = noise - x0.

    Attributes
    ----------
    distilled : bool
        True for the turbo models.
    lyrics, vocal_language : str
        Given to the model with every caption, as diffusers' pipeline does; by default there are no lyrics.
    null_tokens : torch.Tensor [shape=(1, 1, D)]
        The learned "no condition".

    A `Conditioning` holds the condition encoder's packed tokens (lyrics, timbre, text; cacheable, the encoder is
    frozen) and `global_embed` [shape=(B, 1)]: the seconds, which the model is told within its text.
    """

    name = "ace-step"
    path = LinearPath()
    target = "u"
    codec = "oobleck"
    adapter_targets = (
        r"transformer\.layers\.\d+\.((self_attn|cross_attn)\.(to_q|to_k|to_v|to_out\.0)|mlp\.(gate|up|down)_proj)"
    )
    density = "logit_normal"
    schedule = "uniform"
    max_seconds = 600.0

    def __init__(
        self,
        folder: Path,
        index: dict[str, Any],
        module: _AceStepModel,
        null_tokens: torch.Tensor,
        text_encoder: PipelineTextEncoder,
        latent_rate: float,
    ) -> None:
        super().__init__(folder, index, text_encoder)
        self.module: nn.Module = module
        self.null_tokens = null_tokens
        self._condition_encoder: Any = None
        self.lyrics, self.vocal_language = "", "en"
        config = self.transformer.config
        self.distilled = bool(config.is_turbo) or config.model_version == "turbo"
        self.latent_channels = int(config.audio_acoustic_hidden_dim)
        self.latent_rate = latent_rate

    @property
    def transformer(self) -> Any:
        """diffusers' `AceStepTransformer1DModel`."""
        return cast(_AceStepModel, self.module).transformer

    @property
    def condition_encoder(self) -> Any:
        """diffusers' `AceStepConditionEncoder`, read when first needed."""
        if self._condition_encoder is None:
            self._condition_encoder = _read_condition_encoder(self.folder).eval().requires_grad_(False)
        return self._condition_encoder

    def parts(self) -> dict[str, Any]:
        """The transformer; the condition encoder is frozen, and copied where the model is saved."""
        return {"transformer": self.transformer}

    def release_text_encoder(self) -> None:
        """Drops the text encoder and the condition encoder from memory; a later `condition` reads them again."""
        super().release_text_encoder()
        self._condition_encoder = None

    def text_of(self, caption: str, seconds: float) -> tuple[str, str]:
        """What the model reads for a caption: the text with its instruction and metadata, and the lyrics."""
        from diffusers import AceStepPipeline

        shell = AceStepPipeline.__new__(AceStepPipeline)  # its prompt's form takes nothing from the networks
        text, lyrics = shell._format_prompt(
            caption, lyrics=self.lyrics, vocal_language=self.vocal_language, audio_duration=seconds
        )
        return str(text), str(lyrics)

    def text_length(self, caption: str) -> tuple[int, int]:
        """Tokens of a caption within the words that the model's prompt puts around it, and how many are read."""
        text, _ = self.text_of(caption, 60.0)
        (count,) = token_counts(self.text_encoder.tokenizer, [text])
        return count, _TEXT_TOKENS

    @torch.no_grad()
    def condition(self, captions: Sequence[str], durations: Sequence[float]) -> Conditioning:
        """Packed tokens [shape=(B, S, D)] with their mask, and seconds [shape=(B, 1)], one row a caption.

        Raises
        ------
        UserError
            Not one finite duration for each caption.
        """
        check_durations(captions, durations, math.inf)
        device = next(self.module.parameters()).device
        seconds = torch.tensor([float(value) for value in durations], dtype=torch.float32, device=device)[:, None]
        if not captions:
            empty = torch.zeros(0, 1, self.null_tokens.shape[-1], device=device)
            return Conditioning(empty, seconds, torch.zeros(0, 1, dtype=torch.bool, device=device))
        texts, lyrics = zip(*map(self.text_of, captions, durations), strict=True)
        encoder, conditioner = self.text_encoder.model.to(device), self.condition_encoder.to(device)
        ids, text_mask = self.text_encoder.tokens(texts, device, padding="longest", limit=_TEXT_TOKENS)
        lyric_ids, lyric_mask = self.text_encoder.tokens(lyrics, device, padding="longest", limit=_LYRIC_TOKENS)
        reference = conditioner.silence_latent[:, : math.ceil(_TIMBRE_SECONDS * self.latent_rate)]
        tokens, mask = conditioner(
            text_hidden_states=encoder(input_ids=ids).last_hidden_state,  # causal: padding on the right changes nothing
            text_attention_mask=text_mask,
            lyric_hidden_states=encoder.get_input_embeddings()(lyric_ids),
            lyric_attention_mask=lyric_mask,
            refer_audio_acoustic_hidden_states_packed=reference.expand(len(captions), -1, -1).contiguous(),
            refer_audio_order_mask=torch.arange(len(captions), device=device),
        )
        longest = int(mask.sum(dim=1).max())
        # Real tokens stand first; zeros behind them, so that a cached row is the same whatever batch it was made in.
        tokens = tokens.masked_fill(~mask[..., None], 0.0)
        return Conditioning(tokens[:, :longest].float(), seconds, mask[:, :longest])

    def null_condition(self, conditioning: Conditioning) -> Conditioning:
        """Every token replaced by the learned "no condition", the duration in the text with it."""
        tokens = conditioning.tokens
        return Conditioning(
            self.null_tokens.to(tokens).expand_as(tokens).clone(), conditioning.global_embed, conditioning.token_mask
        )

    def predict(self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Velocity u [shape=(B, C, T)] at x_t [shape=(B, C, T)] and t [shape=(B,)]."""
        return self.module(x_t, t, conditioning.tokens, token_mask(conditioning))


def _read_condition_encoder(folder: Path) -> Any:
    from diffusers.pipelines.ace_step import AceStepConditionEncoder

    return load_component(folder / "condition_encoder", AceStepConditionEncoder, f"the condition encoder in {folder}")


def load_ace_step(folder: str | Path) -> AceStepBackbone:
    """The backbone of a folder in the layout of diffusers' `AceStepPipeline`.

    Raises
    ------
    CheckpointError
        Another pipeline, a missing part, weights that do not fit, or a scheduler that counts time otherwise than from 0
        to 1.
    """
    from diffusers import AceStepTransformer1DModel

    folder = Path(folder)
    index = read_index(folder, PIPELINE, _PARTS)
    read_scheduler(folder, _class_name="FlowMatchEulerDiscreteScheduler", num_train_timesteps=1)
    transformer = load_component(folder / "transformer", AceStepTransformer1DModel, f"the transformer in {folder}")
    encoder = _read_condition_encoder(folder)
    module = _AceStepModel(transformer, encoder.silence_latent.detach().clone()).eval()
    null = encoder.null_condition_emb.detach().clone()
    return AceStepBackbone(folder, index, module, null, PipelineTextEncoder(folder, _TEXT_TOKENS), frame_rate(folder))
