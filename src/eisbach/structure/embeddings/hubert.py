"""HuBERT-class models, and with them MERT-v1 (Li et al. 2024), through transformers' own HubertModel.

MERT's published code derives from HuBERT and adds a constant-Q front end, deepnorm and a relaxed attention, all three
switched off in MERT-v1-95M: what remains is HuBERT, weight for weight. Such checkpoints are loaded here without their
code; ones that switch an addition on are refused. A clip is cut into windows of 5 s (MERT's training length); each is
normalised by the checkpoint's feature extractor, and a clip is the mean over windows and time of one hidden state.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from eisbach.errors import CheckpointError, UserError
from eisbach.pretrained import library_config
from eisbach.structure.embeddings.checkpoints import model_folder, read_config
from eisbach.structure.embeddings.windowed import WindowedEmbedding

WINDOW_SECONDS = 5.0
_HEADS = ("lm_head.", "final_proj.", "label_embs_concat", "projector.", "classifier.")


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
        config = hubert_config(read_config(folder), source)
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


def hubert_config(raw: dict[str, Any], source: str) -> Any:
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
            "code has; "
            "that code is not run: use MERT-v1-95M, whose network is a plain HuBERT."
        )
    own = {"model_type", "architectures", "transformers_version", "torch_dtype", "dtype", *additions}
    return library_config(HubertConfig, {key: value for key, value in raw.items() if key not in own}, source)
