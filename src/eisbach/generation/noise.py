"""The noise that a generation starts from: a pure function of its prompt's id and its seed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_BLOCK = 16  # frames; torch fills normals in blocks, and only whole blocks make a longer draw begin like a shorter one


def noise_seed(prompt_id: str, seed: int, step: int = 0) -> int:
    """A 63-bit seed from all of them, by SHA-256, so that neighbouring seeds, prompts and steps give unrelated
    noise."""
    text = f"{seed}/{prompt_id}" if step == 0 else f"{seed}/{prompt_id}/step {step}"
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def starting_noise(prompt_id: str, seed: int, channels: int, frames: int, step: int = 0) -> torch.Tensor:
    """Standard normal noise for one generation, on CPU.

    It depends on the prompt's id, the seed and the shape, on nothing else: not on the arm, the words of the prompt,
    the batch or the device. Every arm of a comparison therefore starts from the same noise, prompts are independent
    of one another (they are the units of inference), and a longer generation begins with the noise of a shorter one.
    Steps from 1 on are what a stochastic sampler adds after them, each its own draw.

    Returns
    -------
    torch.Tensor [shape=(C, T), float32]
    """
    import torch

    generator = torch.Generator().manual_seed(noise_seed(prompt_id, seed, step))
    padded = -(-frames // _BLOCK) * _BLOCK
    return torch.randn((padded, channels), generator=generator)[:frames].T.contiguous()
