"""What embeddings of transformers models share: the model with its feature extractor, and clips as means over
windows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eisbach import pretrained
from eisbach.structure.embeddings.base import mean_over_windows, resolve_model_device
from eisbach.structure.embeddings.checkpoints import load_model
from eisbach.types import Waveform


class WindowedEmbedding(ABC):
    """An `Embedding` by a transformers model that hears one window at a time; a subclass sets `name`, `dim` and
    `window`.

    Parameters
    ----------
    extractor, model : classes of transformers
    folder : Path
        With config.json, preprocessor_config.json and model.safetensors.
    config : the model's configuration
    device : str
    batch_size : int
        Windows at once.
    heads : sequence of str
        As in `load_model`.

    Attributes
    ----------
    window : int
        Samples of a window; shorter clips are passed as they are.
    """

    name: str
    dim: int
    window: int

    def __init__(
        self, extractor: Any, model: Any, folder: Path, config: Any, *, device: str, batch_size: int,
        heads: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._device = resolve_model_device(device)
        self._extractor = pretrained.feature_extractor(extractor, folder)
        self._model = load_model(model, folder, config, heads=heads).to(self._device)
        self._batch_size = batch_size
        self.sample_rate = int(self._extractor.sampling_rate)

    def embed(self, waveforms: Iterable[Waveform]) -> np.ndarray:
        """One row a clip, [shape=(clips, dim), float64].

        Raises
        ------
        AudioError
            Empty, non-finite or silent audio, or under half a second of it.
        """
        return mean_over_windows(
            waveforms,
            self._batch,
            sample_rate=self.sample_rate,
            window=self.window,
            dim=self.dim,
            batch_size=self._batch_size,
        )

    @abstractmethod
    def _batch(self, windows: np.ndarray) -> np.ndarray:
        """Embeddings [shape=(n, dim), float64] of windows [shape=(n, samples)] of one length."""
