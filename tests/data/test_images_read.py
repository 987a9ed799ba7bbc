"""Reading one image: modes, sizes, orientation, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from eisbach.data.images import ImageError, read_image, resize_and_crop, to_bytes, to_unit_range

GRADIENT = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16)


def saved(tmp_path, image, name="x.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_colour_and_grey_become_one_another(tmp_path):
    grey = saved(tmp_path, Image.fromarray(GRADIENT))
    colour = read_image(grey, None, 3, "none")
    assert colour.shape == (12, 16, 3)
    assert (colour == GRADIENT[..., None]).all()
    assert (read_image(grey, None, 1, "none")[..., 0] == GRADIENT).all()
    red = saved(tmp_path, Image.new("RGB", (4, 4), (255, 0, 0)), "red.png")
    assert (read_image(red, None, 1, "none") == round(255 * 0.299)).all()


def test_palettes_bilevel_sixteen_bit_and_opaque_alpha(tmp_path):
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)).quantize(16)
    assert (read_image(saved(tmp_path, rgb, "p.png"), None, 3, "none") == np.asarray(rgb.convert("RGB"))).all()
    bits = Image.fromarray(GRADIENT > 50)
    assert set(np.unique(read_image(saved(tmp_path, bits, "1.png"), None, 1, "none"))) == {0, 255}
    deep = Image.fromarray((GRADIENT.astype(np.uint16) << 8) | 17)
    assert (read_image(saved(tmp_path, deep, "16.png"), None, 1, "none")[..., 0] == GRADIENT).all()
    alpha = np.dstack([GRADIENT] * 3 + [np.full_like(GRADIENT, 255)])
    assert (read_image(saved(tmp_path, Image.fromarray(alpha), "a.png"), None, 3, "none") == GRADIENT[..., None]).all()


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to look upright
    path = saved(tmp_path, Image.fromarray(GRADIENT), "turned.png", exif=exif)
    assert (read_image(path, None, 1, "none")[..., 0] == np.rot90(GRADIENT, -1)).all()


def test_what_has_no_one_meaning_is_refused_by_name(tmp_path):
    holes = np.dstack([GRADIENT] * 3 + [GRADIENT])
    with pytest.raises(ImageError, match="transparent"):
        read_image(saved(tmp_path, Image.fromarray(holes), "t.png"), None)
    with pytest.raises(ImageError, match="colour mode CMYK"):
        read_image(saved(tmp_path, Image.new("CMYK", (4, 4)), "c.tif"), None)
    with pytest.raises(ImageError, match="colour mode F"):
        read_image(saved(tmp_path, Image.fromarray(GRADIENT.astype(np.float32)), "f.tif"), None)
    frames = [Image.new("L", (4, 4), level) for level in (0, 99)]
    path = saved(tmp_path, frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="animation of 2 frames"):
        read_image(path, None)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(broken, None)
    whole = saved(tmp_path, Image.fromarray(np.tile(GRADIENT, (20, 20))), "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path / "half.png", None)


def test_sizes(tmp_path):
    path = saved(tmp_path, Image.fromarray(GRADIENT))
    with pytest.raises(ImageError, match="16x12 pixels and 8x8"):
        read_image(path, 8, 1, "none")
    assert read_image(path, 8, 1).shape == (8, 8, 1)
    assert read_image(path, 40, 1).shape == (40, 40, 1)


def test_the_centre_is_kept_and_large_images_are_halved_by_boxes():
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 8:16] = 200
    assert (np.asarray(resize_and_crop(Image.fromarray(wide), 8)) == 200).all()
    # 32x32 to 8x8 is two box halvings: exactly the means of 4x4 blocks, here of whole numbers
    blocks = np.kron(np.arange(64).reshape(8, 8) * 3, np.ones((4, 4))).astype(np.uint8)
    assert (np.asarray(resize_and_crop(Image.fromarray(blocks), 8)) == np.arange(64).reshape(8, 8) * 3).all()


def test_bytes_survive_the_round_trip():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    values = to_unit_range(images)
    assert values.shape == (1, 1, 16, 16)
    assert values.min() == -1
    assert values.max() == 1
    assert (to_bytes(values) == images).all()
    assert to_bytes(values * 3).min() == 0
    assert to_bytes(values * 3).max() == 255
