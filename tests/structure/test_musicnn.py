"""musicnn in torch against the original in TensorFlow (tests/fixtures/musicnn.safetensors), and as an embedding."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from eisbach.audio import read_audio, resample
from eisbach.errors import AudioError, UserError
from eisbach.structure.embeddings import Embedding, load_embedding
from eisbach.structure.embeddings.musicnn import SAMPLE_RATE, TAGS, MusicnnEmbedding, log_mels
from eisbach.types import Waveform

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def listener() -> MusicnnEmbedding:
    return MusicnnEmbedding()


@pytest.fixture(scope="module")
def sounds() -> list[Waveform]:
    made = runpy.run_path(str(ROOT / "recipes/judges/golden_musicnn.py"))["sounds"]()
    return [Waveform(sound[None], SAMPLE_RATE) for sound in made]


def test_outputs_are_the_originals(listener: MusicnnEmbedding, sounds: list[Waveform]) -> None:
    golden = load_file(ROOT / "tests/fixtures/musicnn.safetensors")
    # Everything is rounded to half precision on the way in: a few of the 18,000 mels round the other way.
    assert np.abs(listener.tags(sounds) - golden["tags"]).max() < 1e-5
    assert np.abs(listener.embed(sounds) - golden["penultimate"]).max() < 1e-4
    assert np.abs(golden["penultimate"]).max() > 1


def _original(path: Path, listener: MusicnnEmbedding) -> tuple[np.ndarray, np.ndarray]:
    """The mean taggram and the mean penultimate layer of a file as musicnn 0.1.0 makes them: librosa's mels in half
    precision, whole windows side by side, each through the network by itself. The network is ours, which equals the
    original's on single windows (`test_outputs_are_the_originals`). What is infinite in half precision is not rounded:
    the original has no result there."""
    librosa = pytest.importorskip("librosa")
    audio, rate = librosa.load(path, sr=16_000)
    power = librosa.feature.melspectrogram(y=audio, sr=rate, n_fft=512, hop_length=256, n_mels=96).T
    half = power.astype(np.float16)
    with np.errstate(over="ignore"):
        mels = np.log10(10_000 * half + 1)
    assert mels.dtype == np.float16
    mels = np.where(np.isinf(mels), np.log10(10_000 * half.astype(np.float32) + 1), mels.astype(np.float32))
    width = int(librosa.time_to_frames(3, sr=16_000, n_fft=512, hop_length=256)) + 1
    assert width == 187
    tags, penultimate = [], []
    for first in range(0, len(mels) - width + 1, width):
        with torch.inference_mode():
            logits, layer = listener._network(torch.from_numpy(mels[None, first : first + width]))
        tags.append(logits.sigmoid()[0].numpy())
        penultimate.append(layer[0].numpy())
    return np.mean(tags, axis=0), np.mean(penultimate, axis=0)


@pytest.mark.parametrize(
    ("seconds", "rate", "channels", "peak"),
    [
        pytest.param(2.976, 16_000, 1, 0.1, id="one window to the sample"),
        pytest.param(7.0, 16_000, 1, 0.1, id="7 s"),
        pytest.param(10.0, 44_100, 2, 0.5, id="stereo at 44.1 kHz"),
        pytest.param(10.0, 16_000, 1, 0.999, id="near full scale"),
        pytest.param(30.0, 22_050, 1, 0.1, id="30 s at 22.05 kHz", marks=pytest.mark.slow),
        pytest.param(7.3, 48_000, 2, 0.999, id="loud stereo at 48 kHz", marks=pytest.mark.whole),
        pytest.param(7.0, 8_000, 1, 0.3, id="8 kHz", marks=pytest.mark.whole),
    ],
)
def test_long_clips_are_the_originals(
    listener: MusicnnEmbedding, tmp_path: Path, seconds: float, rate: int, channels: int, peak: float
) -> None:
    """A piece whose last seconds sound of something else, so that hearing them would show."""
    soundfile = pytest.importorskip("soundfile")
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(3).standard_normal((channels, len(t)))
    beat = np.exp(-20 * ((t * 2) % 1))
    piece = np.where(t < 0.9 * seconds, beat * noise, np.sin(2 * np.pi * 440 * t) + 0.01 * noise)
    piece = peak * piece / np.abs(piece).max()
    path = tmp_path / "piece.wav"
    soundfile.write(path, piece.T, rate, subtype="FLOAT")
    tags, penultimate = _original(path, listener)
    clip = read_audio(path)
    assert np.abs(listener.tags([clip])[0] - tags).max() < 1e-4
    assert np.abs(listener.embed([clip])[0] - penultimate).max() < 1e-3


@pytest.mark.parametrize("samples", [8_000, 47_615])
def test_what_the_original_cannot_hear_is_repeated(
    listener: MusicnnEmbedding, monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    heard: list[torch.Tensor] = []
    network = listener._network
    monkeypatch.setattr(listener, "_network", lambda windows: (heard.append(windows), network(windows))[1])
    clip = 0.1 * np.random.default_rng(4).standard_normal((1, samples)).astype(np.float32)
    listener.embed([Waveform(clip, SAMPLE_RATE)])
    mels = log_mels(clip[0])
    (window,) = heard[0].numpy()
    assert len(mels) < len(window) == 187
    assert (window == np.concatenate([mels] * 6)[:187]).all()


@pytest.mark.whole
def test_mels_are_librosas(sounds: list[Waveform]) -> None:
    librosa = pytest.importorskip("librosa")
    for sound in sounds:
        power = librosa.feature.melspectrogram(y=sound.samples[0], sr=16000, n_fft=512, hop_length=256, n_mels=96).T
        assert np.abs(log_mels(sound.samples[0]) - np.log10(1 + 10_000 * power)).max() < 5e-3  # half precision's


@pytest.mark.parametrize("peak", [1.0, 0.01])
def test_loud_music_stays_finite(listener: MusicnnEmbedding, peak: float) -> None:
    # The original's logarithm is taken in half precision and is infinite above a power of 6.5.
    noise = np.random.default_rng(1).uniform(-peak, peak, (1, 4 * SAMPLE_RATE)).astype(np.float32)
    assert np.isfinite(listener.embed([Waveform(noise, SAMPLE_RATE)])).all()


@pytest.mark.parametrize("seconds", [0.6, 2.9, 3.0, 7.3, 20.0])
@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.whole
def test_any_length_and_rate(listener: MusicnnEmbedding, seconds: float, rate: int) -> None:
    t = np.arange(int(seconds * rate)) / rate
    clip = Waveform((0.1 * np.sin(2 * np.pi * 330 * t))[None].astype(np.float32), rate)
    tags = listener.tags([clip, clip])
    assert tags.shape == (2, len(TAGS))
    assert ((tags > 0) & (tags < 1)).all()
    assert (tags[0] == tags[1]).all()


def test_batches_do_not_matter(sounds: list[Waveform]) -> None:
    long = Waveform(np.concatenate([sound.samples for sound in sounds], axis=1), SAMPLE_RATE)
    one, many = (MusicnnEmbedding(batch_size=size).embed([long]) for size in (1, 8))
    np.testing.assert_allclose(one, many, atol=1e-5)


def test_it_hears_what_sounds(listener: MusicnnEmbedding) -> None:
    """A beat of noise bursts against a still chord: the words for each are ranked the other way round."""
    t = np.arange(9 * SAMPLE_RATE) / SAMPLE_RATE
    noise = np.random.default_rng(2).standard_normal(len(t))
    beat = 0.3 * noise * np.exp(-25 * ((t * 2) % 1)) + 0.5 * np.sin(2 * np.pi * 55 * t) * np.exp(-12 * ((t * 2) % 1))
    chord = 0.03 * sum(np.sin(2 * np.pi * hertz * t) for hertz in (110, 165, 220, 277))
    drums, still = listener.tags([Waveform(x[None].astype(np.float32), SAMPLE_RATE) for x in (beat, chord)])
    for word in ("techno", "beat", "fast"):
        assert drums[TAGS.index(word)] > still[TAGS.index(word)]
    for word in ("slow", "ambient"):
        assert drums[TAGS.index(word)] < still[TAGS.index(word)]


def _steps(frequencies: list[float], seconds: float = 3.0, rate: int = 16_000) -> Waveform:
    time = np.arange(int(seconds * rate)) / rate
    parts = [sum(np.sin(2 * np.pi * k * f * time) / k for k in range(1, 6)) for f in frequencies]
    return Waveform((0.1 * np.concatenate(parts))[None].astype(np.float32), rate)


def test_change_is_of_what_is_heard_and_not_of_its_level(listener: MusicnnEmbedding) -> None:
    rng = np.random.default_rng(0)
    held, moving = _steps([220.0] * 5), _steps([110.0, 880.0, 220.0, 1760.0, 55.0])
    hiss = Waveform(0.1 * rng.standard_normal((1, 240_000)).astype(np.float32), 16_000)
    both = Waveform(np.concatenate([hiss.samples[:, :120_000], moving.samples[:, :120_000]], 1), 16_000)
    still, stepping, noise, changing = listener.change([held, moving, hiss, both])
    assert still < 0.05
    assert noise < 0.1
    assert min(stepping, changing) > 2 * max(still, noise)
    softer = Waveform(np.repeat(0.02 * moving.samples, 2, axis=0), 16_000)  # and in stereo
    assert listener.change([softer])[0] == pytest.approx(stepping, rel=1e-3)
    one_side = Waveform(np.concatenate([moving.samples, np.zeros_like(moving.samples)]), 16_000)
    assert listener.change([one_side])[0] == pytest.approx(stepping, rel=1e-3)
    offset = Waveform(0.2 * moving.samples + np.float32(0.5), 16_000)
    assert listener.change([offset])[0] == pytest.approx(stepping, rel=0.02)
    fade = np.linspace(1.0, 0.1, held.samples.shape[1], dtype=np.float32)
    faded = Waveform(held.samples * fade, 16_000)
    assert listener.change([faded])[0] < 0.1
    time = np.arange(15 * 44_100) / 44_100
    bright = resample(moving, 44_100).samples[:, : len(time)] + (0.5 * np.sin(2 * np.pi * 12_000 * time)).astype(
        np.float32
    )
    assert listener.change([Waveform(bright, 44_100)])[0] == pytest.approx(stepping, rel=0.05)  # it hears up to 8 kHz
    longer = Waveform(np.tile(moving.samples, (1, 3)), 16_000)
    assert listener.change([longer])[0] == pytest.approx(stepping, rel=0.25)
    assert np.isnan(listener.change([_steps([220.0])])[0])  # one window
    assert listener.change([]).shape == (0,)
    with pytest.raises(AudioError, match="silent"):
        listener.change([Waveform(np.zeros((1, 160_000), np.float32), 16_000)])


def test_change_leaves_levels_out_down_to_30_db_and_hears_a_stop(listener: MusicnnEmbedding) -> None:
    """A held chord that is softer from its fourth window on."""
    held, gain = _steps([220.0] * 5), np.ones(240_000, np.float32)

    def change(db: float) -> float:
        gain[3 * 187 * 256 :] = 10.0 ** (db / 20.0)
        return float(listener.change([Waveform(held.samples * gain[: held.samples.shape[1]], 16_000)])[0])

    still = change(0.0)
    assert change(-20.0) == pytest.approx(still, rel=0.01)
    assert change(-29.0) == pytest.approx(still, rel=0.05)
    assert change(-45.0) > 3 * still
    assert change(-200.0) > 5 * still


def test_by_name() -> None:
    embedding = load_embedding("musicnn")
    assert isinstance(embedding, Embedding)
    assert (embedding.name, embedding.dim) == ("musicnn", 200)
    with pytest.raises(UserError, match="needs no folder"):
        load_embedding("musicnn:folder")
