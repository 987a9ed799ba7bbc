"""SAME, Stable Audio 3's autoencoder (diffusers' `AutoencoderSAME`), as a codec: stereo, 44.1 kHz, deterministic.

Long audio is coded in overlapping pieces. Attention reaches a fixed number of frames, so the overlap is chosen to cover
that reach and the pieces give what the whole would give, at a memory that does not grow with length.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from eisbach.codecs import same_native as native
from eisbach.codecs.autoencoder import AutoencoderCodec
from eisbach.codecs.same_chunked import use_chunks
from eisbach.codecs.weight_files import WEIGHTS, build_empty, component_config, load_exactly
from eisbach.errors import CheckpointError
from eisbach.files import read_json, write_json
from eisbach.pretrained import read_weights


class SameCodec(AutoencoderCodec):
    """SAME behind `Codec`.

    Parameters
    ----------
    model : diffusers' AutoencoderSAME, fp32
    config : dict
        Its options, with `chunk_size` and `chunk_midpoint_shift` for SAME-S (see `same_chunked`).
    """

    name = "same"

    piece_frames = 128  # as in the native code; a piece's attention mask is then 19 MB, that of 120 s at once 1.9 GB

    def __init__(self, model: Any, config: dict[str, Any]) -> None:
        super().__init__(
            model,
            config,
            sample_rate=int(config["sampling_rate"]),
            audio_channels=int(config["audio_channels"]),
            channels=int(config["latent_dim"]),
            samples_per_frame=int(model.downsampling_ratio),
        )

    def _encode_piece(self, samples: torch.Tensor) -> torch.Tensor:
        return self.model.encode(samples, return_dict=False)[0]

    def _decode_piece(self, latents: torch.Tensor) -> torch.Tensor:
        return self.model.decode(latents, return_dict=False)[0]

    def _unit(self) -> int:
        """Frames that pieces must begin on a multiple of: those of an attention chunk, 1 with a sliding window."""
        return int(self.config["chunk_size"]) // int(self.config["encoder_strides"][-1]) if self._chunked() else 1

    def _chunked(self) -> bool:
        return "chunk_size" in self.config

    def _reach(self) -> int:
        """Frames on either side that a frame's code depends on: each layer sees a window, or a chunk, further."""
        layers = sum(self.config["encoder_transformer_depths"])
        return layers * (self._unit() if self._chunked() else int(self.config["sliding_window"]))

    def save(self, folder: str | Path) -> None:
        """Writes `config.json` and safetensors as diffusers does; SAME-S's chunks stand in the configuration too."""
        folder = Path(folder)
        self.model.save_pretrained(str(folder), safe_serialization=True)
        written = read_json(folder / "config.json", "configuration")
        write_json(folder / "config.json", {**written, **self.config})

    @classmethod
    def load(cls, folder: str | Path) -> SameCodec:
        """The codec of a native folder (of a whole model, or of SAME alone), or of a diffusers folder (`vae`).

        Raises
        ------
        CheckpointError
            Missing, truncated or foreign files, options that are not supported, or weights that do not fit.
        """
        from diffusers import AutoencoderSAME

        folder = Path(folder)
        if (folder / "model_config.json").is_file():
            config, state = _read_native(folder)
        else:
            folder = folder / "vae" if (folder / "vae" / "config.json").is_file() else folder
            config = component_config(folder, AutoencoderSAME, ignored=native.CHUNK_OPTIONS)
            values = read_json(folder / "config.json", "configuration")
            config |= {name: values[name] for name in native.CHUNK_OPTIONS[:2] if name in values}
            state = read_weights(folder, WEIGHTS)
        options = {name: value for name, value in config.items() if name not in native.CHUNK_OPTIONS}
        model: Any = build_empty(lambda: AutoencoderSAME(**options))
        load_exactly(model, state, f"the autoencoder in {folder}")
        if "chunk_size" in config:
            use_chunks(model, int(config["chunk_size"]), bool(config["chunk_midpoint_shift"]))
        return cls(model, config)


def _read_native(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    source = str(folder / "model_config.json")
    values: Any = read_json(source, "model configuration")
    try:
        model = values["model"]
        alone = "encoder" in model
        config = native.autoencoder_config(
            model if alone else model["pretransform"]["config"], int(values["sample_rate"]), source
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{source} describes no autoencoder ({error!r}); fetch it again.") from error
    tensors = read_weights(folder, wanted=lambda name: alone or name.startswith(native.PREFIX))
    bare = {name.removeprefix(native.PREFIX): tensor for name, tensor in tensors.items()}
    return config, native.autoencoder_state(bare, config)
