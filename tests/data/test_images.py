"""Folders of images, their latents' cache and their batches."""

import numpy as np
import pytest
import torch
from PIL import Image

from eisbach.codecs import load_image_codec
from eisbach.data.images import ImageSet, array_item, only_labels, read_all, read_image_folder
from eisbach.data.images_latents import ImageDataset, encode_images
from eisbach.errors import UserError

RNG = np.random.default_rng(3)


@pytest.fixture
def folder(tmp_path):
    """Two classes of three 8x8 images each."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_class_folders(folder):
    images = read_image_folder(folder)
    assert images.classes == ("cat", "dog")
    assert [item.label for item in images.items] == ["cat"] * 3 + ["dog"] * 3
    assert [item.id for item in images.items][:2] == ["cat/0.png", "cat/1.png"]
    assert read_image_folder(folder, classes=False).classes == ()
    assert len(only_labels(images, ["dog"])) == 3
    with pytest.raises(UserError, match="no class mouse"):
        only_labels(images, ["mouse"])


def test_folders_that_are_no_classes(folder, tmp_path):
    (folder / "loose.png").write_bytes((folder / "cat" / "0.png").read_bytes())
    with pytest.raises(UserError, match="1 images beside class folders"):
        read_image_folder(folder)
    with pytest.raises(UserError, match="in no class folder"):
        read_image_folder(folder, classes=True)
    assert len(read_image_folder(folder, classes=False)) == 7
    for file in (folder / "loose.png", *(folder / "dog").iterdir()):
        file.unlink()
    with pytest.raises(UserError, match="one class folder"):
        read_image_folder(folder)
    with pytest.raises(UserError, match="is not a folder"):
        read_image_folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no image"):
        read_image_folder(folder / "dog")


def test_the_split_follows_content(folder):
    images = read_image_folder(folder)
    (folder / "dog" / "copy.png").write_bytes((folder / "cat" / "0.png").read_bytes())
    more = read_image_folder(folder)
    sides = {item.content_hash: side for side, part in enumerate(more.split(0.5)) for item in part.items}
    for side, part in enumerate(images.split(0.5)):
        assert all(sides[item.content_hash] == side for item in part.items)
    copies = [part for part in more.split(0.5) if any(item.id == "dog/copy.png" for item in part.items)]
    assert any(item.id == "cat/0.png" for item in copies[0].items)
    assert images.content_hash() != more.content_hash()


def test_mixed_sizes_are_refused_or_resized(folder):
    Image.fromarray(RNG.integers(0, 256, (9, 20, 3), dtype=np.uint8)).save(folder / "cat" / "wide.png")
    images = read_image_folder(folder)
    with pytest.raises(UserError, match="different sizes"):
        read_all(images, None, 3, "none")
    kept, used = read_all(images, 8, 3, "none")
    assert (len(kept), used.report.skipped[0].item) == (6, "cat/wide.png")
    assert len(read_all(images, 8, 3, "crop")[0]) == 7


def test_broken_files_are_reported_and_the_rest_is_used(folder, tmp_path):
    (folder / "cat" / "bad.png").write_bytes(b"nothing")
    latents = encode_images(read_image_folder(folder), load_image_codec("pixels", 3), 8, folder / ".latents")
    assert len(latents) == 6
    assert [item.item for item in latents.report.skipped] == ["cat/bad.png"]
    again = encode_images(read_image_folder(folder), load_image_codec("pixels", 3), 8, folder / ".latents")
    assert [item.item for item in again.report.skipped] == ["cat/bad.png"]
    only_bad = ImageSet(tuple(i for i in read_image_folder(folder).items if i.id == "cat/bad.png"), ())
    with pytest.raises(UserError, match="none of the 1 images"):
        encode_images(only_bad, load_image_codec("pixels", 3), 8, None)


class Counting:
    """The codec of pixels, counting what it encodes."""

    def __init__(self):
        self.codec, self.images = load_image_codec("pixels", 3), 0

    def __getattr__(self, name):
        return getattr(self.codec, name)

    def encode(self, images):
        self.images += len(images)
        return self.codec.encode(images)


def test_latents_are_encoded_once_and_anew_for_other_options(folder):
    codec, images = Counting(), read_image_folder(folder)
    first = encode_images(images, codec, 8, folder / ".latents")
    second = encode_images(images, codec, 8, folder / ".latents")
    assert codec.images == 6
    assert all((a == b).all() for a, b in zip(first.chunks, second.chunks, strict=True))
    file = next((folder / ".latents").glob("*.npy"))
    encode_images(images, codec, 8, folder / ".latents", flip=True)
    assert codec.images == 18
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="delete the file"):
        encode_images(images, codec, 8, folder / ".latents")


def test_batches_are_a_function_of_seed_and_step(folder):
    latents = encode_images(read_image_folder(folder), load_image_codec("pixels", 3), 8, None, flip=True)
    one, two = ImageDataset(latents, 5), ImageDataset(latents, 5)
    two.batch(7, 4)  # what was drawn before does not matter
    a, b = one.batch(2, 4), two.batch(2, 4)
    assert torch.equal(a.latents, b.latents)
    assert a.ids == b.ids
    assert a.latents.shape == (4, 3, 8, 8)
    assert a.captions == [name.split("/")[0] for name in a.ids]
    assert not torch.equal(a.latents, ImageDataset(latents, 6).batch(2, 4).latents)
    epoch = [name for step in range(2) for name in one.batch(step, 3).ids]
    assert sorted(epoch) == sorted(latents.ids)
    with pytest.raises(UserError, match="batch_size"):
        one.batch(0, 0)


def test_images_are_mirrored_about_half_the_time():
    pixels = np.zeros((8, 8, 1), np.uint8)
    pixels[:, 0] = 255
    images = ImageSet((array_item("x", "", pixels), array_item("y", "", pixels)), ())
    latents = encode_images(images, load_image_codec("pixels", 1), 8, None, flip=True)
    batch = ImageDataset(latents, 0).batch(0, 200).latents
    left = (batch[:, 0, 0, 0] == 1).float().mean()
    right = (batch[:, 0, 0, -1] == 1).float().mean()
    assert left + right == 1
    assert 0.35 < left < 0.65


def test_digits():
    from eisbach.data.images import load_digits

    digits = load_digits()
    assert len(digits) == 1797
    assert digits.classes == tuple("0123456789")
    pixels, _ = read_all(digits, None, 1, "none")
    assert pixels.shape == (1797, 8, 8, 1)
    assert pixels.max() == 255
    train, held = digits.split(0.25)
    assert len(train) + len(held) == 1797
    assert 0.2 < len(held) / 1797 < 0.3


def test_digits_need_scikit_learn(monkeypatch):
    import sys

    from eisbach.data.images import load_digits

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match="pip install"):
        load_digits()


def test_an_empty_class_folder_is_named(folder):
    (folder / "mouse").mkdir()
    images = read_image_folder(folder)
    assert images.classes == ("cat", "dog")
    assert [(item.item, item.reason) for item in images.report.skipped] == [
        ("mouse/", "is a class folder without an image, so no class")
    ]
