"""SAME against what Stability's own code gave, its pieces against the whole, and SAME-S's chunks against a plain
loop."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from eisbach.audio import resample
from eisbach.codecs import load_codec
from eisbach.codecs.base import Codec
from eisbach.codecs.same import SameCodec, use_chunks
from eisbach.errors import CheckpointError, UserError
from eisbach.types import Waveform

NATIVE = Path(__file__).parent.parent / "fixtures" / "sa3_native_tiny"
REFERENCE = load_file(NATIVE / "reference.safetensors")
# The native code adds noise even when it only codes: 0.001 and 0.1 (`mask_noise`) of a normal draw to the new tokens of
# the encoder and the decoder, and 0.001 to the latents it decodes (`noise_regularize`). The reference was made with
# that noise; these are its draws, replayed from torch's generator (seed 11 before the model was built).
NOISE = load_file(NATIVE / "coding_noise.safetensors")


@pytest.fixture(scope="module")
def codec() -> SameCodec:
    return SameCodec.load(NATIVE)


def noise_audio(seconds: float, channels: int = 2, rate: int = 44100, seed: int = 0) -> Waveform:
    rng = np.random.default_rng(seed)
    return Waveform((0.1 * rng.standard_normal((channels, int(seconds * rate)))).astype(np.float32), rate)


@contextmanager
def noisy_tokens(block: Any, noise: torch.Tensor) -> Iterator[None]:
    """The block's new tokens with `noise` added, segment by segment."""

    class Tokens:
        def __init__(self, tokens: torch.Tensor) -> None:
            self.tokens = tokens

        def expand(self, *shape: int) -> torch.Tensor:
            return self.tokens.expand(*shape) + noise

    kept = block._parameters.pop("new_tokens")
    block.__dict__["new_tokens"] = Tokens(kept.data)
    try:
        yield
    finally:
        del block.__dict__["new_tokens"]
        block._parameters["new_tokens"] = kept


@torch.no_grad()
def test_encoder_agrees_given_the_native_noise(codec: SameCodec) -> None:
    audio = Waveform(REFERENCE["audio"][0].numpy(), 44100)
    with noisy_tokens(codec.model.encoder.blocks[0], 1e-3 * NOISE["encoder_tokens"]):
        latents = codec.encode(audio)
    assert float((latents - REFERENCE["latents"][0]).abs().max()) < 1e-6
    # without the noise: as far from the reference as another draw of it would be
    assert float((codec.encode(audio) - REFERENCE["latents"][0]).abs().max()) < 3e-3


@torch.no_grad()
def test_decoder_agrees_given_the_native_noise(codec: SameCodec) -> None:
    with noisy_tokens(codec.model.decoder.blocks[0], 0.1 * NOISE["decoder_tokens"]):
        (made,) = codec.decode(REFERENCE["latents"] + 1e-3 * NOISE["latents"])
    assert float(np.abs(made.samples - REFERENCE["decoded"][0].numpy()).max()) < 1e-6


def test_it_is_a_codec(codec: SameCodec) -> None:
    assert isinstance(codec, Codec)
    assert (codec.sample_rate, codec.channels, codec.samples_per_frame) == (44100, 16, 256)
    assert codec.frames_for(1.0) == 172
    assert codec.frames_for(0.0) == 1


def test_coding_is_deterministic(codec: SameCodec) -> None:
    audio = noise_audio(0.3)
    first, second = codec.encode(audio), codec.encode(audio)
    assert torch.equal(first, second)
    assert np.array_equal(codec.decode(first)[0].samples, codec.decode(first)[0].samples)


def test_a_last_partial_frame_is_padded_with_silence(codec: SameCodec) -> None:
    audio = noise_audio(0.1)
    frames = -(-audio.samples.shape[1] // 256)
    padded = np.pad(audio.samples, ((0, 0), (0, frames * 256 - audio.samples.shape[1])))
    latents = codec.encode(audio)
    assert latents.shape == (16, frames)
    assert torch.equal(latents, codec.encode(Waveform(padded, 44100)))
    assert codec.decode(latents)[0].samples.shape == (2, frames * 256)


def test_audio_is_resampled_and_mono_is_doubled(codec: SameCodec) -> None:
    mono = noise_audio(0.2, channels=1, rate=22050)
    stereo = np.repeat(resample(mono, 44100).samples, 2, axis=0)
    assert torch.equal(codec.encode(mono), codec.encode(Waveform(stereo, 44100)))


def test_more_channels_than_the_codecs_are_refused(codec: SameCodec) -> None:
    with pytest.raises(UserError, match="6 channels"):
        codec.encode(noise_audio(0.1, channels=6))


@pytest.mark.parametrize("frames", [129, 240, 300])
@torch.no_grad()
def test_long_audio_in_pieces_is_the_whole(codec: SameCodec, frames: int) -> None:
    audio = noise_audio(frames * 256 / 44100 + 1e-6)
    whole = codec.model.encode(torch.from_numpy(audio.samples)[None], return_dict=False)[0][0]
    latents = codec.encode(audio)
    assert torch.allclose(latents, whole, atol=1e-5)
    decoded = codec.model.decode(latents[None], return_dict=False)[0][0].numpy()
    assert np.allclose(codec.decode(latents)[0].samples, decoded, atol=1e-5)


def test_a_batch_is_decoded_row_by_row(codec: SameCodec) -> None:
    latents = torch.randn(2, 16, 5, generator=torch.Generator().manual_seed(0))
    first, second = codec.decode(latents)
    assert np.array_equal(second.samples, codec.decode(latents[1])[0].samples)
    assert not np.array_equal(first.samples, second.samples)


@pytest.mark.parametrize("shape", [(15, 4), (16, 0), (2, 2, 16, 4)])
def test_latents_of_another_shape_are_refused(codec: SameCodec, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"\(16, T\)"):
        codec.decode(torch.zeros(shape))


def test_non_finite_input_is_refused(codec: SameCodec) -> None:
    with pytest.raises(UserError, match="latents hold NaN"):
        codec.decode(torch.full((16, 2), torch.nan))
    with pytest.raises(UserError, match="waveform holds NaN"):
        codec.encode(Waveform(np.full((2, 300), np.inf, dtype=np.float32), 44100))


def test_saved_and_loaded_it_is_equal(codec: SameCodec, tmp_path: Path) -> None:
    codec.save(tmp_path / "vae")
    again = load_codec(str(tmp_path))
    assert again.identity() == codec.identity()
    assert torch.equal(again.encode(noise_audio(0.1)), codec.encode(noise_audio(0.1)))


def test_identity_follows_the_weights(codec: SameCodec) -> None:
    other = SameCodec.load(NATIVE)
    with torch.no_grad():
        other.model.bottleneck.scale[0, 0] += 0.5
    assert other.identity() != codec.identity()


def test_the_name_alone_is_not_enough() -> None:
    with pytest.raises(UserError, match="comes with its model"):
        load_codec("same")


def native_copy(folder: Path, change: Any = None) -> Path:
    """A native folder of the autoencoder alone, its configuration changed."""
    values = json.loads((NATIVE / "model_config.json").read_text())
    autoencoder = values["model"]["pretransform"]["config"]
    if change is not None:
        change(autoencoder)
    folder.mkdir(exist_ok=True)
    (folder / "model_config.json").write_text(
        json.dumps({"model_type": "autoencoder", "sample_rate": 44100, "model": autoencoder})
    )
    prefix = "pretransform.model."
    tensors = load_file(NATIVE / "model.safetensors")
    bare = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    save_file(bare, str(folder / "model.safetensors"))
    return folder


def test_an_autoencoder_alone_is_the_same_codec(codec: SameCodec, tmp_path: Path) -> None:
    assert load_codec(str(native_copy(tmp_path / "same"))).identity() == codec.identity()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["encoder"]["config"].update(dyt=False), "encoder.dyt"),
        (lambda c: c["decoder"]["config"].update(conformer=True), "decoder.conformer"),
        (lambda c: c["decoder"]["config"].update(dim_heads=16), "dim_heads 32 in its encoder and 16"),
        (lambda c: c["bottleneck"].update(type="vae"), "softnorm"),
        (lambda c: c["pretransform"]["config"].update(oversampling=2), "oversampling"),
        (lambda c: c["encoder"]["config"].pop("strides"), "not complete"),
        (lambda c: c["encoder"]["config"].update(sliding_window=[1, 2]), "sliding_window"),
    ],
)
def test_options_that_diffusers_does_not_compute_are_refused(change: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        SameCodec.load(native_copy(tmp_path / "same", change))


def test_tensors_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    folder = native_copy(tmp_path / "same")
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layers.9.stranger"] = torch.zeros(1)
    del tensors["decoder.layers.1.bias"]
    save_file(tensors, str(folder / "model.safetensors"))
    with pytest.raises(CheckpointError, match=r"1 are missing and 1 unknown .*decoder\.proj\.bias"):
        SameCodec.load(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = native_copy(tmp_path / "same")
    shutil.move(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"1 of 2 files.*model-00002-of-00002"):
        SameCodec.load(folder)


def test_shards_are_read_as_one(codec: SameCodec, tmp_path: Path) -> None:
    folder = native_copy(tmp_path / "same")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = [dict(list(tensors.items())[::2]), dict(list(tensors.items())[1::2])]
    weight_map: dict[str, str] = {}
    for number, half in enumerate(halves):
        save_file(half, str(folder / f"part{number}.safetensors"))
        weight_map |= dict.fromkeys(half, f"part{number}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert SameCodec.load(folder).identity() == codec.identity()


# --- SAME-S: attention within chunks, shifted by half a chunk in the second half of the layers


def chunked(config: dict[str, Any]) -> None:
    for side in ("encoder", "decoder"):
        del config[side]["config"]["sliding_window"]
        config[side]["config"].update(chunk_size=8, chunk_midpoint_shift=True)


@pytest.fixture(scope="module")
def chunked_codec(tmp_path_factory: pytest.TempPathFactory) -> SameCodec:
    return SameCodec.load(native_copy(tmp_path_factory.mktemp("chunked") / "same", chunked))


def by_hand(layers: Any, x: torch.Tensor, tokens: int) -> torch.Tensor:
    """Two layers over segments of `tokens`, two segments a chunk: the second layer's chunks begin half a chunk
    earlier."""
    segments = list(x.split(tokens, dim=1))
    out: list[torch.Tensor] = []
    for first in range(0, len(segments), 2):
        out += layers[0](torch.cat(segments[first : first + 2], dim=1)).split(tokens, dim=1)
    ends = [out[0], *out, out[-1]]
    shifted: list[torch.Tensor] = []
    for first in range(0, len(ends), 2):
        shifted += layers[1](torch.cat(ends[first : first + 2], dim=1)).split(tokens, dim=1)
    return torch.cat(shifted[1:-1], dim=1)


@torch.no_grad()
def test_chunked_encoder_is_the_plain_loop(chunked_codec: SameCodec) -> None:
    model, audio = chunked_codec.model, noise_audio(6 * 256 / 44100 + 1e-6)
    block = model.encoder.blocks[0]
    x = model.patch_embed.encode(torch.from_numpy(audio.samples)[None])
    frames = block.mapping(x).transpose(1, 2)
    segments = [torch.cat([part, block.new_tokens], dim=1) for part in frames.split(4, dim=1)]
    out = by_hand(block.transformers, torch.cat(segments, dim=1), 5)
    expected = model.bottleneck.encode(model.encoder.proj(out[:, 4::5]).transpose(1, 2))[0]
    assert torch.allclose(chunked_codec.encode(audio), expected, atol=1e-5)


@torch.no_grad()
def test_chunked_decoder_is_the_plain_loop(chunked_codec: SameCodec) -> None:
    model = chunked_codec.model
    latents = torch.randn(1, 16, 6, generator=torch.Generator().manual_seed(0))
    block = model.decoder.blocks[0]
    x = model.decoder.proj(model.bottleneck.decode(latents).transpose(1, 2))
    segments = [torch.cat([part, block.new_tokens.expand(1, 4, -1)], dim=1) for part in x.split(1, dim=1)]
    out = by_hand(block.transformers, torch.cat(segments, dim=1), 5)
    kept = torch.cat([part[:, 1:] for part in out.split(5, dim=1)], dim=1)
    expected = model.patch_embed.decode(block.mapping(kept.transpose(1, 2)))[0]
    assert np.allclose(chunked_codec.decode(latents)[0].samples, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("frames", [1, 3, 129, 301])
@torch.no_grad()
def test_chunked_long_audio_in_pieces_is_the_whole(chunked_codec: SameCodec, frames: int) -> None:
    audio = noise_audio(frames * 256 / 44100 + 1e-6)
    whole = chunked_codec.model.encode(torch.from_numpy(audio.samples)[None], return_dict=False)[0][0]
    latents = chunked_codec.encode(audio)
    assert latents.shape == (16, frames)
    assert torch.allclose(latents, whole, atol=1e-5)
    decoded = chunked_codec.model.decode(latents[None], return_dict=False)[0][0].numpy()
    assert np.allclose(chunked_codec.decode(latents)[0].samples, decoded, atol=1e-5)


def test_chunks_change_the_code_and_survive_saving(codec: SameCodec, chunked_codec: SameCodec, tmp_path: Path) -> None:
    audio = noise_audio(0.2)
    assert not torch.allclose(codec.encode(audio), chunked_codec.encode(audio), atol=1e-3)
    assert codec.identity() != chunked_codec.identity()
    chunked_codec.save(tmp_path)
    again = SameCodec.load(tmp_path)
    assert again.identity() == chunked_codec.identity()
    assert torch.equal(again.encode(audio), chunked_codec.encode(audio))


def test_chunks_that_do_not_divide_are_refused() -> None:
    with pytest.raises(CheckpointError, match="whole segments of 4"):
        use_chunks(SameCodec.load(NATIVE).model, 12, True)
