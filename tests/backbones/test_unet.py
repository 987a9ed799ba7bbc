"""ADM's UNet: its published counts, its zero-initialised layers, and what makes it ADM's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D

from eisbach.backbones.unet import ADMUNet, UNetBackbone, UNetConfig
from eisbach.config import build_config

SHAPE: dict[str, Any] = {
    "latent_channels": 3,
    "latent_size": 8,
    "channels": 16,
    "multipliers": [1, 2],
    "blocks": 2,
    "attention": [4],
    "head_width": 8,
    "groups": 8,
    "classes": 4,
}


def network(**changes: Any) -> ADMUNet:
    return ADMUNet(build_config(UNetConfig, {**SHAPE, **changes}))


@pytest.mark.parametrize(
    ("size", "channels", "classes", "millions"),
    [("adm-64", 6, 1000, 296), ("ddim-celeba-64", 3, 0, 79), ("celeba-64", 3, 0, 50)],
)
def test_counts(size: str, channels: int, classes: int, millions: int) -> None:
    # ADM: Table 4 of its paper, 296 M with the variance's three output channels; DDIM: 79 M, as ERD's Table 2 lists it
    shape = {"size": size, "latent_channels": 3, "latent_size": 64, "classes": classes}
    variance = (channels - 3) * (9 * 192 + 1)
    assert round((UNetBackbone.count_parameters(shape) + variance) / 1e6) == millions


def test_the_output_is_zero_at_first_and_so_are_the_last_layers() -> None:
    made = network()
    assert made(torch.randn(2, 3, 8, 8), torch.tensor([1.0, 2.0]), torch.tensor([0, 4])).abs().max() == 0
    residual = [module for module in made.modules() if isinstance(module, ResnetBlock2D)]
    attending = [module for module in made.modules() if isinstance(module, Attention)]
    assert len(residual) == 2 * 2 + 1 + 2 + 2 * 3 + 1  # down, its resampler, middle, up, its resampler
    assert len(attending) == 2 + 1 + 3
    assert all(module.conv2.weight.abs().max() == 0 for module in residual)
    assert all(module.to_out[0].weight.abs().max() == 0 for module in attending)
    assert all(module.heads == 4 for module in attending)
    assert all(module.group_norm.num_groups == 8 for module in attending)


def test_embeddings_scale_and_shift_every_block() -> None:
    blocks = [module for module in network().modules() if isinstance(module, ResnetBlock2D)]
    assert all(block.time_emb_proj.out_features == 2 * block.out_channels for block in blocks)
    plain = [module for module in network(scale_shift=False).modules() if isinstance(module, ResnetBlock2D)]
    assert all(block.time_emb_proj.out_features == block.out_channels for block in plain)


def test_a_residual_block_is_adms_formula() -> None:
    torch.manual_seed(0)
    block = next(module for module in network().modules() if isinstance(module, ResnetBlock2D)).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape))
        x, embedding = torch.randn(2, 16, 8, 8), torch.randn(2, 64)
        scale, shift = block.time_emb_proj(torch.nn.functional.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        hidden = block.conv1(torch.nn.functional.silu(block.norm1(x)))
        expected = x + block.conv2(torch.nn.functional.silu(block.norm2(hidden) * (1 + scale) + shift))
        torch.testing.assert_close(block(x, embedding), expected)


def test_resampling_is_by_residual_blocks_or_convolutions() -> None:
    by_blocks = [name for name, module in network().named_modules() if isinstance(module, ResnetBlock2D)]
    by_convolutions = [
        name for name, module in network(resample="conv").named_modules() if isinstance(module, ResnetBlock2D)
    ]
    assert sum("samplers" in name for name in by_blocks) == 2
    assert sum("samplers" in name for name in by_convolutions) == 0


def test_a_single_head_beside_a_size() -> None:
    config = build_config(UNetConfig, {"size": "adm-64", "latent_size": 64, "head_width": None})
    assert config.head_width is None
    assert build_config(UNetConfig, {"size": "adm-64", "latent_size": 64}).head_width == 64
