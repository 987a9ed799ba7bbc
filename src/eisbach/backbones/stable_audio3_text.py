"""Stable Audio 3's text encoder (T5Gemma), read when first needed and dropped from memory when no longer needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from eisbach import pretrained
from eisbach.backbones.text_encoder import LazyTextEncoder, LongTexts, save_encoder
from eisbach.codecs.weight_files import build_empty, load_exactly
from eisbach.errors import CheckpointError
from eisbach.tensor_files import has_weights, read_weights


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
        counts = [len(ids) for ids in self.tokenizer(full)["input_ids"]]
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
