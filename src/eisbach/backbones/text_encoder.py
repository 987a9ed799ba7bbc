"""What text encoders of transformers share: weights that are read when first needed, the tokenizer, masks, writing
weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
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
