"""Clips that start from audio, and clips that keep parts of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eisbach.audio import audio_hash, read_audio, write_audio
from eisbach.backbones import load_backbone
from eisbach.backbones.stable_audio3 import StableAudio3Backbone
from eisbach.config import build_config
from eisbach.diffusion.samplers import sample_ode, sample_pingpong
from eisbach.errors import AudioError, ConfigError, UserError
from eisbach.generation import GenerateConfig, generate
from eisbach.generation.source import Source
from eisbach.generation.takes import sampling_times
from eisbach.types import Waveform

NATIVE = Path(__file__).parent.parent / "fixtures" / "sa3_native_tiny"


def song(path: Path, seconds: float, rate: int = 8000, channels: int = 1, gain: float = 0.3) -> Path:
    """A rising tone with a beat."""
    time = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * (220 + 20 * time) * time) * (0.4 + 0.6 * (time % 0.5 < 0.25))
    samples = np.stack([gain * tone * (1 - 0.3 * channel) for channel in range(channels)])
    write_audio(path, Waveform(samples.astype(np.float32), rate))
    return path


def config_of(model: Path, out: Path, **changes: Any) -> GenerateConfig:
    values: dict[str, Any] = {
        "model": str(model),
        "out": str(out),
        "prompts": [{"id": "calm", "text": "slow low cello"}],
        "num_inference_steps": 4,
        "headroom": 0,
    }
    return build_config(GenerateConfig, values | changes)


def made(model: Path, out: Path, **changes: Any) -> Waveform:
    generate(config_of(model, out, **changes), quiet=True)
    return read_audio(out / "calm_seed-0.flac")


def distance(a: Waveform, b: Waveform) -> float:
    """Of two clips, as a share of the second's size."""
    count = min(a.samples.shape[1], b.samples.shape[1])
    first, second = a.samples[:, :count], b.samples[:, :count]
    return float(np.linalg.norm(first - second) / np.linalg.norm(second))


def through_codec(file: Path) -> Waveform:
    """What the model's codec makes of a recording."""
    codec = load_backbone_once().load_codec()
    return codec.decode(codec.encode(read_audio(file)))[0]


# From audio --------------------------------------------------------------------------------------------------------


@pytest.mark.whole
def test_the_less_noise_the_nearer_to_the_recording(tmp_path: Path) -> None:
    file = song(tmp_path / "song.flac", 4.0, 44100, 2)
    clips = [made(NATIVE, tmp_path / str(t), init=str(file), noise=t) for t in (0.02, 0.5, 0.95)]
    distances = [distance(clip, through_codec(file)) for clip in clips]
    assert distances == sorted(distances)
    assert distances[0] < 0.2 * distances[2]
    assert [clip.duration for clip in clips] == pytest.approx([4.0] * 3, abs=0.3)  # as long as the recording
    stamp = json.loads((tmp_path / "0.5" / "generation.json").read_text())
    assert (stamp["noise"], stamp["init_audio"], stamp["init"]) == (0.5, audio_hash(file), str(file))


@pytest.mark.parametrize("sampler", ["euler", "heun", "pingpong"])
def test_sampling_starts_from_the_audio_and_noise_of_its_level(sampler: str) -> None:
    """With a network that knows the data, every sampler ends on it; the first x is the mixture."""
    backbone = load_backbone(NATIVE)
    noise = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    data = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(1))
    seen: list[tuple[float, torch.Tensor]] = []

    def predict(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append((float(t[0]), x_t.clone()))
        return (x_t - data) / t.view(-1, 1, 1)  # u = noise - x0 of the exact path

    times = sampling_times(config_of(NATIVE, Path("out")), backbone, 0.6)
    shared: dict[str, Any] = {"path": "linear", "target": "u", "noise": noise, "times": times, "init": data}
    if sampler == "pingpong":
        end = sample_pingpong(predict, fresh_noise=lambda step: noise, **shared)
    else:
        end = sample_ode(predict, method=sampler, **shared)
    assert seen[0][0] == pytest.approx(0.6)
    torch.testing.assert_close(seen[0][1], 0.4 * data + 0.6 * noise)
    torch.testing.assert_close(end, data, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("schedule", ["uniform", "sa3", "karras", "log_snr"])
@pytest.mark.parametrize("steps", [1, 8, 50])
@pytest.mark.parametrize("start", [0.999, 0.6, 0.2, 0.01])
def test_levels_below_a_start_are_as_many_as_asked_for(schedule: str, steps: int, start: float) -> None:
    config = config_of(NATIVE, Path("out"), schedule=schedule, num_inference_steps=steps)
    times = sampling_times(config, load_backbone_once(), start)
    assert len(times) == steps + 1
    assert bool((times.diff() < 0).all())
    assert float(times[-1]) == 0
    whole = sampling_times(config, load_backbone_once())
    assert float(times[0]) == pytest.approx(min(start, float(whole[0])))


_BACKBONES: list[Any] = []


def load_backbone_once() -> Any:
    if not _BACKBONES:
        _BACKBONES.append(load_backbone(NATIVE))
    return _BACKBONES[0]


@pytest.mark.parametrize(("rate", "channels"), [(32000, 1), (48000, 2), (44100, 3)])
@pytest.mark.whole
def test_any_rate_and_channels_are_made_the_codec_s(tmp_path: Path, rate: int, channels: int) -> None:
    file = song(tmp_path / "song.wav", 2.0, rate, channels)
    clip = made(NATIVE, tmp_path / "out", init=str(file), noise=0.02)
    assert (clip.sample_rate, clip.channels) == (44100, 2)
    if channels == 3:  # mixed to one, which is doubled
        mixed = read_audio(file, mono=True)
        write_audio(file.with_name("mixed.wav"), mixed)
        file = file.with_name("mixed.wav")
    assert distance(clip, made(NATIVE, tmp_path / "same", init=str(file), noise=0.02)) < 1e-3
    assert distance(clip, made(NATIVE, tmp_path / "plain", duration=2.0)) > 0.02


def test_a_longer_recording_gives_its_beginning(tmp_path: Path) -> None:
    long, short = song(tmp_path / "long.flac", 6.0, 44100, 2), song(tmp_path / "short.flac", 2.0, 44100, 2)
    first = made(NATIVE, tmp_path / "a", init=str(long), noise=0.3, duration=2.0)
    second = made(NATIVE, tmp_path / "b", init=str(short), noise=0.3)
    assert first.duration == second.duration == pytest.approx(2.0, abs=0.01)
    assert distance(first, second) < 0.2  # the last frame alone sees what comes after


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"noise": 0.5}, "'init', which is missing"),
        ({"keep": [[0, 1]]}, "'init', which is missing"),
        ({"init": "x", "noise": 1.0}, "nothing is left of 'init'"),
        ({"init": "x", "noise": 0.0}, "'noise'"),
        ({"init": "x", "noise": 1.5}, "'noise'"),
        ({"init": "x", "keep": [[2, 1]]}, "seconds that rise"),
        ({"init": "x", "keep": [[-1, 1]]}, "seconds that rise"),
        ({"init": "x", "keep": [[0, float("inf")]]}, "seconds that rise"),
    ],
)
def test_faults_of_the_configuration(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config_of(tmp_path, tmp_path, **changes)


def test_recordings_that_cannot_be_meant_are_one_sentence(tiny_model: Path, tmp_path: Path) -> None:
    short, silent = song(tmp_path / "short.flac", 2.0), song(tmp_path / "silent.flac", 2.0, gain=0.0)
    blip = song(tmp_path / "blip.flac", 0.5)
    no = tmp_path / "no"
    with pytest.raises(UserError, match=r"short.flac lasts 2.00 s and 5 s are asked for"):
        made(tiny_model, no, init=str(short), duration=5.0)
    with pytest.raises(UserError, match="knows no inpainting, so it cannot keep"):
        made(tiny_model, no, init=str(short), keep=[[0, 1]])
    with pytest.raises(UserError, match="give a second of audio"):
        made(tiny_model, no, init=str(blip))
    with pytest.raises(AudioError, match="is silent"):
        made(tiny_model, no, init=str(silent))
    with pytest.raises(AudioError, match=r"nothing.flac"):
        made(tiny_model, no, init=str(tmp_path / "nothing.flac"))
    long = song(tmp_path / "long.flac", 121.0)
    with pytest.raises(UserError, match=r"long.flac lasts 121.0 s, and the model .* plays up to 120 s"):
        made(tiny_model, no, init=str(long))
    assert not list(tmp_path.glob("no/*.flac"))


def test_other_audio_noise_or_parts_need_another_folder(tiny_model: Path, tmp_path: Path) -> None:
    file, other = song(tmp_path / "song.flac", 2.0), song(tmp_path / "other.flac", 2.0, gain=0.2)
    made(tiny_model, tmp_path / "out", init=str(file), noise=0.5)
    moved = file.rename(tmp_path / "moved.flac")
    made(tiny_model, tmp_path / "out", init=str(moved), noise=0.5)
    with pytest.raises(UserError, match="init_audio was"):
        made(tiny_model, tmp_path / "out", init=str(other), noise=0.5)
    with pytest.raises(UserError, match=r"noise was 0.5"):
        made(tiny_model, tmp_path / "out", init=str(moved), noise=0.4)


# Kept parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [None, 0.7])
@pytest.mark.parametrize("sampler", ["euler", "pingpong"])
@pytest.mark.whole
def test_kept_seconds_are_the_recording_and_the_rest_is_new(tmp_path: Path, noise: float | None, sampler: str) -> None:
    file = song(tmp_path / "song.flac", 4.0, 44100, 2)
    options = {"init": str(file), "keep": [[0, 1.5], [3, 3.5]], "sampler": sampler, "noise": noise}
    clip, original = made(NATIVE, tmp_path / "out", **options), read_audio(file)
    rate = clip.sample_rate
    assert rate == original.sample_rate
    for start, end in ((0, 1.48), (3.02, 3.48)):
        part = slice(round(start * rate), round(end * rate))
        np.testing.assert_allclose(clip.samples[:, part], original.samples[:, part], atol=2e-4)  # 16 bits, twice
    between = slice(round(1.7 * rate), round(2.8 * rate))
    assert np.abs(clip.samples[:, between] - original.samples[:, between]).max() > 0.05


def test_a_short_recording_goes_on(tmp_path: Path) -> None:
    file = song(tmp_path / "song.flac", 2.0, 44100, 2)
    clip = made(NATIVE, tmp_path / "out", init=str(file), keep=[[0, 2]], duration=4.0)
    assert clip.duration == pytest.approx(4.0, abs=0.2)
    assert np.abs(clip.samples[:, round(2.5 * clip.sample_rate) :]).max() > 1e-3
    with pytest.raises(UserError, match="keep and noise 1"):
        made(NATIVE, tmp_path / "no", init=str(file), keep=[[0, 2]], duration=4.0, noise=0.5)


def test_the_network_is_shown_what_is_kept_in_both_branches_of_guidance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = song(tmp_path / "song.flac", 4.0, 44100, 2)
    predict, shown = StableAudio3Backbone.predict, []

    def watched(self: Any, x_t: Any, t: Any, conditioning: Any, inpainting: Any = None) -> Any:
        shown.append((x_t.shape, inpainting))
        return predict(self, x_t, t, conditioning, inpainting)

    monkeypatch.setattr(StableAudio3Backbone, "predict", watched)
    made(NATIVE, tmp_path / "out", init=str(file), keep=[[0, 2]], guidance_scale=4.0)
    (rows, channels, frames), told = shown[0]
    assert rows == 2
    assert told.shape == (2, 1 + channels, frames)
    assert torch.equal(told[0], told[1])
    half = round(2 * frames / 4)
    assert told[0, 0].sum() == pytest.approx(half, abs=1)
    assert bool((told[0, 1:, : half - 1].abs().sum(dim=0) > 0).all())
    assert not bool(told[0, :, half + 1 :].any())
    shown.clear()
    made(NATIVE, tmp_path / "plain", duration=4.0)
    assert shown[0][1] is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"keep": [[0, 9]]}, r"keep reaches to 9 s, and the clip has 4.00 s of .*song.flac"),
        ({"keep": [[0, 3]], "duration": 2.0}, r"keep reaches to 3 s, and the clip has 2.00 s of"),
        ({"keep": [[0, 4]]}, "keep covers the whole clip"),
        ({"keep": [[0, 2], [1, 4]]}, "keep covers the whole clip"),
        ({"keep": [[1.0, 1.001]]}, "less than a frame of the model"),
    ],
)
def test_parts_that_cannot_be_kept(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    file = song(tmp_path / "song.flac", 4.0, 44100, 2)
    with pytest.raises(UserError, match=told):
        made(NATIVE, tmp_path / "out", init=str(file), **changes)


def test_pasting_fades_at_inner_edges_and_nowhere_else() -> None:
    rate, count = 1000, 2000
    ones, zeros = (Waveform(np.full((1, count), value, np.float32), rate) for value in (1.0, 0.0))
    nothing = torch.zeros(0)
    source = Source(ones, nothing, nothing, ((0.0, 0.5), (1.0, 2.0)))
    share = source.paste(zeros).samples[0]
    assert share[0] == share[479] == share[-1] == share[1020] == 1
    assert 0 < share[499] < share[490] < 1
    assert 0 < share[1000] < share[1010] < 1
    assert not share[500:1000].any()
