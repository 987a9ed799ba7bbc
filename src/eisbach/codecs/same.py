"""SAME, Stable Audio 3's autoencoder (diffusers' `AutoencoderSAME`), as a codec: stereo, 44.1 kHz, deterministic.

Long audio is coded in overlapping pieces. Attention reaches a fixed number of frames, so the overlap is chosen to cover
that reach and the pieces give what the whole would give, at a memory that does not grow with length.

diffusers' class has the sliding window of SAME-L only; SAME-S attends within chunks of frames, shifted by half a chunk
in the second half of the layers. The weights are the same in kind, so each resampling block of the loaded model is
taught the other attention. Facts from Stability's `models/autoencoders.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_same import SAMETransformerResamplingBlock
from torch import nn

from eisbach.codecs import same_native as native
from eisbach.codecs.autoencoder import AutoencoderCodec
from eisbach.codecs.weight_files import WEIGHTS, build_empty, component_config, load_exactly
from eisbach.errors import CheckpointError
from eisbach.files import read_json, write_json
from eisbach.tensor_files import read_weights


def use_chunks(model: Any, chunk_size: int, midpoint_shift: bool) -> None:
    """Replaces the sliding window of every resampling block in an `AutoencoderSAME` by chunks.

    Parameters
    ----------
    model : AutoencoderSAME
    chunk_size : int
        Input frames (of the encoder's side) in a chunk: a multiple of every block's stride.
    midpoint_shift : bool
        Whether the second half of the layers attends in chunks that begin half a chunk earlier.

    Raises
    ------
    CheckpointError
        `chunk_size` is not a multiple of a stride, or half a chunk is not a whole number of segments.
    """
    for side in (model.encoder, model.decoder):
        for position, block in enumerate(side.blocks):
            segments, rest = divmod(chunk_size, block.stride)
            if rest or segments < 1 or (midpoint_shift and segments % 2):
                raise CheckpointError(
                    f"chunks of {chunk_size} frames do not divide into whole segments of {block.stride} (an even "
                    "number of them where chunks are shifted); the codec's configuration is wrong."
                )
            side.blocks[position] = _ChunkedResamplingBlock(block, segments, midpoint_shift)


class _ChunkedResamplingBlock(nn.Module):
    """A resampling block of SAME with chunked attention; it shares the parameters of the block it is made from.

    Parameters
    ----------
    block : SAMETransformerResamplingBlock
    segments : int
        Segments (latent frames of this block) in a chunk.
    midpoint_shift : bool
    """

    def __init__(self, block: SAMETransformerResamplingBlock, segments: int, midpoint_shift: bool) -> None:
        super().__init__()
        self.mapping, self.transformers, self.new_tokens = block.mapping, block.transformers, block.new_tokens
        self.stride, self.mode, self.segments, self.midpoint_shift = block.stride, block.mode, segments, midpoint_shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Down- or upsampled frames [shape=(B, C', T')] of [shape=(B, C, T)]."""
        return self._encode(x) if self.mode == "encoder" else self._decode(x)

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        wanted = -(-x.shape[-1] // self.stride)
        x = nn.functional.pad(x, (0, -x.shape[-1] % (self.stride * self.segments)))
        x = self.mapping(x).transpose(1, 2).unflatten(1, (-1, self.stride))  # (B, N, stride, C)
        new = self.new_tokens.expand(*x.shape[:2], 1, -1) if x.shape[1] else x
        out = self._attend(torch.cat([x, new], dim=2))
        return out[:, :wanted, -1].transpose(1, 2)

    def _decode(self, x: torch.Tensor) -> torch.Tensor:
        wanted = x.shape[-1] * self.stride
        x = nn.functional.pad(x, (0, -x.shape[-1] % self.segments)).transpose(1, 2)[:, :, None]  # (B, N, 1, C)
        out = self._attend(torch.cat([x, self.new_tokens.expand(*x.shape[:2], self.stride, -1)], dim=2))
        frames = out[:, :, 1:].flatten(1, 2)[:, :wanted]
        return self.mapping(frames.transpose(1, 2))

    def _attend(self, segments: torch.Tensor) -> torch.Tensor:
        """The layers over segments [shape=(B, N, tokens, C)], N a multiple of the chunk's; the same shape."""
        split = len(self.transformers) // 2 if self.midpoint_shift else len(self.transformers)
        segments = self._layers(segments, 0, split)
        if split == len(self.transformers):
            return segments
        half = self.segments // 2
        # Half a chunk more on either side completes the shifted chunks at the ends: copies of what stands there.
        padded = torch.cat([segments[:, :half], segments, segments[:, -half:]], dim=1)
        return self._layers(padded, split, len(self.transformers))[:, half:-half]

    def _layers(self, segments: torch.Tensor, first: int, last: int) -> torch.Tensor:
        batch, count, tokens, width = segments.shape
        x = segments.reshape(batch * count // self.segments, self.segments * tokens, width)
        for layer in list(self.transformers)[first:last]:
            x = layer(x, attn_mask=None)
        return x.reshape(batch, count, tokens, width)


class SameCodec(AutoencoderCodec):
    """SAME behind `Codec`.

    Parameters
    ----------
    model : diffusers' AutoencoderSAME, fp32
    config : dict
        Its options, with `chunk_size` and `chunk_midpoint_shift` for SAME-S (see `use_chunks`).
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
