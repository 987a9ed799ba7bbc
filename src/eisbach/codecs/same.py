"""SAME, Stable Audio 3's autoencoder (diffusers' `AutoencoderSAME`), as a codec: stereo, 44.1 kHz, deterministic.

Long audio is coded in overlapping pieces. Attention reaches a fixed number of frames, so the overlap is chosen to cover
that reach and the pieces give what the whole would give, at a memory that does not grow with length.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eisbach.audio import resample
from eisbach.codecs import same_native as native
from eisbach.codecs.same_chunked import use_chunks
from eisbach.codecs.weight_files import build_empty, component_config, load_exactly, read_tensors
from eisbach.errors import CheckpointError, UserError
from eisbach.files import read_json, write_json
from eisbach.types import Waveform

_CHUNK_FRAMES = (
    128  # as in the native code; the attention mask of a piece of SAME-L is then 19 MB, of 120 s at once 1.9 GB
)
_WEIGHTS = "diffusion_pytorch_model"


class SameCodec:
    """SAME behind `Codec`.

    Parameters
    ----------
    model : diffusers' AutoencoderSAME, fp32
    config : dict
        Its options, with `chunk_size` and `chunk_midpoint_shift` for SAME-S (see `same_chunked`).
    """

    name = "same"

    def __init__(self, model: Any, config: dict[str, Any]) -> None:
        self.model, self.config = model.eval().requires_grad_(False), dict(config)
        self.sample_rate = int(config["sampling_rate"])
        self.audio_channels = int(config["audio_channels"])
        self.channels = int(config["latent_dim"])
        self.samples_per_frame = int(model.downsampling_ratio)
        self.latent_rate = self.sample_rate / self.samples_per_frame
        self._identity: str | None = None

    def identity(self) -> str:
        """A 16-digit hash of options and weights."""
        if self._identity is None:
            digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
            for name, tensor in sorted(self.model.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
            self._identity = f"same-{digest.hexdigest()[:16]}"
        return self._identity

    def frames_for(self, seconds: float) -> int:
        """Latent frames that hold `seconds` of audio, rounded down, at least 1; `UserError` for NaN and infinity."""
        if not math.isfinite(seconds):
            raise UserError(f"{seconds} seconds of audio have no number of frames; give a finite length.")
        return max(1, int(seconds * self.latent_rate + 1e-6))

    @torch.no_grad()
    def encode(self, waveform: Waveform) -> torch.Tensor:
        """Latents [shape=(C, T), float32, CPU]; resampled, mono doubled, the last frame padded with silence.

        Raises
        ------
        UserError
            NaN or infinite samples, or more channels than the codec has.
        """
        resampled = resample(waveform, self.sample_rate).samples
        if not bool(np.isfinite(resampled).all()):
            raise UserError("the waveform holds NaN or infinite samples; re-export the audio it came from.")
        if resampled.shape[0] == 1:
            resampled = np.repeat(resampled, self.audio_channels, axis=0)
        if resampled.shape[0] != self.audio_channels:
            raise UserError(
                f"the waveform has {resampled.shape[0]} channels and this codec codes {self.audio_channels}; mix it down first."
            )
        samples = torch.from_numpy(np.ascontiguousarray(resampled, dtype=np.float32))
        frames = max(1, -(-samples.shape[1] // self.samples_per_frame))
        samples = torch.nn.functional.pad(samples, (0, frames * self.samples_per_frame - samples.shape[1]))
        device = next(self.model.parameters()).device

        def piece(start: int, stop: int) -> torch.Tensor:
            part = samples[None, :, start * self.samples_per_frame : stop * self.samples_per_frame]
            return self.model.encode(part.to(device), return_dict=False)[0].cpu()

        return self._in_pieces(frames, piece, 1)[0].float()

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> list[Waveform]:
        """Waveforms (stereo) of latents [shape=(C, T) or (B, C, T)]; `T * samples_per_frame` samples each.

        Raises
        ------
        UserError
            Latents of another channel count, without frames, or with NaN.
        """
        batch = latents[None] if latents.ndim == 2 else latents
        if batch.ndim != 3 or batch.shape[1] != self.channels or batch.shape[2] == 0:
            raise UserError(
                f"latents of shape {tuple(latents.shape)} do not fit this codec: ({self.channels}, T) with T at least 1 is "
                "expected."
            )
        if not bool(torch.isfinite(batch).all()):
            raise UserError("the latents hold NaN or infinite values; the model that made them is broken.")
        device, out = next(self.model.parameters()).device, []
        for row in batch.detach():

            def piece(start: int, stop: int, row: torch.Tensor = row) -> torch.Tensor:
                part = row[None, :, start:stop].to(device, torch.float32)
                return self.model.decode(part, return_dict=False)[0].cpu()

            samples = self._in_pieces(row.shape[1], piece, self.samples_per_frame)[0]
            out.append(Waveform(samples.float().numpy(), self.sample_rate))
        return out

    def _unit(self) -> int:
        """Frames that pieces must begin on a multiple of: those of an attention chunk, 1 with a sliding window."""
        return int(self.config["chunk_size"]) // int(self.config["encoder_strides"][-1]) if self._chunked() else 1

    def _chunked(self) -> bool:
        return "chunk_size" in self.config

    def _reach(self) -> int:
        """Frames on either side that a frame's code depends on: each layer sees a window, or a chunk, further."""
        layers = sum(self.config["encoder_transformer_depths"])
        return layers * (self._unit() if self._chunked() else int(self.config["sliding_window"]))

    def _in_pieces(self, frames: int, piece: Callable[[int, int], torch.Tensor], scale: int) -> torch.Tensor:
        """`piece(start, stop)` over overlapping ranges of frames, joined; `scale` is its samples a frame."""
        reach = self._reach()
        size = max(_CHUNK_FRAMES, 4 * reach)
        size += -size % self._unit()
        if frames <= size:
            return piece(0, frames)
        out, done = [], 0
        while done < frames:
            start = max(0, done - reach)
            stop = min(frames, start + size)
            if frames - stop < reach:  # a short rest joins the last piece
                stop = frames
            keep = frames if stop == frames else stop - reach
            made = piece(start, stop)
            out.append(made[..., (done - start) * scale : (keep - start) * scale])
            done = keep
        return torch.cat(out, dim=-1)

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
            state = read_tensors(folder, _WEIGHTS)
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
    tensors = read_tensors(folder, wanted=lambda name: alone or name.startswith(native.PREFIX))
    bare = {name.removeprefix(native.PREFIX): tensor for name, tensor in tensors.items()}
    return config, native.autoencoder_state(bare, config)
