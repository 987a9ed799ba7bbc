"""Pixels: nothing changes, and what is no image is refused."""

from __future__ import annotations

import pytest
import torch

from eisbach.codecs import ImageCodec, load_image_codec
from eisbach.codecs.images import PixelCodec
from eisbach.errors import UserError


def test_is_an_image_codec_that_changes_nothing() -> None:
    codec = load_image_codec("pixels")
    assert isinstance(codec, ImageCodec)
    assert (codec.channels, codec.image_channels, codec.downsampling) == (3, 3, 1)
    images = torch.rand(2, 3, 5, 7) * 2 - 1
    assert torch.equal(codec.encode(images), images)
    assert torch.equal(codec.decode(codec.encode(images)), images)


def test_grey_images_have_an_identity_of_their_own() -> None:
    assert load_image_codec("pixels", 1).encode(torch.zeros(1, 1, 2, 2)).shape == (1, 1, 2, 2)
    assert PixelCodec(1).identity() != PixelCodec(3).identity()


def test_decoding_keeps_to_the_range() -> None:
    latents = torch.tensor([-3.0, -0.5, 0.5, 1.5]).reshape(1, 1, 2, 2)
    assert PixelCodec(1).decode(latents).flatten().tolist() == [-1, -0.5, 0.5, 1]


def test_an_empty_batch_is_no_mistake() -> None:
    assert PixelCodec().encode(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(1, 1, 4, 4), r"\(images, 3, height, width\) is expected"),
        (torch.zeros(3, 4, 4), r"\(images, 3, height, width\) is expected"),
        (torch.full((1, 3, 4, 4), 255.0), r"values from 255 to 255 arrived; they must lie in \[-1, 1\]"),
        (torch.full((1, 3, 4, 4), float("nan")), "be finite"),
    ],
)
def test_what_is_no_image_is_refused(images: torch.Tensor, words: str) -> None:
    with pytest.raises(UserError, match=words):
        PixelCodec().encode(images)


def test_latents_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="NaN or infinite"):
        PixelCodec().decode(torch.full((1, 3, 2, 2), float("inf")))


def test_two_channels_are_no_image() -> None:
    with pytest.raises(UserError, match="pixels with 2 channels"):
        PixelCodec(2)


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(UserError, match="there is no image codec 'jpeg'; known: pixels"):
        load_image_codec("jpeg")
