"""Oobleck (diffusers' `AutoencoderOobleck`), the autoencoder of Stable Audio Open and of ACE-Step 1.5, as a codec.

It is a variational autoencoder: its latents here are the means of what the encoder gives, so that coding is deterministic;
diffusers' pipelines draw from the distribution instead. It is made of convolutions alone, so a frame depends on a known stretch
of audio around it: long audio is coded in overlapping pieces that give what the whole would give, at a memory that does not grow
with length.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eisbach.audio import resample
from eisbach.codecs.weight_files import build_empty, component_config, load_exactly, read_tensors
from eisbach.errors import CheckpointError, UserError
from eisbach.files import read_json
from eisbach.types import Waveform

CLASS_NAME = "AutoencoderOobleck"
_WEIGHTS = "diffusion_pytorch_model"
_PIECE_FRAMES = 256


def oobleck_folder(folder: str | Path) -> Path | None:
    """The folder itself, or its `vae`, when its `config.json` describes an `AutoencoderOobleck`; None otherwise."""
    for place in (Path(folder), Path(folder) / "vae"):
        file = place / "config.json"
        values: Any = read_json(file, "configuration") if file.is_file() else None
        if isinstance(values, dict) and values.get("_class_name") == CLASS_NAME:
            return place
    return None


class OobleckCodec:
    """Oobleck behind `Codec`: as many audio channels and the sampling rate that its configuration names.

    Parameters
    ----------
    model : diffusers' AutoencoderOobleck, fp32
    config : dict
        Its options.

    Raises
    ------
    CheckpointError
        A downsampling ratio is odd: such a decoder gives fewer samples than its frames stand for.
    """

    name = "oobleck"

    def __init__(self, model: Any, config: dict[str, Any]) -> None:
        self.model, self.config = model.eval().requires_grad_(False), dict(config)
        self.ratios = [int(ratio) for ratio in config["downsampling_ratios"]]
        if any(ratio % 2 for ratio in self.ratios):
            raise CheckpointError(
                f"the autoencoder's downsampling_ratios are {self.ratios}; only even ones give whole frames, so this one is not "
                "supported."
            )
        self.sample_rate = int(config["sampling_rate"])
        self.audio_channels = int(config["audio_channels"])
        self.channels = int(config["decoder_input_channels"])
        self.samples_per_frame = math.prod(self.ratios)
        self.latent_rate = self.sample_rate / self.samples_per_frame
        self._identity: str | None = None

    def identity(self) -> str:
        """A 16-digit hash of options and weights."""
        if self._identity is None:
            digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
            for name, tensor in sorted(self.model.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
            self._identity = f"oobleck-{digest.hexdigest()[:16]}"
        return self._identity

    def frames_for(self, seconds: float) -> int:
        """Latent frames that hold `seconds` of audio, rounded down, at least 1; `UserError` for NaN and infinity."""
        if not math.isfinite(seconds):
            raise UserError(f"{seconds} seconds of audio have no number of frames; give a finite length.")
        return max(1, int(seconds * self.latent_rate + 1e-6))

    @torch.no_grad()
    def encode(self, waveform: Waveform) -> torch.Tensor:
        """Latents [shape=(C, T), float32, CPU], the distribution's mean; resampled, mono doubled, padded with silence.

        Raises
        ------
        UserError
            NaN or infinite samples, or another number of channels than the codec has.
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
        hop = self.samples_per_frame
        frames = max(1, -(-samples.shape[1] // hop))
        samples = torch.nn.functional.pad(samples, (0, frames * hop - samples.shape[1]))
        device = next(self.model.parameters()).device

        def piece(start: int, stop: int) -> torch.Tensor:
            part = samples[None, :, start * hop : stop * hop].to(device)
            return self.model.encode(part).latent_dist.mode().cpu()

        return self._in_pieces(frames, piece, 1)[0].float()

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> list[Waveform]:
        """Waveforms of latents [shape=(C, T) or (B, C, T)]; `T * samples_per_frame` samples each.

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
                return self.model.decode(row[None, :, start:stop].to(device, torch.float32)).sample.cpu()

            samples = self._in_pieces(row.shape[1], piece, self.samples_per_frame)[0]
            out.append(Waveform(samples.float().numpy(), self.sample_rate))
        return out

    def _in_pieces(self, frames: int, piece: Callable[[int, int], torch.Tensor], scale: int) -> torch.Tensor:
        """`piece(start, stop)` over ranges of frames that overlap by the network's reach, joined; `scale` samples a frame."""
        reach = reach_in_frames(self.ratios)
        size = max(_PIECE_FRAMES, 4 * reach)
        out, done = [], 0
        while done < frames:
            start, stop = max(0, done - reach), min(frames, done - reach + size)
            stop = frames if frames - stop < reach else stop
            keep = frames if stop == frames else stop - reach
            out.append(piece(start, stop)[..., (done - start) * scale : (keep - start) * scale])
            done = keep
        return torch.cat(out, dim=-1)

    def save(self, folder: str | Path) -> None:
        """Writes `config.json` and safetensors as diffusers does."""
        self.model.save_pretrained(str(folder), safe_serialization=True)

    @classmethod
    def load(cls, folder: str | Path) -> OobleckCodec:
        """The codec of a diffusers folder: of the autoencoder alone, or of a pipeline with it as `vae`.

        Raises
        ------
        CheckpointError
            No such autoencoder, truncated files, options that are not known, or weights that do not fit.
        """
        place = oobleck_folder(folder)
        if place is None:
            raise CheckpointError(
                f"{folder} holds no {CLASS_NAME} (config.json names none, nor does vae/config.json); give the folder of the "
                "pipeline or of its autoencoder."
            )
        from diffusers import AutoencoderOobleck

        config = component_config(place, AutoencoderOobleck)
        state = read_tensors(place, _WEIGHTS)
        model: Any = build_empty(lambda: AutoencoderOobleck(**config))
        load_exactly(model, state, f"the autoencoder in {place}")
        return cls(model, config)


def reach_in_frames(ratios: Sequence[int]) -> int:
    """Latent frames on either side that a frame's code, or a sample, can depend on, rounded up.

    On each scale stand three residual units with kernels of 7 and dilations 1, 3 and 9 (39 steps) and one resampling convolution
    (at most 2 steps of the coarser scale); 3 frames and 3 samples more for the first and the last convolution.
    """
    fineness, reach = 1.0, 3.0  # steps a frame, frames
    for ratio in reversed(ratios):
        reach += 2 / fineness
        fineness *= ratio
        reach += 39 / fineness
    return math.ceil(reach + 3 / fineness)
