"""Embeddings by transformers models that hear one window at a time; a clip is the mean over its windows.

*CLAP* (Wu et al. 2023) is the audio half of a text-audio model. A clip is cut into windows of the feature extractor's
length (10 s in published models); each window's projected, unit-length audio embedding is what
`ClapModel.get_audio_features` returns. Models with feature fusion treat a window as a clip heard alone does: marked as
long, which transformers' extractor does for one clip and, in a batch, for one drawn at random.

*HuBERT* models, and with them MERT-v1 (Li et al. 2024): MERT's published code derives from HuBERT and adds a
constant-Q front end, deepnorm and a relaxed attention, all three switched off in MERT-v1-95M: what remains is HuBERT,
weight for weight. Such checkpoints are loaded here without their code; ones that switch an addition on are refused.
Windows last 5 s (MERT's training length); each is normalised by the checkpoint's feature extractor, and its embedding
is the mean over time of one hidden state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eisbach import pretrained
from eisbach.devices import place
from eisbach.errors import CheckpointError, UserError
from eisbach.pretrained import library_config
from eisbach.structure.embeddings.base import load_model, mean_over_windows, model_folder, read_config
from eisbach.types import Waveform

WINDOW_SECONDS = 5.0
_HEADS = ("lm_head.", "final_proj.", "label_embs_concat", "projector.", "classifier.")


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
        self._device = place(device).device
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


class ClapEmbedding(WindowedEmbedding):
    """A CLAP checkpoint as an `Embedding`; its rows are of length at most 1.

    Parameters
    ----------
    source : str
        Folder or hub id with config.json, preprocessor_config.json and model.safetensors.
    device : str
    batch_size : int
        Windows at once.

    Raises
    ------
    UserError
        A folder or hub id that cannot be used, or a checkpoint that is no CLAP.
    """

    name = "clap"

    def __init__(self, source: str, *, device: str = "cpu", batch_size: int = 8) -> None:
        from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

        folder = model_folder(source)
        raw = read_config(folder)
        if raw.get("model_type") != "clap":
            raise CheckpointError(
                f"{source} is a {raw.get('model_type', 'model without a type')!r} checkpoint, not CLAP; give a CLAP "
                "folder."
            )
        config = library_config(ClapConfig, raw, source)
        super().__init__(ClapFeatureExtractor, ClapModel, folder, config, device=device, batch_size=batch_size)
        self.dim = int(self._model.config.projection_dim)
        self.window = int(self._extractor.nb_max_samples)

    def _batch(self, windows: np.ndarray) -> np.ndarray:
        import torch

        state = np.random.get_state()  # noqa: NPY002 - the extractor draws from the global generator; it is put back
        inputs = self._extractor(list(windows), sampling_rate=self.sample_rate, return_tensors="pt")
        np.random.set_state(state)  # noqa: NPY002
        long = torch.full_like(inputs["is_longer"], bool(self._model.config.audio_config.enable_fusion))
        with torch.inference_mode():
            out = self._model.get_audio_features(
                input_features=inputs["input_features"].to(self._device, torch.float32), is_longer=long.to(self._device)
            )
        rows = out if isinstance(out, torch.Tensor) else out.pooler_output  # transformers 4 returned the tensor
        return rows.double().cpu().numpy()


class HubertEmbedding(WindowedEmbedding):
    """A HuBERT or MERT-v1 checkpoint as an `Embedding`.

    Parameters
    ----------
    source : str
        Folder or hub id with config.json, preprocessor_config.json and model.safetensors.
    device : str
    batch_size : int
        Windows at once.
    layer : int or None
        Hidden state, 0 to the number of layers; None takes the last.

    Raises
    ------
    UserError
        A folder or hub id that cannot be used, a checkpoint that needs its own code, or a layer that it does not have.
    """

    name = "mert"

    def __init__(self, source: str, *, device: str = "cpu", batch_size: int = 8, layer: int | None = None) -> None:
        from transformers import HubertModel, Wav2Vec2FeatureExtractor

        folder = model_folder(source)
        config = _hubert_config(read_config(folder), source)
        layers = int(config.num_hidden_layers)
        if layer is not None and not 0 <= layer <= layers:
            raise UserError(f"{source} has hidden states 0 to {layers}; there is no {layer}.")
        super().__init__(
            Wav2Vec2FeatureExtractor, HubertModel, folder, config, device=device, batch_size=batch_size, heads=_HEADS
        )
        self._layer = layers if layer is None else layer
        self.dim = int(config.hidden_size)
        self.window = round(WINDOW_SECONDS * self.sample_rate)

    def _batch(self, windows: np.ndarray) -> np.ndarray:
        import torch

        inputs = self._extractor(list(windows), sampling_rate=self.sample_rate, return_tensors="pt")
        with torch.inference_mode():  # windows of one batch have one length, so there is nothing to mask
            out = self._model(inputs["input_values"].to(self._device), output_hidden_states=True)
        return out.hidden_states[self._layer].mean(dim=1).double().cpu().numpy()


def _hubert_config(raw: dict[str, Any], source: str) -> Any:
    """The HubertConfig of a HuBERT or of a MERT whose additions are all switched off.

    Raises
    ------
    CheckpointError
        Another model, or a MERT that needs its own code.
    """
    from transformers import HubertConfig

    kind = raw.get("model_type")
    if kind not in ("hubert", "mert_model"):
        code = " and brings its own code, which is not run" if raw.get("auto_map") else ""
        raise CheckpointError(
            f"{source} is a {kind or 'model without a type'!r} checkpoint{code}; mert: takes HuBERT and MERT-v1 "
            "folders."
        )
    additions = {
        "feature_extractor_cqt": bool(raw.get("feature_extractor_cqt", False)),
        "deepnorm": bool(raw.get("deepnorm", False)),
        "attention_relax": float(raw.get("attention_relax", -1.0)) > 0.0,
    }
    on = [name for name, active in additions.items() if active]
    if on:
        raise CheckpointError(
            f"{source} switches on {', '.join(on)}, which transformers' HuBERT lacks and only the checkpoint's own "
            "code has; that code is not run: use MERT-v1-95M, whose network is a plain HuBERT."
        )
    own = {"model_type", "architectures", "transformers_version", "torch_dtype", "dtype", *additions}
    return library_config(HubertConfig, {key: value for key, value in raw.items() if key not in own}, source)
