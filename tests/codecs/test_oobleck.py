"""Oobleck: diffusers' numbers, pieces against the whole, and files that are not what they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from eisbach.codecs import load_codec
from eisbach.codecs import oobleck as module
from eisbach.codecs.base import Codec
from eisbach.codecs.oobleck import OobleckCodec, reach_in_frames
from eisbach.errors import CheckpointError, UserError
from eisbach.types import Waveform


def autoencoder(ratios: tuple[int, ...] = (2, 4)) -> Any:
    from diffusers import AutoencoderOobleck

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoencoderOobleck(
            encoder_hidden_size=8,
            downsampling_ratios=list(ratios),
            channel_multiples=[1, 2],
            decoder_channels=4,
            decoder_input_channels=4,
            audio_channels=2,
            sampling_rate=8000,
        )
        for name, parameter in model.named_parameters():
            if name.endswith(("alpha", "beta")):
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("oobleck")
    autoencoder().save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def codec(folder: Path) -> OobleckCodec:
    return OobleckCodec.load(folder)


def noise(frames: int, channels: int = 2, rate: int = 8000) -> Waveform:
    samples = 0.1 * np.random.default_rng(0).standard_normal((channels, frames * 8))
    return Waveform(samples.astype(np.float32), rate)


def test_it_is_a_codec(codec: OobleckCodec, folder: Path) -> None:
    assert isinstance(codec, Codec)
    assert (codec.sample_rate, codec.channels, codec.samples_per_frame, codec.latent_rate) == (8000, 4, 8, 1000)
    assert codec.frames_for(0.0105) == 10
    assert load_codec(str(folder)).identity() == codec.identity()


@torch.no_grad()
def test_numbers_are_diffusers_and_the_mean(codec: OobleckCodec) -> None:
    theirs, audio = autoencoder(), noise(50)
    latents = codec.encode(audio)
    assert latents.shape == (4, 50)
    assert torch.allclose(latents, theirs.encode(torch.from_numpy(audio.samples)[None]).latent_dist.mean[0], atol=1e-6)
    (made,) = codec.decode(latents)
    assert made.samples.shape == (2, 400)
    assert np.allclose(made.samples, theirs.decode(latents[None]).sample[0].numpy(), atol=1e-6)


def test_pieces_give_the_whole(codec: OobleckCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = noise(401)
    monkeypatch.setattr(module.OobleckCodec, "piece_frames", 10_000)
    latents = codec.encode(audio)
    (whole,) = codec.decode(latents)
    monkeypatch.setattr(module.OobleckCodec, "piece_frames", 1)  # four times the reach
    pieces: list[tuple[int, int]] = []

    def count(start: int, stop: int) -> torch.Tensor:
        pieces.append((start, stop))
        return torch.arange(start, stop)[None, None]

    assert torch.equal(codec._in_pieces(401, count, 1)[0, 0], torch.arange(401))
    assert len(pieces) > 3
    assert torch.allclose(codec.encode(audio), latents, atol=1e-6)
    assert np.allclose(codec.decode(latents)[0].samples, whole.samples, atol=1e-6)


def test_reach_covers_what_a_change_moves(codec: OobleckCodec) -> None:
    """Bumping one frame (or the audio under it) moves nothing further away than the reach, and much of what is
    nearer."""
    reach, middle = reach_in_frames(codec.ratios), 100
    audio = noise(200)
    latents = codec.encode(audio)
    audio.samples[:, middle * 8 : middle * 8 + 8] += 1.0
    moved = (codec.encode(audio) - latents).abs().amax(dim=0).nonzero()[:, 0]
    bumped = latents.clone()
    bumped[:, middle] += 1.0
    first, second = codec.decode(torch.stack([latents, bumped]))
    samples = np.abs(first.samples - second.samples).max(axis=0).nonzero()[0] // 8
    for places in (moved.tolist(), samples.tolist()):
        furthest = max(middle - min(places), max(places) - middle)
        assert reach / 2 < furthest <= reach
    assert reach_in_frames([2, 4, 4, 8, 8]) < 16


def test_mono_is_doubled_and_short_audio_padded(codec: OobleckCodec) -> None:
    mono = noise(10, channels=1)
    doubled = Waveform(np.repeat(mono.samples, 2, axis=0), 8000)
    assert torch.equal(codec.encode(mono), codec.encode(doubled))
    assert codec.encode(Waveform(np.zeros((2, 3), np.float32), 8000)).shape == (4, 1)


def test_unusable_input_is_refused(codec: OobleckCodec) -> None:
    with pytest.raises(UserError, match="6 channels and this codec codes 2"):
        codec.encode(noise(4, channels=6))
    with pytest.raises(UserError, match="NaN or infinite samples"):
        codec.encode(Waveform(np.full((2, 16), np.nan, np.float32), 8000))
    with pytest.raises(UserError, match=r"latents of shape \(5, 3\) do not fit"):
        codec.decode(torch.zeros(5, 3))
    with pytest.raises(UserError, match="NaN or infinite values"):
        codec.decode(torch.full((4, 3), torch.nan))
    with pytest.raises(UserError, match="no number of frames"):
        codec.frames_for(float("nan"))
    with pytest.raises(UserError, match="the codec 'oobleck' comes with its model"):
        load_codec("oobleck")


def test_unusable_files_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no AutoencoderOobleck"):
        OobleckCodec.load(tmp_path)
    autoencoder((2, 3)).save_pretrained(tmp_path / "odd")
    with pytest.raises(CheckpointError, match=r"downsampling_ratios are \[2, 3\]; only even ones"):
        OobleckCodec.load(tmp_path / "odd")
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text())))
    save_file(dict(list(tensors.items())[1:]), tmp_path / "cut" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match="1 are missing"):
        OobleckCodec.load(tmp_path / "cut")


def test_saved_and_loaded_again_is_equal(codec: OobleckCodec, tmp_path: Path) -> None:
    codec.save(tmp_path / "vae")
    assert OobleckCodec.load(tmp_path).identity() == codec.identity()
