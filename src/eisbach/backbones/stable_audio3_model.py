"""The network of Stable Audio 3 that adapters go into: the duration embedder in front of diffusers' transformer."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

_NORM_EPS = 1e-5
"""The native blocks' RMS norms; diffusers' class has 1e-6, which moves the velocity by about 1e-5 of its size."""


class StableAudio3Model(nn.Module):
    """The duration embedder and the transformer: what adapters go into."""

    def __init__(self, transformer: nn.Module, duration_embedder: nn.Module, max_tokens: int) -> None:
        super().__init__()
        self.transformer, self.duration_embedder, self.max_tokens = transformer, duration_embedder, max_tokens
        for block in cast(Any, transformer).transformer_blocks:
            for norm in (block.pre_norm, block.cross_attend_norm, block.ff_norm):
                norm.eps = _NORM_EPS

    def context(
        self, tokens: torch.Tensor, mask: torch.Tensor, seconds: torch.Tensor, text: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-attention sequence [shape=(B, max_tokens + 1, D)] and duration embedding [shape=(B, D)].

        Parameters
        ----------
        tokens : torch.Tensor [shape=(B, S, D)]
        mask : torch.Tensor [shape=(B, S), bool]
            True on real tokens; the rest of `max_tokens` is the learned padding embedding, which is attended to.
        seconds : torch.Tensor [shape=(B,), float32]
        text : torch.Tensor [shape=(B,)]
            1 to condition, 0 to zero the whole sequence (duration token included) and keep the global duration.
        """
        duration = self.duration_embedder(seconds)
        padding = cast(Any, self.transformer).prompt_padding_embedding.to(duration.dtype)
        prompt = torch.where(mask[..., None], tokens.to(duration.dtype), padding)
        missing = self.max_tokens - prompt.shape[1]
        filler = padding.expand(prompt.shape[0], missing, -1)
        sequence = torch.cat([prompt, filler, duration[:, None]], dim=1)
        return sequence * text[:, None, None].to(sequence.dtype), duration

    def forward(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        seconds: torch.Tensor,
        text: torch.Tensor,
        inpainting: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Velocity [shape=(B, C, T)]; `inpainting` [shape=(B, 1 + C, T)] is the mask of what is known and the known
        latents."""
        sequence, duration = self.context(tokens, mask, seconds, text)
        # The inpainting condition is always passed: its projection has a bias, so leaving it out is another model.
        if inpainting is None:
            inpainting = x_t.new_zeros(x_t.shape[0], 1 + x_t.shape[1], x_t.shape[2])
        return self.transformer(
            x_t,
            t,
            encoder_hidden_states=sequence,
            global_hidden_states=duration,
            local_add_cond=inpainting,
            return_dict=False,
        )[0]
