"""The built-in embedding: mean and standard deviation over time of a clip's texture, in dB."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from eisbach.structure.features import SAMPLE_RATE
from eisbach.structure.frechet import EMBEDDING_SIZE, texture_embedding
from eisbach.types import Waveform


class TextureEmbedding:
    """`frechet.texture_embedding` as an `Embedding`: 64 numbers in dB, invariant to gain; needs no weights."""

    name = "texture"
    dim = EMBEDDING_SIZE
    sample_rate = SAMPLE_RATE

    def embed(self, waveforms: Iterable[Waveform]) -> np.ndarray:
        """One row a clip, [shape=(clips, 64), float64].

        Raises
        ------
        AudioError
            Empty, non-finite or silent audio, or less than 2 s of it.
        """
        rows = [texture_embedding(waveform) for waveform in waveforms]
        return np.stack(rows) if rows else np.zeros((0, self.dim))
