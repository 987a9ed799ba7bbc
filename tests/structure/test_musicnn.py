"""musicnn in torch against the original in TensorFlow (tests/fixtures/musicnn.safetensors), and as an embedding."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from eisbach.errors import UserError
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
    # Powers are rounded to half precision before the logarithm: one of them may round the other way.
    assert np.abs(listener.tags(sounds) - golden["tags"]).max() < 1e-3
    assert np.abs(listener.embed(sounds) - golden["penultimate"]).max() < 1e-2
    assert np.abs(golden["penultimate"]).max() > 1


@pytest.mark.whole
def test_mels_are_librosas(sounds: list[Waveform]) -> None:
    librosa = pytest.importorskip("librosa")
    for sound in sounds:
        power = librosa.feature.melspectrogram(y=sound.samples[0], sr=16000, n_fft=512, hop_length=256, n_mels=96).T
        assert np.abs(log_mels(sound.samples[0]) - np.log10(1 + 10_000 * power)).max() < 2e-3


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


def test_by_name() -> None:
    embedding = load_embedding("musicnn")
    assert isinstance(embedding, Embedding)
    assert (embedding.name, embedding.dim) == ("musicnn", 200)
    with pytest.raises(UserError, match="needs no folder"):
        load_embedding("musicnn:folder")
