"""Oobleck (diffusers' `AutoencoderOobleck`), the autoencoder of Stable Audio Open and of ACE-Step 1.5, as a codec.

It is a variational autoencoder: its latents here are the means of what the encoder gives, so that coding is
deterministic; diffusers' pipelines draw from the distribution instead. It is made of convolutions alone, so a frame
depends on a known stretch of audio around it: long audio is coded in overlapping pieces that give what the whole would
give, at a memory that does not grow with length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from eisbach.codecs.autoencoder import AutoencoderCodec, load_autoencoder
from eisbach.errors import CheckpointError

CLASS_NAME = "AutoencoderOobleck"


class OobleckCodec(AutoencoderCodec):
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

    piece_frames = 256

    def __init__(self, model: Any, config: dict[str, Any]) -> None:
        self.ratios = [int(ratio) for ratio in config["downsampling_ratios"]]
        if any(ratio % 2 for ratio in self.ratios):
            raise CheckpointError(
                f"the autoencoder's downsampling_ratios are {self.ratios}; only even ones give whole frames, so this "
                "one is not supported."
            )
        super().__init__(
            model,
            config,
            sample_rate=int(config["sampling_rate"]),
            audio_channels=int(config["audio_channels"]),
            channels=int(config["decoder_input_channels"]),
            samples_per_frame=math.prod(self.ratios),
        )

    def _encode_piece(self, samples: torch.Tensor) -> torch.Tensor:
        return self.model.encode(samples).latent_dist.mode()  # the mean: coding is deterministic

    def _decode_piece(self, latents: torch.Tensor) -> torch.Tensor:
        return self.model.decode(latents).sample

    def _reach(self) -> int:
        return reach_in_frames(self.ratios)

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
        return cls(*load_autoencoder(folder, CLASS_NAME))


def reach_in_frames(ratios: Sequence[int]) -> int:
    """Latent frames on either side that a frame's code, or a sample, can depend on, rounded up.

    On each scale stand three residual units with kernels of 7 and dilations 1, 3 and 9 (39 steps) and one resampling
    convolution (at most 2 steps of the coarser scale); 3 frames and 3 samples more for the first and the last
    convolution.
    """
    fineness, reach = 1.0, 3.0  # steps a frame, frames
    for ratio in reversed(ratios):
        reach += 2 / fineness
        fineness *= ratio
        reach += 39 / fineness
    return math.ceil(reach + 3 / fineness)
