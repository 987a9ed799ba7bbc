"""DiT against diffusers' own network with the same weights, and against the published count and initialisation."""

from __future__ import annotations

import torch
from diffusers import DiTTransformer2DModel

from eisbach.backbones.dit import SIZES, DiT, DiTBackbone

SHAPE = {"latent_channels": 2, "latent_size": 8, "patch": 2, "width": 32, "depth": 2, "heads": 4, "num_classes": 5}


def test_equals_diffusers_network_with_the_same_weights() -> None:
    torch.manual_seed(0)
    ours = DiT(**SHAPE).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape))
    theirs = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=2,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=5,
        norm_eps=1e-6,
    ).eval()
    own = ours.state_dict()
    state = {}
    for name in theirs.state_dict():
        # every block of theirs has an embedder of its own, which a DiT shares
        inside = name.partition("norm1.emb.")[2]
        source = inside.replace("timestep_embedder", "time").replace("class_embedder.embedding_table", "classes")
        source = source or (
            name.replace("pos_embed.proj", "patches.proj")
            .replace("transformer_blocks", "blocks")
            .replace("attn1", "attn")
            .replace("proj_out_1", "modulation_out")
            .replace("proj_out_2", "proj_out")
        )
        state[name] = own[source]
    theirs.load_state_dict(state)
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0  # theirs is 1: not the published frequencies
    x_t, time, ids = torch.randn(3, 2, 8, 8), torch.tensor([0.0, 17.0, 999.0]), torch.tensor([0, 4, 5])
    with torch.no_grad():
        expected = theirs(x_t, timestep=time, class_labels=ids).sample
        torch.testing.assert_close(ours(x_t, time, ids), expected, atol=2e-5, rtol=1e-4)
    assert expected.abs().max() > 0.1


def test_the_output_is_zero_at_first_and_blocks_change_nothing() -> None:
    network = DiT(**SHAPE)
    x = torch.randn(2, 16, 32)
    assert torch.equal(network.blocks[0](x, torch.randn(2, 32)), x)
    assert network(torch.randn(2, 2, 8, 8), torch.tensor([1.0, 2.0]), torch.tensor([0, 1])).abs().max() == 0


def test_initialisation_is_the_published_one() -> None:
    torch.manual_seed(0)
    network = DiT(**{**SHAPE, "width": 128, "num_classes": 200})
    assert abs(network.classes.weight.std().item() - 0.02) < 1e-3
    assert abs(network.time.linear_2.weight.std().item() - 0.02) < 1e-3
    # Xavier: uniform on +-sqrt(6 / (in + out)); the patch embedding counts as a linear layer of 2 * 2 * 2 inputs
    for weight, fan in ((network.blocks[0].attn.to_q.weight, 256), (network.patches.proj.weight, 8 + 128)):
        bound = (6 / fan) ** 0.5
        assert weight.abs().max() <= bound
        assert abs(weight.std().item() / (bound / 3**0.5) - 1) < 0.05


def test_the_count_is_the_published_one() -> None:
    # 675,129,632 is what the authors' XL/2 has with learned variance and its positions, which are no parameters here.
    variance, positions = 1152 * 16 + 16, 256 * 1152
    assert DiTBackbone.count_parameters({"size": "XL", "classes": 1000}) + variance + positions == 675_129_632


def test_sizes_can_be_overridden() -> None:
    config = DiTBackbone.create({"size": "S", "depth": 1, "latent_size": 8, "patch": 4}).config
    assert (config.size, config.width, config.depth, config.heads, config.patch) == ("S", 384, 1, 6, 4)
    assert set(SIZES) == {"S", "B", "L", "XL"}
