"""CLAP (Wu et al. 2023): the audio half of a text-audio model, through transformers.

A clip is cut into windows of the feature extractor's length (10 s in published models); each window's projected,
unit-length audio embedding is what `ClapModel.get_audio_features` returns, and a clip is their mean. Models with
feature fusion treat a window as a clip heard alone does: marked as long, which transformers' extractor does for one
clip and, in a batch, for one drawn at random.
"""

from __future__ import annotations

import numpy as np

from eisbach.errors import CheckpointError
from eisbach.pretrained import library_config
from eisbach.structure.embeddings.checkpoints import model_folder, read_config
from eisbach.structure.embeddings.windowed import WindowedEmbedding


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
