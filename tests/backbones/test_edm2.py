"""EDM2: the paper's magnitude rules, an independent reading of the forward pass, names and size of the published
network."""

import math

import pytest
import torch
from torch.nn import functional

from eisbach.backbones import create_backbone, load_backbone
from eisbach.backbones.edm2 import Block, EDM2Backbone, MPConv, mp_cat, mp_silu, mp_sum, normalize
from eisbach.diffusion.paths import get_path
from eisbach.errors import CheckpointError, ConfigError, UserError

TINY = {
    "latent_channels": 2,
    "latent_size": 8,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "channels_per_head": 16,
    "classes": 3,
    "logvar_channels": 8,
}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def tiny():
    backbone = create_backbone(TINY, kind="edm2", seed=1)
    backbone.module.eval()
    with torch.no_grad():
        for name, parameter in backbone.module.named_parameters():
            if name.endswith("_gain"):  # zero at the start: nothing would depend on class or noise level
                parameter.fill_(0.7)
    return backbone


def test_operations_keep_unit_magnitude():
    a, b = random(64, 32, 8, 8), random(64, 96, 8, 8, seed=1)
    one = pytest.approx(1.0, abs=0.02)
    assert float(mp_silu(a).square().mean().sqrt()) == one
    assert float(mp_sum(a, random(64, 32, 8, 8, seed=2), 0.3).square().mean().sqrt()) == one
    assert float(mp_cat(a, b, 0.5).square().mean().sqrt()) == one
    halves = mp_cat(a, b, 0.5)
    assert float(halves[:, :32].square().sum()) == pytest.approx(float(halves[:, 32:].square().sum()), rel=0.02)
    torch.manual_seed(0)
    assert float(MPConv(32, 64, (3, 3))(a)[:, :, 1:-1, 1:-1].square().mean().sqrt()) == pytest.approx(1.0, abs=0.03)
    assert float(normalize(7 * a, [1]).square().mean(dim=1).sub(1).abs().max()) < 1e-3


def test_attention_is_softmax_of_cosines():
    torch.manual_seed(0)
    block = Block(32, 32, 8, encoder=True, attention=True, channels_per_head=16)
    mixed = random(2, 96, 3, 3)
    q, k, v = normalize(mixed.reshape(2, 2, 16, 3, 9), [2]).unbind(3)
    weights = torch.einsum("nhcq,nhck->nhqk", q, k / math.sqrt(16)).softmax(dim=3)
    wanted = torch.einsum("nhqk,nhck->nhcq", weights, v).reshape(2, 32, 3, 3)
    torch.testing.assert_close(block._attend(mixed), wanted, rtol=1e-4, atol=1e-5)


def test_forward_pass_against_its_tensors_by_name(tiny):
    # Written out once more from the weights alone, block by block, for the two-level network.
    state = {name.removeprefix("unet."): tensor for name, tensor in tiny.module.state_dict().items()}
    t = torch.tensor([0.4, 0.8])
    x_t, sigma = random(2, 2, 8, 8) * 3, get_path("edm").sigma(t)

    def conv(name, x, gain=1.0):
        weight = state[f"{name}.weight"]
        scaled = weight / (
            1e-4 + weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1)) / math.sqrt(weight[0].numel())
        )
        scaled = scaled * gain / math.sqrt(weight[0].numel())
        return x @ scaled.T if weight.dim() == 2 else functional.conv2d(x, scaled, padding=weight.shape[-1] // 2)

    def silu(x):
        return x * torch.sigmoid(x) / 0.596

    def blend(a, b, share):
        return ((1 - share) * a + share * b) / math.sqrt((1 - share) ** 2 + share**2)

    def block(name, x, emb, attention, encoder):
        if "_down" in name:
            x = 0.25 * (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2])
        if "_up" in name:
            x = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
        if encoder:
            x = conv(f"{name}.conv_skip", x) if f"{name}.conv_skip.weight" in state else x
            x = x / (1e-4 + x.square().mean(dim=1, keepdim=True).sqrt())
        y = conv(f"{name}.conv_res0", silu(x))
        y = silu(y * (1 + conv(f"{name}.emb_linear", emb, state[f"{name}.emb_gain"]))[:, :, None, None])
        y = conv(f"{name}.conv_res1", y)
        if not encoder:
            x = conv(f"{name}.conv_skip", x) if f"{name}.conv_skip.weight" in state else x
        x = blend(x, y, 0.3)
        assert (f"{name}.attn_qkv.weight" in state) == attention
        if attention:
            heads = x.shape[1] // 16
            parts = conv(f"{name}.attn_qkv", x).reshape(len(x), heads, 16, 3, -1)
            parts = parts / (1e-4 + parts.square().mean(dim=2, keepdim=True).sqrt())
            q, k, v = parts.unbind(3)
            weights = torch.einsum("nhcq,nhck->nhqk", q, k / 4).softmax(dim=3)
            x = blend(x, conv(f"{name}.attn_proj", torch.einsum("nhqk,nhck->nhcq", weights, v).reshape(x.shape)), 0.3)
        return x

    def join(a, b):
        na, nb = a.shape[1], b.shape[1]
        return math.sqrt(2 * (na + nb)) * 0.5 * torch.cat([a / math.sqrt(na), b / math.sqrt(nb)], dim=1)

    fourier = math.sqrt(2) * torch.cos(
        (sigma.log() / 4)[:, None] * state["emb_fourier.freqs"] + state["emb_fourier.phases"]
    )
    labels = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]) * math.sqrt(3)
    emb = silu(blend(conv("emb_noise", fourier), conv("emb_label", labels), 0.5))
    scale = (sigma**2 + 0.25).sqrt()[:, None, None, None]
    x = torch.cat([x_t / scale, torch.ones(2, 1, 8, 8)], dim=1)
    skips = [conv("enc.8x8_conv", x)]
    skips.append(block("enc.8x8_block0", skips[-1], emb, False, True))
    skips.append(block("enc.4x4_down", skips[-1], emb, False, True))
    skips.append(block("enc.4x4_block0", skips[-1], emb, True, True))
    x = block("dec.4x4_in0", skips[-1], emb, True, False)
    x = block("dec.4x4_in1", x, emb, False, False)
    x = block("dec.4x4_block0", join(x, skips.pop()), emb, True, False)
    x = block("dec.4x4_block1", join(x, skips.pop()), emb, True, False)
    x = block("dec.8x8_up", x, emb, False, False)
    x = block("dec.8x8_block0", join(x, skips.pop()), emb, False, False)
    x = block("dec.8x8_block1", join(x, skips.pop()), emb, False, False)
    raw = conv("out_conv", x, state["out_gain"])
    wanted = 0.25 / scale**2 * x_t + sigma[:, None, None, None] * 0.5 / scale * raw
    with torch.no_grad():
        ours = tiny.predict(x_t, t, tiny.condition(["2", ""]))
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


def test_the_xs_network_has_the_published_size_and_names():
    # Table 1 of the paper: 125 million parameters (the released network's count rounds to 124.7).
    count = EDM2Backbone.count_parameters({"size": "XS", "classes": 1000})
    assert count == pytest.approx(125e6, rel=0.005)
    assert EDM2Backbone.count_parameters({"size": "S", "classes": 1000}) == pytest.approx(280e6, rel=0.005)


def test_every_class_and_level_matters_and_a_saved_copy_is_equal(tiny, tmp_path):
    x_t, t = random(4, 2, 8, 8), torch.full((4,), 0.5)
    with torch.no_grad():
        out = tiny.predict(x_t[:1].expand(4, -1, -1, -1), t, tiny.condition(["0", "1", "2", ""]))
        again = tiny.predict(x_t[:1], t[:1] + 0.2, tiny.condition(["0"]))
    assert len({round(float(row.sum()), 4) for row in out}) == 4
    assert not torch.allclose(out[:1], again)
    tiny.save(tmp_path)
    loaded = load_backbone(tmp_path)
    assert loaded.identity() == tiny.identity()
    loaded.module.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.predict(x_t, t, loaded.condition(["1"] * 4)), tiny.predict(x_t, t, tiny.condition(["1"] * 4))
        )


def test_training_mode_forces_weights_to_unit_magnitude():
    torch.manual_seed(0)
    layer = MPConv(4, 6, (3, 3))
    with torch.no_grad():
        layer.weight.mul_(5)
    before = layer.eval()(random(1, 4, 5, 5))
    after = layer.train()(random(1, 4, 5, 5))
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-4)
    assert float(layer.weight.square().mean(dim=(1, 2, 3)).sub(1).abs().max()) < 1e-3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path": "vp"}, "its path is 'edm'"),
        ({"latent_size": 7}, "without a rest"),
        ({"channels_per_head": 24}, "multiples of channels_per_head"),
        ({"size": "tiny"}, "no size 'tiny'"),
    ],
)
def test_bad_configuration(change, words):
    with pytest.raises(ConfigError, match=words):
        create_backbone({**TINY, **change}, kind="edm2")


def test_weights_of_another_shape_and_images_of_another_size_are_refused(tiny, tmp_path):
    with pytest.raises(UserError, match="2 x 4 x 4"):
        tiny.predict(random(1, 2, 4, 4), torch.ones(1), tiny.condition(["0"]))
    tiny.save(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"num_blocks": 1', '"num_blocks": 2'))
    with pytest.raises(CheckpointError, match="are missing"):
        load_backbone(tmp_path)
