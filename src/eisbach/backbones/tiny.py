"""The embedded music model: Stable Audio 3's transformer at a size that trains on a laptop, with a word-level text
encoder.

The transformer is diffusers' `StableAudio3DiTModel`, so adapters, weightings and probes meet the same module names
and the same conditioning interface as in the large model. Text is a table of word vectors trained with the model:
a caption is the set of its known words in order, and words outside the vocabulary are named to the user, not guessed.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from eisbach.backbones.base import Backbone
from eisbach.backbones.state import CONFIG, WEIGHTS, adapter_free_state, identity_of, read_saved, write_saved
from eisbach.codecs import DEFAULT_CODEC
from eisbach.config import StrictModel, build_config
from eisbach.diffusion.paths import LinearPath
from eisbach.errors import CheckpointError, UserError
from eisbach.tensor_files import check_fit, read_tensors
from eisbach.types import Conditioning

PADDING, NULL = 0, 1
_RESERVED = 2
_FORMAT = "eisbach-tiny-music"


class TinyMusicConfig(StrictModel):
    """Shape of the embedded model; the defaults are the shipped one's."""

    latent_channels: int = Field(128, ge=1)
    latent_rate: float = Field(32000 / 12288, gt=0)
    codec: str = DEFAULT_CODEC
    width: int = Field(256, ge=8)
    depth: int = Field(6, ge=1, le=1024)
    heads: int = Field(4, ge=1, le=1024)
    ff_mult: float = Field(2.5, gt=0)
    memory_tokens: int = Field(8, ge=0)
    text_width: int = Field(128, ge=4)
    max_words: int = Field(40, ge=1)
    differential_attention: bool = False
    vocabulary: list[str] = Field(default_factory=list)

    @field_validator("vocabulary")
    @classmethod
    def _unique(cls, words: list[str]) -> list[str]:
        if len(set(words)) != len(words):
            raise ValueError("words must be unique")
        return words

    @field_validator("text_width")
    @classmethod
    def _sines_and_cosines(cls, width: int) -> int:
        if width % 2:
            raise ValueError("must be even: half of it holds sines and half cosines of the duration")
        return width

    @model_validator(mode="after")
    def _heads_divide(self) -> TinyMusicConfig:
        if self.width % self.heads or self.width // self.heads < 2:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}, at least twice as large")
        return self


def words_of(caption: str) -> list[str]:
    """The words of a caption: case folded, compatibility forms unified, punctuation dropped; any script."""
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", caption).casefold())


def _fourier(seconds: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines of log-duration [shape=(B, width)]."""
    half = width // 2
    frequencies = torch.exp(torch.linspace(math.log(0.25), math.log(8.0), half, device=seconds.device))
    angles = torch.log1p(seconds.float()) * frequencies * math.pi
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TinyMusicModel(nn.Module):
    """Word vectors, duration embedding and the transformer."""

    def __init__(self, config: TinyMusicConfig) -> None:
        super().__init__()
        from diffusers import StableAudio3DiTModel

        self.config = config
        self.words = nn.Embedding(_RESERVED + len(config.vocabulary), config.text_width)
        self.word_order = nn.Parameter(torch.zeros(config.max_words, config.text_width))
        self.duration = nn.Linear(config.text_width, config.text_width)
        self.dit = StableAudio3DiTModel(
            io_channels=config.latent_channels,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            cond_token_dim=config.text_width,
            global_cond_dim=config.text_width,
            local_add_cond_dim=config.latent_channels + 1,
            timestep_features_dim=128,
            ff_mult=config.ff_mult,
            num_memory_tokens=config.memory_tokens,
            use_differential_attention=config.differential_attention,
        )

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, ids: torch.Tensor, seconds: torch.Tensor) -> torch.Tensor:
        """Velocity [shape=(B, C, T)]; `ids` [shape=(B, max_words)], `seconds` [shape=(B, 1)]."""
        duration = self.duration(_fourier(seconds, self.config.text_width))
        padding = self.dit.prompt_padding_embedding.to(duration.dtype)
        text = torch.where((ids == PADDING)[..., None], padding, self.words(ids) + self.word_order)
        context = torch.cat([text, duration[:, None]], dim=1)
        # Dropped conditioning zeroes the whole cross-attention sequence and keeps the global duration, as in
        # Stable Audio 3's trainer.
        context = context * (ids[:, :1] != NULL)[..., None].to(context.dtype)
        # The inpainting condition is always passed: its projection has a bias, so leaving it out is another model.
        plain = x_t.new_zeros(x_t.shape[0], self.config.latent_channels + 1, x_t.shape[2])
        return self.dit(
            x_t,
            t,
            encoder_hidden_states=context,
            global_hidden_states=duration,
            local_add_cond=plain,
            return_dict=False,
        )[0]


class TinyMusicBackbone(Backbone):
    """`Backbone` of the embedded model: linear path, velocity target u = noise - x0."""

    name = "tiny-music"
    config_class = TinyMusicConfig
    path = LinearPath()
    target = "u"
    adapter_targets = (
        r".*transformer_blocks\.\d+\.(self_attn|cross_attn|ff)\.(to_qkv|to_q|to_kv|to_out|proj_in|proj_out)"
    )
    density = "logit_normal"
    schedule = "uniform"

    def __init__(self, config: TinyMusicConfig, *, seed: int = 0) -> None:
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module: nn.Module = TinyMusicModel(config)
        self.latent_channels = config.latent_channels
        self.latent_rate = config.latent_rate
        self.codec = config.codec
        self._index = {word: position + _RESERVED for position, word in enumerate(config.vocabulary)}

    @classmethod
    def create(cls, values: Mapping[str, Any], seed: int = 0) -> Self:
        """A randomly initialised backbone; `ConfigError` lists all faults of `values`."""
        return cls(build_config(TinyMusicConfig, values, "the backbone's configuration"), seed=seed)

    def unknown_words(self, caption: str) -> list[str]:
        """The words of a caption that the model has no vector for, in order, each once."""
        return list(dict.fromkeys(word for word in words_of(caption) if word not in self._index))

    def text_length(self, caption: str) -> tuple[int, int]:
        """Words of a caption that the model knows, and how many of them it reads."""
        return sum(word in self._index for word in words_of(caption)), self.config.max_words

    def condition(self, captions: Sequence[str], durations: Sequence[float]) -> Conditioning:
        """Word ids [shape=(B, max_words)] and durations [shape=(B, 1)]; unknown words and words beyond `max_words` are
        left out.

        Raises
        ------
        UserError
            Not one finite duration for each caption.
        """
        if len(captions) != len(durations) or not all(0 <= value < math.inf for value in durations):
            raise UserError(
                f"{len(captions)} captions came with the durations {list(durations)[:8]}; give each caption one finite "
                "number of seconds."
            )
        ids = torch.full((len(captions), self.config.max_words), PADDING, dtype=torch.int64)
        for row, caption in enumerate(captions):
            known = [self._index[word] for word in words_of(caption) if word in self._index][: self.config.max_words]
            ids[row, : len(known)] = torch.tensor(known, dtype=torch.int64)
        seconds = torch.tensor([float(value) for value in durations], dtype=torch.float32)[:, None]
        return Conditioning(ids, seconds, ids != PADDING)

    def null_condition(self, conditioning: Conditioning) -> Conditioning:
        """No text; the global duration stays."""
        ids = torch.full_like(conditioning.tokens, NULL)
        return Conditioning(ids, conditioning.global_embed, torch.ones_like(ids, dtype=torch.bool))

    def predict(self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Velocity u [shape=(B, C, T)]."""
        return self.module(x_t, t, conditioning.tokens, conditioning.global_embed)

    def identity(self) -> str:
        """A 16-digit hash of configuration and weights (in half precision, as they are shipped)."""
        return identity_of(self.name, self.config.model_dump(mode="json"), self.module)

    def save(self, folder: str | Path) -> None:
        """Writes `config.json` and `model.safetensors` (half precision) into `folder`."""
        state = {key: value.half() for key, value in adapter_free_state(self.module).items()}
        write_saved(Path(folder), _FORMAT, self.config, state)

    @classmethod
    def load(cls, folder: str | Path) -> TinyMusicBackbone:
        """The backbone saved in `folder`, in fp32.

        Raises
        ------
        CheckpointError
            Missing or truncated files, tensors that do not match the configuration key by key, or non-finite weights.
        """
        folder = Path(folder)
        values = read_saved(folder, _FORMAT, f"an embedded music model (format '{_FORMAT}' is expected)")
        backbone = cls(build_config(TinyMusicConfig, values, str(folder / CONFIG)))
        state = {key: value.float() for key, value in read_tensors(folder / WEIGHTS).items()}
        check_fit(backbone.module.state_dict(), state, folder / WEIGHTS, "configuration beside it")
        broken = [key for key in sorted(state) if not bool(state[key].isfinite().all())]
        if broken:
            raise CheckpointError(
                f"{folder / WEIGHTS} holds NaN or infinite weights in {len(broken)} of {len(state)} tensors "
                f"(first: {broken[0]}); the training that wrote it went wrong, so take an earlier model."
            )
        backbone.module.load_state_dict(state)
        return backbone
