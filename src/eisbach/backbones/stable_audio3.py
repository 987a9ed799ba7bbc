"""Stable Audio 3: diffusers' transformer and duration embedder with T5Gemma's tokens, from native or diffusers
folders."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from eisbach.backbones import stable_audio3_native as native
from eisbach.backbones.base import Backbone
from eisbach.backbones.state import adapter_free_state, identity_of
from eisbach.backbones.text_encoder import TextEncoder, find_native, token_counts, token_mask
from eisbach.codecs.base import Codec
from eisbach.codecs.same_native import CHUNK_OPTIONS
from eisbach.codecs.weight_files import WEIGHTS, build_empty, component_config, load_exactly
from eisbach.diffusion.paths import LinearPath
from eisbach.errors import CheckpointError, UserError
from eisbach.files import read_json, write_json
from eisbach.tensor_files import read_weights
from eisbach.types import Conditioning

INDEX = "model_index.json"
_MAX_FRAMES = 4096
"""Latent frames of the longest clip that the models are made for, where a folder does not say: 380 s of Medium's."""
_PIPELINES = ("StableAudio3Pipeline", "StableAudio3InpaintPipeline", "StableAudio3AudioToAudioPipeline")


class StableAudio3Backbone(Backbone):
    """`Backbone` of Stable Audio 3: linear path, velocity target u = noise - x0.

    Attributes
    ----------
    max_seconds : float
        What the folder says (`sample_size`), or 4096 latent frames; at most what the duration embedder tells apart.
    distilled : bool
        True for the few-step models, which are for playing: training them as a flow undoes the distillation.
    sample_rate, samples_per_frame : int
        Of the codec: Hz, and audio samples a latent frame.

    A `Conditioning` holds T5Gemma's tokens (trainable nothing, so cacheable) and `global_embed` [shape=(B, 2)]:
    seconds, and 1 where text and duration tokens are attended to. The duration embedder runs in `predict`, so that an
    adapter in it trains.
    """

    name = "stable-audio-3"
    path = LinearPath()
    inpainting = True
    target = "u"
    codec = "same"
    adapter_targets = (
        r"transformer\.transformer_blocks\.\d+\.(self_attn|cross_attn|ff)\.(to_qkv|to_q|to_kv|to_out|proj_in|proj_out)"
        r"|duration_embedder\.linear"
    )
    density = "trunc_logit_normal"
    schedule = "sa3"
    retimes = True
    headroom = 6.0  # seconds that Stability's interface samples beyond a clip

    def __init__(
        self,
        module: StableAudio3Model,
        text_encoder: TextEncoder,
        read_codec: Callable[[], Codec],
        *,
        sample_rate: int,
        samples_per_frame: int,
        distilled: bool,
        max_seconds: float | None = None,
    ) -> None:
        self.module: nn.Module = module
        self.text_encoder, self._read_codec = text_encoder, read_codec
        self.sample_rate, self.samples_per_frame, self.distilled = sample_rate, samples_per_frame, distilled
        self.latent_channels = int(self.transformer.config.io_channels)
        self.latent_rate = sample_rate / samples_per_frame
        # A folder that does not say plays what the released models play, and what any model plays here at least.
        longest = max(_MAX_FRAMES / self.latent_rate, Backbone.max_seconds) if max_seconds is None else max_seconds
        self.max_seconds = min(longest, float(self.duration_embedder.config.max_val))

    @property
    def transformer(self) -> Any:
        """diffusers' `StableAudio3DiTModel`."""
        return cast(StableAudio3Model, self.module).transformer

    @property
    def duration_embedder(self) -> Any:
        """diffusers' `StableAudio3DurationEmbedder`."""
        return cast(StableAudio3Model, self.module).duration_embedder

    def load_codec(self) -> Codec:
        """The SAME autoencoder that comes with this model."""
        return self._read_codec()

    def release_text_encoder(self) -> None:
        """Drops the text encoder from memory; a later `condition` reads it again."""
        self.text_encoder.release()

    def text_length(self, caption: str) -> tuple[int, int]:
        """Tokens of a caption, and how many of them the transformer reads."""
        (count,) = token_counts(self.text_encoder.tokenizer, [caption])
        return count, self.text_encoder.max_tokens

    @torch.no_grad()
    def condition(self, captions: Sequence[str], durations: Sequence[float]) -> Conditioning:
        """Tokens [shape=(B, S, D)] with their mask, and seconds with a 1 [shape=(B, 2)], one row a caption.

        Raises
        ------
        UserError
            Not one finite duration for each caption, or one beyond what the duration embedder tells apart.
        """
        if len(captions) != len(durations):
            raise UserError(f"{len(captions)} captions came with {len(durations)} durations; give each caption one.")
        device = next(self.module.parameters()).device
        seconds = self._seconds(durations).to(device)
        if not captions:
            width = int(self.transformer.config.cond_token_dim)
            empty = torch.zeros(0, 1, width, device=device)
            return Conditioning(empty, seconds.reshape(0, 2), torch.zeros(0, 1, dtype=torch.bool, device=device))
        tokens, mask = self.text_encoder.encode(captions, device)
        return Conditioning(tokens, seconds, mask)

    def with_durations(self, conditioning: Conditioning, durations: Sequence[float]) -> Conditioning:
        """The same captions with other durations: what is cached by caption serves crops of every length.

        Raises
        ------
        UserError
            As `condition`.
        """
        if len(conditioning) != len(durations):
            raise UserError(
                f"{len(conditioning)} rows of conditioning came with {len(durations)} durations; give each one."
            )
        seconds = self._seconds(durations).to(conditioning.global_embed)
        return Conditioning(conditioning.tokens, seconds, conditioning.token_mask)

    def _seconds(self, durations: Sequence[float]) -> torch.Tensor:
        """Seconds and 1 [shape=(B, 2), float32]."""
        limit = float(self.duration_embedder.config.max_val)
        if not all(0 <= value < math.inf for value in durations):
            raise UserError(f"the durations {list(durations)[:8]} arrived; give finite numbers of seconds.")
        if any(value > limit for value in durations):
            raise UserError(
                f"a duration of {max(durations):g} s arrived; this model knows durations of up to {limit:g} s."
            )
        return torch.tensor([[float(value), 1.0] for value in durations], dtype=torch.float32).reshape(-1, 2)

    def null_condition(self, conditioning: Conditioning) -> Conditioning:
        """The whole cross-attention sequence zeroed; the global duration stays."""
        seconds = torch.stack(
            [conditioning.global_embed[:, 0], torch.zeros_like(conditioning.global_embed[:, 1])], dim=1
        )
        return Conditioning(torch.zeros_like(conditioning.tokens), seconds, conditioning.token_mask)

    def predict(
        self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning, inpainting: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Velocity u [shape=(B, C, T)].

        Parameters
        ----------
        x_t : torch.Tensor [shape=(B, C, T)]
        t : torch.Tensor [shape=(B,)]
        conditioning : Conditioning of `condition` or `null_condition`
        inpainting : torch.Tensor [shape=(B, 1 + C, T)] or None
            A mask (1 where the latents are known) and the known latents times that mask; None is plain generation.
        """
        seconds, text = conditioning.global_embed.float().unbind(dim=1)
        return self.module(x_t, t, conditioning.tokens, token_mask(conditioning), seconds, text, inpainting)

    def identity(self) -> str:
        """A 16-digit hash of configuration and weights (in half precision).

        Raises
        ------
        CheckpointError
            The backbone carries an adapter.
        """
        config: dict[str, Any] = {
            "transformer": _options(self.transformer),
            "duration": _options(self.duration_embedder),
        }
        config["max_tokens"] = cast(StableAudio3Model, self.module).max_tokens
        return identity_of(self.name, config, self.module)

    def save(self, folder: str | Path) -> None:
        """Writes everything (transformer, duration embedder, text encoder, tokenizer, codec) as diffusers' pipelines
        do."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        from eisbach.codecs.same import SameCodec

        adapter_free_state(self.module)  # refuses a network that carries an adapter
        folder = Path(folder)
        for part, model in (("transformer", self.transformer), ("duration_embedder", self.duration_embedder)):
            model.save_pretrained(str(folder / part), safe_serialization=True)
        self.text_encoder.save(folder / "text_encoder", folder / "tokenizer")
        cast(SameCodec, self.load_codec()).save(folder / "vae")
        scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=self.distilled)
        scheduler.save_pretrained(str(folder / "scheduler"))
        write_json(
            folder / INDEX, _index(type(self.text_encoder.tokenizer).__name__)
        )  # last: a folder with it is whole


def _index(tokenizer: str) -> dict[str, Any]:
    from diffusers import __version__

    return {
        "_class_name": _PIPELINES[0],
        "_diffusers_version": __version__,
        "duration_embedder": ["stable_audio_3", "StableAudio3DurationEmbedder"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "T5GemmaEncoderModel"],
        "tokenizer": ["transformers", tokenizer],
        "transformer": ["diffusers", "StableAudio3DiTModel"],
        "vae": ["diffusers", "AutoencoderSAME"],
    }


def _options(model: Any) -> dict[str, Any]:
    return {name: value for name, value in dict(model.config).items() if not name.startswith("_")}


def _module(
    transformer_config: Mapping[str, Any],
    transformer: Mapping[str, torch.Tensor],
    duration_config: Mapping[str, Any],
    duration: Mapping[str, torch.Tensor],
    max_tokens: int,
    source: Path,
) -> StableAudio3Model:
    """The module of converted states; every key is matched."""
    from diffusers import StableAudio3DiTModel
    from diffusers.models.transformers.transformer_stable_audio3 import StableAudio3RotaryEmbedding
    from diffusers.pipelines.stable_audio_3 import StableAudio3DurationEmbedder

    dit: Any = build_empty(lambda: StableAudio3DiTModel(**transformer_config), f"the transformer in {source}")
    head = transformer_config["embed_dim"] // transformer_config["num_heads"]
    # The native model rotates at least 32 channels of a head; diffusers' class always half of them (equal from 64 on).
    rotated = max(head // 2, 32)
    if rotated != head // 2:
        dit.rotary_pos_emb = StableAudio3RotaryEmbedding(rotated)
    load_exactly(dit, transformer, f"the transformer in {source}", recomputed=["rotary_pos_emb.inv_freq"])
    embedder: Any = build_empty(
        lambda: StableAudio3DurationEmbedder(**duration_config), f"the duration embedder in {source}"
    )
    load_exactly(embedder, duration, f"the duration embedder in {source}", recomputed=["freqs"])
    return StableAudio3Model(dit, embedder, max_tokens).eval()


def load_native(folder: str | Path) -> StableAudio3Backbone:
    """The backbone of a native folder: `model_config.json`, `model.safetensors` and the text encoder's folder.

    Raises
    ------
    CheckpointError
        See `stable_audio3_native.read_native` and `codecs.weight_files.load_exactly`; or no text encoder.
    """
    folder = Path(folder)
    model = native.read_native(folder)
    text_folder = find_native(folder, model.text_sources)
    module = _module(
        model.transformer_config, model.transformer, model.duration_config, model.duration, model.max_tokens, folder
    )
    return StableAudio3Backbone(
        module,
        TextEncoder(text_folder, text_folder, model.max_tokens, model.text_tensors),
        lambda: _read_codec(folder),
        sample_rate=model.sample_rate,
        samples_per_frame=model.samples_per_frame,
        distilled=model.distilled,
        max_seconds=model.max_seconds,
    )


def load_diffusers(folder: str | Path) -> StableAudio3Backbone:
    """The backbone of a folder in the layout of diffusers' Stable Audio 3 pipelines.

    Raises
    ------
    CheckpointError
        Another pipeline, a missing part, or weights that do not fit.
    """
    folder = Path(folder)
    index = read_json(folder / INDEX, "pipeline's index")
    name = index.get("_class_name") if isinstance(index, dict) else None
    if name not in _PIPELINES:
        raise CheckpointError(
            f"{folder / INDEX} describes a {name}; of diffusers' pipelines, Stable Audio 3's are read: "
            f"{', '.join(_PIPELINES)}."
        )
    from diffusers import AutoencoderSAME, StableAudio3DiTModel
    from diffusers.pipelines.stable_audio_3 import StableAudio3DurationEmbedder

    transformer_config = component_config(folder / "transformer", StableAudio3DiTModel)
    duration_config = component_config(folder / "duration_embedder", StableAudio3DurationEmbedder)
    codec_config = component_config(folder / "vae", AutoencoderSAME, ignored=CHUNK_OPTIONS)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    distilled = bool(read_json(scheduler, "scheduler's configuration").get("stochastic_sampling"))
    text_encoder = TextEncoder(folder / "text_encoder", folder / "tokenizer", None)
    module = _module(
        transformer_config,
        read_weights(folder / "transformer", WEIGHTS),
        duration_config,
        read_weights(folder / "duration_embedder", WEIGHTS),
        text_encoder.max_tokens,
        folder,
    )
    return StableAudio3Backbone(
        module,
        text_encoder,
        lambda: _read_codec(folder / "vae"),
        sample_rate=int(codec_config["sampling_rate"]),
        samples_per_frame=int(codec_config["patch_size"]) * math.prod(codec_config["encoder_strides"]),
        distilled=distilled,
    )


def _read_codec(folder: Path) -> Codec:
    from eisbach.codecs.same import SameCodec

    return SameCodec.load(folder)


# --- the network that adapters go into: the duration embedder in front of diffusers' transformer


_NORM_EPS = 1e-5
"""The native blocks' RMS norms; diffusers' class has 1e-6, which moves the velocity by about 1e-5 of its size."""


class StableAudio3Model(nn.Module):
    """The duration embedder and the transformer: what adapters go into."""

    def __init__(self, transformer: nn.Module, duration_embedder: nn.Module, max_tokens: int) -> None:
        super().__init__()
        self.transformer, self.duration_embedder, self.max_tokens = transformer, duration_embedder, max_tokens
        for block in cast(Any, transformer).transformer_blocks:
            for norm in (block.pre_norm, block.cross_attend_norm, block.ff_norm):
                norm.eps = _NORM_EPS

    def context(
        self, tokens: torch.Tensor, mask: torch.Tensor, seconds: torch.Tensor, text: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-attention sequence [shape=(B, max_tokens + 1, D)] and duration embedding [shape=(B, D)].

        Parameters
        ----------
        tokens : torch.Tensor [shape=(B, S, D)]
        mask : torch.Tensor [shape=(B, S), bool]
            True on real tokens; the rest of `max_tokens` is the learned padding embedding, which is attended to.
        seconds : torch.Tensor [shape=(B,), float32]
        text : torch.Tensor [shape=(B,)]
            1 to condition, 0 to zero the whole sequence (duration token included) and keep the global duration.
        """
        duration = self.duration_embedder(seconds)
        padding = cast(Any, self.transformer).prompt_padding_embedding.to(duration.dtype)
        prompt = torch.where(mask[..., None], tokens.to(duration.dtype), padding)
        missing = self.max_tokens - prompt.shape[1]
        filler = padding.expand(prompt.shape[0], missing, -1)
        sequence = torch.cat([prompt, filler, duration[:, None]], dim=1)
        return sequence * text[:, None, None].to(sequence.dtype), duration

    def forward(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        seconds: torch.Tensor,
        text: torch.Tensor,
        inpainting: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Velocity [shape=(B, C, T)]; `inpainting` [shape=(B, 1 + C, T)] is the mask of what is known and the known
        latents."""
        sequence, duration = self.context(tokens, mask, seconds, text)
        # The inpainting condition is always passed: its projection has a bias, so leaving it out is another model.
        if inpainting is None:
            inpainting = x_t.new_zeros(x_t.shape[0], 1 + x_t.shape[1], x_t.shape[2])
        return self.transformer(
            x_t,
            t,
            encoder_hidden_states=sequence,
            global_hidden_states=duration,
            local_add_cond=inpainting,
            return_dict=False,
        )[0]
