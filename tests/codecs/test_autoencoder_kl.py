"""AutoencoderKL as an image codec, on a tiny random one saved as diffusers saves it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from eisbach.codecs import ImageCodec, load_image_codec
from eisbach.codecs.autoencoder import AutoencoderKLCodec
from eisbach.errors import CheckpointError, UserError

OPTIONS: dict[str, Any] = {
    "block_out_channels": (8, 8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "latent_channels": 2,
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "sample_size": 16,
    "scaling_factor": 0.5,
}
Make = Callable[..., Path]


@pytest.fixture
def saved(tmp_path: Path) -> Make:
    """`saved(**changes)`: the folder of a tiny random autoencoder."""

    def make(**changes: Any) -> Path:
        torch.manual_seed(0)
        folder = tmp_path / "model" / "vae"
        AutoencoderKL(**{**OPTIONS, **changes}).save_pretrained(str(folder), safe_serialization=True)
        return folder

    return make


def images(batch: int = 3, size: int = 16) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_codes_as_diffusers_does(saved: Make) -> None:
    codec = load_image_codec(str(saved()))
    assert isinstance(codec, ImageCodec)
    assert (codec.channels, codec.image_channels, codec.downsampling) == (2, 3, 4)
    theirs: Any = AutoencoderKL.from_pretrained(str(saved())).eval()
    with torch.no_grad():
        mean = theirs.encode(images()).latent_dist.mean
        latents = codec.encode(images())
        torch.testing.assert_close(latents, mean * 0.5)
        torch.testing.assert_close(codec.decode(latents), theirs.decode(latents / 0.5).sample.clamp(-1, 1))
    assert latents.shape == (3, 2, 4, 4)


def test_coding_is_deterministic_and_does_not_depend_on_the_batch(saved: Make) -> None:
    codec = AutoencoderKLCodec.load(saved())
    whole = codec.encode(images())
    assert torch.equal(whole, codec.encode(images()))
    codec.batch = 2
    torch.testing.assert_close(codec.encode(images()), whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(codec.encode(images()[1:2]), whole[1:2], atol=1e-6, rtol=1e-5)


def test_a_shift_comes_before_the_scale(saved: Make) -> None:
    plain = AutoencoderKLCodec.load(saved()).encode(images())
    shifted = AutoencoderKLCodec.load(saved(shift_factor=0.25))
    torch.testing.assert_close(shifted.encode(images()), plain - 0.25 * 0.5)
    torch.testing.assert_close(
        shifted.decode(shifted.encode(images())), AutoencoderKLCodec.load(saved()).decode(plain), atol=1e-5, rtol=1e-5
    )


def test_the_folder_of_the_model_will_do_and_saving_keeps_the_identity(saved: Make, tmp_path: Path) -> None:
    codec = AutoencoderKLCodec.load(saved().parent)
    codec.save(tmp_path / "copy")
    copy = AutoencoderKLCodec.load(tmp_path / "copy")
    assert torch.equal(copy.encode(images()), codec.encode(images()))
    assert copy.identity().startswith("autoencoder-kl-")
    assert copy.identity() != AutoencoderKLCodec.load(saved(scaling_factor=0.6)).identity()


def test_old_names_of_the_attention_are_read(saved: Make) -> None:
    expected = AutoencoderKLCodec.load(saved()).encode(images())
    file = saved() / "diffusion_pytorch_model.safetensors"
    old = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    state = {}
    for name, tensor in load_file(file).items():
        for new, previous in old.items():
            name = name.replace(f"attentions.0.{new}", f"attentions.0.{previous}")
        if name.endswith("query.weight"):
            tensor = tensor[:, :, None, None].contiguous()  # some hold 1x1 convolutions
        state[name] = tensor
    assert sum("proj_attn" in name for name in state) == 4
    save_file(state, str(file))
    torch.testing.assert_close(AutoencoderKLCodec.load(file.parent).encode(images()), expected)


def test_sizes_that_do_not_fit_are_refused(saved: Make) -> None:
    codec = AutoencoderKLCodec.load(saved())
    with pytest.raises(UserError, match=r"images of 18x18 pixels .* multiples of 4"):
        codec.encode(images(size=18))
    with pytest.raises(UserError, match=r"must lie in \[-1, 1\]"):
        codec.encode(images() * 200)
    with pytest.raises(UserError, match=r"\(images, 2, height, width\) is expected"):
        codec.decode(torch.zeros(1, 3, 4, 4))
    with pytest.raises(UserError, match="NaN or infinite"):
        codec.decode(torch.full((1, 2, 4, 4), float("nan")))


def test_broken_folders_are_refused(saved: Make, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no AutoencoderKL"):
        AutoencoderKLCodec.load(tmp_path / "nothing")
    folder = saved()
    file = folder / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    save_file({name: tensor for name, tensor in state.items() if name != "quant_conv.bias"}, str(file))
    with pytest.raises(CheckpointError, match=r"lacks 'quant_conv.bias'"):
        AutoencoderKLCodec.load(folder)
    save_file(state, str(file))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "colour": 1}))
    with pytest.raises(CheckpointError, match="does not know: colour"):
        AutoencoderKLCodec.load(folder)
