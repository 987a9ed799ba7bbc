"""U-ViT against the same formulas written out with plain tensor operations, and its published counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from eisbach.backbones.uvit import UViT, UViTBackbone

SHAPE = {"latent_channels": 2, "latent_size": 8, "patch": 4, "width": 16, "depth": 5, "heads": 2, "num_classes": 3}


def reference(network: UViT, x_t: torch.Tensor, time: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The published network, from its weights alone."""
    weights = {name: value.double() for name, value in network.state_dict().items()}
    width, heads, patch = 16, 2, 4

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attention(x: torch.Tensor, name: str) -> torch.Tensor:
        q, k, v = (
            linear(x, f"{name}.to_{part}").reshape(*x.shape[:2], heads, width // heads).transpose(1, 2)
            for part in "qkv"
        )
        mixed = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(width // heads), dim=-1) @ v
        return linear(mixed.transpose(1, 2).reshape(x.shape), f"{name}.to_out.0")

    def block(x: torch.Tensor, name: str, mirrored: torch.Tensor | None = None) -> torch.Tensor:
        if mirrored is not None:
            x = linear(torch.cat([x, mirrored], -1), f"{name}.skip")
        x = x + attention(norm(x, f"{name}.norm1"), f"{name}.attn")
        hidden = linear(norm(x, f"{name}.norm2"), f"{name}.ff.net.0.proj")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        return x + linear(hidden, f"{name}.ff.net.2")

    # patches: rows of the image, then columns; inside a patch a convolution's order, channel first
    grid = x_t.double().reshape(-1, 2, 2, patch, 2, patch).permute(0, 2, 4, 1, 3, 5).reshape(-1, 4, 2 * patch * patch)
    patches = grid @ weights["patches.weight"].reshape(width, -1).T + weights["patches.bias"]
    frequencies = torch.exp(-math.log(10000) * torch.arange(8, dtype=torch.float64) / 8)
    angles = time.double()[:, None] * frequencies
    time_token = torch.cat([angles.cos(), angles.sin()], -1)
    x = torch.cat([weights["classes.weight"][ids][:, None], time_token[:, None], patches], 1) + weights["positions"]
    first = block(x, "in_blocks.0")
    second = block(first, "in_blocks.1")
    x = block(second, "mid_block")
    x = block(x, "out_blocks.0", second)
    x = block(x, "out_blocks.1", first)
    x = linear(norm(x, "norm_out"), "proj_out")[:, 2:]
    # tokens back to the image: inside a token row, column, channel
    image = x.reshape(-1, 2, 2, patch, patch, 2).permute(0, 5, 1, 3, 2, 4).reshape(-1, 2, 8, 8)
    return functional.conv2d(image, weights["conv_out.weight"], weights["conv_out.bias"], padding=1)


def test_equals_the_formulas() -> None:
    torch.manual_seed(0)
    network = UViT(**SHAPE).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
        x_t, time, ids = torch.randn(3, 2, 8, 8), torch.tensor([0.0, 3.5, 999.0]), torch.tensor([0, 2, 3])
        expected = reference(network, x_t, time, ids)
        torch.testing.assert_close(network(x_t, time, ids).double(), expected, atol=1e-4, rtol=1e-3)
    assert expected.abs().max() > 0.1


def test_long_skips_join_mirrored_blocks() -> None:
    network = UViT(**SHAPE)
    assert [block.skip is None for block in (*network.in_blocks, network.mid_block, *network.out_blocks)] == [
        *[True] * 3,
        *[False] * 2,
    ]
    assert network.out_blocks[0].attn.to_q.bias is None


def test_initialisation_is_the_published_one() -> None:
    torch.manual_seed(0)
    network = UViT(**{**SHAPE, "width": 256, "heads": 4})
    for weight in (network.positions, network.mid_block.attn.to_q.weight, network.out_blocks[0].skip.weight):
        assert abs(weight.std().item() - 0.02) < 1e-3
    assert network.mid_block.ff.net[2].bias.abs().max() == 0


@pytest.mark.parametrize(("size", "millions"), [("S", 44), ("M", 131), ("L", 287), ("H", 501)])
def test_counts_are_the_published_ones(size: str, millions: int) -> None:
    # S is published without classes, on 64 x 64 pixels
    where = {"latent_channels": 3, "latent_size": 64, "patch": 4} if size == "S" else {"classes": 1000}
    assert round(UViTBackbone.count_parameters({"size": size, **where}) / 1e6) == millions


def test_the_convolution_comes_with_the_size_and_can_be_changed() -> None:
    assert [UViTBackbone.create({"size": size, "depth": 1, "latent_size": 4}).config.convolution for size in "MH"] == [
        True,
        False,
    ]
    assert UViTBackbone.create({"size": "H", "depth": 1, "latent_size": 4, "convolution": True}).config.convolution
