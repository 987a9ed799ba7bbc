"""What text encoders of transformers share: weights that are read when first needed, masks, writing weights, and what
is said of texts that are too long."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eisbach.tensor_files import foreign_files, write_tensors
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
