"""Images drawn from a model: what their noise depends on, guidance, and the files."""

import numpy as np
import pytest
import torch
from PIL import Image

from eisbach.backbones import create_backbone
from eisbach.config import build_config
from eisbach.errors import ConfigError, UserError
from eisbach.generation.images import ImageSampling, image_noise, sample_images, write_images

SAMPLING = ImageSampling(num_inference_steps=3)


def model(target: str = "v", **changes):
    shape = {"latent_channels": 1, "latent_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2, "classes": 3}
    backbone = create_backbone({**shape, "target": target, **changes}, kind="dit")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # a fresh DiT says zero to everything
        for parameter in backbone.module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return backbone


def test_an_image_depends_on_its_seed_number_and_class_alone():
    backbone = model()
    together = sample_images(backbone, ["0", "1", "2", "1"], SAMPLING, seed=4)
    assert together.shape == (4, 1, 8, 8)
    alone = sample_images(backbone, ["2"], SAMPLING, seed=4, first=2)
    torch.testing.assert_close(together[2:3], alone, rtol=1e-4, atol=1e-4)
    small = sample_images(backbone, ["0", "1", "2", "1"], SAMPLING.model_copy(update={"batch_size": 3}), seed=4)
    torch.testing.assert_close(together, small, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[1], together[3])
    assert not torch.equal(image_noise(4, 0, (1, 8, 8)), image_noise(5, 0, (1, 8, 8)))


def test_guidance_and_its_interval():
    backbone = model()
    plain = sample_images(backbone, ["1"], SAMPLING)
    guided = sample_images(backbone, ["1"], SAMPLING.model_copy(update={"guidance_scale": 3.0}))
    part = sample_images(
        backbone, ["1"], SAMPLING.model_copy(update={"guidance_scale": 3.0, "guidance_interval": (0.0, 1e-3)})
    )
    assert not torch.allclose(plain, guided)
    assert not torch.allclose(part, guided)
    with pytest.raises(UserError, match="no classes to guide towards"):
        sample_images(model(classes=0), [""], SAMPLING.model_copy(update={"guidance_scale": 2.0}))
    with pytest.raises(ConfigError, match="0 <= low < high <= 1"):
        build_config(ImageSampling, {"guidance_interval": [0.9, 0.1]})
    with pytest.raises(UserError, match="no class '9'"):
        sample_images(backbone, ["9"], SAMPLING)


@pytest.mark.parametrize("target", ["eps", "x0", "v", "u"])
def test_every_target_gives_finite_images_on_the_cosine_path(target):
    assert sample_images(model(target), ["0"], SAMPLING).isfinite().all()


def test_clipping_bounds_the_data_estimate_and_changes_nothing_within(tmp_path):
    from eisbach.diffusion.targets import convert
    from eisbach.generation.images import clipped

    x_t, t = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.5, 0.99])
    for target in ("eps", "x0", "v", "u"):
        inside = convert("cosine", "x0", target, 0.9 * torch.tanh(x_t), x_t, t)
        kept = clipped(lambda x, t, output=inside: output, "cosine", target)(x_t, t)
        torch.testing.assert_close(kept, inside, rtol=1e-3, atol=1e-3)
        far = clipped(lambda x, t: 5 * x, "cosine", target)(x_t, t)
        assert convert("cosine", target, "x0", far, x_t, t).abs().max() <= 1 + 1e-2
    with pytest.raises(UserError, match="draws latents"):
        sample_images(model(codec="vae"), ["0"], SAMPLING.model_copy(update={"clip": True}))


def test_files_by_class_and_a_stopped_drawing_continues(tmp_path):
    backbone = model()
    backbone.save(tmp_path / "model")
    sampling = SAMPLING.model_copy(update={"batch_size": 2})
    assert write_images(str(tmp_path / "model"), sampling, tmp_path / "out", count=5, quiet=True) == 5
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert files == ["0/000000.png", "0/000003.png", "1/000001.png", "1/000004.png", "2/000002.png"]
    before = np.asarray(Image.open(tmp_path / "out" / files[0]))
    (tmp_path / "out" / files[0]).unlink()
    write_images(str(tmp_path / "model"), sampling, tmp_path / "out", count=5, quiet=True)
    assert (np.asarray(Image.open(tmp_path / "out" / files[0])) == before).all()
    with pytest.raises(UserError, match="other settings: seed was 0 and is now 1"):
        write_images(str(tmp_path / "model"), sampling, tmp_path / "out", count=5, seed=1, quiet=True)


def test_a_class_that_the_model_lacks_leaves_no_folder_behind(tmp_path):
    """Otherwise the corrected command would meet a folder of other settings."""
    model().save(tmp_path / "model")
    with pytest.raises(UserError, match="no class 'x'"):
        write_images(str(tmp_path / "model"), SAMPLING, tmp_path / "out", count=2, classes=["x"], quiet=True)
    assert not (tmp_path / "out").exists()
    assert write_images(str(tmp_path / "model"), SAMPLING, tmp_path / "out", count=2, classes=["1"], quiet=True) == 2
