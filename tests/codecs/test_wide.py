"""The stereo codec to 15 kHz: linear and deterministic latents, what comes back, its files, its fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from codec_fit import fit_codec, measure_codec

from eisbach.codecs import Codec, load_codec
from eisbach.codecs.bands import BandCodec
from eisbach.codecs.wide import FORMAT, WideBandCodec, WideConfig
from eisbach.errors import CheckpointError, UserError
from eisbach.tensor_files import read_tensors, write_tensors
from eisbach.types import Waveform

Noise = Callable[..., Waveform]
RATE = 32000


@pytest.fixture(scope="module")
def wide() -> WideBandCodec:
    codec = load_codec("wide-bands")
    assert isinstance(codec, WideBandCodec)
    return codec


def music(seconds: float, seed: int = 0, rate: int = RATE, channels: int = 2) -> Waveform:
    """Chords of plucked tones with clicks, placed between left and right; no band is near the floor."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    samples = 2e-3 * rng.standard_normal((channels, len(time)))
    for onset in np.arange(0.0, seconds, 0.4):
        after = np.maximum(time - onset, 0.0)
        envelope = (time >= onset) * np.exp(-3.0 * after)
        base = float(rng.choice([196.0, 262.0, 330.0, 392.0]))
        tone = sum(np.sin(2 * np.pi * base * k * after) / k for k in range(1, 12)) * envelope
        click = rng.standard_normal(len(time)) * (time >= onset) * np.exp(-200.0 * after)
        samples += rng.uniform(0.2, 1.0, (channels, 1)) * (0.1 * tone + 0.1 * click)
    return Waveform(samples.astype(np.float32), rate)


def test_shapes_and_determinism(wide: WideBandCodec) -> None:
    assert isinstance(wide, Codec)
    assert (wide.channels, wide.sample_rate, wide.samples_per_frame, wide.audio_channels) == (128, RATE, 12288, 2)
    wave = music(1.0)
    latents = wide.encode(wave)
    assert (latents.shape, latents.dtype) == ((128, 3), torch.float32)
    assert torch.equal(latents, wide.encode(wave))
    first, second = (wide.decode(latents)[0] for _ in range(2))
    assert np.array_equal(first.samples, second.samples)
    assert (first.sample_rate, first.samples.shape, first.samples.dtype) == (RATE, (2, 3 * 12288), np.float32)
    together = wide.decode(torch.stack([latents, 0.5 * latents]))
    np.testing.assert_allclose(together[0].samples, first.samples, atol=1e-5)
    assert wide.decode(latents[None][:0]) == []
    assert wide.frames_for(30.0) == 78


def test_a_gain_is_a_shift_of_the_latents_and_leaves_the_side_alone(wide: WideBandCodec) -> None:
    wave = music(12288 * 3 / RATE)
    shift = wide.encode(Waveform(0.5 * wave.samples, RATE)) - wide.encode(wave)
    per_decibel = (wide.weights @ wide.basis.T) / wide.scale
    expected = torch.cat([20 * np.log10(0.5) * per_decibel, torch.zeros(wide.side_channels)])
    torch.testing.assert_close(shift, expected[:, None].expand_as(shift), atol=2e-2, rtol=0)
    vectors = wide.levels(wave)
    mixed = wide.levels_to_latents(0.3 * vectors + 0.7 * vectors.flip(0))
    latents = wide.levels_to_latents(vectors)
    torch.testing.assert_close(mixed, 0.3 * latents + 0.7 * latents.flip(1), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("rate", [8000, 22050, 32000, 44100, 96000])
def test_any_sample_rate_and_channel_count(wide: WideBandCodec, rate: int) -> None:
    time = np.arange(rate) / rate
    tone = (0.2 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    mono = wide.encode(Waveform(tone[None], rate))
    assert mono.shape == (128, 3)
    assert not mono[-8:].any()  # mono lies in the middle
    for channels in (2, 6):
        several = wide.encode(Waveform(np.repeat(tone[None], channels, axis=0), rate))
        torch.testing.assert_close(several, mono, atol=2e-2, rtol=0)
    # opposite channels keep their power, and the side says that they are opposite
    opposite = wide.encode(Waveform(np.stack([tone, -tone]), rate))
    torch.testing.assert_close(opposite[:-8], mono[:-8], atol=1e-3, rtol=0)
    assert float(opposite[-4, 1]) == pytest.approx(np.pi, abs=0.1)  # the wide band that holds 440 Hz, or its neighbour
    made = wide.decode(opposite)[0].samples[:, 12288:24576]
    assert np.corrcoef(made)[0, 1] < -0.8


@pytest.mark.parametrize(("left", "right"), [(1.0, 1.0), (1.0, 0.3), (0.25, 1.0)])
def test_sound_comes_back_where_it_was(wide: WideBandCodec, left: float, right: float) -> None:
    mono = music(2.0, channels=1).samples
    made = wide.decode(wide.encode(Waveform(np.concatenate([left * mono, right * mono]), RATE)))[0].samples
    difference = 10 * np.log10(np.square(made[0]).mean() / np.square(made[1]).mean())
    assert difference == pytest.approx(20 * np.log10(left / right), abs=0.5)
    assert np.corrcoef(made)[0, 1] > 0.99
    given = (left**2 + right**2) * np.square(mono).mean()
    kept = np.square(made[:, : mono.shape[1]]).mean(1).sum()
    assert 10 * np.log10(kept / given) == pytest.approx(0.0, abs=1.5)


def test_independent_channels_stay_independent(wide: WideBandCodec) -> None:
    noise = 0.1 * np.random.default_rng(1).standard_normal((2, 2 * RATE)).astype(np.float32)
    made = wide.decode(wide.encode(Waveform(noise, RATE)))[0].samples
    assert abs(np.corrcoef(made)[0, 1]) < 0.25


def test_tones_come_back_at_their_pitch_and_level(wide: WideBandCodec) -> None:
    time = np.arange(6 * 12288) / RATE
    for frequency in (196.0, 330.0, 440.0, 880.0, 1900.0, 3000.0):
        harmonics = np.arange(1, 7)[:, None]  # overtones that fall by 1/k^2, as instruments' do
        tone = (0.2 * np.sin(2 * np.pi * frequency * harmonics * time) / harmonics**2).sum(0).astype(np.float32)
        made = wide.decode(wide.encode(Waveform(tone[None], RATE)))[0].samples[0, 12288:-12288]
        spectrum = np.abs(np.fft.rfft(made * np.hanning(len(made)), 4 * len(made)))
        peak = spectrum.argmax() * RATE / (4 * len(made))
        assert abs(12 * np.log2(peak / frequency)) < 1.0, frequency
        level = 10 * np.log10(np.square(made).mean() / np.square(tone).mean())
        # At 1,900 Hz the tone's main lobe reaches over the split, and both parts hear it.
        assert abs(level) < (4.0 if frequency == 1900.0 else 3.0), (frequency, level)


def test_a_click_stays_where_it_was(wide: WideBandCodec) -> None:
    """The window above 2 kHz is 32 ms: a burst of 5 ms in silence is not smeared over the window below."""
    samples = np.zeros((1, 3 * 12288), np.float32)
    samples[0, 15000:15160] = 0.5 * np.random.default_rng(0).standard_normal(160)
    made = wide.decode(wide.encode(Waveform(samples, RATE)))[0].samples[0]
    energy = np.square(made)
    near = energy[15000 - 1600 : 15160 + 1600].sum() / energy.sum()
    assert near > 0.7
    old = load_codec("bands")
    before = old.decode(old.encode(Waveform(samples, RATE)))[0].samples[0]
    centre, reach = round(15080 / RATE * 22050), round(0.0525 * 22050)
    assert near > np.square(before[centre - reach : centre + reach]).sum() / np.square(before).sum()


def test_a_loud_moment_does_not_turn_down_the_rest(wide: WideBandCodec) -> None:
    """Other phases make higher peaks; only the moments around them are turned down."""
    count = 6 * 12288
    noise = np.random.default_rng(2).standard_normal((1, count)) * np.where(np.arange(count) < 12288, 0.5, 0.05)
    given = np.clip(noise, -1, 1).astype(np.float32)
    latents = wide.encode(Waveform(given, RATE))
    together, alone = wide.decode(latents)[0].samples, wide.decode(latents[:, 2:])[0].samples
    assert 0.9 < np.abs(together).max() <= 1.0
    power = [np.square(x[:, 12288:]).mean() for x in (together[:, 2 * 12288 :], alone)]
    assert abs(10 * np.log10(power[0] / power[1])) < 0.3


def test_silence_comes_back_silent(wide: WideBandCodec) -> None:
    latents = wide.encode(Waveform(np.zeros((1, 1000), np.float32), 22050))
    assert latents.shape == (128, 1)
    assert float(np.abs(wide.decode(latents)[0].samples).max()) < 1e-3  # -60 dBFS
    assert wide.encode(Waveform(np.zeros((2, 0), np.float32), RATE)).shape == (128, 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_audio_and_latents_are_refused(wide: WideBandCodec, bad: float) -> None:
    wave = music(0.1)
    wave.samples[1, 7] = bad
    with pytest.raises(UserError, match="waveform holds NaN or infinite"):
        wide.encode(wave)
    latents = torch.zeros(128, 2)
    latents[3, 1] = bad
    with pytest.raises(UserError, match="latents hold NaN or infinite"):
        wide.decode(latents)
    with pytest.raises(UserError, match=r"do not fit this codec: \(128, T\)"):
        wide.decode(torch.zeros(96, 2))


def test_files_of_both_versions_load_by_their_name_or_path(wide: WideBandCodec, tmp_path: Path) -> None:
    old = load_codec("bands")
    assert isinstance(old, BandCodec)
    for codec in (old, wide):
        path = tmp_path / f"{codec.name}.safetensors"
        codec.save(path)
        loaded = load_codec(str(path))
        assert type(loaded) is type(codec)
        assert loaded.identity() == codec.identity()
    assert old.identity().split("-")[0] != wide.identity().split("-")[0]
    with pytest.raises(CheckpointError, match="is not a file of the codec 'wide-bands'"):
        WideBandCodec.load(tmp_path / "bands.safetensors")
    with pytest.raises(CheckpointError, match="is not a codec file"):
        BandCodec.load(tmp_path / "wide-bands.safetensors")
    shutil.copy(tmp_path / "wide-bands.safetensors", tmp_path / "cut.safetensors")
    with (tmp_path / "cut.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(UserError, match=r"cut\.safetensors"):
        load_codec(str(tmp_path / "cut.safetensors"))


@pytest.mark.parametrize("fault", ["settings", "nan", "shape"])
def test_damaged_files_are_refused(wide: WideBandCodec, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "codec.safetensors"
    wide.save(path)
    tensors = read_tensors(path)
    settings = '{"hop": 256, "colour": 1}' if fault == "settings" else "{}"
    if fault == "nan":
        tensors["mean"][4] = torch.nan
    if fault == "shape":
        tensors["basis"] = tensors["basis"][:, :-1].contiguous()
    write_tensors(path, tensors, {"format": FORMAT, "settings": settings})
    sentence = {"settings": "cannot be understood", "nan": "NaN or infinite", "shape": "do not fit each other"}[fault]
    with pytest.raises(CheckpointError, match=sentence):
        WideBandCodec.load(path)


SMALL = WideConfig(low_bands=16, middle_bands=6, wide_bands=2)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    from eisbach.audio import write_audio

    folder = tmp_path_factory.mktemp("clips")
    paths = [folder / f"{number}.wav" for number in range(4)]
    for number, path in enumerate(paths):
        write_audio(path, music(8.0, seed=number))
    return paths


@pytest.mark.slow
def test_fitting_finds_the_directions_of_the_audio(clips: list[Path], tmp_path: Path) -> None:
    codec = fit_codec(clips, channels=28, config=SMALL)
    assert (codec.channels, codec.samples_per_frame) == (28, 12288)
    assert codec.identity() == fit_codec(clips, channels=28, config=SMALL).identity()
    torch.testing.assert_close(codec.basis @ codec.basis.T, torch.eye(20), atol=2e-3, rtol=0)
    variances = torch.cat([codec.encode(_read(path))[:20] for path in clips], dim=1).var(dim=1)
    assert bool((variances[:-1] >= variances[1:] * 0.8).all())  # at half whitening the audible directions stay larger
    assert bool((codec.synthesis_low >= 0).all())
    assert bool((codec.synthesis_high >= 0).all())
    few = fit_codec(clips, channels=10, config=SMALL)
    assert measure_codec(codec, clips)["band_rmse_db"] < measure_codec(few, clips)["band_rmse_db"]
    codec.save(tmp_path / "c.safetensors")
    assert WideBandCodec.load(tmp_path / "c.safetensors").identity() == codec.identity()
    with pytest.raises(UserError, match="latent frames cannot fix 128 channels"):
        fit_codec(clips[:1], config=SMALL)
    with pytest.raises(UserError, match="at least one file"):
        measure_codec(codec, [])
    assert codec.identity() != WideBandCodec(
        codec.mean, codec.basis, codec.scale, codec.synthesis_low, codec.synthesis_high,
        config=replace(SMALL, floor_db=-90.0),
    ).identity()  # fmt: skip


@pytest.mark.whole
def test_rendered_music_comes_back_nearer_than_through_the_first_version(wide: WideBandCodec, tmp_path: Path) -> None:
    from eisbach.data.render import RenderSpec, render

    spec = RenderSpec(seed=11, seconds=(6.0,), pieces=("bach/bwv66.6",), sample_rate=RATE, channels=2)
    manifest, _ = render(tmp_path / "clips", clips=3, spec=spec, cache=tmp_path / "scores", quiet=True)
    paths = [manifest.audio_path(row) for row in manifest]
    new, old = measure_codec(wide, paths), measure_codec(load_codec("bands"), paths)
    assert new["mel_14k_rmse_db"] < 4.0
    assert new["mel_14k_rmse_80_db"] < 7.0
    for name in ("mel_rmse_db", "mel_rmse_80_db", "mel_14k_rmse_db", "mel_14k_rmse_80_db"):
        assert new[name] < old[name]
    assert new["flux_correlation"] > old["flux_correlation"]
    assert new["bandwidth_hz"] > old["bandwidth_hz"]


def _read(path: Path) -> Waveform:
    from eisbach.audio import read_audio

    return read_audio(path)
