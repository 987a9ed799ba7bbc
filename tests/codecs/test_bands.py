from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from codec_fit import measure_codec
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from eisbach.codecs import Codec, load_codec
from eisbach.codecs.bands import BandCodec
from eisbach.errors import CheckpointError, UserError
from eisbach.types import Waveform

Noise = Callable[..., Waveform]


def harmonic(frequency: float, rate: int, count: int) -> np.ndarray:
    """A tone with overtones that fall by 1/k^2, as instruments' do."""
    time = np.arange(count) / rate
    tone = sum(np.sin(2 * np.pi * frequency * k * time) / k**2 for k in range(1, 7))
    return (0.2 * tone).astype(np.float32)


def test_shapes_and_determinism(whole_codec: BandCodec, noise: Noise) -> None:
    assert isinstance(whole_codec, Codec)
    latents = whole_codec.encode(noise(1.0))
    assert latents.shape == (whole_codec.channels, -(-8000 // whole_codec.samples_per_frame))
    assert latents.dtype == torch.float32
    assert torch.equal(latents, whole_codec.encode(noise(1.0)))
    one, two = (whole_codec.decode(latents)[0] for _ in range(2))
    assert np.array_equal(one.samples, two.samples)
    assert (one.sample_rate, one.samples.dtype) == (8000, np.float32)
    assert one.samples.shape == (1, latents.shape[1] * whole_codec.samples_per_frame)
    assert np.abs(one.samples).max() <= 1.0


def test_a_batch_decodes_like_its_items(whole_codec: BandCodec, noise: Noise) -> None:
    rows = [whole_codec.encode(noise(0.5, seed=seed)) for seed in range(10)]  # more than are inverted together
    together = whole_codec.decode(torch.stack(rows))
    assert len(together) == 10
    for row, made in zip(rows, together, strict=True):
        np.testing.assert_allclose(made.samples, whole_codec.decode(row)[0].samples, atol=1e-4)


def test_latents_are_linear_in_levels_and_a_gain_is_a_shift(whole_codec: BandCodec, noise: Noise) -> None:
    a, b = (whole_codec.levels(noise(0.5, seed=seed)) for seed in (1, 2))
    mixed = whole_codec.levels_to_latents(0.3 * a + 0.7 * b)
    expected = 0.3 * whole_codec.levels_to_latents(a) + 0.7 * whole_codec.levels_to_latents(b)
    torch.testing.assert_close(mixed, expected, atol=1e-4, rtol=1e-4)
    wave = noise(0.512)  # whole frames: silence that fills the last one has no gain
    louder = Waveform(wave.samples * 2.0, wave.sample_rate)
    shift = whole_codec.encode(louder) - whole_codec.encode(wave)
    per_decibel = whole_codec.basis.sum(1) / whole_codec.scale
    torch.testing.assert_close(shift, (20 * np.log10(2) * per_decibel)[:, None].expand_as(shift), atol=1e-3, rtol=0)


def test_levels_and_latents_are_inverse_under_a_complete_basis(whole_codec: BandCodec, noise: Noise) -> None:
    levels = whole_codec.levels(noise(0.5))
    assert levels.shape == (16, 8 * 4)
    torch.testing.assert_close(whole_codec.latents_to_levels(whole_codec.levels_to_latents(levels)), levels)
    many = torch.stack([levels, levels + 3.0])
    torch.testing.assert_close(whole_codec.levels_to_latents(many)[0], whole_codec.levels_to_latents(levels))
    quiet = whole_codec.latents_to_levels(torch.full((whole_codec.channels, 2), -100.0))
    assert float(quiet.min()) == whole_codec.config.floor_db


@pytest.mark.parametrize("rate", [4000, 8000, 22050, 44100, 192000])
def test_any_sample_rate_and_channel_count(whole_codec: BandCodec, rate: int) -> None:
    time = np.arange(rate) / rate
    tone = (0.2 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    base = whole_codec.encode(Waveform(tone[None], rate))
    assert base.shape[1] == -(-8000 // whole_codec.samples_per_frame)
    six = whole_codec.encode(Waveform(np.repeat(tone[None], 6, axis=0), rate))
    torch.testing.assert_close(six, base, atol=1e-3, rtol=0)
    # opposite channels cancel: the codec hears their mean, and silence sits at the floor
    silent = whole_codec.encode(Waveform(np.stack([tone, -tone]), rate))
    torch.testing.assert_close(silent, whole_codec.encode(Waveform(np.zeros((1, rate), np.float32), rate)))


@pytest.mark.parametrize("count", [0, 1, 100, 512])
def test_short_audio_is_one_frame_padded_with_silence(whole_codec: BandCodec, count: int) -> None:
    assert whole_codec.samples_per_frame == 512
    latents = whole_codec.encode(Waveform(np.full((1, count), 0.1, np.float32), 8000))
    assert latents.shape == (whole_codec.channels, 1)
    assert bool(latents.isfinite().all())
    padded = np.zeros((1, 512), np.float32)
    padded[:, :count] = 0.1
    assert torch.equal(latents, whole_codec.encode(Waveform(padded, 8000)))


def test_silence_comes_back_silent(packaged: BandCodec) -> None:
    latents = packaged.encode(Waveform(np.zeros((1, 1000), np.float32), 22050))
    assert float(np.abs(packaged.decode(latents)[0].samples).max()) < 1e-3  # -60 dBFS


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_audio_and_latents_are_refused(whole_codec: BandCodec, noise: Noise, bad: float) -> None:
    wave = noise(0.1)
    wave.samples[0, 7] = bad
    with pytest.raises(UserError, match="waveform holds NaN or infinite"):
        whole_codec.encode(wave)
    latents = torch.zeros(whole_codec.channels, 2)
    latents[3, 1] = bad
    with pytest.raises(UserError, match="latents hold NaN or infinite"):
        whole_codec.decode(latents)


@pytest.mark.parametrize("shape", [(63, 2), (64, 0), (64,), (2, 63, 2), (1, 1, 64, 2)])
def test_latents_of_another_shape_are_refused(whole_codec: BandCodec, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"do not fit this codec: \(64, T\)"):
        whole_codec.decode(torch.zeros(shape))


def test_frames_for(whole_codec: BandCodec, packaged: BandCodec) -> None:
    per_frame = 512 / 8000
    assert [whole_codec.frames_for(s) for s in (0.0, 1e-9, per_frame, 1.99 * per_frame, 2 * per_frame)] == [
        1,
        1,
        1,
        1,
        2,
    ]
    assert whole_codec.decode(torch.zeros(64, whole_codec.frames_for(1.0)))[0].duration <= 1.0
    assert packaged.frames_for(30) == 80
    for n in (1, 3, 7, 113, 12345):  # a length in whole frames is never lost to rounding
        assert packaged.frames_for(n * packaged.samples_per_frame / packaged.sample_rate) == n
    for bad in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="finite length"):
            whole_codec.frames_for(bad)
    assert whole_codec.decode(torch.zeros(0, 64, 3)) == []


def test_saving_keeps_the_latents_and_the_identity(whole_codec: BandCodec, saved: Path, noise: Noise) -> None:
    loaded = load_codec(str(saved))
    assert loaded.identity() == whole_codec.identity()
    assert torch.equal(loaded.encode(noise()), whole_codec.encode(noise()))
    latents = whole_codec.encode(noise(0.3))
    loaded.iterations = whole_codec.iterations  # type: ignore[attr-defined]
    assert np.array_equal(loaded.decode(latents)[0].samples, whole_codec.decode(latents)[0].samples)


def test_identity_follows_what_changes_latents_and_nothing_else(whole_codec: BandCodec) -> None:
    def make(**changes: torch.Tensor) -> str:
        parts = {name: getattr(whole_codec, name) for name in ("mean", "basis", "scale", "synthesis")} | changes
        return BandCodec(**parts, stack=4, config=whole_codec.config).identity()

    assert make() == whole_codec.identity()
    assert make(synthesis=whole_codec.synthesis * 2) == whole_codec.identity()
    others = {make(mean=whole_codec.mean + 1), make(basis=-whole_codec.basis), make(scale=whole_codec.scale * 2)}
    assert len(others | {whole_codec.identity()}) == 4


def test_tensors_that_do_not_fit_each_other(whole_codec: BandCodec) -> None:
    good = {name: getattr(whole_codec, name) for name in ("mean", "basis", "scale", "synthesis")}
    for name in good:
        bad = good | {name: good[name][:-1]}
        if name == "basis":
            bad = good | {name: good[name][:, :-1]}
        with pytest.raises(CheckpointError, match="do not fit each other"):
            BandCodec(**bad, stack=4, config=whole_codec.config)


def rewrite(path: Path, tensors: dict[str, torch.Tensor] | None = None, **metadata: str) -> None:
    with safe_open(str(path), framework="pt") as handle:
        old = handle.metadata()
    save_file(tensors or load_file(path), str(path), metadata=old | metadata)


def test_broken_and_foreign_files_are_one_sentence(saved: Path, tmp_path: Path) -> None:
    whole = saved.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="is truncated or not a safetensors file"):
            BandCodec.load(saved)
    saved.write_bytes(whole)
    tensors = load_file(saved)
    save_file({"weight": torch.zeros(2)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(CheckpointError, match=r"not a codec file .*weight"):
        BandCodec.load(tmp_path / "other.safetensors")
    rewrite(saved, {name: tensor for name, tensor in tensors.items() if name != "scale"})
    with pytest.raises(CheckpointError, match="not a codec file"):
        BandCodec.load(saved)
    rewrite(saved, tensors | {"mean": tensors["mean"] * float("nan")})
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        BandCodec.load(saved)
    for settings in ("{", "[]", "{}", json.dumps({"stack": 4, "pitch": 1})):
        rewrite(saved, tensors, settings=settings)
        with pytest.raises(CheckpointError, match="cannot be understood"):
            BandCodec.load(saved)
    with pytest.raises(CheckpointError, match=r"missing\.safetensors does not exist"):
        BandCodec.load(tmp_path / "missing.safetensors")


def test_a_codec_that_does_not_exist(tmp_path: Path) -> None:
    for name in ("mel", str(tmp_path), str(tmp_path / "x.safetensors")):
        with pytest.raises(UserError, match=r"there is no codec .*known codecs: bands"):
            load_codec(name)


def test_the_packaged_codec_is_what_the_base_was_made_for(packaged: BandCodec) -> None:
    assert (packaged.channels, packaged.sample_rate, packaged.samples_per_frame) == (96, 22050, 8192)
    assert packaged.identity() == "bands-291755b2d8300de9"
    gram = packaged.basis.double() @ packaged.basis.double().T
    assert float((gram - torch.eye(96)).abs().max()) < 2e-3  # orthonormal, stored in half precision


def test_tones_come_back_at_their_pitch_and_level(packaged: BandCodec) -> None:
    rate, count = packaged.sample_rate, 4 * packaged.samples_per_frame
    pitches = [196.0, 330.0, 440.0, 880.0]
    latents = torch.stack([packaged.encode(Waveform(harmonic(f, rate, count)[None], rate)) for f in pitches])
    for frequency, made in zip(pitches, packaged.decode(latents), strict=True):
        middle = made.samples[0, 8192:24576]
        before = harmonic(frequency, rate, count)[8192:24576]
        spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 4 * len(middle)))
        peak = spectrum.argmax() * rate / (4 * len(middle))
        assert abs(12 * np.log2(peak / frequency)) < 1.0, frequency
        assert abs(10 * np.log10(np.square(middle).mean() / np.square(before).mean())) < 3.0, frequency


@pytest.mark.whole
def test_rendered_music_comes_back_within_the_bound(packaged: BandCodec, tmp_path: Path) -> None:
    from eisbach.data.render import RenderSpec, render

    spec = RenderSpec(seed=11, seconds=(6.0,), pieces=("bach/bwv66.6",))
    manifest, _ = render(tmp_path / "clips", clips=3, spec=spec, cache=tmp_path / "scores", quiet=True)
    assert len(manifest) == 3
    error = measure_codec(packaged, [manifest.audio_path(row) for row in manifest])
    assert error["clips"] == 3
    assert 0.5 < error["band_rmse_db"] <= 4.5
    assert error["band_rmse_db"] < error["mel_rmse_db"] < 6.0
    # 80 dB below the clip's maximum reaches under the codec's floor of -80 dBFS: inaudible cells dominate
    assert error["mel_rmse_80_db"] < 15.0
