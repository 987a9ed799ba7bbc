"""What text encoders of transformers share: weights that are read when first needed, masks, writing weights, and what
is said of texts that are too long."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eisbach import pretrained
from eisbach.codecs.weight_files import build_empty, load_exactly
from eisbach.errors import CheckpointError
from eisbach.tensor_files import foreign_files, has_weights, read_weights, write_tensors
from eisbach.types import Conditioning


class LazyTextEncoder(ABC):
    """A text encoder whose weights are in memory only between their first use and `release`."""

    def __init__(self) -> None:
        self._model: nn.Module | None = None

    @property
    def loaded(self) -> bool:
        """True while the encoder's weights are in memory."""
        return self._model is not None

    def release(self) -> None:
        """Drops the encoder's weights from memory; the next use reads them again."""
        self._model = None

    @property
    def model(self) -> Any:
        """The encoder in fp32, in evaluation mode, without gradients."""
        if self._model is None:
            with foreign_files("the text encoder"):
                self._model = self._read()
        return self._model

    @abstractmethod
    def _read(self) -> nn.Module:
        """The encoder from its files, in fp32, in evaluation mode, without gradients."""


def save_encoder(folder: Path, state: dict[str, torch.Tensor], config: Any) -> None:
    """Writes an encoder's weights (safetensors) and configuration into `folder`."""
    write_tensors(folder / "model.safetensors", state, {"format": "pt"})
    config.save_pretrained(str(folder))


def token_mask(conditioning: Conditioning) -> torch.Tensor:
    """True on real tokens [shape=(B, S), bool]; a conditioning without a mask has real ones alone."""
    if conditioning.token_mask is not None:
        return conditioning.token_mask
    return torch.ones(conditioning.tokens.shape[:2], dtype=torch.bool, device=conditioning.tokens.device)


def token_counts(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, uncut."""
    return [len(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]] if texts else []


class LongTexts:
    """Says of every text that a model reads only the beginning of, once each."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def warn(self, texts: Sequence[str], counts: Sequence[int], limit: int) -> None:
        """One warning that names the texts of more than `limit` tokens which were not named before.

        `counts` are the tokens of each text, uncut.
        """
        cut = {text: count for text, count in zip(texts, counts, strict=True) if count > limit}
        fresh = [f"'{text[:60]}…' has {count}" for text, count in cut.items() if text not in self._said]
        self._said |= cut.keys()
        if fresh:
            named = ", ".join(fresh)
            warnings.warn(
                f"the model reads {limit} tokens of a text, and longer ones lose their end: {named}.", stacklevel=3
            )


# --- stable Audio 3's own text encoder


class TextEncoder(LazyTextEncoder):
    """Captions to T5Gemma tokens.

    Parameters
    ----------
    folder : Path
        T5Gemma's configuration and weights.
    tokenizer_folder : Path
        Its tokenizer's files; the same folder in native checkpoints.
    max_tokens : int or None
        Tokens that the transformer reads; None takes the tokenizer's own limit, at most 256 as in diffusers' pipeline.
    tensors : dict of tensors or None
        Weights to use in place of the folder's.

    Raises
    ------
    CheckpointError
        A file is missing; the weights themselves are read at the first `encode`.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer_folder: Path,
        max_tokens: int | None,
        tensors: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.tokenizer_folder, self._tensors = folder, tokenizer_folder, dict(tensors or {})
        self._long_texts = LongTexts()
        missing = [name for name in ("config.json",) if not (folder / name).is_file()]
        missing += [] if self._tensors or has_weights(folder) else ["model.safetensors"]
        missing += [] if (tokenizer_folder / "tokenizer_config.json").is_file() else ["tokenizer_config.json"]
        if missing:
            raise CheckpointError(
                f"the text encoder in {folder} is not complete: {', '.join(missing)} is missing; fetch it again."
            )
        pretrained.refuse_code(folder)
        self.tokenizer = pretrained.tokenizer(tokenizer_folder)
        self.max_tokens = min(int(self.tokenizer.model_max_length), 256) if max_tokens is None else max_tokens

    def _read(self) -> nn.Module:
        from transformers import T5GemmaEncoderModel

        config = pretrained.text_config(self.folder, {"t5gemma": "T5GemmaConfig"})
        config.is_encoder_decoder = False
        state = self._tensors or read_weights(self.folder)
        # The published T5Gemma has a decoder too, which an encoder has no use for, and its names begin with `model.`.
        state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
        state = {name: tensor for name, tensor in state.items() if not name.startswith(("decoder.", "lm_head."))}
        model = build_empty(lambda: T5GemmaEncoderModel(config), f"the text encoder in {self.folder}")
        load_exactly(model, state, f"the text encoder in {self.folder}")
        return model.eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, captions: Sequence[str], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [shape=(B, S, D), float32] and their mask [shape=(B, S), bool]; S is the longest caption's count.

        A caption longer than `max_tokens` is cut there, and a warning names each once.
        """
        batch = self.tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        mask = batch["attention_mask"].to(device=device, dtype=torch.bool)
        self._warn_of_cuts(captions, mask)
        # Padded to the full length, as when the model was trained: what a caption becomes does not depend on its batch.
        if int(batch["input_ids"].max()) >= self.model.get_input_embeddings().num_embeddings:
            raise CheckpointError(
                f"the tokenizer in {self.tokenizer_folder} knows words that the text encoder does not."
            )
        tokens = self.model.to(device)(input_ids=batch["input_ids"].to(device), attention_mask=mask).last_hidden_state
        longest = max(1, int(mask.sum(dim=1).max()))
        return tokens[:, :longest].float(), mask[:, :longest]

    def _warn_of_cuts(self, captions: Sequence[str], mask: torch.Tensor) -> None:
        full = [text for text, filled in zip(captions, mask.all(dim=1).tolist(), strict=True) if filled]
        if not full:
            return
        counts = token_counts(self.tokenizer, full)
        self._long_texts.warn(full, counts, self.max_tokens)

    def save(self, encoder_folder: Path, tokenizer_folder: Path) -> None:
        """Writes the encoder (safetensors) and the tokenizer in diffusers' layout."""
        config = self.model.config
        config.architectures = ["T5GemmaEncoderModel"]
        save_encoder(encoder_folder, dict(self.model.state_dict()), config)
        tokenizer = pretrained.tokenizer(self.tokenizer_folder)
        tokenizer.model_max_length = self.max_tokens  # where diffusers' pipeline looks for the length
        tokenizer.save_pretrained(str(tokenizer_folder))


def find_native(checkpoint: Path, sources: Sequence[str]) -> Path:
    """The text encoder's folder of a native checkpoint: inside it, an absolute path, or in the hub's local cache.

    Raises
    ------
    CheckpointError
        It is in none of these places.
    """
    for source in sources:
        folder = checkpoint / source  # an absolute source replaces the checkpoint's folder
        if (folder / "config.json").is_file():
            return folder
    hub = sources[-1]
    cached = pretrained.cached_folder(hub)
    if cached is not None and (cached / "config.json").is_file():
        return cached
    raise CheckpointError(
        f"the text encoder is not in {checkpoint} (looked for: {', '.join(sources[:-1])}) and '{hub}' is not in the "
        f"hub's local cache; put its folder there or run: hf download {hub}."
    )
