"""Codecs made of a diffusers autoencoder: its folder read, its identity, and long audio coded in pieces that equal
the whole."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from eisbach.codecs.base import batch_of_latents, frames_in, heard
from eisbach.codecs.images import check_images, check_latents
from eisbach.codecs.weight_files import State, component_config, load_component
from eisbach.errors import CheckpointError
from eisbach.files import read_json
from eisbach.types import Waveform


def find_autoencoder(folder: str | Path, class_name: str) -> Path | None:
    """The folder itself, or its `vae`, when its `config.json` names the class `class_name`; None otherwise."""
    for place in (Path(folder), Path(folder) / "vae"):
        file = place / "config.json"
        values: Any = read_json(file, "configuration") if file.is_file() else None
        if isinstance(values, dict) and values.get("_class_name") == class_name:
            return place
    return None


def load_autoencoder(
    folder: str | Path, class_name: str, adapt: Callable[[State, State], State] | None = None
) -> tuple[Any, dict[str, Any]]:
    """The network, in fp32, and its options.

    Parameters
    ----------
    folder : str or Path
        Of the autoencoder alone, or of a pipeline with it as `vae`.
    class_name : str
        Of the class in diffusers.
    adapt
        As in `load_component`.

    Raises
    ------
    CheckpointError
        No such autoencoder, truncated files, options that are not known, or weights that do not fit.
    """
    place = find_autoencoder(folder, class_name)
    if place is None:
        raise CheckpointError(
            f"{folder} holds no {class_name} (config.json names none, nor does vae/config.json); give the folder of "
            "the pipeline or of its autoencoder."
        )
    import diffusers

    kind = getattr(diffusers, class_name)
    config = component_config(place, kind)
    return load_component(place, kind, f"the autoencoder in {place}", config, adapt), config


def _exact_identity(name: str, config: Mapping[str, Any], module: nn.Module) -> str:
    """`name` and 16 digits of a hash of options and weights, bit for bit: cached latents are keyed by it."""
    digest = hashlib.sha256(json.dumps(dict(config), sort_keys=True).encode())
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return f"{name}-{digest.hexdigest()[:16]}"


class AutoencoderCodec(ABC):
    """An autoencoder behind `Codec`; a subclass says how one piece is coded and how far a frame's code reaches.

    Parameters
    ----------
    model : torch.nn.Module, fp32
    config : dict
        Its options.
    sample_rate, audio_channels, channels, samples_per_frame : int
    """

    name: str
    piece_frames: int
    """Frames of a piece, where the reach does not ask for more."""

    def __init__(
        self,
        model: Any,
        config: dict[str, Any],
        *,
        sample_rate: int,
        audio_channels: int,
        channels: int,
        samples_per_frame: int,
    ) -> None:
        self.model, self.config = model.eval().requires_grad_(False), dict(config)
        self.sample_rate, self.audio_channels, self.channels = sample_rate, audio_channels, channels
        self.samples_per_frame, self.latent_rate = samples_per_frame, sample_rate / samples_per_frame
        self._identity: str | None = None

    @abstractmethod
    def _encode_piece(self, samples: torch.Tensor) -> torch.Tensor:
        """Latents [shape=(1, C, T)] of samples [shape=(1, channels, T * samples_per_frame)]."""

    @abstractmethod
    def _decode_piece(self, latents: torch.Tensor) -> torch.Tensor:
        """Samples of latents, the inverse of `_encode_piece`."""

    @abstractmethod
    def _reach(self) -> int:
        """Frames on either side that a frame's code depends on."""

    def _unit(self) -> int:
        """Frames that pieces must begin on a multiple of."""
        return 1

    def identity(self) -> str:
        """A 16-digit hash of options and weights."""
        if self._identity is None:
            self._identity = _exact_identity(self.name, self.config, self.model)
        return self._identity

    def frames_for(self, seconds: float) -> int:
        """Latent frames that hold `seconds` of audio, rounded down, at least 1; `UserError` for NaN and infinity."""
        return frames_in(seconds, self.latent_rate)

    @torch.no_grad()
    def encode(self, waveform: Waveform) -> torch.Tensor:
        """Latents [shape=(C, T), float32, CPU]; resampled, mono doubled, the last frame padded with silence.

        Raises
        ------
        AudioError
            NaN or infinite samples, or another number of channels than the codec has.
        """
        given = heard(waveform, self.sample_rate, self.audio_channels).samples
        samples, hop = torch.from_numpy(np.ascontiguousarray(given, dtype=np.float32)), self.samples_per_frame
        frames = max(1, -(-samples.shape[1] // hop))
        samples = torch.nn.functional.pad(samples, (0, frames * hop - samples.shape[1]))
        device = next(self.model.parameters()).device

        def piece(start: int, stop: int) -> torch.Tensor:
            return self._encode_piece(samples[None, :, start * hop : stop * hop].to(device)).cpu()

        return self._in_pieces(frames, piece, 1)[0].float()

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> list[Waveform]:
        """Waveforms of latents [shape=(C, T) or (B, C, T)]; `T * samples_per_frame` samples each.

        Raises
        ------
        UserError
            Latents of another channel count, without frames, or with NaN.
        """
        device, out = next(self.model.parameters()).device, []
        for row in batch_of_latents(latents, self.channels).detach():

            def piece(start: int, stop: int, row: torch.Tensor = row) -> torch.Tensor:
                return self._decode_piece(row[None, :, start:stop].to(device, torch.float32)).cpu()

            samples = self._in_pieces(row.shape[1], piece, self.samples_per_frame)[0]
            out.append(Waveform(samples.float().numpy(), self.sample_rate))
        return out

    def _in_pieces(self, frames: int, piece: Callable[[int, int], torch.Tensor], scale: int) -> torch.Tensor:
        """`piece(start, stop)` over ranges of frames that overlap by the reach, joined; `scale` is its samples a
        frame."""
        reach = self._reach()
        size = max(self.piece_frames, 4 * reach)
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


# --- AutoencoderKL, the autoencoder of latent diffusion and of Stable Diffusion, as an image codec


CLASS_NAME = "AutoencoderKL"
# Attention of autoencoders written before diffusers 0.14 has other names for the same four layers.
_OLD_ATTENTION = {"query.": "to_q.", "key.": "to_k.", "value.": "to_v.", "proj_attn.": "to_out.0."}


class AutoencoderKLCodec:
    """AutoencoderKL behind `ImageCodec`.

    Parameters
    ----------
    model : diffusers' AutoencoderKL, fp32
    config : dict
        Its options.
    batch : int, default 8
        Images coded at once.
    """

    name = "autoencoder-kl"

    def __init__(self, model: Any, config: dict[str, Any], *, batch: int = 8) -> None:
        self.model, self.config, self.batch = model.eval().requires_grad_(False), dict(config), batch
        self.image_channels, self.channels = int(config["in_channels"]), int(config["latent_channels"])
        self.downsampling = 2 ** (len(config["block_out_channels"]) - 1)
        self._scale, self._shift = float(config["scaling_factor"]), float(config.get("shift_factor") or 0.0)
        self._identity: str | None = None

    def identity(self) -> str:
        """A 16-digit hash of options and weights."""
        if self._identity is None:
            self._identity = _exact_identity(self.name, self.config, self.model)
        return self._identity

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Latents [shape=(B, C, H / downsampling, W / downsampling), float32] of images in [-1, 1], on the images'
        device.

        Raises
        ------
        UserError
            Images of another shape, of a size that is no multiple of `downsampling`, or with values outside [-1, 1].
        """
        check_images(images, self.image_channels, self.downsampling)
        device = next(self.model.parameters()).device
        out = [
            (self.model.encode(part.to(device, torch.float32)).latent_dist.mode() - self._shift) * self._scale
            for part in images.split(self.batch)
        ]
        return torch.cat(out).to(images.device)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images [shape=(B, image_channels, H, W), float32, range=[-1, 1]] of latents, clamped, on the latents' device.

        Raises
        ------
        UserError
            Another number of channels, NaN or infinite values.
        """
        check_latents(latents, self.channels)
        device = next(self.model.parameters()).device
        out = [
            self.model.decode(part.to(device, torch.float32) / self._scale + self._shift).sample
            for part in latents.split(self.batch)
        ]
        return torch.cat(out).clamp(-1, 1).to(latents.device)

    def save(self, folder: str | Path) -> None:
        """Writes `config.json` and safetensors as diffusers does."""
        self.model.save_pretrained(str(folder), safe_serialization=True)

    @classmethod
    def load(cls, folder: str | Path) -> AutoencoderKLCodec:
        """The codec of a diffusers folder: of the autoencoder alone, or of a pipeline with it as `vae`.

        Raises
        ------
        CheckpointError
            No such autoencoder, truncated files, options that are not known, or weights that do not fit.
        """
        return cls(*load_autoencoder(folder, CLASS_NAME, _current))


def _current(state: State, expected: State) -> State:
    """Tensors of an old file under the names, and in the shapes, of today's layers: it holds attention as 1x1
    convolutions."""
    renamed = {_current_name(name): tensor for name, tensor in state.items()}
    for name, tensor in renamed.items():
        if name in expected and tensor.ndim == 4 and expected[name].ndim == 2:
            renamed[name] = tensor[:, :, 0, 0]
    return renamed


def _current_name(name: str) -> str:
    head, separator, tail = name.partition(".attentions.0.")
    for old, new in _OLD_ATTENTION.items():
        if separator and tail.startswith(old):
            return head + separator + new + tail.removeprefix(old)
    return name
