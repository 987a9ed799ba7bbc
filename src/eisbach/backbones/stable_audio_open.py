"""Stable Audio Open 1.0: diffusers' transformer and number embedders with T5's tokens, v-prediction on the cosine path.

The convention is stable-audio-tools' objective "v" (`training/diffusion.py`): x_t = cos(pi t/2) x0 + sin(pi t/2) noise
and the target cos(pi t/2) noise - sin(pi t/2) x0, which here is the target "v" on the path "gvp". diffusers' scheduler
says the same in k-diffusion's terms: at its noise level sigma = tan(pi t/2) the network gets x / sqrt(1 + sigma^2) =
x_t and the time (2/pi) arctan(sigma) = t, and the data is x / (1 + sigma^2) - sigma / sqrt(1 + sigma^2) output = cos
x_t - sin output.
"""

from __future__ import annotations

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
from eisbach.diffusion.paths import GVPPath
from eisbach.errors import CheckpointError, UserError
from eisbach.files import read_json
from eisbach.types import Conditioning

PIPELINE = "StableAudioPipeline"
_PARTS = ("transformer", "projection_model", "text_encoder", "tokenizer", "vae", "scheduler")
_PROJECTION_OPTIONS = ("text_encoder_dim", "conditioning_dim", "min_value", "max_value")


class _StableAudioOpenModel(nn.Module):
    """The number embedders (start and total seconds) and the transformer: what adapters go into."""

    def __init__(self, transformer: nn.Module, projection_model: nn.Module, max_tokens: int) -> None:
        super().__init__()
        self.transformer, self.projection_model, self.max_tokens = transformer, projection_model, max_tokens

    def context(
        self, tokens: torch.Tensor, mask: torch.Tensor, seconds: torch.Tensor, text: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-attention sequence [shape=(B, max_tokens + 2, D)] and the two durations side by side [shape=(B, 1, 2
        D)].

        Parameters
        ----------
        tokens : torch.Tensor [shape=(B, S, E)]
            T5's; S at most `max_tokens`.
        mask : torch.Tensor [shape=(B, S), bool]
            True on real tokens; the others, up to `max_tokens`, are zeros that are attended to.
        seconds : torch.Tensor [shape=(B,), float32]
            The clip's length; its start is 0.
        text : torch.Tensor [shape=(B,)]
            1 to condition, 0 to zero the whole sequence (its two durations included) and keep the global durations.
        """
        # The model's own class gives what diffusers' pipeline computes with it, number for number.
        made = self.projection_model(
            text_hidden_states=tokens, start_seconds=torch.zeros_like(seconds), end_seconds=seconds
        )
        prompt = made.text_hidden_states * mask[..., None].to(made.text_hidden_states.dtype)
        prompt = nn.functional.pad(prompt, (0, 0, 0, self.max_tokens - prompt.shape[1]))
        start, end = made.seconds_start_hidden_states, made.seconds_end_hidden_states
        sequence = torch.cat([prompt, start, end], dim=1)
        return sequence * text[:, None, None].to(sequence.dtype), torch.cat([start, end], dim=2)

    def forward(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        seconds: torch.Tensor,
        text: torch.Tensor,
    ) -> torch.Tensor:
        """v [shape=(B, C, T)]."""
        from diffusers.models.embeddings import get_1d_rotary_pos_embed

        sequence, durations = self.context(tokens, mask, seconds, text)
        head = int(cast(Any, self.transformer).config.attention_head_dim)
        positions = torch.arange(x_t.shape[2] + 1, device=x_t.device)  # the global token comes before the frames
        rotary = get_1d_rotary_pos_embed(head // 2, positions, use_real=True, repeat_interleave_real=False)
        return self.transformer(
            x_t,
            t,
            encoder_hidden_states=sequence,
            global_hidden_states=durations,
            rotary_embedding=rotary,
            return_dict=False,
        )[0]


class StableAudioOpenBackbone(PipelineBackbone):
    """`Backbone` of Stable Audio Open: cosine path, v = alpha noise - sigma x0.

    Attributes
    ----------
    max_seconds : float
        The window that the model was trained with (47.55 s): `condition` refuses more.

    A `Conditioning` holds T5's tokens (cacheable by caption) and `global_embed` [shape=(B, 2)]: seconds, and 1 where
    text and duration tokens are attended to. The number embedders run in `predict`, so that full training and adapters
    reach them.
    """

    name = "stable-audio-open"
    path = GVPPath()
    target = "v"
    codec = "oobleck"
    adapter_targets = (
        r"transformer\.transformer_blocks\.\d+\.((attn1|attn2)\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))"
    )
    density = "uniform"
    schedule = "uniform"
    retimes = True

    def __init__(
        self,
        folder: Path,
        index: dict[str, Any],
        module: _StableAudioOpenModel,
        text_encoder: PipelineTextEncoder,
        latent_rate: float,
    ) -> None:
        super().__init__(folder, index, text_encoder)
        self.module: nn.Module = module
        self.latent_channels = int(self.transformer.config.in_channels)
        self.latent_rate = latent_rate
        self.max_seconds = float(self.transformer.config.sample_size) / latent_rate

    @property
    def transformer(self) -> Any:
        """diffusers' `StableAudioDiTModel`."""
        return cast(_StableAudioOpenModel, self.module).transformer

    @property
    def projection_model(self) -> Any:
        """diffusers' `StableAudioProjectionModel`."""
        return cast(_StableAudioOpenModel, self.module).projection_model

    def parts(self) -> dict[str, Any]:
        """The transformer and the projection model."""
        return {"transformer": self.transformer, "projection_model": self.projection_model}

    def text_length(self, caption: str) -> tuple[int, int]:
        """Tokens of a caption, and how many of them the transformer reads."""
        (count,) = token_counts(self.text_encoder.tokenizer, [caption])
        return count, self.text_encoder.max_tokens

    @torch.no_grad()
    def condition(self, captions: Sequence[str], durations: Sequence[float]) -> Conditioning:
        """T5's tokens [shape=(B, S, E)] with their mask, and seconds with a 1 [shape=(B, 2)], one row a caption.

        Raises
        ------
        UserError
            Not one finite duration for each caption, or one beyond the model's window.
        """
        check_durations(captions, durations, self.max_seconds)
        device = next(self.module.parameters()).device
        seconds = _seconds(durations).to(device)
        if not captions:
            empty = torch.zeros(0, 1, int(self.projection_model.config.text_encoder_dim), device=device)
            return Conditioning(empty, seconds, torch.zeros(0, 1, dtype=torch.bool, device=device))
        ids, mask = self.text_encoder.tokens(captions, device, padding="max_length")
        tokens = self.text_encoder.model.to(device)(input_ids=ids, attention_mask=mask).last_hidden_state
        longest = max(1, int(mask.sum(dim=1).max()))
        return Conditioning(tokens[:, :longest].float(), seconds, mask[:, :longest])

    def with_durations(self, conditioning: Conditioning, durations: Sequence[float]) -> Conditioning:
        """The same captions with other durations: what is cached by caption serves crops of every length.

        Raises
        ------
        UserError
            As `condition`.
        """
        check_durations([""] * len(conditioning), durations, self.max_seconds)
        seconds = _seconds(durations).to(conditioning.global_embed)
        return Conditioning(conditioning.tokens, seconds, conditioning.token_mask)

    def null_condition(self, conditioning: Conditioning) -> Conditioning:
        """The whole cross-attention sequence zeroed; the global durations stay (as in training, and in diffusers'
        pipeline)."""
        seconds = torch.stack(
            [conditioning.global_embed[:, 0], torch.zeros_like(conditioning.global_embed[:, 1])], dim=1
        )
        return Conditioning(torch.zeros_like(conditioning.tokens), seconds, conditioning.token_mask)

    def predict(self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """v [shape=(B, C, T)] at x_t [shape=(B, C, T)] and t [shape=(B,)].

        Raises
        ------
        UserError
            More frames than the model's window holds.
        """
        window = int(self.transformer.config.sample_size)
        if x_t.shape[2] > window:
            raise UserError(
                f"{x_t.shape[2]} latent frames arrived and this model makes at most {window} ({self.max_seconds:.4g} "
                "s); use shorter clips."
            )
        seconds, text = conditioning.global_embed.float().unbind(dim=1)
        return self.module(x_t, t, conditioning.tokens, token_mask(conditioning), seconds, text)


def _seconds(durations: Sequence[float]) -> torch.Tensor:
    """Seconds and 1 [shape=(B, 2), float32]."""
    return torch.tensor([[float(value), 1.0] for value in durations], dtype=torch.float32).reshape(-1, 2)


def load_stable_audio_open(folder: str | Path) -> StableAudioOpenBackbone:
    """The backbone of a folder in the layout of diffusers' `StableAudioPipeline`.

    Raises
    ------
    CheckpointError
        Another pipeline, a missing part, weights that do not fit, or a scheduler for another objective than
        v-prediction.
    """
    from diffusers import StableAudioDiTModel, StableAudioProjectionModel

    folder = Path(folder)
    index = read_index(folder, PIPELINE, _PARTS)
    read_scheduler(
        folder, _class_name="CosineDPMSolverMultistepScheduler", prediction_type="v_prediction", sigma_data=1.0
    )
    place = folder / "projection_model"
    config = _projection_config(place)
    transformer = load_component(folder / "transformer", StableAudioDiTModel, f"the transformer in {folder}")
    projection = load_component(place, StableAudioProjectionModel, f"the projection model in {folder}", config)
    text_encoder = PipelineTextEncoder(folder)
    module = _StableAudioOpenModel(transformer, projection, text_encoder.max_tokens).eval()
    return StableAudioOpenBackbone(folder, index, module, text_encoder, frame_rate(folder))


def _projection_config(folder: Path) -> dict[str, Any]:
    """The options of the projection model, none of which has a default."""
    values: Any = read_json(folder / "config.json", "configuration of StableAudioProjectionModel")
    given = {name: value for name, value in dict(values).items() if not name.startswith("_")}
    if given.keys() != set(_PROJECTION_OPTIONS):
        raise CheckpointError(
            f"{folder / 'config.json'} has the options {', '.join(sorted(given)) or 'none'}; diffusers' "
            f"StableAudioProjectionModel needs exactly {', '.join(_PROJECTION_OPTIONS)}."
        )
    return given
