"""Attention of SAME-S: within chunks of frames, shifted by half a chunk in the second half of the layers.

diffusers' `AutoencoderSAME` has the sliding window of SAME-L only. The weights are the same in kind, so each resampling
block of the loaded model is taught the other attention. Facts from Stability's `models/autoencoders.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_same import SAMETransformerResamplingBlock
from torch import nn

from eisbach.errors import CheckpointError


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
                    "number of "
                    "them where chunks are shifted); the codec's configuration is wrong."
                )
            side.blocks[position] = ChunkedResamplingBlock(block, segments, midpoint_shift)


class ChunkedResamplingBlock(nn.Module):
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
